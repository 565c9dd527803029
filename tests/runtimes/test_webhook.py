"""Webhooks: posts to real HTTP servers that fail, hang, drip, redirect and recover."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from lcr_edge.cli import main
from lcr_edge.errors import SourceLostError, UsageError
from lcr_edge.runtimes.live.messages import Messages
from lcr_edge.runtimes.live.outbox import Outage, Waits
from lcr_edge.runtimes.live.sinks import Sinks
from lcr_edge.runtimes.live.webhook import Webhook, webhooks
from tests.clips import real_clip
from tests.runtimes.receivers import HttpReceiver, stopped_at_the_end, wait_for
from tests.runtimes.test_sinks import event, numbered
from tests.runtimes.toy import make_bundle

QUICK = Waits(first_s=0.01, longest_s=0.05, answer_s=30.0, hurry_s=0.01)


def test_a_receiver_that_fails_and_recovers_gets_all_in_order() -> None:
    with HttpReceiver([503, (429, {"Retry-After": "0"}), "drip", (500, {"Location": "http://[x/"})]) as receiver:
        # Loopback answers at once; the limit ends the answer that drips, which no limit of the socket does.
        waits = Waits(first_s=0.01, longest_s=0.05, answer_s=1.5)
        with stopped_at_the_end(Webhook(f"http://u%20x:p@{receiver.place}/a?b=c", waits=waits)) as hook:
            hook.start({})
            for message in numbered(5):
                hook.send(message)
            wait_for(lambda: hook.outbox.delivered == 5)
    # By id: an answer that came too late, on a busy machine, brings the message again.
    assert [body["number"] for body in {body["id"]: body for body in receiver.got}.values()] == [1, 2, 3, 4, 5]
    assert len(receiver.paths) >= 9
    assert set(receiver.paths) == {"/a?b=c"}
    assert {head["Authorization"] for head in receiver.headers} == {"Basic dSB4OnA="}
    assert {head["Content-Type"] for head in receiver.headers} == {"application/json"}


def test_a_receiver_that_hangs_holds_up_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with HttpReceiver(["hang"]) as receiver:
        hook = Webhook(f"http://{receiver.place}/secret", limit=10, waits=QUICK)
        sinks = Sinks([hook], Messages(), ["door"], close_s=0.2).start()
        sinks.events("door", [event(1)])
        wait_for(lambda: receiver.paths)
        begin = time.monotonic()
        sinks.events("door", [event(number) for number in range(2, 1002)])
        assert time.monotonic() - begin < QUICK.answer_s / 2  # half of what one answer may take
        sinks.close()
    assert hook.outbox.dropped == 991
    hook._thread.join(60)
    captured = capsys.readouterr().err
    assert "10 messages were not delivered, 991 were dropped" in captured
    assert "secret" not in captured


def test_what_a_receiver_can_never_take_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        HttpReceiver([422]) as receiver,
        stopped_at_the_end(Webhook(f"http://{receiver.place}/", waits=QUICK)) as hook,
    ):
        hook.start({})
        for message in numbered(2):
            hook.send(message)
        wait_for(lambda: hook.outbox.delivered == 1)
    assert hook.outbox.rejected == 1
    assert [body["number"] for body in receiver.got] == [2]
    assert "422 Unprocessable" in capsys.readouterr().err


def test_a_token_goes_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with HttpReceiver() as other, HttpReceiver([(307, {"Location": f"http://{other.place}/"}), 401]) as receiver:
        (hook,) = webhooks([f"http://{receiver.place}/"], [str(tmp_path / "token")])
        hook._waits = QUICK
        hook._outage = Outage(hook.outbox, QUICK)
        with stopped_at_the_end(hook):
            hook.start({})
            hook.send(numbered(1)[0])
            wait_for(lambda: hook.outbox.delivered)
    assert other.paths == []
    assert {head["Authorization"] for head in receiver.headers} == {"Bearer s3cret"}
    said = capsys.readouterr().err
    assert "a redirect to 127.0.0.1: give --webhook the address where that ends" in said
    assert "answers 401 Unauthorized: check the user in the address, or --webhook-token-file" in said
    assert "s3cret" not in said


def test_the_states_of_sources_are_told() -> None:
    with HttpReceiver() as receiver:
        sinks = Sinks([Webhook(f"http://{receiver.place}/")], Messages(), ["door"]).start()
        sinks.state("door", "waiting", "no frame for 5 s")
        sinks.state("door", "live", "back after 1.0 s")
        sinks.failed("door", SourceLostError("door is lost"))
        sinks.close()
    assert [body["state"] for body in receiver.got] == ["waiting", "live", "lost"]
    assert receiver.got[2]["reason"] == "door is lost"


def test_several_sources_send_at_a_time() -> None:
    with HttpReceiver() as receiver:
        sinks = Sinks([Webhook(f"http://{receiver.place}/")], Messages(), ["a", "b"], close_s=60.0).start()

        def send(name: str) -> None:
            for number in range(20):
                sinks.events(name, [event(number)])

        threads = [threading.Thread(target=send, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sinks.close()
    assert len({body["id"] for body in receiver.got}) == 40
    for name in "ab":
        assert [body["number"] for body in receiver.got if body["source"] == name] == list(range(20))


def test_a_run_posts_what_its_lines_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    bundle, clip = make_bundle(tmp_path / "bundle", "onnx"), str(real_clip("bikes.mp4"))
    call = ["run", str(bundle), "--source", clip, "--frames", "20", "--enter", "0.34", "--leave", "0.1"]
    with HttpReceiver() as one, HttpReceiver() as two:
        to = ["--webhook", f"http://{one.place}/", "--webhook", f"http://{two.place}/"]
        assert main([*call, "--events", "--json", str(tmp_path / "lines"), *to]) == 0
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    events = [line for line in lines if "event" in line]
    assert len(events) == 2
    assert [{name: body[name] for name in events[0]} for body in one.got[:2]] == events
    assert one.got == two.got
    assert [body.get("state") for body in one.got] == [None, None, "ended"]
    assert [body["started"] for body in one.got[:2]] == [None, None]  # a file's seconds are no time of day
    assert capsys.readouterr().err == ""
    assert main([*call, *to]) == 2
    assert "--enter is about events: add --events" in capsys.readouterr().err


def test_a_bearer_token_is_ascii(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("tökén", encoding="utf-8")
    with pytest.raises(UsageError, match="letters that a bearer token cannot have"):
        webhooks(["http://h/"], [str(tmp_path / "token")])
