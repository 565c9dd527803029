"""The definition of the bidirectional WKV, written to be read."""

from __future__ import annotations

import torch
from torch import Tensor


def wkv_reference(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    """y_i = sum_c r_i[c] (u[c] k_i[c] v_i + sum_{j != i} w[c]^(|i-j|-1) k_j[c] v_j), one token i after the other.

    r, k, v: [B, h, N, d]; log_w, u: [h, d]; returns [B, h, N, d]. O(N^2).
    """
    tokens = r.shape[2]
    j = torch.arange(tokens, device=r.device).view(1, tokens, 1)
    rows = []
    for i in range(tokens):
        distance = (j - i).abs().to(log_w.dtype)
        decay = torch.exp(log_w.unsqueeze(1) * (distance - 1).clamp(min=0))  # [h, N, d]
        weight = torch.where(j == i, u.unsqueeze(1), decay)
        score = (r[:, :, i : i + 1] * weight * k).sum(-1, keepdim=True)  # [B, h, N, 1]
        rows.append((score * v).sum(dim=2))
    return torch.stack(rows, dim=2)
