"use strict";
// Shows what the service sends. A message is a header in JSON, after its length, and the JPEG pictures that it lists.

const $ = (id) => document.getElementById(id);
const STATES = { starting: "Starting", live: "Live", waiting: "Waiting", lost: "Lost", failed: "Failed", ended: "Ended" };
const LOGGED_OUT = 4001, TOO_MANY = 4002;
const LONGEST_WAIT_MS = 10000;
const ENTRIES = 60;

let socket = null;
let over = false; // the run
let about = { names: [], events: false };
let camera = 0;
let resets = null;
let waitMs = 500;
let shown = Promise.resolve(); // messages are shown one after another
const chart = new Chart($("norm"));

function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

// A source's name without what only programs need; in full where two would be the same.
function short(number) {
  const cut = (name) => name.replace(/^\w+:\/\//, "").replace(/\/+$/, "").replace(/^\/.*\//, "");
  const found = cut(about.names[number]);
  return about.names.filter((name) => cut(name) === found).length > 1 ? about.names[number] : found;
}

function connect() {
  socket = new WebSocket(location.protocol.replace("http", "ws") + "//" + location.host + "/live");
  socket.binaryType = "arraybuffer";
  socket.onopen = () => tell({ camera, edges: $("edges").checked, paused: document.hidden });
  const mine = socket;
  socket.onmessage = (message) => {
    shown = shown.then(() => (socket === mine ? receive(message.data) : null)).catch((error) => console.error(error));
  };
  socket.onclose = (event) => {
    socket = null;
    if (event.code === LOGGED_OUT) return location.assign("/login");
    $("link").classList.remove("on");
    text($("link"), event.code === TOO_MANY ? "Too many are watching" : "Not connected");
    over = over || Boolean(event.code === 1001 && event.reason);
    notice(over ? "The run is over." : "The service cannot be reached. Trying again.", true);
    // After a restart it knows this browser no more, which the end of a websocket that was never open does not say.
    if (!over) fetch("/app.js").then((answer) => { if (answer.status === 401) location.assign("/login"); }, () => {});
    $("reset").disabled = true;
    setTimeout(connect, waitMs);
    waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS);
  };
}

function tell(what) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(what));
}

async function receive(data) {
  const size = new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  if (header.about) begin(header.about);
  // What happened before is not read aloud.
  $("events").setAttribute("aria-live", header.about ? "off" : "polite");
  let at = 4 + size;
  for (const [kind, number, length] of header.pictures) {
    const canvas = kind === "live" ? $("picture") : $("tile-" + number);
    await draw(canvas, new Blob([new Uint8Array(data, at, length)], { type: "image/jpeg" }));
    at += length;
  }
  if (header.camera === camera) show(header);
  showCameras(header);
  header.log.forEach(showEntry);
  tell({ seen: header.sent });
}

async function draw(canvas, blob) {
  const picture = await createImageBitmap(blob);
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
  }
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
}

// The first message of a connection.
function begin(found) {
  about = found;
  over = false;
  waitMs = 500;
  camera = Math.min(camera, about.names.length - 1);
  $("link").classList.add("on");
  text($("link"), "Connected");
  text($("engine"), about.engine);
  $("logout").hidden = !about.login;
  $("events").replaceChildren();
  $("empty").hidden = false;
  text($("empty"), about.events ? "Nothing has happened yet." : "Nothing has happened yet. Start the run with --events to see what the network recognises.");
  const nav = $("cameras");
  nav.hidden = about.names.length < 2;
  nav.replaceChildren(...(nav.hidden ? [] : about.names.map(tile)));
  chart.clear();
  resets = null;
}

function tile(name, number) {
  const button = document.createElement("button");
  button.type = "button";
  const canvas = document.createElement("canvas");
  canvas.id = "tile-" + number;
  canvas.width = 72;
  canvas.height = 54;
  const title = document.createElement("b");
  title.className = "state";
  title.textContent = short(number);
  const what = document.createElement("span");
  button.append(canvas, title, what);
  button.title = name;
  button.onclick = () => choose(number);
  return button;
}

function choose(number) {
  camera = number;
  resets = null;
  chart.clear();
  // What was shown is of another camera, and this one may have nothing to show yet.
  $("picture").width = 640;
  $("picture").height = 480;
  $("picture").setAttribute("aria-label", "No picture yet");
  text($("size"), "");
  $("top").replaceChildren();
  ["fps", "step", "lag", "resets"].forEach((id) => figure($(id), "-", ""));
  ["norm-h", "norm-c"].forEach((id) => text($(id), "-"));
  tell({ camera });
}

function showCameras(header) {
  [...$("cameras").children].forEach((button, number) => {
    const found = header.cameras[number];
    button.setAttribute("aria-pressed", String(number === camera));
    button.querySelector("b").dataset.state = found.state;
    text(button.querySelector("span"), found.state === "live" && found.top ? found.top[0] : STATES[found.state]);
  });
}

function show(header) {
  const found = header.cameras[camera], details = header.details;
  const name = about.names[camera];
  text($("name"), short(camera));
  $("name").title = name;
  document.title = short(camera) + " - lcr_edge";
  $("state").dataset.state = found.state;
  text($("state"), STATES[found.state]);
  const over = ["lost", "failed", "ended"].includes(found.state);
  $("reset").disabled = over;
  const fine = ["starting", "live", "ended"].includes(found.state);
  notice(fine ? "" : found.reason.charAt(0).toUpperCase() + found.reason.slice(1), !fine);
  if (!details.top) return;
  text($("size"), details.size.join(" x "));
  $("picture").setAttribute("aria-label", "Picture of " + short(camera) + ": " + details.top[0][0]);
  showTop(details.top);
  figure($("fps"), found.fps.toFixed(1), "of " + +details.rate.toFixed(2));
  figure($("step"), details.step_ms.toFixed(1), "ms");
  figure($("lag"), details.lag_ms === null ? "-" : details.lag_ms.toFixed(0), details.lag_ms === null ? "file" : "ms");
  figure($("resets"), String(details.resets), "");
  if (details.norm) {
    const [h, c] = details.norm;
    text($("norm-h"), h.toFixed(1));
    text($("norm-c"), c.toFixed(1));
    chart.add({ at: header.now, h, c, reset: resets !== null && details.resets > resets });
  } else {
    text($("norm-h"), "-");
    text($("norm-c"), "-");
  }
  resets = details.resets;
}

function showTop(top) {
  const list = $("top");
  while (list.children.length < top.length) {
    const row = document.createElement("li");
    row.append(document.createElement("span"), document.createElement("b"), document.createElement("i"));
    list.append(row);
  }
  top.forEach(([label, probability], i) => {
    const [name, figureOf, bar] = list.children[i].children;
    text(name, label);
    text(figureOf, (100 * probability).toFixed(0) + " %");
    bar.style.setProperty("--p", probability);
  });
}

function figure(node, value, unit) {
  const shown = value + " " + unit;
  if (node.dataset.shown === shown) return;
  node.dataset.shown = shown;
  const small = document.createElement("small");
  small.textContent = unit;
  node.replaceChildren(value, small);
}

function notice(what, dim) {
  $("notice").hidden = !what;
  text($("notice"), what);
  document.querySelector(".frame").classList.toggle("dim", Boolean(what) && dim);
}

function showEntry(entry) {
  const id = "entry-" + entry.number;
  const before = $(id);
  const row = before || document.createElement("li");
  row.id = id;
  row.className = entry.kind;
  row.classList.toggle("lasts", entry.kind === "event" && entry.seconds === undefined);
  const title = document.createElement("b");
  const what = document.createElement("span");
  what.className = "quiet";
  const where = about.names.length > 1 ? short(entry.camera) + ": " : "";
  if (entry.kind === "event") {
    title.textContent = entry.text;
    const lasted = entry.seconds === undefined ? "" : ", " + entry.seconds.toFixed(1) + " s" + (entry.cut ? ", cut" : "");
    what.textContent = where + (100 * entry.confidence).toFixed(0) + " %" + lasted;
  } else {
    title.textContent = entry.kind === "reset" ? "State reset" : STATES[entry.state];
    what.textContent = where + entry.text;
  }
  const time = document.createElement("time");
  const at = new Date(1000 * entry.at);
  time.dateTime = at.toISOString();
  time.textContent = at.toLocaleTimeString();
  const body = document.createElement("div");
  body.append(title, what);
  row.replaceChildren(before ? before.firstChild : mark(entry), body, time);
  if (!before) {
    $("empty").hidden = true;
    $("events").prepend(row);
    while ($("events").children.length > ENTRIES) $("events").lastChild.remove();
  }
}

function mark(entry) {
  if (entry.picture) {
    const image = document.createElement("img");
    image.src = "/picture/" + entry.number;
    image.alt = "";
    image.loading = "lazy";
    return image;
  }
  const sign = document.createElement("span");
  sign.className = "mark";
  sign.setAttribute("aria-hidden", "true");
  sign.textContent = entry.kind === "reset" ? "\u21ba" : entry.state === "live" ? "\u25cf" : "\u25cb";
  return sign;
}

$("edges").onchange = () => tell({ edges: $("edges").checked });
$("reset").onclick = async () => {
  $("reset").disabled = true;
  const body = JSON.stringify({ camera });
  try {
    const answer = await fetch("/reset", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (answer.status === 401) location.assign("/login");
  } catch {
    // The connection is gone; the page says so already.
  }
  $("reset").disabled = socket === null;
};
document.addEventListener("visibilitychange", () => tell({ paused: document.hidden }));
window.addEventListener("resize", () => chart.draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => chart.draw());
connect();
