"use strict";
// The norm of the state over the last two minutes: two lines, and a dotted one for each reset.

const SPAN_S = 120;

class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.points = []; // {at, h, c, reset}
  }

  clear() {
    this.points = [];
    this.draw();
  }

  add(point) {
    const last = this.points[this.points.length - 1];
    if (last && point.at - last.at < 0.1 && !point.reset) return; // more than the pixels can show
    this.points.push(point);
    while (this.points.length && this.points[0].at < point.at - SPAN_S) this.points.shift();
    this.draw();
  }

  draw() {
    const { canvas, points } = this;
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const colours = getComputedStyle(document.documentElement);
    const colour = (name) => colours.getPropertyValue(name).trim();
    const most = Math.max(1e-6, ...points.map((point) => Math.max(point.h, point.c))) * 1.1;
    const left = 34, end = points.length ? points[points.length - 1].at : 0;
    const x = (at) => width - 1 - ((end - at) / SPAN_S) * (width - left);
    const y = (value) => height - 2 - (value / most) * (height - 8);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("--quiet");
    pen.strokeStyle = colour("--line");
    pen.lineWidth = 1;
    pen.textAlign = "right";
    for (const value of points.length ? [0, most / 2.2, most / 1.1] : [0]) {
      pen.beginPath();
      pen.moveTo(left, y(value));
      pen.lineTo(width, y(value));
      pen.stroke();
      pen.fillText(value >= 100 ? value.toFixed(0) : value.toPrecision(value ? 2 : 1), left - 6, Math.max(9, y(value) + 1));
    }
    pen.lineWidth = 1.75;
    pen.lineJoin = "round";
    for (const [name, stroke] of [["h", "--quiet"], ["c", "--accent"]]) {
      pen.strokeStyle = colour(stroke);
      pen.beginPath();
      points.forEach((point, i) => {
        const gap = i === 0 || point.at - points[i - 1].at > 3; // nobody watched, or no frame came
        if (gap) pen.moveTo(x(point.at), y(point[name]));
        else pen.lineTo(x(point.at), y(point[name]));
      });
      pen.stroke();
    }
    pen.setLineDash([2, 3]);
    pen.lineWidth = 1;
    pen.strokeStyle = colour("--text");
    for (const point of points.filter((one) => one.reset)) {
      pen.beginPath();
      pen.moveTo(x(point.at), 2);
      pen.lineTo(x(point.at), height);
      pen.stroke();
    }
    pen.setLineDash([]);
  }
}
