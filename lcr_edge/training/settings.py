"""The settings of a run, and which of them a resumed run must share."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from lcr_edge.config import CLIP_FRAMES

# 160 were enough for an lcr_nano after 8500 others: a long run need not calm for a tenth of its steps.
MOST_CALM = 300


@dataclass(frozen=True)
class Settings:
    """Everything that decides the course of a run, given its data and its config. It is stored with the run."""

    steps: int = 6000
    batch: int = 24  # clips per step, over all processes
    frames: int = CLIP_FRAMES
    lr: float = 2e-3
    optimiser: str = "adamw"
    weight_decay: float = 0.1
    clip_gradient: float = 1.0
    label_smoothing: float = 0.05
    loss: str = "every"
    ema: float = 0.999
    carry_state: float = 0.5
    tube_mask: float = 0.0
    joint_weight: float = 0.5
    limit_weight: float = 1.0
    calm_weight: float = 200.0
    calm_share: float = 0.1
    full_rate: tuple[float, float] = (0.0, 0.6)
    augment: bool = True
    balance: bool = False
    seed: int = 0
    fp32: bool = False  # matrix products in float32, not in bfloat16

    @property
    def calm_steps(self) -> int:
        """How many steps at the end of the run calm the network: a share of all, but no more than are needed."""
        if not self.calm_weight:
            return 0
        share = math.ceil(self.calm_share * self.steps)
        return share if self.calm_share == 1 else min(share, MOST_CALM, self.steps - 1)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON gives them back, so that they can be compared with stored ones."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class Conduct:
    """How a run is carried out; none of it changes the result, so a resumed run may differ here."""

    workers: int = 1
    save_every: int = 200
    stop_after: int | None = None
    look_every: int | None = None  # steps; 0 looks at no held-out clips; None for about ten looks
    patience: int | None = None  # looks
    max_corrupt: float = 0.05
    compile: bool = False
    tensorboard: bool = True
