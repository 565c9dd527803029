"""The WKV in matrix products with explicit gradients, for the operator where there is no kernel.

An operator's backward runs below autograd, so the gradients are formulas here. With D_c(i, j) = w[c]^(|i-j|-1), or u[c]
where i = j, and G_ij = dy_i . v_j:

    dr_i[c] = sum_j D_c(i,j) k_j[c] G_ij              dk_j[c] = the same sum with r for k and G transposed
    dv      = wkv(k, r, dy)                           D is symmetric, so this is the forward with r and k swapped
    dlog_w[c] = sum_i r_i[c] sum_{j != i} (|i-j|-1) D_c(i,j) k_j[c] G_ij          du[c] = sum_i r_i[c] k_i[c] G_ii

Chunks and tables are those of matmul.py. Inside a chunk (|i-j|-1) is a difference of two offsets, so with decays that
leave almost nothing at distance 2 the small dlog_w keeps fewer digits in float32 than the kernel's tangent state does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lcr_edge.kernels.wkv.matmul import WkvTables, choose_chunk, make_tables, wkv_with_tables

# exp(-150) is 0 in float32: a faster decay changes nothing, and no chunk would be safe for it.
FASTEST = 150.0


def forward(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    """y [B, h, N, d] of r, k, v [B, h, N, d] and log_w, u [h, d], float32 or float64; any decays."""
    return wkv_with_tables(r, k, v, _tables(log_w, u, r.shape[2]))


def backward(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dr, dk, dv [B, h, N, d] and dlog_w, du [h, d] from dy [B, h, N, d]."""
    tokens = r.shape[2]
    tables = _tables(log_w, u, tokens)
    dv = wkv_with_tables(k, r, dy, tables)
    count, size = tables.chunks.shape[-1], tables.lead.shape[1]

    def split(x: Tensor) -> Tensor:  # [B, h, N, d] -> [B, h, n, Q, d]
        padded = F.pad(x, (0, 0, 0, count * size - tokens))
        return padded.reshape(*x.shape[:2], count, size, x.shape[3])

    def join(x: Tensor) -> Tensor:
        return x.flatten(2, 3)[:, :, :tokens]

    r, k, v, dy = (split(x) for x in (r, k, v, dy))
    dr, tangent = _rows(k, v, dy, tables)
    dk, _ = _rows(r, dy, v, tables)
    itself = (dy * v).sum(-1, keepdim=True)
    per_channel = (0, 2, 3)
    dlog_w, du = (r * tangent).sum(per_channel), (r * k * itself).sum(per_channel)
    return join(dr + tables.u.unsqueeze(1) * k * itself), join(dk + tables.u.unsqueeze(1) * r * itself), dv, dlog_w, du


def _tables(log_w: Tensor, u: Tensor, tokens: int) -> WkvTables:
    # The rounding of log_w to float32 came before this, in the caller; the tables are made in float64.
    log_w = log_w.clamp(min=-FASTEST)
    return make_tables(log_w, u, tokens, choose_chunk(log_w, tokens))


def _rows(vec: Tensor, own: Tensor, query: Tensor, tables: WkvTables) -> tuple[Tensor, Tensor]:
    """sum_{j != i} D_c(i,j) vec_j[c] (query_i . own_j), and the same with (|i-j|-1) D_c; all [B, h, n, Q, d]."""
    lead, lag = tables.lead.unsqueeze(1), tables.lag.unsqueeze(1)
    count, size = tables.chunks.shape[-1], tables.lead.shape[1]
    place = torch.arange(size, dtype=vec.dtype, device=vec.device).unsqueeze(-1)
    offset = place - (size - 1) / 2
    scores = query @ own.transpose(-2, -1)
    before, after = scores * tables.lower, scores * tables.upper
    early, late = lead * (before @ (lag * vec)), lag * (after @ (lead * vec))
    tangent = (offset - 0.5) * early - lead * (before @ (lag * (offset + 0.5) * vec))
    tangent = tangent - (offset + 0.5) * late + lag * (after @ (lead * (offset - 0.5) * vec))
    rows = early + late
    if count == 1:
        return rows, tangent
    index = torch.arange(count, dtype=vec.dtype, device=vec.device)
    gaps = size * (index.unsqueeze(1) - index - 1).clamp(min=0)
    left = size - 1 - place
    for mine, my_place, theirs, their_place, chunks, between in (
        (tables.head, place, tables.tail, left, tables.chunks, gaps),
        (tables.tail, left, tables.head, place, tables.chunks.mT, gaps.T),
    ):
        state = (vec * theirs).mT @ own
        slope = (vec * theirs * their_place).mT @ own
        slope = _carry(chunks * between, state) + _carry(chunks, slope)
        read = mine * (query @ _carry(chunks, state).mT)
        rows = rows + read
        tangent = tangent + my_place * read + mine * (query @ slope.mT)
    return rows, tangent


def _carry(chunks: Tensor, states: Tensor) -> Tensor:
    """What enters each chunk, from what each leaves: [h, d, n, n] and [B, h, n, d, d] to [B, h, n, d, d]."""
    return (chunks @ states.transpose(-3, -2)).transpose(-3, -2)
