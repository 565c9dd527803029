"""The content of a data set: the clips of one split, their classes and their files. Shared by all layouts."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lcr_edge.data.decode import DEFAULT_FPS, VIDEO_SUFFIXES
from lcr_edge.errors import UsageError

SPLITS = ("train", "heldout")
_LABEL_FOLDERS = (".", "labels", "annotations")


@dataclass(frozen=True)
class Listing:
    """The clips of one split.

    labels: class names; their order is the class index. ids: a name of each clip that does not depend on where the
    set lies. targets: class index of each clip. paths: its video file, or its folder of JPEG frames. fps: the rate of
    JPEG frames, and of video files without one of their own. spans: start and end in seconds where the file may be
    longer than the clip, else None. notes: sentences for the user.
    """

    labels: tuple[str, ...]
    ids: tuple[str, ...]
    targets: tuple[int, ...]
    paths: tuple[Path, ...]
    fps: float = DEFAULT_FPS
    spans: tuple[tuple[float, float] | None, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of a labels file: which clip, which class, and where it stands ("train.csv line 7")."""

    clip: str
    label: str
    where: str
    span: tuple[float, float] | None = None


def data_root(kind: str, root: Path, option: str = "--data") -> Path:
    """``root``, if it is a folder with something in it. Raises UsageError, which names the ``option``."""
    example = f"{option} {kind}:/path/to/the/data"
    try:
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise UsageError(f"the data folder {root} {what}; give the folder of the unpacked data set: {example}")
        if not any(root.iterdir()):
            raise UsageError(f"the data folder {root} is empty; unpack the data set there, or give another: {example}")
    except OSError as error:
        raise UsageError(f"cannot read the data folder {root}: {error.strerror}") from error
    return root


def labels_file(root: Path, words: Sequence[str], suffix: str, *, without: Sequence[str] = ()) -> Path | None:
    """The file in ``root``, ``root/labels`` or ``root/annotations`` whose name holds one of ``words``; None without.

    Names are compared in lower case; those that hold one of ``without`` do not count. UsageError when several match.
    """
    found = []
    for folder in _LABEL_FOLDERS:
        place = root / folder
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            low = path.name.lower()
            fits = low.endswith(suffix) and any(word in low for word in words) and not any(w in low for w in without)
            if fits and not low.startswith(".") and path.is_file():
                found.append(path)
    if len(found) > 1:
        raise UsageError(f"{root} has several files that fit: {_names(found)}; keep only one of them there")
    return found[0] if found else None


def read_table(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every line of a CSV file that is not blank. Raises UsageError for one not readable."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read the labels file {path}: {error}; it must be a CSV file in UTF-8") from error


def sorted_labels(*tables: Sequence[Row]) -> tuple[str, ...]:
    """The class names in all rows, sorted: the same for every split."""
    return tuple(sorted({row.label for rows in tables for row in rows}))


def videos_below(root: Path) -> dict[str, Path]:
    """Every video file at any depth below ``root``, by its name without suffix; the first in sorted order counts."""
    found: dict[str, Path] = {}
    walked: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in walked:  # a link leads back
            folders.clear()
            continue
        walked.add((here.st_dev, here.st_ino))
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                found.setdefault(path.stem, path)
    return found


def matched(
    kind: str, rows: Sequence[Row], labels: tuple[str, ...], paths: Sequence[Path | None], source: Path, expected: str
) -> Listing:
    """The listing of the rows that have a file; a note counts those without.

    Raises UsageError when there is no row, none has a file (``expected`` describes the first one's), or a row's label
    is not among ``labels``.
    """
    if not rows:
        raise UsageError(f"{source} lists no clips; it must have one line per clip")
    index = {label: i for i, label in enumerate(labels)}
    for row in rows:
        if row.label not in index:
            raise UsageError(
                f"{row.where}: unknown label {row.label!r}; it is not one of the {len(labels)} labels of the data set"
            )
    kept = [(row, path) for row, path in zip(rows, paths) if path is not None]
    if not kept:
        raise UsageError(f"none of the {len(rows)} clips in {source} has its file: {expected} is missing")
    missing = len(rows) - len(kept)
    notes = (f"{kind}: {missing} of the {len(rows)} clips in {source.name} have no file and are left out",)
    return Listing(
        labels=labels,
        ids=tuple(row.clip for row, _ in kept),
        targets=tuple(index[row.label] for row, _ in kept),
        paths=tuple(path for _, path in kept),
        spans=tuple(row.span for row, _ in kept),
        notes=notes if missing else (),
    )


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)
