"""The float PyTorch cell rolled over frames without reset: what the exported step is measured against."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lcr_edge.edges.host import host_edges
from lcr_edge.runtimes.golden import Golden

if TYPE_CHECKING:
    from lcr_edge.model.network import LCR
    from lcr_edge.model.step_cell import StepCell

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
# Frames at the end of a golden clip, where the state is full, whose planned rounding is kept: 50 tokens each.
_ROUNDED = 4


@dataclass(frozen=True)
class Step:
    """One frame of a rollout: frame uint8 [H, W, 3]; edge uint8 [H, W] in {0, 1}; logits float32 [classes];
    state_h, state_c float32 [L, N+1, C], the states after the frame."""

    frame: U8
    edge: U8
    logits: F32
    state_h: F32
    state_c: F32


def steps(model: LCR, frames: Iterable[U8], state: tuple[F32, F32] | None = None) -> Iterator[Step]:
    """Yield a :class:`Step` per frame (uint8 RGB [H, W, 3]); the state is never reset.

    Each step runs in float64 on a copy of the model, from the float32 states that the step contract passes on: so a
    comparison shows the rounding of the other side alone. (PyTorch's own float32 step is about as far from this as the
    exported ones are.) state: (h, c), each [L, N+1, C]; zeros by default. Raises FrameError.
    """
    import torch

    network = copy.deepcopy(model).eval().double()
    shape = model.config.state_shape
    h, c = (np.zeros(shape, np.float32), np.zeros(shape, np.float32)) if state is None else state
    for frame in frames:
        edge = host_edges(frame)
        with torch.no_grad():
            logits, (h_next, c_next) = network.step(
                torch.from_numpy(np.ascontiguousarray(frame))[None],
                (torch.from_numpy(h)[None].double(), torch.from_numpy(c)[None].double()),
                torch.from_numpy(edge)[None],
            )
        h, c = _float32(h_next), _float32(c_next)
        yield Step(frame, edge, _float32(logits), h, c)


def roll(model: LCR, frames: Iterable[U8], state: tuple[F32, F32] | None = None) -> Golden:
    """:func:`steps`, kept in memory. Raises ValueError without frames."""
    kept = list(steps(model, frames, state))
    if not kept:
        raise ValueError("a rollout needs at least one frame")
    return Golden(
        frames=np.stack([step.frame for step in kept]),
        edges=np.stack([step.edge for step in kept]),
        logits=np.stack([step.logits for step in kept]),
        state_h=np.stack([step.state_h for step in kept]),
        state_c=np.stack([step.state_c for step in kept]),
    )


def with_rounding(golden: Golden, cell: StepCell) -> Golden:
    """The golden clip with what the rounding of ``cell`` adds to its last answers, see ``Golden.rounding``.

    cell: prepared for int8 and rounding as its engine does, see ``calibration.simulate``.
    """
    import torch

    rows = []
    for t in range(max(1, len(golden.frames) - _ROUNDED), len(golden.frames)):
        before = golden.answer(t - 1)[1:]
        with torch.no_grad():
            logits, h, c = cell.step(
                *(torch.from_numpy(array[t])[None] for array in (golden.frames, golden.edges)),
                *(torch.from_numpy(array) for array in before),
            )
        rows.append([a.numpy() - b for a, b in zip((logits[0], h, c), golden.answer(t))])
    return dataclasses.replace(golden, rounding=tuple(np.stack(part).astype(np.float16) for part in zip(*rows)))


def steps_of(rollout: Golden) -> Iterator[Step]:
    """The steps of a rollout that was kept."""
    return map(Step, rollout.frames, rollout.edges, rollout.logits, rollout.state_h, rollout.state_c)


def _float32(tensor: Any) -> F32:
    """A tensor without its leading batch axis of one, as numpy."""
    array: F32 = tensor[0].float().numpy()
    return array
