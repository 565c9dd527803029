"""The Kinetics data sets (400, 600, 700): ten-second parts of videos, as common download scripts leave them.

    ROOT/train.csv                      columns label, youtube_id, time_start, time_end (and split, not used)
    ROOT/val.csv                        or validate.csv, validation.csv; the held-out split
    ROOT/**/<youtube_id>_000012_000022.mp4     the part from second 12 to 22, cut out; or
    ROOT/**/<youtube_id>.mp4                   the part, or the whole recording

Names such as kinetics_train.csv do as well, and the CSV files may lie in ROOT/labels or ROOT/annotations. The folders
between ROOT and the videos do not matter. When a clip is there twice, the first in sorted order counts, so that
replacement/ comes before train/ and val/. Of a whole recording only the part is used, but all before it has to be
decoded for that: cut the recordings first. Classes are the labels of both files, sorted.

Videos vanish from where they were listed, so no download is complete: rows without a file are counted and left out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lcr_edge.data.layouts.listing import (
    Listing,
    Row,
    data_root,
    labels_file,
    matched,
    read_table,
    sorted_labels,
    videos_below,
)
from lcr_edge.errors import UsageError

_WORDS = {"train": ("train",), "heldout": ("val",)}
_SPAN = -len("_000000_000010")
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def list_kinetics(root: Path, split: str, option: str = "--data") -> Listing:
    """The clips of ``split`` ("train" or "heldout"). Raises UsageError, naming file and line where it can."""
    data_root("kinetics", root, option)
    tables = {name: labels_file(root, words, ".csv") for name, words in _WORDS.items()}
    source = tables[split]
    if source is None:
        raise UsageError(f"{root} has no {_WORDS[split][0]}*.csv; expected columns {','.join(_COLUMNS)}")
    rows = _rows(source)
    labels = sorted_labels(*(_rows(path) for path in tables.values() if path))
    videos = videos_below(root)
    paths = [videos.get(row.clip, videos.get(row.clip[:_SPAN])) for row in rows]
    # A file with the span in its name has been cut already, if only at the next key frame.
    rows = [replace(row, span=None) if row.clip in videos else row for row in rows]
    first = rows[0].clip if rows else "<youtube_id>_000000_000010"
    return matched("kinetics", rows, labels, paths, source, f"{first}.mp4 or {first[:_SPAN]}.mp4 below {root}")


def _rows(path: Path) -> list[Row]:
    """Clips named <youtube_id>_%06d_%06d."""
    lines = list(read_table(path, ","))
    header = [cell.lower() for cell in lines[0][1]] if lines else []
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise UsageError(
            f"{path}: the first line must name the columns {','.join(_COLUMNS)}; missing: {', '.join(missing)}"
        )
    label, clip, start, end = (header.index(name) for name in _COLUMNS)
    rows = []
    for line, cells in lines[1:]:
        where = f"{path} line {line}"
        try:
            span = float(cells[start]), float(cells[end])
            rows.append(Row(f"{cells[clip]}_{int(span[0]):06d}_{int(span[1]):06d}", cells[label], where, span))
        except (IndexError, ValueError) as error:
            raise UsageError(f"{where}: expected {','.join(header)}, found {','.join(cells)!r}") from error
        if not cells[label] or not cells[clip] or not 0 <= span[0] < span[1]:
            raise UsageError(f"{where}: needs a label, a youtube_id and 0 <= time_start < time_end")
    return rows
