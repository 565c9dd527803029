"""Some classes of a data set."""

from __future__ import annotations

import numpy as np

from lcr_edge.data.sampling import Sample
from lcr_edge.data.sets import Clip, ClipSet, Joints
from lcr_edge.errors import UsageError


class Subset(ClipSet):
    """The clips of ``data`` whose class is one of ``labels``; the order of ``labels`` is the class index.

    Raises UsageError for a label that the set does not have.
    """

    def __init__(self, data: ClipSet, labels: tuple[str, ...], split: str) -> None:
        missing = [label for label in labels if label not in data.labels]
        if missing:
            raise UsageError(f"{data.name} lacks the classes {', '.join(missing)}; it has {', '.join(data.labels)}")
        places = [data.labels.index(label) for label in labels]
        self._data = data
        self._indices = np.flatnonzero(np.isin(data.targets, places))
        targets = np.array([places.index(target) for target in data.targets[self._indices]], np.int64)
        # The whole set's fingerprint stands for its clips' names, which it does not keep.
        ids = [f"{data.fingerprint} {index}" for index in self._indices]
        super().__init__(
            data.name, split, labels, targets, ids, fit=data.fit, reversible=data.reversible, notes=data.notes
        )

    def read(self, index: int, sample: Sample, size: tuple[int, int]) -> tuple[Clip, Joints | None]:
        return self._data.read(int(self._indices[index]), sample, size)
