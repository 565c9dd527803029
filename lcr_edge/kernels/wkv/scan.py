"""The two-scan form: linear in the number of tokens, with autograd, for any length and any decay."""

from __future__ import annotations

import torch
from torch import Tensor


def wkv_scan(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    """The sum over j != i, split into j < i and j > i; each half is a scan over a state S [B, h, d, d]:

        S_{i+1} = diag(w) S_i + k_i^T v_i,    y_i += r_i S_i        (S_i holds w^(i-j-1) k_j^T v_j of all j < i)

    and the same from the other end. r, k, v: [B, h, N, d]; log_w, u: [h, d]; returns [B, h, N, d].
    """
    tokens = r.shape[2]
    w = torch.exp(log_w).unsqueeze(-1)  # [h, d, 1] scales the rows of S
    before = _scan(r, k, v, w, range(tokens))
    after = _scan(r, k, v, w, range(tokens - 1, -1, -1))
    itself = (r * u.unsqueeze(1) * k).sum(-1, keepdim=True) * v
    return before + after + itself


def _scan(r: Tensor, k: Tensor, v: Tensor, w: Tensor, order: range) -> Tensor:
    state = r.new_zeros(*r.shape[:2], r.shape[3], v.shape[3])
    rows: list[Tensor] = [r] * len(order)
    for i in order:
        rows[i] = (r[:, :, i].unsqueeze(-2) @ state).squeeze(-2)
        state = w * state + k[:, :, i].unsqueeze(-1) * v[:, :, i].unsqueeze(-2)
    return torch.stack(rows, dim=2)
