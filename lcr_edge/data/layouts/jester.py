"""The Jester data set (20BN-JESTER v1): gestures in front of a webcam, 12 frames per second, as its archives unpack.

    ROOT/20bn-jester-v1/<id>/00001.jpg ...      or ROOT/<id>/00001.jpg ...
    ROOT/*train*.csv        id;label            official: jester-v1-train.csv
    ROOT/*validation*.csv   id;label            official: jester-v1-validation.csv; the held-out split
    ROOT/*labels*.csv       label               official: jester-v1-labels.csv; optional, one class per line

The CSV files may also lie in ROOT/labels or ROOT/annotations, and be separated by commas when no line holds a
semicolon. The class index is the line in the labels file; without that file, the classes are sorted by name.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from lcr_edge.data.layouts.listing import Listing, Row, data_root, labels_file, matched, read_table, sorted_labels
from lcr_edge.errors import UsageError

FPS = 12.0
_FRAMES = "20bn-jester-v1"
_WORDS = {"train": ("train",), "heldout": ("validation",)}


def list_jester(root: Path, split: str, option: str = "--data") -> Listing:
    """The clips of ``split`` ("train" or "heldout"). Raises UsageError, naming file and line where it can."""
    data_root("jester", root, option)
    tables = {name: labels_file(root, words, ".csv", without=("labels",)) for name, words in _WORDS.items()}
    source = tables[split]
    if source is None:
        raise UsageError(
            f"{root} has no {_WORDS[split][0]} labels; expected jester-v1-{_WORDS[split][0]}.csv with lines id;label"
        )
    rows = _rows(source)
    names = labels_file(root, ("labels",), ".csv")
    labels = sorted_labels(*(_rows(path) for path in tables.values() if path)) if names is None else _labels(names)
    frames = root / _FRAMES if (root / _FRAMES).is_dir() else root
    with os.scandir(frames) as entries:
        there = {entry.name for entry in entries if entry.is_dir()}
    paths = [frames / row.clip if row.clip in there else None for row in rows]
    first = rows[0].clip if rows else "<id>"
    return replace(matched("jester", rows, labels, paths, source, f"the folder {frames / first}"), fps=FPS)


def _rows(path: Path) -> list[Row]:
    rows = []
    lines = list(read_table(path, ";"))
    if all(len(cells) == 1 for _, cells in lines):
        lines = list(read_table(path, ","))
    for line, cells in lines:
        where = f"{path} line {line}"
        if len(cells) != 2 or not all(cells):
            raise UsageError(f"{where}: expected id;label, found {';'.join(cells)!r}")
        rows.append(Row(cells[0], cells[1], where))
    return rows


def _labels(path: Path) -> tuple[str, ...]:
    labels = [";".join(cells) for _, cells in read_table(path, ";")]
    if not labels or len(set(labels)) < len(labels):
        raise UsageError(f"{path} must name every class once, one per line; found {len(labels)} lines")
    return tuple(labels)
