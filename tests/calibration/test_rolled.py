"""What this is for: ranges and weights found on zero states alone fail on a stream, those of rolled states hold."""

from __future__ import annotations

import pytest

from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import PACKAGED as PACKAGED_FILE
from lcr_edge.export.int8.trials import Trials, measure, relative, step_of
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.clips import stream
from lcr_edge.export.verify.reference import roll
from lcr_edge.runtimes.tallies import Line
from lcr_edge.tolerances import PROMISES, ROLLED_GAIN
from tests.export import made

FRAMES = 60
INT8 = PROMISES["int8"]


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGED_FILE.is_file(), reason="no packaged checkpoint in this tree: lcr-edge train makes one")
@pytest.mark.parametrize("quant", list(ROLLED_GAIN))
def test_calibration_with_zero_states_fails_on_a_stream_and_looks_right_on_single_frames(quant: str) -> None:
    rolled = made.samples(made.PACKAGED)
    streams, frames = {}, {}
    for name, samples in (("rolled", rolled), ("zero", rolled.with_zero_states())):
        streams[name], frames[name] = _errors(samples, quant)
        print(f"{quant}, {name} states: worst error / std {streams[name]:.4f} in a stream, {frames[name]:.4f} at first")
    assert streams["rolled"] < (INT8.step_relative or 0.0)
    assert streams["zero"] >= ROLLED_GAIN[quant] * streams["rolled"]
    # Who checks first frames, each from the zero state, sees nothing of it.
    assert frames["zero"] < (INT8.step_relative or 0.0)
    assert frames["zero"] < streams["zero"] / ROLLED_GAIN[quant]


def _errors(samples: Samples, quant: str) -> tuple[float, float]:
    """The worst rms error / std of logits and states in a stream, and over first frames of streams."""
    checkpoint = made.checkpoint(made.PACKAGED)
    reference = roll(checkpoint.model, stream(None, checkpoint, FRAMES))
    trials, first = Trials(checkpoint, samples, Request(checkpoint.config, "openvino", "int8", quant=quant)), Line()
    with trials.quantised() as model:
        cost = measure(step_of(model), reference, INT8.settled)
        for frame in reference.frames[::6]:
            first.join(measure(step_of(model), roll(checkpoint.model, [frame]), settled=0).one_step)
    return cost.total, max(relative(first))
