"""Any videos, sorted into one folder per class.

    ROOT/<class>/*.mp4                                      or any other of decode.VIDEO_SUFFIXES; or, already split:
    ROOT/train/<class>/*.mp4
    ROOT/val/<class>/*.mp4                                  or valid, validation, test, heldout: the first that is there

Classes are the folders that hold a video, of both splits, sorted by name. Notes name folders without one, and files
with other endings. Two classes that differ only in upper and lower case are refused.

Without ROOT/train the split is made here: a clip is held out when the SHA-256 of "<class>/<file name>" is in the lowest
tenth. That does not change when clips are added. A class of two or more files always keeps at least one on either
side (the lowest digest is held out, or the highest is trained on); the only file of a class is trained on, and a note
says so. Cuts of one recording fall on both sides: give your own train and val folders when they are alike.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lcr_edge.data.decode import VIDEO_SUFFIXES
from lcr_edge.data.labels import check_distinct, check_labels
from lcr_edge.data.layouts.listing import Listing, data_root
from lcr_edge.errors import UsageError

TRAIN = "train"
HELDOUT = ("val", "valid", "validation", "test", "heldout")
HELDOUT_SHARE = 0.1
_NAMED = 5


def list_folder(root: Path, split: str, option: str = "--data") -> Listing:
    """The clips of ``split`` ("train" or "heldout"). Raises UsageError."""
    data_root("folder", root, option)
    notes: list[str] = []
    if (root / TRAIN).is_dir():
        files = _given(root, split)
        notes += _left_out([root / part for part in (TRAIN, *HELDOUT) if (root / part).is_dir()])
        labels = tuple(sorted({name for part in (TRAIN, *HELDOUT) for name in classes_in(root / part)}))
    else:
        classes = classes_in(root)
        if not classes:
            raise UsageError(
                f"{root} has no videos in a folder per class; expected {root}/<class>/*{'|'.join(VIDEO_SUFFIXES)}"
            )
        labels, files = tuple(sorted(classes)), []
        check_labels(labels)
        for name in labels:
            held = _held_out(name, classes[name])
            files += [(name, path) for path in classes[name] if (path in held) == (split == "heldout")]
        notes += _left_out([root])
        total, lone = sum(map(len, classes.values())), [name for name in labels if len(classes[name]) == 1]
        notes.append(
            f"folder: {root} has no train folder; a tenth is held out by file name: {split} has {len(files)} of "
            f"{total} clips"
        )
        if lone:
            notes.append(f"folder: {len(lone)} classes with a single clip are in train only: {', '.join(lone[:5])}")
    if not files:
        raise UsageError(f"{root} has no {split} clips; add some, or make the folders train and val")
    check_distinct(labels)
    index = {name: i for i, name in enumerate(labels)}
    return Listing(
        labels=labels,
        ids=tuple(f"{name}/{path.name}" for name, path in files),
        targets=tuple(index[name] for name, _ in files),
        paths=tuple(path for _, path in files),
        notes=tuple(notes),
    )


def list_videos(root: Path) -> Listing | None:
    """The videos that lie in ``root`` itself, all of one class, "any"; None where there are none. Raises OSError."""
    videos = tuple(sorted(path for path in root.iterdir() if _is_video(path) and path.is_file()))
    if not videos:
        return None
    return Listing(("any",), tuple(path.name for path in videos), (0,) * len(videos), videos)


def _given(root: Path, split: str) -> list[tuple[str, Path]]:
    names = (TRAIN,) if split == "train" else HELDOUT
    part = next((root / name for name in names if (root / name).is_dir()), None)
    if part is None:
        raise UsageError(f"{root} has a train folder but none of {', '.join(HELDOUT)}; add one, or remove train/")
    classes = classes_in(part)
    if not classes:
        raise UsageError(f"{part} has no videos in a folder per class; expected {part}/<class>/*.mp4 or the like")
    return [(name, path) for name in sorted(classes) for path in classes[name]]


def classes_in(part: Path) -> dict[str, list[Path]]:
    """Sorted video files of each folder in ``part`` that holds any. Raises UsageError for a folder that is closed."""
    try:
        return _classes_in(part)
    except OSError as error:
        raise UsageError(
            f"cannot read the folder {error.filename}: {error.strerror}; change its permissions, or move it away"
        ) from error


def _classes_in(part: Path) -> dict[str, list[Path]]:
    found = {}
    for folder in sorted(part.iterdir()) if part.is_dir() else []:
        if folder.is_dir() and not folder.name.startswith("."):
            videos = sorted(filter(_is_video, folder.iterdir()))
            if videos:
                found[folder.name] = videos
    return found


def _left_out(parts: list[Path]) -> list[str]:
    """Notes on what lies among the classes and is not a video."""
    folders = [place for part in parts for place in sorted(part.iterdir()) if place.is_dir() and _shown(place)]
    empty = [place for place in folders if not any(map(_is_video, place.iterdir()))]
    others = [path for place in folders for path in sorted(place.iterdir()) if _shown(path) and not _is_video(path)]
    notes = []
    if empty:
        notes.append(f"folder: no videos in {_some(empty)}: not classes")
    if others:
        notes.append(f"folder: left out, because they do not end as videos do: {_some(others)}")
    return notes


def _is_video(path: Path) -> bool:
    return _shown(path) and path.suffix.lower() in VIDEO_SUFFIXES


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")


def _some(paths: list[Path]) -> str:
    """The first few of the paths, and how many more there are."""
    names = ", ".join(f"{path.parent.name}/{path.name}" for path in paths[:_NAMED])
    return names if len(paths) <= _NAMED else f"{names} and {len(paths) - _NAMED} more"


def _held_out(label: str, paths: list[Path]) -> set[Path]:
    if len(paths) < 2:
        return set()
    ranked = sorted(
        (hashlib.sha256(f"{label}/{path.name}".encode(errors="surrogateescape")).digest(), path) for path in paths
    )
    low = sum(int.from_bytes(digest[:8], "big") < HELDOUT_SHARE * 2**64 for digest, _ in ranked)
    return {path for _, path in ranked[: min(max(low, 1), len(paths) - 1)]}
