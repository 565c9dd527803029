"""Events matched with what happened, thresholds found on made probabilities, labelled streams, and the command."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.data.rendered.streams import EMPTY, GESTURES, STILL, Part, plan_stream, render_stream
from lcr_edge.data.sampling import balanced
from lcr_edge.data.sets import open_set
from lcr_edge.errors import UsageError
from lcr_edge.runtimes.live.events import EventRules
from lcr_edge.runtimes.live.idle import IdleGate, IdleRules
from lcr_edge.runtimes.tuning.command import toml
from lcr_edge.runtimes.tuning.halves import halves, pieces
from lcr_edge.runtimes.tuning.labelled import joined, read_truths
from lcr_edge.runtimes.tuning.scoring import SLACK_S, Counts, Told, Truth, count, match, wilson
from lcr_edge.runtimes.tuning.search import tune
from lcr_edge.runtimes.tuning.tracks import Track, events_of, score
from tests.clips import real_clip
from tests.data.made import make_folder
from tests.runtimes.toy import LABELS as TOY_LABELS
from tests.runtimes.toy import make_bundle

LABELS = ("wave", "push", "No gesture")
STEP_S = 0.125


def test_each_truth_counts_once_and_a_second_event_is_a_false_alarm() -> None:
    truths = [Truth("wave", 1.0, 3.0), Truth("wave", 6.0, 8.0), Truth("push", 10.0, 12.0)]
    events = [
        Told("wave", 2.0, 2.5, 2.25),
        Told("wave", 2.75, 3.0, 3.0),  # the same wave again
        Told("push", 6.5, 7.0, 6.75),  # a wave it was
        Told("wave", 8.0 + SLACK_S, 9.0, 8.75),  # just in time
        Told("push", 12.0 + SLACK_S + 0.01, 13.0, 12.75),  # too late
    ]
    taken = [truth for _, truth in match(events, truths)]
    assert taken == [truths[0], None, None, truths[1], None]
    counts = count(events, truths, 60.0)
    assert (counts["wave"].hits, counts["wave"].false_alarms, counts["wave"].misses) == (2, 1, 0)
    assert counts["wave"].delays == [1.25, 2.75]
    assert counts["wave"].delay_s == 2.0
    assert (counts["push"].hits, counts["push"].false_alarms, counts["push"].misses) == (0, 2, 1)
    assert counts["wave"].precision == pytest.approx(2 / 3)
    assert counts["wave"].f1 == pytest.approx(0.8)
    assert counts["push"].false_alarms_per_hour == 120.0
    early = match([Told("wave", 0.0, 0.9, 0.5)], truths)
    assert early[0][1] is None  # over before it began
    assert Counts().to_dict()["precision"] is None


def test_the_interval_of_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # a textbook's
    low, high = wilson(50, 50)
    assert 0.92 < low < 0.94
    assert high == pytest.approx(1.0)


def track(events: list[tuple[str, float, int, float]], truths: list[tuple[str, float, float]], steps: int) -> Track:
    """Events as (label, start in seconds, steps, probability); everything else is "No gesture"."""
    rows = np.full((steps, len(LABELS)), 0.02, np.float32)
    for label, start_s, length, probability in events:
        first = round(start_s / STEP_S)
        rows[first : first + length, LABELS.index(label)] = probability
    rows[:, 2] = 1 - rows[:, :2].sum(axis=1)
    times = np.arange(steps, dtype=np.float64) * STEP_S
    return Track("made", times, rows, tuple(Truth(*truth) for truth in truths), (), steps * STEP_S)


def made(offset: float = 0.0) -> Track:
    """Waves of 0.75 for half a second, pushes of 0.9; and what is neither, of 0.66 and long, or of 0.97 and short."""
    events, truths = [], []
    for k in range(10):
        at = 8.0 * k + 1
        events += [("wave", at, 5, 0.75 + offset), ("push", at + 2, 5, 0.9)]
        events += [("push", at + 4, 8, 0.66), ("wave", at + 6, 2, 0.97)]
        truths += [("wave", at, at + 1), ("push", at + 2, at + 3)]
    return track(events, truths, 650)


def test_tuning_finds_the_only_rules_that_make_no_mistake() -> None:
    tracks = [made()]
    before, _ = score(tracks, LABELS, EventRules(0.6, 0.4, 0.25, 1.0))
    assert before.false_alarms == 10  # what is neither and long
    rules = tune(tracks, LABELS, EventRules(0.6, 0.4, 0.25, 1.0))
    assert 0.66 < rules.enter <= 0.75
    assert rules.min_s > 0.125
    after, _ = score([made(0.01)], LABELS, rules)
    assert (after.hits, after.false_alarms, after.misses) == (20, 0, 0)
    assert all(event.told_s - event.start_s >= rules.min_s for event in events_of(tracks[0], LABELS, rules))


def test_a_class_gets_an_enter_of_its_own_where_that_saves_mistakes() -> None:
    events, truths = [], []
    for k in range(10):
        at = 9.0 * k + 1
        events += [("wave", at, 4, 0.5), ("push", at + 3, 4, 0.9), ("push", at + 5.5, 4, 0.72)]
        truths += [("wave", at, at + 1), ("push", at + 3, at + 4)]
    one = track(events, truths, 750)
    rules = tune([one], LABELS, EventRules())
    counts, _ = score([one], LABELS, rules)
    assert counts.f1 == 1.0
    (label,) = rules.enters
    assert rules.thresholds("wave")[0] <= 0.5 < 0.7 < rules.thresholds("push")[0] <= 0.9
    assert label in LABELS
    few = tune([one], LABELS, EventRules(), most_per_hour=0.0)
    assert score([one], LABELS, few)[0].false_alarms == 0


def test_what_is_chosen_on_is_not_reported_on() -> None:
    parts = pieces(made())
    assert len(parts) == 8
    assert sum(len(part.times) for part in parts) == 650
    assert sum(len(part.truths) for part in parts) == 20
    assert all(
        part.times[0] <= truth.start_s < truth.end_s <= part.times[-1] for part in parts for truth in part.truths
    )
    choose, report = halves([], [made()])
    assert not {part.name for part in choose} & {part.name for part in report}
    short = track([("wave", 0.0, 4, 0.9)], [("wave", 0.0, 1.0)], 9)
    assert [len(half) for half in halves([], [short, short])] == [1, 1]  # each is one piece
    quiet = track([], [], 80)
    assert [len(part.times) for part in pieces(quiet)] == [40, 40]
    with pytest.raises(UsageError, match="too few labelled events"):
        halves([made()], [quiet])


def test_rules_are_written_as_toml() -> None:
    rules = EventRules(0.8, 0.5, 0.25, 1.5, ignore=('a "b"\\', "ü"), enters={"wave": 0.9})
    text = toml(rules, "bundle")
    assert "min-seconds = 0.25" in text
    if sys.version_info >= (3, 11):
        import tomllib

        assert tomllib.loads(text) == {
            "events": True, "enter": 0.8, "leave": 0.5, "min-seconds": 0.25, "pause-seconds": 1.5,
            "ignore": ['a "b"\\', "ü"], "enters": {"wave": 0.9},
        }  # fmt: skip


def test_files_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_text("start,end,label\n 4.5, 6,push\n\n1,2.5,wave\n7,8,No gesture\n", encoding="utf-8")
    wanted = (Truth("wave", 1.0, 2.5), Truth("push", 4.5, 6.0))
    assert read_truths(path, LABELS, ("No gesture",)) == wanted
    lines = [
        {"time_s": 0.0, "top": []},
        {"event": "start", "number": 1, "label": "wave", "start_s": 1.0, "end_s": None},
        {"event": "end", "number": 1, "label": "wave", "start_s": 1.0, "end_s": 2.5},
        {"start": 4.5, "end": 6, "label": "push"},
        {"summary": {}},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert read_truths(path, LABELS, ()) == wanted
    for text, hint in (
        ("1,2,wavee", "line 1: the network has no class 'wavee'"),
        ("2,1,wave", "the start first, got 2, 1"),
        ("1,2", "expected start,end,label, got 2 columns"),
        ('{"start": 1, "end": 2}', "line 1 has no label"),
        ("{", "line 1 is not JSON"),
        ('{"start": null, "end": 2, "label": "wave"}', "must be seconds"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=hint):
            read_truths(path, LABELS, ())
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not text in UTF-8"):
        read_truths(path, LABELS, ())
    with pytest.raises(UsageError, match="No such file"):
        read_truths(tmp_path / "none", LABELS, ())


def test_the_command_on_a_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    bundle, clip = make_bundle(tmp_path / "bundle", "onnx"), str(real_clip("bikes.mp4"))
    labels, written, result = tmp_path / "labels.csv", tmp_path / "events.toml", tmp_path / "result.json"
    labels.write_text(f"1,2,{TOY_LABELS[0]}\n7,8,{TOY_LABELS[0]}\n", encoding="utf-8")
    call = ["tune-events", str(bundle), "--film", clip, str(labels), "--threads", "1"]
    assert main([*call, "--quiet", clip, "--write", str(written), "--json", str(result)]) == 0
    captured = capsys.readouterr()
    assert "not used for choosing" in captured.out
    assert "1 event to report on: that is little. Look at the intervals" in captured.err
    document = json.loads(result.read_text(encoding="utf-8"))
    assert document["after"]["reported"]["truths"] == document["after"]["chosen_on"]["truths"] == 1
    assert not set(document["chosen_on"]) & set(document["reported_on"])
    assert document["before"]["rules"]["enter"] == EventRules.enter
    assert f"enter = {document['after']['rules']['enter']}" in written.read_text(encoding="utf-8")
    assert main([*call[:2], "--film", clip, str(tmp_path / "none")]) == 2
    assert main([*call, "--ignore", "nobody"]) == 2
    labels.write_text(f"1,2,{TOY_LABELS[0]}\n70,80,{TOY_LABELS[0]}\n", encoding="utf-8")
    assert main(call) == 2
    assert main([*call[:2], "--streams", "2"]) == 2
    err = capsys.readouterr().err
    assert "the network has no class 'nobody'" in err
    assert "ends at 9.9 s, before" in err
    assert "the network does not know rendered gestures" in err


def test_clips_of_a_data_set_become_streams(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    data = open_set(
        str(make_folder(tmp_path, classes=2, clips=4, size=32)), split="heldout", size=(32, 32), fps=8.0, frames=8,
        cache=None,
    )  # fmt: skip
    known, strange = data.labels
    faults: list[str] = []
    how: dict[str, Any] = {"size": (32, 32), "fps": 8.0, "frames": 8, "faults": faults, "ignore": ("No gesture",)}
    streams = list(joined(data, 2, 3, labels=(known, "No gesture"), **how))
    assert not faults
    assert len(streams) == 2
    frames = [list(stream.open()) for stream in streams]
    assert sum(map(len, frames)) == 8 * min(6, len(data))
    assert [timed.time_s for timed in frames[0]] == [k / 8 for k in range(len(frames[0]))]
    truths = [truth for stream in streams for truth in stream.truths]
    assert {truth.label for truth in truths} == {known}  # the other class is nothing that this network could tell
    assert len(truths) == sum(data.labels[target] == known for target in data.targets[balanced(data.targets, 0)[:6]])
    assert all(truth.end_s - truth.start_s == 1.0 and truth.start_s == int(truth.start_s) for truth in truths)
    with pytest.raises(UsageError, match="no class that is an event of this network"):
        joined(data, 2, 3, labels=("No gesture",), **how)
    assert strange not in {truth.label for truth in truths}


def test_rendered_streams_are_a_function_of_their_seed() -> None:
    pytest.importorskip("cv2")
    parts = plan_stream(3, 4)
    assert parts == plan_stream(3, 4) != plan_stream(4, 4)
    assert parts[0].start_s == 0.0
    assert all(before.end_s == after.start_s for before, after in zip(parts, parts[1:]))
    assert len({part.what for part in parts if part.what in GESTURES}) == 4  # no gesture twice before all came once
    idle = plan_stream(3, 20, idle=0.9)
    empty_s = sum(part.end_s - part.start_s for part in idle if part.what == EMPTY)
    assert 0.85 < empty_s / idle[-1].end_s < 0.95
    frames = list(itertools.islice(render_stream(3, parts, size=32), 40))
    again = list(itertools.islice(render_stream(3, parts, size=32), 40))
    assert np.array_equal(frames, again)
    assert frames[0].shape == (32, 32, 3)
    whole = [Part("Thumb Up", 0.0, 1.0)]
    assert len(list(render_stream(3, whole, size=32, fps=12.0))) == 12
    with pytest.raises(UsageError, match="a gesture or more"):
        plan_stream(0, 0)


def test_a_person_comes_and_goes_and_an_empty_room_stands() -> None:
    pytest.importorskip("cv2")
    parts = [Part(EMPTY, 0.0, 3.0), Part(STILL, 3.0, 4.0), Part(EMPTY, 4.0, 7.0)]
    frames = list(render_stream(0, parts, size=64))
    gate = IdleGate(IdleRules(settle_s=0.0, idle_s=100.0), 1 / 8)
    moved = [k for k, frame in enumerate(frames) if not gate.skips(k / 8, frame, busy=False)]
    assert moved[0] == 0
    assert all(18 <= k <= 38 for k in moved[1:])  # from three quarters of a second before until as long after
    assert len([k for k in moved if 18 <= k < 24]) >= 4
