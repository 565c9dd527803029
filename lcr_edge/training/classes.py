"""Can the classes of a data set be learned? An error where they cannot, a sentence where they are uneven."""

from __future__ import annotations

import numpy as np

from lcr_edge.data.sets import ClipSet
from lcr_edge.errors import UsageError

UNEVEN = 5.0  # times as many clips as another class has: worth a word
_NAMED = 5


def check_classes(data: ClipSet) -> None:
    """Refuse a training split with clips of fewer than two classes. Raises UsageError."""
    there = [label for label, count in zip(data.labels, _counts(data)) if count]
    if len(there) < 2:
        only = f"of one class only, {there[0]!r}" if there else "of no class"
        raise UsageError(
            f"{data.name} has training clips {only}, and a network needs two classes: add clips of another one, for "
            "example of nothing in particular"
        )


def class_notes(data: ClipSet, balance: bool) -> tuple[str, ...]:
    """Sentences on classes without a clip to train on, and on sizes that differ much.

    balance: whether all classes are drawn equally often, which makes up for sizes.
    """
    counts = _counts(data)
    found = []
    absent = [label for label, count in zip(data.labels, counts) if not count]
    if absent:
        more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
        found.append(f"no training clips of {', '.join(absent[:_NAMED])}{more}: the network cannot learn that")
    present = np.flatnonzero(counts)
    least, most = present[counts[present].argmin()], counts.argmax()
    if not balance and counts[most] > UNEVEN * counts[least]:
        found.append(
            f"uneven classes: {counts[most]} clips of {data.labels[most]}, {counts[least]} of {data.labels[least]}; "
            "--balance draws all classes equally often on average"
        )
    return tuple(found)


def _counts(data: ClipSet) -> np.ndarray:
    """Training clips of each class, int64 [classes]."""
    return np.bincount(data.targets, minlength=len(data.labels))
