"""Whether the streams that share a call leave each other alone: a check of bundles of ``export --batch N``."""

from __future__ import annotations

from lcr_edge.runtimes.api import Floats, Model, State
from lcr_edge.runtimes.checks import Check, rows_off
from lcr_edge.runtimes.golden import Golden
from lcr_edge.runtimes.tallies import TENSORS, Tally, Triple
from lcr_edge.tolerances import ROWS_OFF, ROWS_OFF_ROUNDED


def row_check(model: Model, golden: Golden) -> Check | None:
    """Steps of N streams in one call against the same steps one by one: the rms difference over the standard deviation,
    of logits, state_h or state_c, whichever is largest. None for a bundle that steps one stream.

    Every frame of the golden clip is stepped in every row, from the reference's state before it, beside other frames.
    Raises StateError for NaN or Inf.
    """
    if model.batch == 1:
        return None
    count = len(golden.frames)
    states = [model.initial_state()]
    states += [model.state_of(golden.state_h[t], golden.state_c[t]) for t in range(count - 1)]
    alone = [_values(model, *model.step(golden.frames[t], states[t])) for t in range(count)]
    tallies = {name: Tally() for name in TENSORS}
    for first in range(count):
        chosen = [(first + row) % count for row in range(model.batch)]
        logits, after = model.step_many([golden.frames[t] for t in chosen], [states[t] for t in chosen])
        for row, t in enumerate(chosen):
            for tally, found, wanted in zip(tallies.values(), _values(model, logits[row], after[row]), alone[t]):
                tally.add(found, wanted)
    rounded = model.bundle.precision == "int8" or model.bundle.state_precision == "fp16"
    worst = max(tallies, key=lambda name: tallies[name].relative)
    return rows_off(worst, tallies[worst].relative, model.batch, ROWS_OFF_ROUNDED if rounded else ROWS_OFF)


def _values(model: Model, logits: Floats, state: State) -> Triple:
    h, c = model.state_values(state)
    return logits, h, c
