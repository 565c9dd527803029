"""Tiny data sets in the layouts of the real ones, written for tests from rendered gestures.

Each function writes ``classes`` of the labels ``LABELS``, with ``clips`` training clips per class and half as many (at
least one) held out, of 24 frames at 12 a second, ``size`` pixels square, and returns ``root``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered.clips import render_clip

LABELS = ("Swiping Left", "Swiping Right", "Thumb Up", "Drumming Fingers")
FRAMES, FPS = 24, 12.0
CODECS = {
    **dict.fromkeys((".mp4", ".mov", ".m4v", ".3gp", ".ts", ".mts"), "mp4v"),
    **dict.fromkeys((".avi", ".mkv"), "MJPG"),
    **dict.fromkeys((".webm", ".ogv"), "VP80"),
    **dict.fromkeys((".mpg", ".mpeg"), "PIM1"),  # at 24, 25 or 30 frames a second only
    ".wmv": "WMV2",
    ".flv": "FLV1",
}
Clip = npt.NDArray[np.uint8]


@functools.cache
def gesture(name: str, seed: int, split: str = "train", size: int = 64, frames: int = FRAMES) -> Clip:
    """A rendered clip, uint8 RGB [frames, size, size, 3] at ``FPS``."""
    return render_clip(JESTER.index(name), seed, split=split, size=size, frames=frames, fps=FPS)


def write_video(path: Path, clip: Clip, fps: float = FPS) -> Path:
    """A real video file in the codec of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _quiet():  # OpenCV says on stderr that it would have chosen another tag for VP8
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODECS[path.suffix]), fps, clip.shape[2:0:-1])
        assert writer.isOpened(), f"this OpenCV writes no {path.suffix}"
        for frame in clip:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
    return path


def write_jpegs(folder: Path, clip: Clip) -> Path:
    """00001.jpg, 00002.jpg, ... of best quality."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(clip, 1):
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        assert cv2.imwrite(str(folder / f"{number:05d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return folder


def difference(a: Clip, b: Clip) -> float:
    """Mean absolute difference, of 255."""
    return float(np.abs(a.astype(np.int16) - b).mean())


def truncate(path: Path, share: float = 0.5) -> Path:
    """Keep only the first part of a file, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def make_jester(root: Path, classes: int = 2, clips: int = 4, size: int = 64) -> Path:
    """Folders of JPEG frames, and CSV files with the official names."""
    for split, word in (("train", "train"), ("heldout", "validation")):
        lines = []
        for number, name, clip in _clips(split, classes, clips, size):
            write_jpegs(root / "20bn-jester-v1" / str(number), clip)
            lines.append(f"{number};{name}\n")
        (root / f"jester-v1-{word}.csv").write_text("".join(lines))
    return root


def make_ssv2(root: Path, classes: int = 2, clips: int = 4, size: int = 64) -> Path:
    """WebM files, and JSON files whose templates have brackets; the classes are not in alphabetical order."""
    labels = root / "labels"
    labels.mkdir(parents=True)
    names = LABELS[:classes][::-1]
    (labels / "labels.json").write_text(json.dumps({name: str(i) for i, name in enumerate(names)}))
    for split, word in (("train", "train"), ("heldout", "validation")):
        entries = []
        for number, name, clip in _clips(split, classes, clips, size):
            write_video(root / "20bn-something-something-v2" / f"{number}.webm", clip)
            template = name.replace(name.split()[-1], f"[{name.split()[-1]}]")
            entries.append({"id": str(number), "label": name.lower(), "template": template, "placeholders": ["hand"]})
        (labels / f"{word}.json").write_text(json.dumps(entries))
    return root


def make_kinetics(root: Path, classes: int = 2, clips: int = 4, size: int = 64) -> Path:
    """MP4 files cut to their span, and CSV files; the last row of each has no video."""
    for split, word in (("train", "train"), ("heldout", "val")):
        rows = ["label,youtube_id,time_start,time_end,split\n"]
        for number, name, clip in _clips(split, classes, clips, size):
            write_video(root / word / name / f"-video_{number}_000003_000005.mp4", clip)
            rows.append(f'"{name}",-video_{number},3,5,{word}\n')
        rows.append(f"{LABELS[0]},gone{word},0,10,{word}\n")
        (root / f"{word}.csv").write_text("".join(rows))
    return root


def make_folder(root: Path, classes: int = 2, clips: int = 4, size: int = 64, suffix: str = ".mp4") -> Path:
    """One folder per class in train/ and val/."""
    for split, word in (("train", "train"), ("heldout", "val")):
        for number, name, clip in _clips(split, classes, clips, size):
            write_video(root / word / name / f"{number}{suffix}", clip)
    return root


def _clips(split: str, classes: int, clips: int, size: int) -> Iterator[tuple[int, str, Clip]]:
    count = clips if split == "train" else max(1, clips // 2)
    for seed in range(count):
        for label, name in enumerate(LABELS[:classes]):
            number = 1000 * (1 + ("train", "heldout").index(split)) + 10 * seed + label
            yield number, name, gesture(name, seed, split, size)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """File descriptor 2 to nowhere: the lines come from C code."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
