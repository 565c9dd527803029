"""Which clips a recording needs, where each belongs, and which are there already.

    OUT/train/<class>/001.mp4, 003.mp4, ...
    OUT/val/<class>/002.mp4, ...                    or another name of ``layouts.folder.HELDOUT`` that is there already

Clips of a class are numbered from 1. Of every ``every`` clips the second is held out (2, 7, 12, ... of every 5th), so
that two clips of a class are enough to have both. A clip is there when a video of its number lies in either folder,
whatever its ending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lcr_edge.data.labels import check_distinct, check_folder_labels
from lcr_edge.data.layouts.folder import HELDOUT, TRAIN, classes_in
from lcr_edge.errors import UsageError

_FIRST_HELD_OUT = 2


@dataclass(frozen=True)
class Slot:
    """A clip to record. number: in its class, from 1. place: among all clips of the recording, from 0."""

    label: str
    number: int
    place: int
    path: Path


@dataclass(frozen=True)
class Plan:
    """What was asked for: ``clips`` for each of ``labels``, and of these the ``missing`` ones, in order."""

    labels: tuple[str, ...]
    clips: int
    missing: tuple[Slot, ...]

    @property
    def wanted(self) -> int:
        return len(self.labels) * self.clips

    def counted(self, slots: Sequence[Slot]) -> str:
        """How many of these clips each class has: "5 of wave, 12 of thumb up"."""
        numbers = {label: sum(slot.label == label for slot in slots) for label in self.labels}
        return ", ".join(f"{number} of {label}" for label, number in numbers.items() if number)


def held_out_every(share: float) -> int:
    """Every how many clips one is held out, for a share of 0 to 0.5: 5 for 0.2."""
    return max(_FIRST_HELD_OUT, round(1 / share))


def make_plan(out: Path, labels: Sequence[str], clips: int, every: int) -> Plan:
    """What is to be recorded into ``out``. Raises UsageError for names of classes that cannot be folders, and for a
    folder that cannot be read or is sorted in another way."""
    check_folder_labels(labels)
    try:
        heldout = _heldout(out)
        known = _known(out, labels)
        found = {label: _numbers([out / TRAIN / label, out / heldout / label]) for label in labels}
    except OSError as error:
        raise UsageError(f"cannot read the folder {out}: {error.strerror}; choose another --out") from error
    check_distinct(known)
    missing = []
    for place in range(len(labels) * clips):
        label, number = labels[place // clips], place % clips + 1
        if number not in found[label]:
            part = heldout if number % every == _FIRST_HELD_OUT % every else TRAIN
            missing.append(Slot(label, number, place, out / part / label / f"{number:03d}.mp4"))
    return Plan(tuple(labels), clips, tuple(missing))


def _heldout(out: Path) -> str:
    """The folder of held-out clips. UsageError for a folder whose clips training would no longer see."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give --out a folder")
    if not (out / TRAIN).is_dir():
        unsplit = sorted(set(classes_in(out)) - {TRAIN, *HELDOUT})
        if unsplit:
            raise UsageError(
                f"{out} has videos in {unsplit[0]}/ that are in no train folder; training would not see them beside "
                f"new ones in {TRAIN}/: move the folders of the classes into {out / TRAIN}, or choose another --out"
            )
    return next((name for name in HELDOUT if (out / name).is_dir()), HELDOUT[0])


def _known(out: Path, labels: Sequence[str]) -> list[str]:
    parts = [out / part for part in (TRAIN, *HELDOUT) if (out / part).is_dir()]
    return sorted({*labels, *(name for part in parts for name in classes_in(part))})


def _numbers(folders: Sequence[Path]) -> set[int]:
    paths = [path for folder in folders if folder.is_dir() for path in classes_in(folder.parent).get(folder.name, ())]
    return {int(path.stem) for path in paths if path.stem.isascii() and path.stem.isdigit()}
