"""The clips that calibration rolls over: opened, chosen, and read once into a temporary file."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcr_edge.config import CLIP_FRAMES, Config
from lcr_edge.data.labels import JESTER
from lcr_edge.data.layouts.folder import list_folder, list_videos
from lcr_edge.data.layouts.listing import data_root
from lcr_edge.data.pack import Pack
from lcr_edge.data.sampling import Sample, balanced
from lcr_edge.data.sets import KINDS, ClipSet, FileSet, open_set
from lcr_edge.errors import CalibrationError, OutputError, UsageError, VideoError
from lcr_edge.frames import DEFAULT_FIT
from lcr_edge.options import check_seed
from lcr_edge.progress import bar

RENDERED = "rendered"
CLIPS, SAMPLES = 108, 128  # four clips of each rendered gesture
MIN_SAMPLES = 4  # one for each stratum of ``collect``
MIN_CLIPS = 8  # readable ones; ranges from fewer clips would describe the clips rather than the network
SHOWN = 10  # unreadable clips named on stderr
_IN_ERROR = 3
_OPTION = "--calibration-data"
PLACE = 12  # tag that separates the random choices


@dataclass(frozen=True)
class Footage:
    """frames: uint8 [n, CLIP_FRAMES, H, W, 3] RGB, read from disk as needed. source: where they came from."""

    frames: NDArray[np.uint8]
    source: str


def check_numbers(clips: int, samples: int, seed: int, workers: int = 1) -> None:
    """Raise UsageError, naming the option, unless ``collect`` can work with these numbers."""
    if clips < MIN_CLIPS:
        raise UsageError(f"--calibration-clips must be at least {MIN_CLIPS}, got {clips}")
    if not MIN_SAMPLES <= samples <= clips * CLIP_FRAMES:
        raise UsageError(
            f"--calibration-samples must be from {MIN_SAMPLES} to {clips * CLIP_FRAMES}, the frames in {clips} clips, "
            f"got {samples}"
        )
    check_seed(seed)
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")


def source_name(spec: str | None, config: Config) -> str:
    """The ``Samples.source`` of clips of ``spec``: the same wherever the files are, different for different files.

    Raises UsageError like :func:`open_clips`; nothing is rendered or decoded.
    """
    spec = RENDERED if spec is None else spec
    if spec.partition(":")[0] == RENDERED:
        return spec
    return _folder_name(open_clips(spec, config, DEFAULT_FIT, clips=1, seed=0, workers=1))


def _folder_name(data: ClipSet) -> str:
    kind, _, place = data.name.partition(":")
    return f"{kind}:{Path(place).expanduser().resolve().name} {data.fingerprint[:16]}"


def open_clips(spec: str | None, config: Config, fit: str, *, clips: int, seed: int, workers: int) -> ClipSet:
    """The training split of a data set, with any labels.

    spec: as for ``open_set``; None for rendered gestures, of which only as many are drawn as ``clips`` needs; or the
    path of a folder that contains either videos or one folder of videos per class. fit: how frames are brought to the
    network's size, a name in ``frames.FITS``. Raises UsageError.
    """
    spec = RENDERED if spec is None else spec
    kind, _, number = spec.partition(":")
    if kind not in KINDS:
        return _open_folder(spec, fit)
    needed = -(-clips // len(JESTER))
    if spec == RENDERED or (kind == RENDERED and number.isascii() and number.isdigit() and int(number) > needed):
        spec = f"{RENDERED}:{needed}"
    shape: dict[str, Any] = {"size": config.frame_shape[:2], "fps": config.train_fps, "frames": CLIP_FRAMES}
    how: dict[str, Any] = {"cache": None, "workers": workers, "seed": seed, "fit": fit, "option": _OPTION}
    return open_set(spec, split="train", even=True, **shape, **how)


def _open_folder(place: str, fit: str) -> ClipSet:
    root = Path(place).expanduser()
    others = ", ".join(f"{kind}:FOLDER" for kind in KINDS[1:])
    if not root.exists():
        raise UsageError(f"{_OPTION} {place}: no such folder; give a folder of videos, {RENDERED}, or one of {others}")
    data_root("folder", root, _OPTION)
    name = f"folder:{root}"
    try:
        listing = list_videos(root) or list_folder(root, "train", _OPTION)
        return FileSet(name, "train", listing, None, fit)
    except UsageError as error:
        raise UsageError(
            f"{error}; or put the videos into {root} itself. For other layouts give one of {others}"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read the data folder {root}: {error.strerror}") from error


def pack_footage(pack: Pack, clips: int) -> Footage:
    """``clips`` windows of CLIP_FRAMES frames of a judge pack's clips, in turn; short ones go forward and backward.

    Windows of long clips start at evenly spaced places, other ones in each round.
    """
    own = pack.calibrating().clips
    length = own.shape[1]
    rounds = -(-clips // len(own))
    way = max(1, 2 * length - 2)
    windows = []
    for number in range(clips):
        first = number // len(own) * max(0, length - CLIP_FRAMES) // max(1, rounds - 1)
        place = np.arange(first, first + CLIP_FRAMES) % way
        windows.append(own[number % len(own)][np.minimum(place, way - place)])
    return Footage(np.stack(windows), f"judge pack: {pack.name}")


def read_footage(
    spec: str | None,
    config: Config,
    fit: str,
    *,
    clips: int,
    seed: int,
    workers: int = 1,
    progress: bool = False,
) -> Footage:
    """``clips`` windows of CLIP_FRAMES frames at the network's rate, each at a random place in its clip.

    spec, fit: as in :func:`open_clips`. Clips are drawn at random, as evenly over the classes as the data allows. A
    clip that cannot be read is replaced by the next one. If a set has too few clips, they are used again at other
    places. The result depends on data and seed, not on ``workers``, the number of decoding threads.

    The frames are kept in a temporary file, which the system deletes when they are no longer used. Notes on the data
    and the first SHOWN unreadable clips are written to stderr.

    Raises CalibrationError if fewer than MIN_CLIPS clips are readable or more than half of those asked for are not,
    UsageError for data that cannot be opened, OutputError if there is no room for the frames, MissingExtraError.
    """
    data = open_clips(spec, config, fit, clips=clips, seed=seed, workers=workers)
    for note in data.notes:
        print(note, file=sys.stderr)
    faults: dict[int, str] = {}
    try:
        with (
            tempfile.TemporaryFile(prefix="lcr_edge_") as spool,
            bar("reading clips", clips, "clip", progress) as moved,
        ):
            count = 0
            for clip in _readable(data, config, clips, seed, workers, faults):
                spool.write(np.ascontiguousarray(clip).tobytes())
                count += 1
                moved.update()
            spool.flush()
            shape = (count, CLIP_FRAMES, *config.frame_shape)
            frames = np.memmap(spool, np.uint8, mode="r", shape=shape)
    except OSError as error:
        raise OutputError(
            f"cannot keep the decoded clips in {tempfile.gettempdir()}: {error.strerror or error}; free some space, "
            "name another folder in TMPDIR, or use fewer --calibration-clips"
        ) from error
    finally:
        for message in list(faults.values())[:SHOWN]:
            print(f"skipped: {message}", file=sys.stderr)
        if len(faults) > SHOWN:
            print(f"skipped: {len(faults) - SHOWN} more unreadable clips", file=sys.stderr)
    name = RENDERED if spec is None else spec
    return Footage(frames, name if name.partition(":")[0] == RENDERED else _folder_name(data))


def _readable(
    data: ClipSet, config: Config, clips: int, seed: int, workers: int, faults: dict[int, str]
) -> Iterator[NDArray[np.uint8]]:
    """At most ``clips`` windows; adds index and message of unreadable clips to ``faults``. Raises CalibrationError."""
    random = np.random.default_rng((PLACE, seed))
    size = config.frame_shape[:2]

    def read(index: int, place: float) -> NDArray[np.uint8] | str:
        try:
            return data.read(index, Sample(CLIP_FRAMES, config.train_fps, place), size)[0]
        except VideoError as error:
            return str(error)

    order = balanced(data.targets, seed)
    asked, missing = min(clips, len(order)), clips
    with ThreadPoolExecutor(workers) as threads:
        # This ends: a round reads a clip or finds another one unreadable, and both are limited.
        while missing:
            again = [index for index in order if index not in faults]
            start = 0
            while missing and start < len(again):
                portion = again[start : start + min(missing, 2 * workers)]
                start += len(portion)
                for index, found in zip(portion, threads.map(read, portion, random.random(len(portion)))):
                    if isinstance(found, str):
                        faults[index] = found
                        if 2 * len(faults) > asked:
                            raise _too_few(data, f"more than half of the {asked} wanted cannot be read", faults)
                    else:
                        missing -= 1
                        yield found
            good = len(order) - len(faults)
            if missing and good < MIN_CLIPS:
                raise _too_few(data, f"{good} of {len(order)} clips can be read, {MIN_CLIPS} are needed", faults)


def _too_few(data: ClipSet, what: str, faults: dict[int, str]) -> CalibrationError:
    shown = "; ".join(list(faults.values())[:_IN_ERROR])
    return CalibrationError(
        f"{data.name}: {what}{': ' + shown if shown else ''}. Add clips or copy the damaged ones again, give other "
        "--calibration-data, or leave it out to calibrate on rendered gestures"
    )
