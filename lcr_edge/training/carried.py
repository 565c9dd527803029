"""Endless streams in training: rows of a batch that start from the state of another clip, and tube masks.

A clip starts from a carried state with probability ``carry``; the state is that of the clip that was in the same row
one step before, detached. A network that only ever starts from zeros keeps accuracy on single clips and loses it on a
stream without reset.

Tube masking drops the same random patches from all frames of a clip. Their states do not exist, so a row that goes on
keeps its patches until it starts afresh.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcr_edge.config import Config
from lcr_edge.model.network import State
from lcr_edge.training.processes import World

# Of |C|. The bounded cell stays below fmax / (1 - fmax).
LARGEST_CARRIED = 1e4


class Streams:
    """The carried states and tube masks of this process's rows.

    rows: rows of the batch of all processes. tube_mask: share of patches that is dropped, in [0, 1). All random
    numbers depend on the seed, the step and the row of the whole batch only: neither a restart nor the number of
    processes changes them.
    """

    def __init__(self, config: Config, rows: int, *, carry: float, tube_mask: float, seed: int, world: World) -> None:
        self.rows, self.carry, self.seed, self.world = rows, carry, seed, world
        self.patches = config.tokens - 1
        self.kept = max(1, round(self.patches * (1.0 - tube_mask)))
        self.shape = (config.layers, self.kept + 1, config.dim)
        self.state: State | None = None
        self.keep: Tensor | None = None

    def begin(self, step: int) -> tuple[State | None, Tensor | None]:
        """State and kept patches for the step's batch: H, C [B, L, n+1, C] and int64 [B, n], or None where all are."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        fresh = torch.rand(self.rows, generator=random) >= self.carry
        masks = None
        if self.kept < self.patches:
            scores = torch.rand(self.rows, self.patches, generator=random)
            masks = scores.argsort(dim=1)[:, : self.kept].sort(dim=1).values
        fresh = self.world.take(self.world.own(fresh))
        masks = None if masks is None else self.world.take(self.world.own(masks))
        if self.state is None:
            self.keep = masks
            return None, masks
        # The residual cell grows on a stream until it overflows; such a row starts afresh. Not (<=), for NaN.
        fresh = fresh | ~(self.state[1].abs().amax(dim=(1, 2, 3)) <= LARGEST_CARRIED)
        if masks is not None and self.keep is not None:
            masks = torch.where(fresh.unsqueeze(1), masks, self.keep)
        self.keep = masks
        gone = fresh.view(-1, 1, 1, 1)
        return (self.state[0].masked_fill(gone, 0.0), self.state[1].masked_fill(gone, 0.0)), masks

    def end(self, state: State) -> None:
        """Keep the state after the step."""
        self.state = (state[0].detach().float(), state[1].detach().float())

    def tensors(self) -> dict[str, Tensor]:
        """All rows of all processes, for a run's checkpoint (every process must call this)."""
        parts = {} if self.state is None else {"h": self.state[0], "c": self.state[1]}
        if self.keep is not None:
            parts["keep"] = self.keep
        return {name: self.world.gather(part).cpu() for name, part in parts.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of :meth:`tensors`, for any number of processes."""
        own = {name: self.world.own(part).to(self.world.device) for name, part in tensors.items()}
        self.state = (own["h"], own["c"]) if "h" in own else None
        self.keep = own.get("keep")
