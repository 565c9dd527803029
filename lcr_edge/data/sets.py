"""Data sets of labelled clips behind one name: what ``--data`` takes, ``kind:path`` or just a folder.

| kind | what | described in |
|---|---|---|
| rendered, rendered:PER_CLASS | rendered gestures, no files needed | ``rendered/clips.py`` |
| jester:FOLDER | Jester v1, folders of JPEG frames | ``layouts/jester.py`` |
| ssv2:FOLDER | Something-Something V2 | ``layouts/something.py`` |
| kinetics:FOLDER | Kinetics 400, 600, 700 | ``layouts/kinetics.py`` |
| folder:FOLDER | any videos, one folder per class | ``layouts/folder.py`` |
"""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
from numpy.typing import NDArray

from lcr_edge.data.decode import read_jpegs, read_video
from lcr_edge.data.labels import JESTER, check_labels
from lcr_edge.data.layouts.folder import list_folder
from lcr_edge.data.layouts.jester import list_jester
from lcr_edge.data.layouts.kinetics import list_kinetics
from lcr_edge.data.layouts.listing import SPLITS, Listing
from lcr_edge.data.layouts.recognise import layout_of
from lcr_edge.data.layouts.something import list_something
from lcr_edge.data.rendered.clips import ROUNDS, clips_of
from lcr_edge.data.rendered.store import Store, heldout_store, train_store
from lcr_edge.data.sampling import Sample, frame_indices
from lcr_edge.errors import UsageError
from lcr_edge.frames import DEFAULT_FIT, FITS

PER_CLASS = {"train": 400, "heldout": 20}  # rendered clips per class, unless --data gives another number

Clip = NDArray[np.uint8]
Joints = NDArray[np.float32]


class ClipSet(abc.ABC):
    """Labelled clips of one split. Can be sent to other processes.

    name: as given, "jester:/data/jester". labels: class names; their order is the class index. targets: class index
    of each clip, int64 [n]. ids: a name of each clip, which does not depend on where the set lies. fingerprint:
    SHA-256 over kind, split, labels, clip names and targets: the same data give the same one wherever they lie
    (what is inside the files is not looked at). fit: how frames are fitted, a name of ``frames.FITS``. reversible:
    a clip played backwards is a clip of another class. notes: sentences for the user, on clips left out and the
    like. Raises UsageError for class names that ``check_labels`` refuses.
    """

    def __init__(
        self,
        name: str,
        split: str,
        labels: tuple[str, ...],
        targets: NDArray[np.int64],
        ids: Sequence[str],
        *,
        fit: str = DEFAULT_FIT,
        reversible: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        check_labels(labels)
        self.name = name
        self.labels = labels
        self.targets = targets
        self.ids = tuple(ids)
        self.fit = fit
        self.reversible = reversible
        self.notes = notes
        kind = name.partition(":")[0]
        what = json.dumps([kind, split, list(labels), list(ids), targets.tolist()], ensure_ascii=True)
        self.fingerprint = hashlib.sha256(what.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.targets)

    @abc.abstractmethod
    def read(self, index: int, sample: Sample, size: tuple[int, int]) -> tuple[Clip, Joints | None]:
        """Frames uint8 RGB [T, H, W, 3] of clip ``index``, fitted to ``size`` (height, width), and where they are known
        the 21 joints of the hand, float32 [T, 21, 2] in fractions of the frame.

        Raises VideoError, naming the file, for a clip that cannot be read.
        """


class FileSet(ClipSet):
    """Clips from video files or folders of JPEG frames."""

    def __init__(
        self, name: str, split: str, listing: Listing, classes: tuple[str, ...] | None, fit: str = DEFAULT_FIT
    ) -> None:
        labels, targets = _as_classes(name, listing, classes)
        super().__init__(name, split, labels, targets, listing.ids, fit=fit, notes=listing.notes)
        self._paths, self._spans, self._fps = listing.paths, listing.spans, listing.fps
        self._pictures = name.startswith("jester:")

    def read(self, index: int, sample: Sample, size: tuple[int, int]) -> tuple[Clip, Joints | None]:
        path = self._paths[index]
        if self._pictures:
            return read_jpegs(path, sample, size, fps=self._fps, fit=self.fit), None
        span = self._spans[index] if self._spans else None
        return read_video(path, sample, size, fit=self.fit, fallback_fps=self._fps, span=span), None


class RenderedSet(ClipSet):
    """Rendered gestures, drawn at the network's size.

    Samples of the rendering's own rate, or of a whole fraction of it, are exact.
    """

    def __init__(
        self,
        name: str,
        split: str,
        store: Store,
        fps: float,
        seed: int,
        classes: tuple[str, ...] | None,
        fit: str = DEFAULT_FIT,
        behind: str = "",
        rounds: tuple[int, ...] | None = None,
    ) -> None:
        clips, frames = store.clips.shape[:2]
        rounds = ROUNDS[split] if rounds is None else rounds
        drawn = clips_of(clips // len(rounds), seed, rounds)
        ids = [f"{JESTER[label]} {own} {frames}@{fps}{behind}" for label, own in drawn]
        listing = Listing(JESTER, tuple(ids), tuple(label for label, _ in drawn), ())
        labels, targets = _as_classes(name, listing, classes)
        super().__init__(name, split, labels, targets, ids, fit=fit, reversible=True)
        self._store, self._fps = store, fps

    def read(self, index: int, sample: Sample, size: tuple[int, int]) -> tuple[Clip, Joints | None]:
        """As :meth:`ClipSet.read`. UsageError for a size other than that of the rendering."""
        clips = self._store.clips
        if tuple(clips.shape[2:4]) != tuple(size):
            raise UsageError(f"{self.name} was opened for frames of {clips.shape[2:4]} pixels, not of {tuple(size)}")
        picked = frame_indices(clips.shape[1], self._fps, sample)
        return clips[index][picked], self._store.joints[index][picked]


_LAYOUTS: dict[str, Callable[[Path, str, str], Listing]] = {
    "jester": list_jester,
    "ssv2": list_something,
    "kinetics": list_kinetics,
    "folder": list_folder,
}
KINDS = ("rendered", *_LAYOUTS)


def open_set(
    spec: str,
    *,
    split: str = "train",
    size: tuple[int, int],
    fps: float,
    frames: int,
    cache: Path | None,
    workers: int = 1,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    fit: str = DEFAULT_FIT,
    option: str = "--data",
    backdrops: Sequence[Path] = (),
    even: bool = False,
) -> ClipSet:
    """One split, "train" or "heldout", of the data set that ``spec`` names (see the module's table). The layout of a
    folder without a kind is recognised by its labels files, see ``layouts/recognise.py``.

    size, fps, frames, seed, workers: of rendered gestures, which are drawn here with that many frames in as many
    processes; those of the train split are kept in the folder ``cache`` and drawn once (in memory when it is None).
    Several processes may open the same set at once: one draws, the others wait for it.
    classes: the class names of a network; the class indices become those, and a set with other classes is refused.
    fit: how recorded frames are brought to the network's size, a name of ``frames.FITS``; rendered ones have that size.
    option: of the command line, for messages. backdrops: photos and videos that stand behind rendered people, in the
    train split only, see ``rendered/backdrop.py``. even: draw as many clips of each class, in the train split too; not
    with a cache, whose files hold what training draws.

    Raises UsageError (unknown kind or fit, folder missing or empty, labels files that do not fit), OutputError when
    ``cache`` cannot be written, MissingExtraError without OpenCV.
    """
    kind, _, place = spec.partition(":")
    if kind not in KINDS and Path(spec).expanduser().is_dir():
        kind, place = layout_of(Path(spec).expanduser()), spec
        spec = f"{kind}:{place}"
    if kind not in KINDS:
        raise UsageError(
            f"{spec!r} is neither a folder nor a kind of data; give a folder, rendered, or one of "
            f"{', '.join(k + ':FOLDER' for k in _LAYOUTS)}"
        )
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if fit not in FITS:
        raise UsageError(f"unknown fit {fit!r}; choose one of {', '.join(FITS)}")
    if backdrops and kind != "rendered":
        raise UsageError(f"--backgrounds stand behind rendered people only: leave them out with {option} {spec}")
    if kind != "rendered":
        if not place:
            raise UsageError(f"{option} {kind} needs a folder: {kind}:/path/to/the/data")
        return FileSet(spec, split, _LAYOUTS[kind](Path(place).expanduser(), split, option), classes, fit)
    per_class = _per_class(spec, place, split, option)
    if size[0] != size[1]:
        raise UsageError(f"rendered gestures are square; this network's frames are {size[0]} x {size[1]} pixels")
    shape: dict[str, Any] = {"size": size[0], "frames": frames, "fps": fps, "seed": seed, "workers": workers}
    if split != "train":
        return RenderedSet(spec, split, heldout_store(per_class, **shape), fps, seed, classes, fit)
    behind = None
    if backdrops:
        from lcr_edge.data.rendered.backdrop import Backdrops  # needs OpenCV at once

        behind = Backdrops(tuple(backdrops))
    rounds = ROUNDS["heldout" if even else split]
    store = train_store(None if even else cache, per_class, **shape, backdrops=behind, labels=rounds)
    return RenderedSet(spec, split, store, fps, seed, classes, fit, f" {behind.digest}" if behind else "", rounds)


def _per_class(spec: str, number: str, split: str, option: str) -> int:
    if ":" not in spec:
        return PER_CLASS[split]
    if not (number.isascii() and number.isdigit()) or int(number) < 1:
        raise UsageError(f"{option} {spec}: expected rendered or rendered:CLIPS_PER_CLASS, a number of 1 or more")
    return int(number)


def _as_classes(
    name: str, listing: Listing, classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Labels and targets in the order of ``classes``, or as listed without."""
    targets = np.array(listing.targets, np.int64)
    if classes is None or classes == listing.labels:
        return listing.labels, targets
    strange = [label for label in listing.labels if label not in classes]
    if strange:
        raise UsageError(
            f"{name} has {len(listing.labels)} classes, of which {len(strange)} are not among the network's "
            f"{len(classes)}: {', '.join(strange[:5])}{' ...' if len(strange) > 5 else ''}; use a checkpoint trained "
            "on these classes"
        )
    return classes, np.array([classes.index(label) for label in listing.labels], np.int64)[targets]
