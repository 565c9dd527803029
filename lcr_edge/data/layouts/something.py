"""The Something-Something V2 data set: people do something with something, in short videos of 12 frames per second.

    ROOT/**/<id>.webm       official: 20bn-something-something-v2/<id>.webm; re-encoded .mp4 and the like too
    ROOT/labels.json        {"Approaching something with your camera": "0", ...}: template to class index
    ROOT/train.json         [{"id": "78687", "template": "Holding [something] next to [something]", ...}, ...]
    ROOT/validation.json    the same; the held-out split

The JSON files may have the older official names something-something-v2-labels.json, -train.json and -validation.json,
and may lie in ROOT/labels or ROOT/annotations. A clip's class is its template without the square brackets.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lcr_edge.data.layouts.listing import Listing, Row, data_root, labels_file, matched, videos_below
from lcr_edge.errors import UsageError

FPS = 12.0
_WORDS = {"train": "train", "heldout": "validation"}


def list_something(root: Path, split: str, option: str = "--data") -> Listing:
    """The clips of ``split`` ("train" or "heldout"). Raises UsageError, naming file and entry where it can."""
    data_root("ssv2", root, option)
    labels = _labels(_file(root, "labels"))
    source = _file(root, _WORDS[split])
    rows = _rows(source)
    videos = videos_below(root)
    paths = [videos.get(row.clip) for row in rows]
    first = rows[0].clip if rows else "<id>"
    return replace(matched("ssv2", rows, labels, paths, source, f"{first}.webm below {root}"), fps=FPS)


def _file(root: Path, word: str) -> Path:
    path = labels_file(root, (word,), ".json")
    if path is None:
        raise UsageError(f"{root} has no {word}.json; unpack the data set's label archive there")
    return path


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the labels file {path}: {error}; unpack it again") from error


def _labels(path: Path) -> tuple[str, ...]:
    """Class names in the order of their index."""
    table = _json(path)
    try:
        order = sorted((int(index), str(name)) for name, index in table.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f'{path} must map each template to its class index: {{"template": "0", ...}}') from error
    if [index for index, _ in order] != list(range(len(order))) or not order:
        raise UsageError(f"{path}: class indices must be 0, 1, 2, ... without gaps, each once")
    return tuple(name for _, name in order)


def _rows(path: Path) -> list[Row]:
    entries = _json(path)
    if not isinstance(entries, list):
        raise UsageError(f"{path} must be a list of clips, each with id and template")
    rows = []
    for number, entry in enumerate(entries, 1):
        where = f"{path} entry {number}"
        if not isinstance(entry, dict) or "id" not in entry or "template" not in entry:
            raise UsageError(f"{where} has no id or no template; the test split has no labels and cannot be used")
        template = str(entry["template"]).replace("[", "").replace("]", "")
        rows.append(Row(str(entry["id"]), template, where))
    return rows
