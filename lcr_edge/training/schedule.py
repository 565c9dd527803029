"""The course of a run: the steps that learn, then those that calm, then more of those where they were not enough.

    0 ... learning ... steps - calm ... calming ... steps ... another round of calming ... goal

Where patience runs out, learning is cut off there and calming follows at once.

Each part has its own learning rate, a warm-up and a cosine to zero. Calming starts from the averaged weights, because
it is the average that will be exported. Another round starts from damped weights, see :meth:`LCR.damp`.
"""

from __future__ import annotations

from typing import NamedTuple

from lcr_edge.training.optimiser import WARMUP, learning_rate
from lcr_edge.training.settings import Settings

ROUNDS = 2  # more rounds of calming at most
_CALM_PEAK = 0.25  # of the peak learning rate
DAMPING = 0.9  # at the start of each of these
CALM_EMA = 0.95  # of the decay of the weights' average, at most: a round may have twenty steps


class Moment(NamedTuple):
    """calm: whether the step calms. rate: its learning rate. starts: whether it is the first one of such a part, and
    damps: of a round that was added."""

    calm: bool
    rate: float
    starts: bool
    damps: bool


class Schedule:
    """What each step of a run does. rounds: of calming after the settings' steps, which a run may add. cut: the step
    after which patience ended the learning, None where it did not."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.rounds = settings, 0
        self.cut: int | None = None

    @property
    def goal(self) -> int:
        """The number of steps of the whole run, as far as it is known."""
        return self.learning + (1 + self.rounds) * self.settings.calm_steps

    @property
    def learning(self) -> int:
        """The number of steps before the calming."""
        return self.planned if self.cut is None else self.cut

    @property
    def planned(self) -> int:
        """The number of steps before the calming, without patience."""
        return self.settings.steps - self.settings.calm_steps

    def at(self, step: int) -> Moment:
        """The step with this number, from 0."""
        settings, calm = self.settings, self.settings.calm_steps
        if step < self.learning:
            return Moment(False, learning_rate(step, self.planned, settings.lr), False, False)
        rounds, place = divmod(step - self.learning, calm)
        rate = learning_rate(place, calm, _CALM_PEAK * settings.lr, min(WARMUP, calm // 10 + 1))
        return Moment(True, rate, place == 0, rounds > 0 and place == 0)
