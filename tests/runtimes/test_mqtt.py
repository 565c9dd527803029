"""Events at a real MQTT broker that is killed, cut off and restarted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt.client")
from lcr_edge.cli import main
from lcr_edge.errors import MissingExtraError
from lcr_edge.runtimes.live.messages import Messages, slug
from lcr_edge.runtimes.live.mqtt import Mqtt
from lcr_edge.runtimes.live.outbox import Waits
from lcr_edge.runtimes.live.sinks import Sinks
from tests.clips import real_clip
from tests.runtimes.receivers import Broker, Line, Subscriber, free_port, needs_mosquitto, wait_for
from tests.runtimes.test_sinks import event
from tests.runtimes.toy import make_bundle

QUICK = Waits(first_s=0.02, longest_s=0.1, answer_s=50.0, hurry_s=0.02)
DOOR = "lcr_edge/door"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as started:
        yield started


def sinks_to(address: str, waits: Waits = QUICK, close_s: float = 60.0, **more: Any) -> tuple[Sinks, Mqtt]:
    """An observer with one broker, started, for a source "door"."""
    messages = Messages()
    sink = Mqtt(address, run=messages.run, waits=waits, **more)
    return Sinks([sink], messages, ["door"], close_s).start(), sink


@needs_mosquitto
def test_a_run_publishes_what_its_lines_say(broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    bundle, clip = make_bundle(tmp_path / "bundle", "onnx"), str(real_clip("bikes.mp4"))
    call = ["run", str(bundle), "--source", clip, "--frames", "20", "--events", "--enter", "0.34", "--leave", "0.1"]
    with Subscriber(broker) as subscriber:
        assert main([*call, "--json", str(tmp_path / "lines"), "--mqtt", broker.address, "--mqtt-topic", "a/b"]) == 0
        wait_for(lambda: subscriber.last("a/b/status") == b"offline")
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    events = [line for line in lines if "event" in line]
    heard = subscriber.events()
    assert [{name: message[name] for name in events[0]} for message in heard] == events
    assert len(heard) == 2
    place = f"a/b/{slug(clip)}"
    assert {topic for topic, _, _ in subscriber.messages if not topic.startswith("homeassistant/")} == {
        "a/b/status", *(f"{place}/{what}" for what in ("event", "last_event", "active", "state"))
    }  # fmt: skip
    statuses = [payload for topic, payload, _ in subscriber.messages if topic == "a/b/status"]
    assert statuses == [b"online", b"offline"]
    assert capsys.readouterr().err == ""
    with Subscriber(broker) as late:
        late._client.subscribe("#", qos=1)  # retained messages are for those who ask
        wait_for(lambda: late.last(f"{place}/state"))
        wait_for(lambda: late.last(f"{place}/last_event"))
        wait_for(lambda: late.last(f"{place}/active"))
    assert json.loads(late.last(f"{place}/state") or b"")["state"] == "ended"
    assert json.loads(late.last(f"{place}/last_event") or b"") == heard[1]
    assert late.last(f"{place}/active") == b"OFF"
    assert late.events() == []  # events are not retained: none happens twice


@needs_mosquitto
def test_a_broker_that_comes_later_gets_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Broker(tmp_path / "broker", start=False) as broker:
        sinks, sink = sinks_to(broker.address)
        for number in range(5):
            sinks.events("door", [event(number)])
        wait_for(lambda: sink._outage._said)
        assert sink.outbox.waiting == 5
        broker.start()
        wait_for(lambda: sink.outbox.delivered == 5)
        sinks.close()
    said = capsys.readouterr().err
    assert said.count("Connection refused; messages wait (at most 10000)") == 1
    assert said.count("reached again after") == 1


@needs_mosquitto
def test_no_event_is_lost_over_a_broker_that_is_killed(broker: Broker) -> None:
    """SIGKILL in the middle of what a run sends, three times; the subscriber's session is kept by the broker."""
    total, per_kill = 120, 40
    sinks, sink = sinks_to(broker.address)
    with Subscriber(broker) as subscriber:
        wait_for(lambda: broker.saved)
        sent = threading.Event()

        def send() -> None:
            for number in range(total):
                sinks.events("door", [event(number)])
                sent.wait(0.002)

        sender = threading.Thread(target=send)
        sender.start()
        for kill in range(1, total // per_kill):
            subscriber.wait_for_events((kill - 1) * per_kill + 5)
            broker.kill()
            broker.start()
            # Only one that everybody is back at is killed again: it may forget what it has not written yet.
            wait_for(lambda: subscriber.connected)
            subscriber.wait_for_events(kill * per_kill)
        sender.join()
        wait_for(lambda: sink.outbox.delivered == total)
        wait_for(lambda: len(subscriber.by_id()) == total)
        sinks.close()
    assert [message["number"] for message in subscriber.by_id()] == list(range(total))
    assert sink.outbox.dropped == 0


@needs_mosquitto
def test_a_lost_confirmation_doubles_by_id_alone(broker: Broker) -> None:
    with Line(broker.port) as line, Subscriber(broker) as subscriber:
        sinks, sink = sinks_to(f"mqtt://127.0.0.1:{line.port}")
        sinks.events("door", [event(0)])
        wait_for(lambda: sink.outbox.delivered == 1)
        line.lose_answers.set()
        for number in (1, 2):
            sinks.events("door", [event(number)])
        wait_for(lambda: len(subscriber.events()) == 3)
        assert sink.outbox.waiting == 2
        line.cut()
        line.lose_answers.clear()
        wait_for(lambda: sink.outbox.delivered == 3)
        wait_for(lambda: len(subscriber.events()) == 5)
        sinks.close()
    assert line.connections == 2
    assert [message["number"] for message in subscriber.events()] == [0, 1, 2, 1, 2]
    assert [message["number"] for message in subscriber.by_id()] == [0, 1, 2]


@needs_mosquitto
def test_a_broker_that_falls_silent_is_left(broker: Broker) -> None:
    with Line(broker.port) as line:
        waits = Waits(first_s=0.02, longest_s=0.1, answer_s=1.0)
        sinks, sink = sinks_to(f"mqtt://127.0.0.1:{line.port}", waits)
        sinks.events("door", [event(0)])
        wait_for(lambda: sink.outbox.delivered == 1)
        line.lose_answers.set()
        sinks.events("door", [event(1)])
        wait_for(lambda: line.connections >= 2)
        line.lose_answers.clear()
        wait_for(lambda: sink.outbox.delivered == 2)
        sinks.close()


@needs_mosquitto
def test_what_is_said_about_a_run_that_is_cut_off(broker: Broker) -> None:
    """The last will is told, and taken back; and so is what somebody else says about this run."""
    with Subscriber(broker) as subscriber, Line(broker.port) as line:

        def statuses() -> list[bytes]:
            return [payload for topic, payload, _ in list(subscriber.messages) if topic == "lcr_edge/status"]

        sinks, _ = sinks_to(f"mqtt://127.0.0.1:{line.port}")
        wait_for(lambda: len(statuses()) == 1)
        line.cut()
        wait_for(lambda: len(statuses()) == 3)
        subscriber._client.publish("lcr_edge/status", "offline", qos=1, retain=True)
        wait_for(lambda: len(statuses()) == 5)
        sinks.close()
        wait_for(lambda: len(statuses()) == 6)
        assert statuses() == [b"online", b"offline"] * 3


@needs_mosquitto
def test_states_are_the_newest(broker: Broker) -> None:
    with Subscriber(broker) as subscriber:
        sinks, _ = sinks_to(broker.address)
        wait_for(lambda: subscriber.last(f"{DOOR}/active") == b"OFF")
        assert json.loads(subscriber.last(f"{DOOR}/state") or b"")["state"] == "live"
        sinks.events("door", [event(1)])
        wait_for(lambda: subscriber.last(f"{DOOR}/active") == b"ON")
        sinks.state("door", "waiting", "no frame for 5 s")
        wait_for(lambda: json.loads(subscriber.last(f"{DOOR}/state") or b"")["state"] == "waiting")
        sinks.events("door", [event(1, ended=True)])
        wait_for(lambda: subscriber.last(f"{DOOR}/active") == b"OFF")
        sinks.close()
    assert json.loads(subscriber.last(f"{DOOR}/last_event") or b"") == subscriber.events()[-1]


def test_what_was_not_delivered_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    sinks, sink = sinks_to(f"mqtt://u:s3cret@127.0.0.1:{free_port()}", close_s=0.3)
    sinks.events("door", [event(1), event(1, ended=True)])
    sinks.close()
    sink._thread.join(60)
    assert not sink._thread.is_alive()
    said = capsys.readouterr().err
    assert said.endswith(": 2 messages were not delivered\n")
    assert "s3cret" not in said


@needs_mosquitto
def test_a_wrong_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("no mosquitto_passwd here")
    subprocess.run([tool, "-b", "-c", str(tmp_path / "users"), "me", "right"], check=True, capture_output=True)
    with Broker(tmp_path / "broker", "allow_anonymous false", f"password_file {tmp_path}/users") as broker:
        with Subscriber(broker, ("me", "right")) as subscriber:
            sinks, sink = sinks_to(f"mqtt://me@127.0.0.1:{broker.port}", password="right")
            sinks.events("door", [event(1)])
            sinks.close()
            wait_for(lambda: len(subscriber.events()) == 1)
        assert sink.outbox.waiting == 0
        assert capsys.readouterr().err == ""
        sinks, sink = sinks_to(f"mqtt://me:wrong@127.0.0.1:{broker.port}", close_s=0.3)
        sinks.events("door", [event(1)])
        wait_for(lambda: sink._outage._said)
        sinks.close()
        sink._thread.join(60)
    said = capsys.readouterr().err
    assert "refuses the connection (not authorized): check the user in the address, and --mqtt-password-file" in said
    assert "wrong" not in said


@needs_mosquitto
def test_encrypted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "36500"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [openssl, *command, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    with Broker(tmp_path / "broker", "allow_anonymous true", f"certfile {certificate}", f"keyfile {key}") as broker:
        sinks, sink = sinks_to(f"mqtts://localhost:{broker.port}", ca_file=str(certificate))
        for number in range(50):
            sinks.events("door", [event(number)])
        sinks.close()
        assert sink.outbox.delivered == 50
        assert capsys.readouterr().err == ""
        for address, hint in (
            (f"mqtts://localhost:{broker.port}", "its certificate is not trusted (self-signed certificate)"),
            (f"mqtts://127.0.0.1:{broker.port}", "its certificate is not trusted (IP address mismatch"),
            (f"mqtt://127.0.0.1:{broker.port}", "the connection was lost"),
        ):
            ca_file = str(certificate) if "127.0.0.1" in address and address.startswith("mqtts") else None
            sinks, sink = sinks_to(address, close_s=0.1, ca_file=ca_file)
            wait_for(partial(getattr, sink._outage, "_said"))
            sinks.close()
            sink._thread.join(60)
            said = capsys.readouterr().err
            assert hint in said.replace("self signed", "self-signed")  # OpenSSL 1.1 has no hyphen


def test_without_paho_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingExtraError, match="--mqtt needs the package 'paho-mqtt'") as raised:
        Mqtt("mqtt://host", run="x")
    assert raised.value.extra == "service"
