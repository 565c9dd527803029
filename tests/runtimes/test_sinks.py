"""Messages for other programs, their queue, and the options about them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lcr_edge.cli import main
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.messages import Message, Messages, slug
from lcr_edge.runtimes.live.outbox import Outage, Outbox, Waits
from tests.clips import real_clip
from tests.runtimes.receivers import free_port
from tests.runtimes.toy import make_bundle

DOC = Path(__file__).resolve().parents[2] / "docs" / "camera-service.md"
NAMES = [
    *("camera 0", "camera_0", "camera 0 #2", "door", "Door", "DOOR ", "a/b", "a_b", "Tür", "門", "+/#", "$SYS", ""),
    *("rtsp://admin:***@10.0.0.2:554/stream", "x" * 300, "x" * 301, "a_b_0123abcd"),
]


def event(number: int, *, ended: bool = False, label: str = "wave") -> Event:
    return Event(number, label, 1.5 * number, 1.5 * number + 0.75 if ended else None, 0.9, ended)


def numbered(count: int) -> list[Message]:
    messages = Messages("run")
    return [messages.event("door", event(number)) for number in range(1, count + 1)]


def test_slugs_are_valid_and_different() -> None:
    slugs = [slug(name) for name in NAMES]
    assert all(re.fullmatch(r"[a-z0-9_]{1,60}", found) for found in slugs)
    assert len(set(slugs)) == len(NAMES)
    assert (slug("camera 0"), slug("door")) == ("camera_0", "door")


def test_ids_are_unique_over_sources_and_restarts() -> None:
    runs = [Messages(), Messages()]
    made = [run.event(source, event(number)) for run in runs for source in NAMES for number in range(3)]
    assert len({message.id for message in made}) == len(made)
    assert [message.id.rsplit("-", 1)[1] for message in made[:3]] == ["1", "2", "3"]


def check(schema: dict[str, Any], value: Any, place: str = "message") -> None:
    """The little of JSON schema that the documented one uses."""
    known = {"$schema", "title", "description", "type", "enum", "properties", "required", "oneOf", "format"}
    assert set(schema) <= known | {"minimum", "maximum", "additionalProperties"}, place
    kinds: dict[str, Any] = {
        "string": str,
        "number": (int, float),
        "integer": int,
        "boolean": bool,
        "null": type(None),
        "object": dict,
    }
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        assert any(isinstance(value, kinds[name]) for name in names), f"{place}: {value!r}"
    if "enum" in schema:
        assert value in schema["enum"], place
    if isinstance(value, (int, float)):
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value), place
    if schema.get("format") == "date-time" and value is not None:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value), place
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), place
        if schema.get("additionalProperties") is False:
            assert set(value) <= set(schema["properties"]), place
        for name, part in schema.get("properties", {}).items():
            if name in value:
                check(part, value[name], f"{place}.{name}")
    if "oneOf" in schema:
        fits = 0
        for part in schema["oneOf"]:
            try:
                check(part, value, place)
            except AssertionError:
                continue
            fits += 1
        assert fits == 1, place


def test_messages_are_as_documented() -> None:
    schema = json.loads(re.findall(r"```json\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)[0])
    messages = Messages()
    for message in (
        messages.event("door", event(1)),
        messages.event("door", event(1, ended=True)),
        messages.state("Tür", "waiting", "it gives no more frames"),
    ):
        check(schema, json.loads(message.to_json()))
    wrong = messages.event("door", event(1)).content
    for change in ({"label": 3}, {"event": "begin"}, {"confidence": 2.0}, {"more": 1}, {"time": "now"}):
        with pytest.raises(AssertionError):
            check(schema, {**wrong, **change})


def test_the_outbox_keeps_the_order(capsys: pytest.CaptureFixture[str]) -> None:
    outbox, messages = Outbox("box", limit=4), numbered(7)
    for message in messages[:3]:
        outbox.put(message)
    assert [outbox.take(), outbox.take()] == messages[:2]
    outbox.delivered_one(messages[1])
    outbox.delivered_one(messages[1])  # a second confirmation is none
    outbox.give_back()
    assert outbox.waiting == 2
    for message in messages[3:]:
        outbox.put(message)
    assert outbox.dropped == 2  # 0 and 2, the oldest of six
    assert [outbox.take() for _ in range(5)] == [*messages[3:], None]
    outbox.rejected_one(messages[3])
    assert (outbox.delivered, outbox.rejected, outbox.waiting) == (1, 1, 3)
    assert capsys.readouterr().err == "box: 1 messages dropped so far, the oldest: 4 wait already\n"


def test_an_outage_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    outage = Outage(Outbox("box"), Waits(first_s=1.0, longest_s=5.0))
    assert [outage.failed("it is down") for _ in range(4)] == [1.0, 2.0, 4.0, 5.0]
    assert outage.failed("it is asleep", at_least_s=3.0) == 5.0
    assert outage.failed("it is down") == 5.0
    outage.over()
    outage.over()
    assert outage.failed("it is down", at_least_s=3.0) == 3.0  # so soon: not worth a line
    outage.over()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "box: it is down",
        "box: it is asleep",
        "box: reached again after 0 s",
    ]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--webhook", "ftp://u:s3cret@host/"], "begin with http:// or https://"),
        (["--webhook", "http://u:s3cret@host:x/"], "check host and port"),
        (["--webhook", "http://s3cret ü/"], "is not an address"),
        (["--webhook", "http:///s3cret"], "no host"),
        (["--webhook", "http://h/", "--webhook-token-file", "none"], "cannot read none: No such file"),
        (["--webhook", "http://h/", "--webhook", "http://i/", "--webhook-token-file", "-"], "give one for each"),
        (["--webhook-token-file", "-"], "--webhook-token-file is about --webhook: give that too"),
        (["--webhook", "http://h/", "--webhook-token-file", "EMPTY"], "must hold one line, the secret"),
        (["--webhook", "http://h/", "--webhook-token-file", "TWO"], "must hold one line, the secret"),
        (["--webhook", "http://u:s3cret@h/", "--webhook-token-file", "TOKEN"], "give one of them"),
        (["--mqtt", "mqtt://h/s3cret"], "takes no path"),
        (["--mqtt", "mqtt://u:s3cret@h", "--mqtt-password-file", "TOKEN"], "give one of them"),
        (["--mqtt", "mqtt://h", "--mqtt-password-file", "TOKEN"], "needs a user"),
        (["--mqtt", "mqtt://h", "--mqtt-ca-file", "TOKEN"], "mqtts://h"),
        (["--mqtt", "mqtts://h", "--mqtt-ca-file", "TOKEN"], "--mqtt-ca-file: cannot use"),
        (["--mqtt", "mqtt://h", "--mqtt-topic", "a/#"], "cannot be the start of a topic"),
        (["--mqtt", "mqtt://h", "--mqtt-topic", ""], "1 to 200 printable letters"),
        (["--mqtt", "mqtt://h", "--mqtt-discovery", "/h"], "--mqtt-discovery '/h' cannot be"),
        (["--mqtt-topic", "a"], "--mqtt-topic is about --mqtt: give that too"),
        (["--metrics", "host:"], "is not [HOST:]PORT"),
        (["--metrics", "70000"], "is not [HOST:]PORT"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    for name, text in (("EMPTY", "\n"), ("TWO", "a\nb\n"), ("TOKEN", "s3cret\n")):
        (tmp_path / name).write_text(text)
        arguments = [str(tmp_path / name) if word == name else word for word in arguments]
    bundle = make_bundle(tmp_path / "bundle", "onnx")
    assert main(["run", str(bundle), "--source", str(real_clip("bikes.mp4")), "--events", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert hint in captured.err
    assert "s3cret" not in captured.err


def test_receivers_need_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    bundle, clip = make_bundle(tmp_path / "bundle", "onnx"), str(real_clip("bikes.mp4"))
    assert main(["run", str(bundle), "--source", clip, "--webhook", f"http://127.0.0.1:{free_port()}/"]) == 2
    assert "--webhook is about events: add --events" in capsys.readouterr().err
