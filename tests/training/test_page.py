"""The page of a run stands alone, says what was measured, shows any name as text, and never makes training fail."""

from __future__ import annotations

import base64
import math
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from lcr_edge.charts import Series, linear_chart
from lcr_edge.checkpoint import load
from lcr_edge.cli import main
from lcr_edge.data.sets import open_set
from lcr_edge.evaluate.measure import evaluate
from lcr_edge.evaluate.scores import NO_DECISION
from lcr_edge.pages import text
from lcr_edge.plots import plot_evaluation
from lcr_edge.training.heldout import HeldOut, Look, Verdicts
from lcr_edge.training.loop import Best, Outcome
from lcr_edge.training.page import MOST_POINTS, NAME, Run, _series, page
from lcr_edge.training.page_clips import PAIRS, PICTURES, WORST, class_parts, confused, worst
from lcr_edge.training.readiness import Readiness
from tests.data.made import make_folder
from tests.pages import Reader

FRAMES = 8
SMALL: tuple[str, ...] = (
    "--config",
    "lcr_pico",
    "--batch",
    "4",
    "--clip-frames",
    str(FRAMES),
    "--threads",
    "1",
    "--workers",
    "0",
)
SMALL += ("--calm-share", "0", "--no-tensorboard")
TURNED = "\u202e"
# Folders may have any of these names.
NAMES = ("<script>x()<\u2215script>", "$\\frac{1}$ &amp; 'q'", f"\u05e9\u05dc\u05d5\u05dd {TURNED}evil \U0001f44d")
LABELS = tuple(sorted(NAMES))


class Ended(NamedTuple):
    """A run that has ended: its folder, its data, what it printed."""

    out: Path
    data: str
    printed: str


def _train(out: Path, data: str, *options: str) -> int:
    return main(["train", "--data", data, "--out", str(out), *SMALL, *options])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    root = make_folder(tmp_path_factory.mktemp("page") / "data", classes=3, clips=6)
    for part in ("train", "val"):
        for old, new in zip(sorted((root / part).iterdir()), NAMES):
            old.rename(root / part / new)
    out, data = root.parent / "a run's $folder", f"folder:{root}"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        assert _train(out, data, "--steps", "3", "--lr", "1e-2", "--ema", "0") == 0
    return Ended(out, data, "\n".join(lines))


def _heldout(ended: Ended) -> HeldOut:
    """The clips that the run looked at, with the verdicts of its network."""
    checkpoint = load(ended.out / "lcr_pico.safetensors")
    size = checkpoint.config.frame_shape[:2]
    rate = checkpoint.config.train_fps
    data = open_set(ended.data, split="heldout", size=size, fps=rate, frames=FRAMES, cache=None)
    held = HeldOut(data, checkpoint.config, FRAMES)
    held.look(checkpoint.model, checkpoint.model.state_dict())
    return held


def _run(ended: Ended, heldout: HeldOut | None, labels: tuple[str, ...] = LABELS, **outcome: Any) -> Run:
    known = {"step": 3, "loss": 1.0, "trained": True, "look": Look(1.0, 0.5), "looked": 3, **outcome}
    network = ended.out / "lcr_pico.safetensors"
    resume = "lcr-edge train --resume" if "stopped" in outcome else None
    return Run(Outcome(**known), network, 3, {"data_name": ended.data}, labels, heldout, resume)


def test_the_page_of_a_run_stands_alone_and_says_it_all(ended: Ended) -> None:
    path = ended.out / NAME
    assert f"report: {path}" in ended.printed
    found = Reader(path.read_text())
    assert found.open == []
    assert {"script", "link", "iframe", "object"}.isdisjoint(found.tags)
    assert all(link.startswith("data:image/jpeg;base64,") for link in found.links)
    assert not re.search(r"https?:|@import|url\(", path.read_text())
    (right,) = re.findall(r"held-out clips: ([\d.]+%) right, loss ([\d.]+)", ended.printed)
    assert f"Held-out clips after step 3: {right[0]} right, loss {right[1]}" in found.text
    command = shlex.join(["lcr-edge", "export", "--checkpoint", str(ended.out / "lcr_pico.safetensors")])
    assert f"{command} --target openvino" in found.text
    assert found.tags.count("polyline") == 4  # loss and accuracy, of training and of held-out clips
    for setting in ("label_smoothing", "config.classes", ended.data):
        assert setting in found.text


def test_the_counts_are_those_of_evaluate(ended: Ended, tmp_path: Path) -> None:
    checkpoint, held = load(ended.out / "lcr_pico.safetensors"), _heldout(ended)
    result = evaluate(checkpoint, held.data, frames=FRAMES, stream_frames=FRAMES)
    cells = re.findall(r"<tr><td>([^<]*)</td><td>(\d+)</td><td>([\d.]+)%</td>", (ended.out / NAME).read_text())
    assert {name: float(share) for name, _, share in cells} == {
        text(name): pytest.approx(share, abs=0.05) for name, share in result.per_class.items()
    }
    assert sum(int(clips) for _, clips, _ in cells) == result.clips == len(held)
    assert held.verdicts is not None
    # matplotlib would refuse what stands between two dollars here, and warn of letters that its font lacks.
    plot_evaluation(result, tmp_path / "evaluation.png")
    assert [int(n) for row in result.confusion for n in row if n] == [
        int(n) for n in re.findall(r"&nbsp;(\d+)&nbsp;", (ended.out / NAME).read_text())
    ]


def test_the_worst_clips_are_shown_with_their_frames(ended: Ended) -> None:
    held = _heldout(ended)
    verdicts = held.verdicts
    assert verdicts is not None
    found = Reader((ended.out / NAME).read_text())
    assert len(found.links) == min(WORST, len(held))
    for row, link, said in zip(worst(verdicts), found.links, found.alts):
        strip = cv2.imdecode(np.frombuffer(base64.b64decode(link.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
        assert strip is not None
        frames = held.frames_of(int(verdicts.clips[row]))
        assert strip.shape == (64, 64 * PICTURES, 3)
        for place, frame in ((0, frames[0]), (PICTURES - 1, frames[-1])):
            shown = strip[:, 64 * place : 64 * (place + 1), ::-1].astype(np.float64)
            assert np.corrcoef(shown.ravel(), frame.ravel())[0, 1] > 0.95
        powers = np.exp(verdicts.logits[row])
        true, decided = LABELS[verdicts.true[row]], LABELS[verdicts.decided[row]]
        assert f"True: {_seen(true)}" in said
        assert f"predicted {_seen(decided)} ({(powers / powers.sum()).max():.1%} sure)" in said
        assert _seen(held.data.ids[verdicts.clips[row]]) in said


def _seen(name: str) -> str:
    return name.replace(TURNED, r"\u202e")


def test_names_are_text_whatever_they_hold(ended: Ended) -> None:
    raw = (ended.out / NAME).read_text()
    assert "<script" not in raw
    assert TURNED not in raw
    found = Reader(raw)
    for name in NAMES:
        assert _seen(name) in found.text
    assert text('<a href="x">\0\n\ud800\u2066') == "&lt;a href=&quot;x&quot;&gt;\\x00\\n\\ud800\\u2066"
    assert text("\U0001f469\u200d\U0001f680 \u05e9") == "\U0001f469\u200d\U0001f680 \u05e9"


def test_what_is_not_there_is_said(ended: Ended) -> None:
    stopped = page(_run(ended, None, stopped=15, step=2, look=None, looked=None))
    for words in ("was stopped and saved", "lcr-edge train --resume", "after the last step", "none to look at"):
        assert words in Reader(stopped).text, words
    early = _run(ended, _heldout(ended), step=2, patient=False, best=Best(Look(1.0, 0.75), 1, 2))
    found = Reader(page(early)).text
    for words in ("Learning ended early", "lcr_pico-best.safetensors", "step 1: 75.0% right"):
        assert words in found, words


@pytest.mark.parametrize(("drift", "words"), [(1e-6, "Ready to export: float32 1.0e-06"), (1.0, "Not ready to export")])
def test_the_page_says_whether_the_network_can_be_exported(ended: Ended, drift: float, words: str) -> None:
    ready = Readiness(240, drift, 1.0, 0.01, 1.0)
    found = Reader(page(_run(ended, None, ready=ready))).text
    assert words in found
    assert ready.line() in found or all(complaint in found for complaint in ready.complaints)
    assert found.count("MISSED") == len(ready.complaints)


def test_many_classes_stay_readable() -> None:
    count = 174
    random = np.random.default_rng(0)
    true = np.sort(random.integers(0, count - 1, 600))  # the last class has no clip
    logits = random.normal(size=(600, count))
    logits[np.arange(600), true] += 3.0
    found = class_parts(Verdicts(np.arange(600), true, logits.argmax(1), logits), [f"<{i}>" for i in range(count)])
    assert all(Reader(part).open == [] for part in found)
    classes, mixed = found
    assert "<details>" in classes
    assert f"{count - len(set(true))} classes have no clip" in classes
    assert mixed.count("<tr>") == 1 + PAIRS
    pairs = {(int(t), int(d)) for t, d in zip(true, logits.argmax(1))}
    assert mixed.count("<title>") == len(pairs)


def test_pairs_and_worst_clips_come_in_their_order() -> None:
    counts = np.array([[5, 1, 2], [0, 9, 0], [2, 0, 2]])
    assert [(p.true, p.decided, p.clips) for p in confused(counts, counts.sum(1))] == [(2, 0, 2), (0, 2, 2), (0, 1, 1)]
    logits = np.array([[9.0, 0.0], [0.0, 0.1], [math.nan, 0.0], [2.0, 0.0]])
    verdicts = Verdicts(np.arange(4), np.zeros(4, np.int64), np.array([0, 1, NO_DECISION, 0]), logits)
    assert worst(verdicts) == [2, 1, 3, 0]
    assert worst(verdicts, 1) == [2]
    assert "no decision" in "".join(class_parts(verdicts, ("a", "b")))


def test_a_clip_that_can_no_longer_be_read_is_named(ended: Ended, tmp_path: Path) -> None:
    held = _heldout(ended)
    gone = SimpleNamespace(verdicts=held.verdicts, data=held.data, frames_of=_heldout_elsewhere(tmp_path).frames_of)
    found = Reader(page(_run(ended, gone)))  # type: ignore[arg-type]
    assert found.links == []
    assert found.text.count("No picture: ") == len(held)


def _heldout_elsewhere(root: Path) -> HeldOut:
    """Clips of the same numbers whose files are not videos."""
    make_folder(root / "data", classes=3, clips=6)
    config = load().config
    data = open_set(f"folder:{root / 'data'}", split="heldout", size=(64, 64), fps=8.0, frames=FRAMES, cache=None)
    for path in (root / "data").rglob("*.mp4"):
        path.write_bytes(b"not a video")
    return HeldOut(data, config, FRAMES)


def test_a_page_that_cannot_be_written_does_not_fail_the_run(
    ended: Ended, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NAME).mkdir()
    assert _train(tmp_path, ended.data, "--steps", "1", "--look-every", "0") == 0
    told = capsys.readouterr()
    assert "report: " not in told.out
    (line,) = (line for line in told.err.splitlines() if NAME in line)
    assert line.startswith(f"no {NAME}: cannot write")
    (tmp_path / NAME).rmdir()
    assert _train(tmp_path, ended.data, "--steps", "1", "--look-every", "0", "--resume") == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert "none to look at" in (tmp_path / NAME).read_text()


def test_long_curves_are_thinned_and_start_at_zero() -> None:
    steps = np.arange(20.0, 40020.0, 20.0)
    line = _series("loss", steps, np.where(np.arange(2000) % 2, 3.0, 1.0))
    assert len(line.x) == MOST_POINTS
    assert np.allclose(line.y, 2.0, atol=0.5)
    few = _series("held out", steps, np.where(steps % 4000 == 0, 1.0, np.nan))
    assert (len(few.x), few.marks) == (10, True)
    svg = linear_chart([Series("a", [1, 2, 3], [0.0, 1.5, 3.0])], x_title="step", y_title="loss")
    (points,) = re.findall(r'<polyline points="([^"]*)"', svg)
    a, b, c = (float(point.partition(",")[2]) for point in points.split())
    assert a - b == pytest.approx(b - c, abs=0.2)
    assert ">0</text>" in svg
    assert "Nothing to draw" in linear_chart([Series("a", [1], [math.nan])], x_title="step", y_title="loss")
