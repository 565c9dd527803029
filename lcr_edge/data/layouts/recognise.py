"""Which layout a data set on disk has, where the user has named its folder only."""

from __future__ import annotations

from pathlib import Path

from lcr_edge.data.layouts.listing import labels_file, read_table

_KINETICS = "youtube_id"


def layout_of(root: Path) -> str:
    """The kind of a data set, by its labels files: "kinetics", "jester" or "ssv2"; "folder" without any.

    Raises UsageError for several labels files or one that cannot be read.
    """
    table = labels_file(root, ("train",), ".csv", without=("labels",))
    if table is not None:
        _, head = next(read_table(table, ","), (0, [""]))
        return "kinetics" if _KINETICS in head else "jester"
    return "ssv2" if labels_file(root, ("train",), ".json") is not None else "folder"
