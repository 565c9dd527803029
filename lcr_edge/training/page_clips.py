"""What a network made of the held-out clips, as parts of a run's page: classes, confusions, the worst clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcr_edge.errors import VideoError
from lcr_edge.evaluate.scores import NO_DECISION, confusion
from lcr_edge.pages import figure, paragraph, section, share_bar, table, text
from lcr_edge.training.heldout import Verdicts

MOST_IN_A_TABLE = 40  # classes; a table of more is wider than any screen
PAIRS = 20
WORST = 12  # clips
PICTURES = 8  # of a clip in its strip
_QUALITY = 80  # of JPEG, per cent
_INK = 0.6  # of the colour behind the largest count, so that the number stays readable


class Pair(NamedTuple):
    """How many clips of one class were taken for another one, and which share of that class they are."""

    true: int
    decided: int
    clips: int
    share: float


def class_parts(verdicts: Verdicts, labels: Sequence[str]) -> list[str]:
    """Accuracy by class and the confusions, as HTML."""
    counts = np.array(confusion(verdicts.true, verdicts.decided, len(labels)), np.int64)
    clips = np.bincount(verdicts.true, minlength=len(labels))
    parts = [section("Accuracy by class", _classes(counts, clips, labels))]
    matrix = _table(counts, clips, labels) if len(labels) <= MOST_IN_A_TABLE else _map(counts, clips, labels)
    undecided = int((verdicts.decided == NO_DECISION).sum())
    note = (
        paragraph(f"{undecided} clips end in logits that are not finite: no decision.", "missed") if undecided else ""
    )
    return [*parts, section("Confusion", note + _pairs(counts, clips, labels) + matrix)]


def confused(counts: NDArray[np.int64], clips: NDArray[np.int64]) -> list[Pair]:
    """The pairs of classes that were confused, most clips first. counts: [true, decided]. clips: of each true class."""
    off = counts - np.diag(np.diag(counts))
    found = [Pair(int(i), int(j), int(off[i, j]), off[i, j] / clips[i]) for i, j in zip(*np.nonzero(off))]
    return sorted(found, key=lambda pair: (-pair.clips, -pair.share, pair.true, pair.decided))


def worst(verdicts: Verdicts, most: int = WORST) -> list[int]:
    """Rows of the verdicts, the worst first: by the probability of the true class; before all, logits not finite."""
    given = _probabilities(verdicts.logits)[np.arange(len(verdicts.true)), verdicts.true]
    return [int(row) for row in np.argsort(np.where(np.isfinite(given), given, -1.0), kind="stable")[:most]]


def worst_part(
    verdicts: Verdicts, labels: Sequence[str], ids: Sequence[str], frames_of: Callable[[int], NDArray[np.uint8]]
) -> str:
    """The worst clips as strips of frames, as HTML. frames_of: uint8 RGB [T, H, W, 3] of a clip of the data."""
    shares = _probabilities(verdicts.logits)
    figures = []
    for row in worst(verdicts):
        clip, true, decided = (int(column[row]) for column in (verdicts.clips, verdicts.true, verdicts.decided))
        said = "no decision: its logits are not finite"
        if decided != NO_DECISION:
            said = f"predicted {labels[decided]} ({shares[row, decided]:.1%} sure)"
            said += ", which is right" if decided == true else f"; {shares[row, true]:.1%} for {labels[true]}"
        sentences = (f"True: {labels[true]}", said, ids[clip])
        style = "met" if decided == true else "missed"
        caption = f"<b><bdi>{text(sentences[0])}</bdi></b> &nbsp; "
        caption += f'<span class="{style}"><bdi>{text(said)}</bdi></span><br><bdi class="soft">{text(ids[clip])}</bdi>'
        try:
            figures.append(figure(_strip(frames_of(clip)), caption, "; ".join(sentences)))
        except (VideoError, ImportError) as error:  # OpenCV reads files and makes JPEGs
            figures.append(f"<p>{caption}</p>\n" + paragraph(f"No picture: {error}"))
    wrong = int((verdicts.decided != verdicts.true).sum())
    what = f"{wrong} of {len(verdicts.true)} clips are wrong. " if wrong else "No clip is wrong. "
    what += f"These got the smallest probability for their true class; {PICTURES} frames of each, in order."
    return section("The worst held-out clips", paragraph(what) + "".join(figures))


def _classes(counts: NDArray[np.int64], clips: NDArray[np.int64], labels: Sequence[str]) -> str:
    rows = []
    seen = [label for label in range(len(labels)) if clips[label]]
    for label in sorted(seen, key=lambda label: (counts[label, label] / clips[label], label)):
        right = counts[label, label] / clips[label]
        others = np.where(np.arange(len(labels)) == label, 0, counts[label])
        taken = f"{labels[int(others.argmax())]} ({others.max()})" if others.max() else ""
        rows.append([text(labels[label]), str(clips[label]), f"{right:.1%}", share_bar(right), text(taken)])
    body = table(["class", "clips", "right", "", "most often taken for"], rows, "left")
    if len(rows) > MOST_IN_A_TABLE:
        body = f"<details><summary>All {len(rows)} classes, the worst first</summary>\n{body}</details>\n"
    missing = len(labels) - len(rows)
    return body + (paragraph(f"{missing} classes have no clip among these.") if missing else "")


def _pairs(counts: NDArray[np.int64], clips: NDArray[np.int64], labels: Sequence[str]) -> str:
    pairs = confused(counts, clips)
    if not pairs:
        return paragraph("No clip was taken for one of another class.")
    rows = [[text(labels[p.true]), text(labels[p.decided]), str(p.clips), f"{p.share:.0%}"] for p in pairs[:PAIRS]]
    left = f" {len(pairs) - PAIRS} more pairs have no more clips than the last of these." if len(pairs) > PAIRS else ""
    what = paragraph(f"The classes that were confused most; the share is of the true class.{left}")
    return what + table(["true class", "predicted", "clips", "share"], rows, "left")


def _table(counts: NDArray[np.int64], clips: NDArray[np.int64], labels: Sequence[str]) -> str:
    numbers = range(1, len(labels) + 1)
    rows = []
    for label, name in enumerate(labels):
        cells = [_count(int(n), n / max(1, clips[label]), label == other) for other, n in enumerate(counts[label])]
        rows.append([text(f"{label + 1} {name}"), *cells])
    what = paragraph("Clips by true class (down) and predicted class (across, by the same numbers).")
    return what + table(["", *map(str, numbers)], rows, "confusion")


def _count(count: int, share: float, same: bool) -> str:
    if not count:
        return ""
    colour = "42 111 219" if same else "196 35 27"
    return f'<span style="background:rgb({colour} / {_INK * share:.2f})">&nbsp;{count}&nbsp;</span>'


def _map(counts: NDArray[np.int64], clips: NDArray[np.int64], labels: Sequence[str]) -> str:
    """A square of colour for each pair of classes that came up."""
    size = len(labels)
    parts = [f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="confusion" style="max-width:44rem">']
    parts.append(f'<rect width="{size}" height="{size}" fill="none" stroke="var(--rule)" stroke-width="0.5"/>')
    for true, decided in zip(*np.nonzero(counts)):
        share = counts[true, decided] / clips[true]
        colour = "var(--s0)" if true == decided else "var(--bad)"
        name = f"{labels[true]}, predicted {labels[decided]}: {counts[true, decided]} ({share:.0%})"
        parts.append(
            f'<rect x="{decided}" y="{true}" width="1" height="1" fill="{colour}" opacity="{0.3 + 0.7 * share:.2f}">'
            f"<title>{text(name)}</title></rect>"
        )
    what = paragraph(
        f"All {size} classes: true ones down, predicted ones across, in the order of the labels; the diagonal is right."
        " A stronger colour is a larger share of the class; the names show when the pointer rests on a square."
    )
    return what + "\n".join([*parts, "</svg>\n"])


def _probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the classes; NaN where a logit is not finite."""
    finite = np.isfinite(logits).all(axis=-1, keepdims=True)
    safe = np.where(finite, logits, 0.0)
    powers = np.exp(safe - safe.max(axis=-1, keepdims=True))
    return np.where(finite, powers / powers.sum(axis=-1, keepdims=True), np.nan)


def _strip(frames: NDArray[np.uint8]) -> bytes:
    """Some frames of a clip side by side, as JPEG. frames: uint8 RGB [T, H, W, 3]."""
    import cv2

    places = np.linspace(0, len(frames) - 1, min(PICTURES, len(frames))).round().astype(int)
    strip = np.ascontiguousarray(np.concatenate(list(frames[places]), axis=1)[..., ::-1])
    done, data = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise VideoError("OpenCV writes no JPEG here")
    return bytes(data)
