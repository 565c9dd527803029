"""Unreadable clips: counted during training, fatal when there are many."""

from __future__ import annotations

from typing import Protocol

from lcr_edge.errors import LcrError

MAX_CORRUPT = 0.05
MIN_CORRUPT = 3  # fewer are never fatal: in a small set one bad file is a large share
_SHOWN = 3


class HasFaults(Protocol):
    """What the counter needs of a batch."""

    @property
    def clips(self) -> tuple[int, ...]: ...
    @property
    def faults(self) -> tuple[tuple[int, str], ...]: ...


class FaultCounter:
    """Distinct unreadable clips among the distinct clips tried, over the batches that were added."""

    def __init__(self) -> None:
        self._bad: dict[int, str] = {}
        self._tried: set[int] = set()

    def add(self, batch: HasFaults) -> tuple[str, ...]:
        """Count a batch. Returns the messages of clips that were not known to be unreadable before."""
        fresh = [(index, message) for index, message in batch.faults if index not in self._bad]
        self._bad.update(fresh)
        self._tried.update(batch.clips, self._bad)
        return tuple(dict(fresh).values())

    @property
    def total(self) -> int:
        """Distinct unreadable clips."""
        return len(self._bad)

    @property
    def tried(self) -> int:
        """Distinct clips of the batches that were added."""
        return len(self._tried)

    @property
    def share(self) -> float:
        """Unreadable clips of the clips tried, in [0, 1]."""
        return len(self._bad) / max(1, len(self._tried))

    def check(self, limit: float = MAX_CORRUPT, seen: int | None = None) -> None:
        """Raise LcrError when at least ``MIN_CORRUPT`` clips, and more than ``limit`` of those tried, are unreadable.

        limit: share in [0, 1]. seen: number of clips tried, where the caller knows better than this counter.
        """
        tried = max(1, len(self._tried) if seen is None else seen)
        if self.total < MIN_CORRUPT or self.total <= limit * tried:
            return
        shown = "; ".join(list(self._bad.values())[:_SHOWN])
        raise LcrError(
            f"{self.total} of {tried} clips cannot be read, more than --max-corrupt {limit:g} allows: {shown}"
            f"{'; ...' if self.total > _SHOWN else ''}. Restore these files, or raise --max-corrupt"
        )
