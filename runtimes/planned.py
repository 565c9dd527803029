"""Whether an int8 bundle rounds as was planned: a check that shows faults smaller than the rounding itself.

Against the float network, a wrong constant hides behind the healthy rounding of all products. The golden clip also has
the answers of the *prepared* network that rounds as the plan says (``Golden.rounding``). An engine that does what was
planned differs from those by less than they differ from float: values that lie between two steps go the other way now
and then. Even where every such choice differs, two roundings of one size are only 1.41 times that size apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lcr_edge.contract import STATE_NAMES
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.checks import Check, rounding_off
from lcr_edge.runtimes.golden import Golden
from lcr_edge.tolerances import ROUNDING_LEAST

Doubles = npt.NDArray[np.float64]


def planned_check(model: Model, golden: Golden) -> Check | None:
    """The bundle's distance from the planned answers, rms, in units of the planned rounding's rms: the largest of the
    logits and of both states of each layer. One step each from the reference's state. None where none is recorded.

    Raises StateError for NaN or Inf.
    """
    if golden.rounding is None:
        return None
    first = len(golden.frames) - len(golden.rounding[0])
    found = []
    for t in range(first, len(golden.frames)):
        logits, after = model.step(golden.frames[t], model.state_of(golden.state_h[t - 1], golden.state_c[t - 1]))
        found.append((logits, *model.state_values(after)))
    worst, where = 0.0, ""
    for place, (name, rounding) in enumerate(zip(("logits", *STATE_NAMES), golden.rounding)):
        wanted = np.stack([golden.answer(t)[place] for t in range(first, len(golden.frames))]).astype(np.float64)
        off = np.stack([row[place] for row in found]) - (wanted + rounding)
        for layer in range(off.shape[1] if place else 1):
            part = np.s_[:, layer] if place else np.s_[:]
            least = ROUNDING_LEAST * float(wanted[part].std())
            ratio = _rms(off[part]) / max(_rms(rounding[part].astype(np.float64)), least, 1e-30)
            if not ratio <= worst:  # also true for NaN
                worst, where = ratio, f"{name} of layer {layer}" if place else name
    return rounding_off(worst, where)


def _rms(x: Doubles) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
