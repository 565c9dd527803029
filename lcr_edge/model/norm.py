"""LayerNorms that do not blow rounding errors up."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# For norms of [x ; H] and the like, whose entries are of order one: tokens that are nearly constant stay nearly so.
NORM_EPS = 1e-2
# Of the typical variance: no token is scaled up by more than 1 / sqrt(SHARE) = 2 times what a typical one is.
SHARE = 0.25
_FLOOR = 1e-5
_MOMENTUM = 0.01


class SteadyNorm(nn.Module):
    """LayerNorm over the last axis, (x - mean) / sqrt(var + eps), with an eps that fits the inputs' own scale.

    Where the variance of a token is far below the usual, its numbers are sums that nearly cancel, and a LayerNorm with
    a tiny epsilon turns the rounding errors of those sums into visible ones: engines would disagree. Here eps is
    ``SHARE`` of the squared mean standard deviation, a running average from training that is stored with the weights.

    width: length of the normalised axis. channels: length of weight and bias, applied after :meth:`normalise`.
    """

    typical: Tensor

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("typical", torch.zeros(()))  # zero: nothing seen yet

    @property
    def eps(self) -> float:
        return max(SHARE * float(self.typical), _FLOOR)

    def normalise(self, x: Tensor) -> Tensor:
        """x [..., width] without weight and bias. In training mode the running average follows x."""
        if self.training:
            self._observe(x.detach())
        return F.layer_norm(x, (self.width,), eps=self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., channels], where width and channels are the same."""
        return self.normalise(x) * self.weight + self.bias

    def _observe(self, x: Tensor) -> None:
        now = x.float().std(dim=-1, unbiased=False).mean().square()
        self.typical.lerp_(now.to(self.typical.dtype), _MOMENTUM if float(self.typical) > 0 else 1.0)
