"""The frames that bundles are checked with: the network's own judge pack, rendered gestures, clips that the user names
(``judge_data``), or any video file.

Rendered gestures judge networks that were trained on them, and random weights. A network of other data whose pack is
not there is stepped over them, too, but then what depends on the content is not judged: see :func:`strange`.

Frames of another size than the network's are fitted as those that it was trained on: ``fit`` is the checkpoint's or the
bundle's, a name of ``frames.FITS``.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lcr_edge.config import CLIP_FRAMES, Config
from lcr_edge.data.labels import JESTER
from lcr_edge.errors import UsageError
from lcr_edge.frames import FITS

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.data.pack import Pack

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
_LABELS = 27
_STRIDE = 5  # coprime to 27: neighbours in the stream are of different families


def rendered_stream(config: Config, fit: str) -> Iterator[U8]:
    """Endless rendered gestures of the held-out split, uint8 [H, W, 3], always the same ones."""
    from lcr_edge.data.rendered.clips import render_clip

    size = max(config.height, config.width, 32)
    for number in itertools.count():
        label = 3 + number * _STRIDE
        clip = render_clip(label % _LABELS, number, split="heldout", size=size, frames=CLIP_FRAMES, fps=8.0)
        for frame in clip:
            yield FITS[fit](frame, config.height, config.width)


@functools.lru_cache(maxsize=2)
def rendered_clips(
    size: tuple[int, int],
    fit: str,
    frames: int,
    fps: float,
    per_class: int,
    workers: int = 1,
    progress: bool = False,
) -> tuple[U8, I64]:
    """Rendered gestures of the held-out split, ``per_class`` of each: uint8 [n, T, H, W, 3] and classes int64 [n].

    The clips of ``lcr-edge evaluate``, fitted to ``size`` (height, width). Kept, read-only, for the next call, so that
    verifying several bundles draws them once. workers: processes that draw; more than one needs a main module that can
    be imported again, as the command line's can. Raises UsageError, MissingExtraError.
    """
    from lcr_edge.data.rendered.clips import render_set

    clips, classes = render_set(
        per_class, 0, split="heldout", size=max(*size, 32), frames=frames, fps=fps, workers=workers, progress=progress
    )
    if clips.shape[2:4] != size:
        clips = np.stack([[FITS[fit](frame, *size) for frame in clip] for clip in clips])
    clips.setflags(write=False)
    return clips, classes


def strange(checkpoint: Checkpoint) -> str:
    """Why there is nothing to judge this network on; empty where there is."""
    if checkpoint.judged_on is None and checkpoint.judge is None and checkpoint.strange_to_gestures:
        return (
            "no clips of its own data are at hand: keep the judge pack beside the checkpoint, or name the pack or the "
            "data with --judge-data"
        )
    return ""


def judging(checkpoint: Checkpoint) -> Pack | None:
    """The clips that judge the network: those of --judge-data, or of its pack; None for rendered gestures."""
    if checkpoint.judged_on is not None:
        return checkpoint.judged_on
    return None if checkpoint.judge is None else checkpoint.judge.read().judging()


def name_of(checkpoint: Checkpoint) -> str:
    """What :func:`own_clips` and :func:`own_stream` show."""
    pack = judging(checkpoint)
    if pack is None:
        return "rendered gestures"
    return f"clips of {pack.name}{'' if checkpoint.judged_on is None else ' (--judge-data)'}"


def own_stream(checkpoint: Checkpoint) -> Iterator[U8]:
    """Endless frames to judge the network on, uint8 [H, W, 3], always the same ones."""
    pack = judging(checkpoint)
    if pack is None:
        return rendered_stream(checkpoint.config, checkpoint.fit)
    # torch wants frames that can be written
    return (frame.copy() for clip in itertools.cycle(pack.clips) for frame in clip)


def own_clips(checkpoint: Checkpoint, per_class: int, workers: int, progress: bool) -> tuple[U8, I64]:
    """Clips to judge the network on, uint8 [n, T, H, W, 3], and the class of each in its labels, int64 [n].

    Those of :func:`judging`, all of them, or :func:`rendered_clips` of the size, length and rate that it was trained
    with. The class is -1 for a gesture that is not among the labels, and for a clip of --judge-data without a class.
    """
    pack = judging(checkpoint)
    if pack is not None:
        return pack.clips, pack.targets
    config = checkpoint.config
    length = int(checkpoint.training.get("frames", CLIP_FRAMES))
    shown = progress and sys.stderr.isatty()
    size = config.height, config.width
    clips, gestures = rendered_clips(size, checkpoint.fit, length, config.train_fps, per_class, workers, shown)
    place = {label: number for number, label in enumerate(checkpoint.labels)}
    return clips, np.array([place.get(name, -1) for name in JESTER], np.int64)[gestures]


def rendered_streams(clips: U8, lengths: list[int]) -> list[Iterator[U8]]:
    """Streams of ``lengths`` frames [H, W, 3] from clips [n, T, H, W, 3] in random order, always the same one.

    Each clip is shown once before any comes again, then in another order. Stream k starts at its first clip's frame
    k * T / streams.
    """
    random = np.random.default_rng(0)
    size = clips.shape[1]
    offsets = [number * size // len(lengths) for number in range(len(lengths))]
    needed = [-(-(length + offset) // size) for length, offset in zip(lengths, offsets)]
    rounds = -(-sum(needed) // len(clips))
    order = np.concatenate([random.permutation(len(clips)) for _ in range(rounds)])

    def play(own: I64, offset: int, length: int) -> Iterator[U8]:
        return itertools.islice((frame for number in own for frame in clips[number]), offset, offset + length)

    return [play(*row) for row in zip(np.split(order, np.cumsum(needed)), offsets, lengths)]


def stream(clip: str | None, checkpoint: Checkpoint, count: int) -> Iterator[U8]:
    """``count`` frames of a video file, or without one of :func:`own_stream`. Raises as :func:`video_stream`."""
    if clip is None:
        return itertools.islice(own_stream(checkpoint), count)
    return video_stream(clip, checkpoint.config, checkpoint.fit, count)


def video_stream(path: str, config: Config, fit: str, count: int) -> Iterator[U8]:
    """``count`` frames of a video file, fitted to [H, W, 3], at the file's own rate.

    A shorter video is played forward and backward in turn. Raises VideoError or MissingExtraError.
    """
    from lcr_edge.runtimes.video import VideoSource

    kept: list[U8] = []
    with VideoSource(str(Path(path))) as source:
        for timed in itertools.islice(source, count):
            kept.append(FITS[fit](timed.frame, config.height, config.width))
            yield kept[-1]
    for number in range(len(kept), count):
        yield kept[ping_pong(number, len(kept))]


def video_streams(path: str, config: Config, fit: str, lengths: list[int]) -> list[Iterator[U8]]:
    """Streams of a video file, as :func:`video_stream`, that start at evenly spaced places of its way forward and back.

    Of a long video only as many frames are used as the longest stream has. Raises VideoError or MissingExtraError.
    """
    from lcr_edge.runtimes.video import VideoSource

    with VideoSource(str(Path(path))) as source:
        frames = (timed.frame for timed in itertools.islice(source, max(lengths)))
        kept = [FITS[fit](frame, config.height, config.width) for frame in frames]
    way = max(1, 2 * len(kept) - 2)

    def play(start: int, length: int) -> Iterator[U8]:
        return (kept[ping_pong(number, len(kept))] for number in range(start, start + length))

    return [play(number * way // len(lengths), length) for number, length in enumerate(lengths)]


def ping_pong(number: int, length: int) -> int:
    """Index into ``length`` frames at step ``number``: 0 1 2 1 0 1 2 ... for a length of 3."""
    if length == 1:
        return 0
    position = number % (2 * length - 2)
    return min(position, 2 * length - 2 - position)


def check_count(frames: int, least: int = 2) -> None:
    """UsageError for fewer than ``least`` frames; one alone cannot show that the state is carried."""
    if frames < least:
        raise UsageError(f"--frames must be at least {least}, got {frames}")
