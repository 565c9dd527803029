"""The matmul form: chunks of Q tokens, dense inside a chunk, [d, d] states between chunks; static shapes.

Inside a chunk, for j < i, the decay factors into a part of i and a part of j around the chunk's centre m:

    w^(i-j-1) = lead_i lag_j,  lead_i = exp(log_w (i - m - 1/2)),  lag_j = exp(-log_w (j - m + 1/2)),  m = (Q - 1) / 2

so that one product of scaled r with scaled k gives all scores of the triangle; for j > i the two tables swap places.
Both reach exp(a Q / 2) with a = -log w, which is why a chunk is refused where a_max Q / 2 > MAX_EXPONENT. The unwanted
triangle of either product may overflow: it is selected away, never multiplied by zero.

Between chunks every factor is w to a non-negative power, always safe. Token i at offset p of chunk m and token j at
offset q of chunk n < m:

    |i-j| - 1 = p + Q (m - n - 1) + (Q - 1 - q)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lcr_edge.errors import UnsafeDecayError

# exp(80) = 5.5e34 stays a finite float32 with room for the factors r and k; exp(88.8) would not.
MAX_EXPONENT = 80.0
# At 50 tokens one dense chunk is enough; at 197, chunks of 25 to 50 tokens take the same time on every engine, and 33
# leaves one token of padding.
DENSE_TOKENS = 64
CHUNK = 33


class WkvTables(NamedTuple):
    """Everything that depends only on the decays, for N tokens in n chunks of Q, h heads of d channels."""

    lead: Tensor  # [h, Q, d]
    lag: Tensor  # [h, Q, d]
    u: Tensor  # [h, 1, d]
    lower: Tensor  # bool [Q, Q], true where j < i
    upper: Tensor  # bool [Q, Q], true where j > i
    head: Tensor  # [h, 1, Q, d]  w^p
    tail: Tensor  # [h, 1, Q, d]  w^(Q-1-p)
    chunks: Tensor  # [h, d, n, n]  w^(Q (m-n-1)) where n < m, else 0


def is_safe(log_w: Tensor, chunk: int) -> bool:
    """Whether the scaled halves of a chunk of ``chunk`` tokens fit float32."""
    return _fastest(log_w) * chunk / 2 <= MAX_EXPONENT


def _fastest(log_w: Tensor) -> float:
    return float(-log_w.detach().min())


def choose_chunk(log_w: Tensor, tokens: int) -> int:
    """Tokens per WKV chunk for these decays (log w, any shape): the fastest size that is safe in float32.

    Dense up to ``DENSE_TOKENS`` tokens, else near ``CHUNK``; smaller if the decays are so fast that a larger chunk
    would overflow, and chosen so that padding the tokens to whole chunks wastes little. Raises UnsafeDecayError if not
    even one token per chunk is safe.
    """
    wanted = tokens if tokens <= DENSE_TOKENS else CHUNK
    while wanted > 1 and not is_safe(log_w, wanted):
        wanted -= 1
    if not is_safe(log_w, wanted):
        raise UnsafeDecayError(
            f"the fastest decay, log w = {float(log_w.min()):.3g}, is beyond {-2 * MAX_EXPONENT:g}, the end of float32 "
            "for any chunk: the checkpoint's decays have diverged; train again with a smaller learning rate"
        )
    chunks = math.ceil(tokens / wanted)
    return math.ceil(tokens / chunks)


def make_tables(log_w: Tensor, u: Tensor, tokens: int, chunk: int | None = None) -> WkvTables:
    """Tables for ``tokens`` tokens in chunks of ``chunk`` (default: one dense chunk), differentiable in log_w and u.

    log_w, u: [h, d], log_w <= 0, best in float64; the tables have u's dtype. Raises UnsafeDecayError if float32 would
    overflow.
    """
    size = tokens if chunk is None else min(chunk, tokens)
    if not is_safe(log_w, size):
        fastest = _fastest(log_w)
        raise UnsafeDecayError(
            f"a chunk of {size} tokens with the fastest decay a = {fastest:.3g} needs exp({fastest * size / 2:.3g}), "
            f"beyond exp({MAX_EXPONENT:g}) in float32: use chunks of at most {int(2 * MAX_EXPONENT / fastest)} tokens"
        )
    count = -(-tokens // size)
    # exp(x) in float32 is off by x times the rounding error, far too much at x = 80: float64 until the last moment.
    dtype, device, exact = u.dtype, log_w.device, torch.float64
    log_w = log_w.to(exact)
    position = torch.arange(size, dtype=exact, device=device).view(size, 1)
    offset = position - (size - 1) / 2
    rate = log_w.unsqueeze(1)  # [h, 1, d]
    lower = position > position.T
    index = torch.arange(count, dtype=exact, device=device).view(count, 1)
    gap = index - index.T - 1  # m - n - 1
    chunks = torch.exp(log_w[:, :, None, None] * (size * gap.clamp(min=0))) * (gap >= 0)
    return WkvTables(
        lead=torch.exp(rate * (offset - 0.5)).to(dtype),
        lag=torch.exp(-rate * (offset + 0.5)).to(dtype),
        u=u.unsqueeze(1),
        lower=lower,
        upper=lower.T,
        head=torch.exp(rate * position).unsqueeze(1).to(dtype),
        tail=torch.exp(rate * (size - 1 - position)).unsqueeze(1).to(dtype),
        chunks=chunks.to(dtype),
    )


def wkv_with_tables(r: Tensor, k: Tensor, v: Tensor, tables: WkvTables) -> Tensor:
    """The bidirectional WKV of r, k, v [..., h, N, d] (any leading axes) with tables made for N tokens."""
    count, size = tables.chunks.shape[-1], tables.lead.shape[1]
    if count == 1:
        return _within(r, k, v, tables.lead, tables.lag, tables.u, tables)
    tokens, width = r.shape[-2:]
    padding = count * size - tokens

    def split(x: Tensor) -> Tensor:  # [..., h, N, d] -> [..., h, n, Q, d]; zero keys and values add nothing
        return F.pad(x, (0, 0, 0, padding)).reshape(*x.shape[:-2], count, size, width)

    r, k, v = split(r), split(k), split(v)
    lead, lag, u = (table.unsqueeze(1) for table in (tables.lead, tables.lag, tables.u))
    y = _within(r, k, v, lead, lag, u, tables)
    y = y + (r * tables.head) @ _between(k * tables.tail, v, tables.chunks)
    y = y + (r * tables.tail) @ _between(k * tables.head, v, tables.chunks.transpose(-2, -1))
    return y.reshape(*y.shape[:-3], count * size, width)[..., :tokens, :]


def _within(r: Tensor, k: Tensor, v: Tensor, lead: Tensor, lag: Tensor, u: Tensor, tables: WkvTables) -> Tensor:
    before = (r * lead) @ (k * lag).transpose(-2, -1)
    after = (r * lag) @ (k * lead).transpose(-2, -1)
    itself = (r * u * k).sum(-1, keepdim=True)
    return torch.where(tables.lower, before, torch.where(tables.upper, after, itself)) @ v


def _between(k: Tensor, v: Tensor, chunks: Tensor) -> Tensor:
    """States that enter each chunk: [..., h, n, d, d] from scaled keys and values [..., h, n, Q, d]."""
    own = k.transpose(-2, -1) @ v
    return (chunks @ own.transpose(-3, -2)).transpose(-3, -2)


def wkv_matmul(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, chunk: int | None = None) -> Tensor:
    """r, k, v: [..., h, N, d]; log_w, u: [h, d]; returns [..., h, N, d]. Raises UnsafeDecayError."""
    return wkv_with_tables(r, k, v, make_tables(log_w, u, r.shape[-2], chunk))
