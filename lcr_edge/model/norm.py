"""LayerNorms that do not amplify rounding errors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# For norms of [x ; H] and the like, whose entries are of order one: tokens that are nearly constant stay nearly so.
NORM_EPS = 1e-2
# Of the typical variance: no token is scaled up by more than 1 / sqrt(SHARE) = 2 times what a typical one is.
SHARE = 0.25
_FLOOR = 1e-5
_MOMENTUM = 0.05


class SteadyNorm(nn.Module):
    """LayerNorm over the last axis, (x - mean) / sqrt(var + eps), with an eps that fits the inputs' own scale.

    If a token's variance is far below the usual, its numbers are sums that nearly cancel, and a LayerNorm with a tiny
    epsilon makes the rounding errors of those sums visible: engines would disagree. Here eps is
    ``SHARE`` of the squared mean standard deviation, a running average from training that is stored with the weights.

    width: length of the normalised axis. channels: length of weight and bias, applied after :meth:`normalise`.
    """

    typical: Tensor
    seen: Tensor

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("typical", torch.ones(()))
        # Of what was normalised in training mode since the last :meth:`follow`: sum and count of standard deviations.
        self.register_buffer("seen", torch.zeros(2), persistent=False)

    @property
    def eps(self) -> float:
        return max(SHARE * float(self.typical), _FLOOR)

    def normalise(self, x: Tensor) -> Tensor:
        """x [..., width] without weight and bias, in float32 at least."""
        x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        if self.training:
            deviation = variance.detach().sqrt().mean().to(self.seen.dtype)
            self.seen.add_(torch.stack([deviation, torch.ones_like(deviation)]))
        # eps stays a tensor: reading a number back would make a GPU wait for it at every call.
        return centred * torch.rsqrt(variance + (SHARE * self.typical).clamp(min=_FLOOR))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., channels], where width and channels are the same."""
        return self.normalise(x) * self.weight + self.bias

    @torch.no_grad()
    def follow(self, momentum: float = _MOMENTUM) -> None:
        """Move the running average towards what was seen since the last call: once per optimiser step."""
        now = (self.seen[0] / self.seen[1].clamp(min=1)).square().to(self.typical.dtype)
        self.typical.lerp_(torch.where(self.seen[1] > 0, now, self.typical), momentum)
        self.seen.zero_()
