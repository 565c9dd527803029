"""What this is for: ranges and weights found on zero states alone fail on a stream, those of rolled states hold."""

from __future__ import annotations

import pytest

from lcr_edge.calibration.plan import ACTIVATIONS
from lcr_edge.calibration.rollout import roll
from lcr_edge.checkpoint import PACKAGED as PACKAGED_FILE
from lcr_edge.export.clips import stream
from lcr_edge.export.targets import Request
from lcr_edge.export.trials import Cost, Trials
from lcr_edge.tolerances import PROMISES, ROLLED_GAIN
from tests.export import made

FRAMES = 60
INT8 = PROMISES["int8"]


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGED_FILE.is_file(), reason="no packaged checkpoint in this tree: lcr-edge train makes one")
def test_calibration_with_zero_states_fails_on_a_stream() -> None:
    checkpoint, rolled = made.checkpoint(made.PACKAGED), made.samples(made.PACKAGED)
    request = Request(checkpoint.config, "openvino", "int8", activations=ACTIVATIONS[0])
    reference = roll(checkpoint.model, stream(None, checkpoint.config, FRAMES))

    def cost(trials: Trials) -> Cost:
        return trials.cost(reference, "all", tuple(trials.cell.linears()))

    good, bad = (cost(Trials(checkpoint, samples, request)) for samples in (rolled, rolled.with_zero_states()))
    assert good.total < (INT8.step_relative or 0.0)
    assert bad.total >= ROLLED_GAIN * good.total
    # On the first frame of a stream, the only one whose state is zero, nothing would have been noticed.
