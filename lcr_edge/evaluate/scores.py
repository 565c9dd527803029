"""From logits to decisions, and from decisions to shares in per cent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_DECISION = -1  # where the logits are not finite: never right
PLACES = 5


class Judged(NamedTuple):
    """How some clips were judged.

    decisions: one class each, or NO_DECISION, int64 [n]. top5: the true class is among the five largest mean logits,
    bool [n]. frames: the true class has the largest logit of that frame alone, bool [n, T].
    """

    decisions: NDArray[np.int64]
    top5: NDArray[np.bool_]
    frames: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[Judged]) -> Judged:
        return cls(*(np.concatenate(column) for column in zip(*parts)))


def score(logits: NDArray[np.float32], true: NDArray[np.int64]) -> Judged:
    """Compare logits [n, T, classes] with the true classes [n]. Logits that are not finite are never right."""
    decisions = decide(logits)
    ranked = np.argsort(-mean_logits(logits), axis=-1, kind="stable")[:, :PLACES]
    top5 = (ranked == true[:, None]).any(axis=-1) & (decisions != NO_DECISION)
    frames = (logits.argmax(axis=-1) == true[:, None]) & np.isfinite(logits).all(axis=-1)
    return Judged(decisions, top5, frames)


def decide(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """One class per clip from logits [n, T, classes]: the largest mean over the second half of the frames, int64 [n].

    NO_DECISION where a logit of that half is not finite.
    """
    means = mean_logits(logits)
    return np.where(np.isfinite(means).all(axis=-1), means.argmax(axis=-1), NO_DECISION)


def mean_logits(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """What decides: from logits [n, T, classes] their mean over the second half of the frames, float64 [n, classes]."""
    with np.errstate(invalid="ignore"):  # Inf - Inf
        return np.asarray(logits[:, logits.shape[1] // 2 :].mean(axis=1, dtype=np.float64))


def confusion(true: NDArray[np.int64], decisions: NDArray[np.int64], classes: int) -> list[list[int]]:
    """Number of clips by true class (first index) and decision; those without a decision are left out."""
    counts = np.zeros((classes, classes), np.int64)
    made = decisions != NO_DECISION
    np.add.at(counts, (true[made], decisions[made]), 1)
    return [[int(count) for count in row] for row in counts]


def share(hits: NDArray[np.bool_]) -> float | None:
    """True values in per cent; None for an empty array."""
    return 100.0 * float(hits.mean()) if len(hits) else None
