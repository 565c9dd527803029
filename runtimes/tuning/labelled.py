"""Labelled streams: rendered gestures, the clips of a data set one after another, or films with a file of labels."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np

from lcr_edge.data.sampling import Sample, balanced
from lcr_edge.data.sets import Clip, ClipSet
from lcr_edge.errors import UsageError, VideoError
from lcr_edge.frames import Frame
from lcr_edge.runtimes.tuning.scoring import Truth
from lcr_edge.runtimes.tuning.tracks import Labelled
from lcr_edge.video import TimedFrame, VideoSource

_MOST_LABELS_BYTES = 10_000_000


class Drawn:
    """Frames that are made as they are needed, ``fps`` a second from 0 on. seen: so many were given."""

    def __init__(self, frames: Iterator[Frame], fps: float) -> None:
        self._frames, self._fps = frames, fps
        self.seen = 0

    def __iter__(self) -> Iterator[TimedFrame]:
        for frame in self._frames:
            self.seen += 1
            yield TimedFrame(frame, (self.seen - 1) / self._fps, self.seen - 1)


def rendered(
    seed: int,
    streams: int,
    *,
    size: tuple[int, int],
    fps: float,
    ignore: Sequence[str],
    gestures: int = 25,
    idle: float = 0.0,
) -> list[Labelled]:
    """Streams of rendered gestures with pauses between them, see ``lcr_edge.data.rendered.streams``; no training sees
    them. gestures: in each stream. idle: the share of the time in which nobody is there; 0: as it falls.

    Raises UsageError for frames that are not square.
    """
    from lcr_edge.data.rendered.streams import GESTURES, plan_stream, render_stream

    if size[0] != size[1]:
        raise UsageError(f"rendered gestures are square; this network's frames are {size[0]} x {size[1]}: give --data")
    labelled = []
    for number in range(seed * 1000, seed * 1000 + streams):
        parts = plan_stream(number, gestures, idle=idle)
        truths = tuple(
            Truth(part.what, part.start_s, part.end_s)
            for part in parts
            if part.what in GESTURES and part.what not in ignore
        )
        draw = functools.partial(render_stream, number, parts, size=size[0], fps=fps)
        labelled.append(Labelled(f"rendered {number}", _opening(draw, fps), truths))
    return labelled


def _opening(draw: Callable[[], Iterator[Frame]], fps: float) -> Callable[[], Drawn]:
    return lambda: Drawn(draw(), fps)


def joined(
    data: ClipSet,
    streams: int,
    clips: int,
    *,
    labels: Sequence[str],
    ignore: Sequence[str],
    size: tuple[int, int],
    fps: float,
    frames: int,
    faults: list[str],
) -> Iterator[Labelled]:
    """Streams of at most ``clips`` clips of a data set each, of every class in turn; no clip comes twice.

    labels: the network's classes. A clip of a class that the network lacks, or that ``ignore`` names, is nothing that
    should be told. size, fps, frames: of each clip, from its middle. faults: gets a message for each clip that cannot
    be read; such a clip is left out. A stream's clips are read when it is asked for.

    Raises UsageError where no class of the data is one of the network's events.
    """
    wanted = [label for label in data.labels if label in labels and label not in ignore]
    if not wanted:
        some = ", ".join(labels[:5])
        raise UsageError(f"{data.name} has no class that is an event of this network ({some}, ...); give other data")
    order = balanced(data.targets, 0)[: streams * clips]
    portions = [order[start::streams] for start in range(streams)]
    return (
        _joined(data, f"{data.name} {number}", portion, set(wanted), size, fps, frames, faults)
        for number, portion in enumerate(portions)
        if portion
    )


def _joined(
    data: ClipSet,
    name: str,
    order: Sequence[int],
    wanted: set[str],
    size: tuple[int, int],
    fps: float,
    frames: int,
    faults: list[str],
) -> Labelled:
    kept: list[Clip] = []
    truths: list[Truth] = []
    for index in order:
        try:
            clip = data.read(index, Sample(frames, fps, 0.5), size)[0]
        except VideoError as error:
            faults.append(str(error))
            continue
        label, start_s = data.labels[data.targets[index]], len(kept) * frames / fps
        kept.append(clip)
        if label in wanted:
            truths.append(Truth(label, start_s, start_s + frames / fps))
    if not kept:
        raise UsageError(f"none of the clips of {name} can be read; unpack the data again")
    return Labelled(name, _opening(lambda: iter(np.concatenate(kept)), fps), tuple(truths))


def film(path: str, truths_file: Path | None, *, labels: Sequence[str], ignore: Sequence[str]) -> Labelled:
    """A video file and the labels of what happens in it, see :func:`read_truths`; None: nothing happens.

    Raises VideoError for a file that cannot be opened or is a camera, and UsageError.
    """
    truths = () if truths_file is None else read_truths(truths_file, labels, ignore)
    with VideoSource(path) as source:
        if source.live:
            raise UsageError(f"{source.name} is a camera or a stream; record it into a file first")
        name = source.name
    return Labelled(name, lambda: VideoSource(path), truths)


def read_truths(path: Path, labels: Sequence[str], ignore: Sequence[str]) -> tuple[Truth, ...]:
    """What a file of labels says, in order of time: CSV with the columns start, end and label, or JSON lines with
    these keys (or start_s and end_s), in seconds of the film.

    Lines that ``lcr-edge run --events --json`` wrote are understood: ends of events count, other lines do not. Labels
    in ``ignore`` are left out. Raises UsageError for a file that cannot be read or a line that makes no sense.
    """
    try:
        if path.stat().st_size > _MOST_LABELS_BYTES:
            raise UsageError(f"{path} has more than {_MOST_LABELS_BYTES // 10**6} MB; is it the file of labels?")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UsageError(f"cannot read the labels in {path}: {reason}; give a CSV file or JSON lines") from error
    rows = _json_rows(path, text) if text.lstrip().startswith("{") else _csv_rows(path, text)
    truths = []
    for line, row in rows:
        start, end, label = row
        try:
            start_s, end_s = float(start), float(end)
        except (TypeError, ValueError, OverflowError):
            start_s = end_s = math.nan
        if not 0 <= start_s < end_s < math.inf:
            raise UsageError(f"{path}, line {line}: start and end must be seconds, the start first, got {start}, {end}")
        if label not in labels:
            raise UsageError(f"{path}, line {line}: the network has no class {label!r}; it has {', '.join(labels)}")
        if label not in ignore:
            truths.append(Truth(label, start_s, end_s))
    return tuple(sorted(truths, key=lambda truth: (truth.start_s, truth.end_s)))


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, tuple[Any, Any, Any]]]:
    try:
        rows = list(csv.reader(io.StringIO(text), skipinitialspace=True))
    except csv.Error as error:
        raise UsageError(f"{path} is not CSV: {error}; write lines like 1.5,3.25,Thumb Up") from error
    for line, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (line == 1 and cells[:3] == ["start", "end", "label"]):
            continue
        if len(cells) != 3:
            raise UsageError(f"{path}, line {line}: expected start,end,label, got {len(cells)} columns")
        yield line, (cells[0], cells[1], cells[2])


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, tuple[Any, Any, Any]]]:
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {line} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {line}: expected an object with start, end and label")
        if row.get("event", "end") != "end" or "label" not in row:  # a step, a summary or a start of run --json
            if {"event", "top", "summary", "state"} & set(row):
                continue
            raise UsageError(f"{path}, line {line} has no label; expected an object with start, end and label")
        yield line, (row.get("start", row.get("start_s")), row.get("end", row.get("end_s")), row["label"])
