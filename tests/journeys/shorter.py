"""``lcr-edge train`` whose judgement of readiness looks at a tenth of the frames: for checks that train often."""

from __future__ import annotations

from lcr_edge.training import heldout, readiness
from lcr_edge.training.command import add_arguments, run

vars(heldout)["FRAMES"] = readiness.FRAMES // 10

__all__ = ["add_arguments", "run"]
