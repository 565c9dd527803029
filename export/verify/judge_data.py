"""``--judge-data``: golden vectors, streams and decisions on clips that the user names, not on the network's own.

| given | what judges |
|---|---|
| a data set, as ``lcr-edge train --data`` takes one | its held-out clips; its training clips if none are held out |
| a folder of videos without classes | these; no accuracy, because nobody says what is right |
| a judge pack (``data/pack.py``) | all of its clips; of the network's own pack the half that does not calibrate |

Classes are compared by name. What the network does not know is refused where decisions are judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcr_edge.config import CLIP_FRAMES
from lcr_edge.data.layouts.folder import list_videos
from lcr_edge.data.pack import SUFFIX, Pack, PackFile, choose, read_any
from lcr_edge.data.sets import KINDS, ClipSet, FileSet, open_set
from lcr_edge.errors import UsageError

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint

OPTION = "--judge-data"
_NAMED = 5
_UNREADABLE = 3


def add_judge_data(parser: argparse._ActionsContainer) -> None:
    """``--judge-data DIR|PACK``: a string or None."""
    parser.add_argument(
        OPTION,
        metavar="DIR|PACK",
        help="judge on other clips than the network's own: a data set as --data of lcr-edge train takes it, of which "
        f"the held-out clips count, a folder of videos without classes, or a judge pack (*{SUFFIX})",
    )


def with_judge_data(checkpoint: Checkpoint, spec: str | None, *, decided: bool) -> Checkpoint:
    """The checkpoint with the clips of ``--judge-data``; as it is where ``spec`` is None.

    decided: decisions are compared, so that each class must be one of the network's. Notes on the data go to stderr.
    Raises UsageError (no such data, classes that the network does not know, a pack for frames of another size, no clip
    that can be read), CheckpointError for a damaged pack, MissingExtraError without OpenCV.
    """
    if spec is None:
        return checkpoint
    try:
        path = Path(spec).expanduser()
        alone = path.is_file()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{OPTION} {spec} cannot be read: {error}") from error
    if alone:
        pack, digest = _read_pack(path)
        if digest == checkpoint.pack_sha256:
            return dataclasses.replace(checkpoint, judge=PackFile(path, digest), judged_on=None)
        _check_pack(spec, pack, checkpoint)
        labelled = True
    else:
        data, labelled, heldout = _open(spec, checkpoint)
        pack = _chosen(spec, data, checkpoint)
        if not heldout:
            pack = dataclasses.replace(pack, name=f"{pack.name}, training clips")
    targets = _targets(spec, pack, checkpoint, decided) if labelled else np.full(len(pack.targets), -1)
    if not labelled:
        _tell("these videos have no classes: streams are judged, and accuracy is not")
    return dataclasses.replace(
        checkpoint, judged_on=dataclasses.replace(pack, targets=targets, labels=checkpoint.labels)
    )


def _read_pack(path: Path) -> tuple[Pack, str]:
    if not path.name.endswith(SUFFIX):
        raise UsageError(
            f"{OPTION} {path} is neither a folder nor a judge pack (*{SUFFIX}): put videos into a folder, or give one "
            "video to lcr-edge verify --clip"
        )
    return read_any(path)


def _check_pack(spec: str, pack: Pack, checkpoint: Checkpoint) -> None:
    if not len(pack.clips):
        raise UsageError(f"{OPTION} {spec} holds no clips: give the folder of its data")
    if not pack.labels:
        raise UsageError(
            f"{OPTION} {spec} is the pack of another network and does not name its classes, because an earlier version "
            "wrote it: give the folder of its data"
        )
    size, wanted = pack.clips.shape[2:4], checkpoint.config.frame_shape[:2]
    if size != wanted:
        raise UsageError(
            f"{OPTION} {spec} holds frames of {size[0]} x {size[1]} pixels, and this network reads {wanted[0]} x "
            f"{wanted[1]}: give the folder of its data"
        )


def _open(spec: str, checkpoint: Checkpoint) -> tuple[ClipSet, bool, bool]:
    """The clips, whether they have classes, and whether they are held out."""
    kind, _, place = spec.partition(":")
    folder = Path(place if kind == "folder" else spec).expanduser()
    if (kind == "folder" or kind not in KINDS) and folder.is_dir():
        try:
            videos = list_videos(folder)
        except OSError as error:
            raise UsageError(f"{OPTION} {spec} cannot be read: {error.strerror}") from error
        if videos is not None:
            return FileSet(f"folder:{folder}", "heldout", videos, None, checkpoint.fit), False, True
    config = checkpoint.config
    shape: dict[str, Any] = {"size": config.frame_shape[:2], "fps": config.train_fps, "frames": _length(checkpoint)}
    more: dict[str, Any] = {**shape, "cache": None, "fit": checkpoint.fit, "option": OPTION}
    try:
        return open_set(spec, split="heldout", **more), True, True
    except UsageError as error:
        found = open_set(spec, split="train", **more)  # what is wrong with both splits is told by this one
        _tell(f"no held-out clips ({error}): judged on training clips")
        return found, True, False


def _chosen(spec: str, data: ClipSet, checkpoint: Checkpoint) -> Pack:
    for note in data.notes:
        _tell(note)
    faults: list[str] = []
    config = checkpoint.config
    length = _length(checkpoint)
    pack = choose(data, config.frame_shape[:2], config.train_fps, length, most_bytes=math.inf, faults=faults)
    for fault in faults[:_UNREADABLE]:
        _tell(f"skipped: {fault}")
    if len(faults) > _UNREADABLE:
        _tell(f"skipped: {len(faults) - _UNREADABLE} more unreadable clips")
    if not len(pack.clips):
        raise UsageError(f"{OPTION} {spec}: none of its {len(data)} clips can be read; copy them again")
    return pack


def _targets(spec: str, pack: Pack, checkpoint: Checkpoint, decided: bool) -> NDArray[np.int64]:
    """The class of each clip in the network's order, -1 for one that it does not know. UsageError if one is decided."""
    place = {label: number for number, label in enumerate(checkpoint.labels)}
    strange = [label for label in pack.labels if label not in place]
    if strange and decided:
        raise UsageError(
            f"{OPTION} {spec} has classes that the network does not know: {_some(strange)}. It knows {_some(place)}. "
            "Give clips of these, or, to judge streams alone, the videos in one folder without classes"
        )
    return np.array([place.get(label, -1) for label in pack.labels], np.int64)[pack.targets]


def _some(labels: Any) -> str:
    shown = list(labels)
    return ", ".join(shown[:_NAMED]) + (f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else "")


def _length(checkpoint: Checkpoint) -> int:
    return int(checkpoint.training.get("frames", CLIP_FRAMES))


def _tell(text: str) -> None:
    print(f"{OPTION}: {text}", file=sys.stderr)
