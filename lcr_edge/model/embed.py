"""From pixels to tokens: patch embedding and 2-D rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lcr_edge.model.norm import SteadyNorm

# Rotary angles run from 1 radian a patch down to 1 / ROTARY_BASE: slow enough for 14 x 14 patches.
ROTARY_BASE = 100.0


class PatchEmbed(nn.Module):
    """Linear map of non-overlapping patches, normalised or not, with one learned class token in front.

    Pixels arrive as [B, H, W * channels] (channels fastest, as in an HWC image), so that cutting out patches needs
    one transpose of rank 4, which every exporter and engine handles.
    """

    def __init__(self, height: int, width: int, channels: int, patch: int, dim: int, normalise: bool) -> None:
        super().__init__()
        self.rows, self.columns, self.patch, self.channels = height // patch, width // patch, patch, channels
        self.projection = nn.Linear(patch * patch * channels, dim)
        self.norm = SteadyNorm(dim, dim) if normalise else nn.Identity()
        # As large as the normalised tokens: a LayerNorm over a small one and H divides by next to nothing, so that the
        # class token of the layers above amplified small changes of its state up to seventy times. The edges' token
        # meets no state, and a large one would widen the int8 range of its product.
        self.class_token = nn.Parameter(torch.randn(dim) * (1.0 if normalise else 0.02))

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, H, W * channels] float -> [B, N + 1, C], class token first, patches in row order.

        keep: int64 [B, n], the patches to embed, in rising order; the others are left out: [B, n + 1, C].
        """
        batch, line = pixels.shape[0], self.patch * self.channels
        cut = pixels.reshape(batch * self.rows, self.patch, self.columns, line).transpose(1, 2)
        patches = cut.reshape(batch, self.rows * self.columns, self.patch * line)
        if keep is not None:
            patches = patches.gather(1, keep.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
        tokens = self.norm(self.projection(patches))
        first = self.class_token.to(tokens.dtype).expand(batch, 1, -1)
        return torch.cat([first, tokens], dim=1)


def rotary_tables(rows: int, columns: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin, float64 [N + 1, d], of the 2-D rotary position encoding (RoPE, arXiv 2104.09864, per axis).

    Channel c and channel c + d/2 form a pair; the first d/4 pairs turn with the patch's row, the others with its
    column. The class token, in front, is not turned.
    """
    quarter = head_dim // 4
    rate = ROTARY_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns).unsqueeze(1) * rate
    column = torch.arange(columns, dtype=torch.float64).repeat(rows).unsqueeze(1) * rate
    angle = torch.cat([row, column, row, column], dim=1)
    angle = torch.cat([torch.zeros(1, head_dim, dtype=torch.float64), angle])
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., N + 1, d] turned by the tables of :func:`rotary_tables`, or by rows of them for each token."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
