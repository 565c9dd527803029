"""Forward and backward of the WKV as launches of the kernel's five entries; README.md beside this derives them.

The launches go through a ``Kernels`` object: build.py makes one for a GPU (NVRTC or nvcc) and one that runs the same
C++ source on the CPU, which is how the tests reach every line of this file without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lcr_edge.errors import UsageError

# The kernel's numbers of these names are in wkv.cu (entries) and wkv_scan.h (shapes of a block).
ENTRIES = ("wkv_columns", "wkv_rows", "wkv_rows_tangent", "wkv_columns_state", "wkv_rows_tangent_state")
IO_OF_DTYPE = {torch.float32: "Float32", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
DIMS = (16, 32, 64)

# Tokens are cut into chunks if a multiprocessor would have fewer warps than this; fewest tokens worth a chunk.
WARPS_WANTED = 8
MIN_CHUNK_TOKENS = 16
MAX_CHUNKS = 64
_INT_MAX = 2**31 - 1


class Kernels(Protocol):
    """The five entries, compiled for one number format and head size."""

    @property
    def multiprocessors(self) -> int:
        """Of the device that runs them; decides the number of chunks."""

    def launch(self, entry: str, streams: int, chunks: int, arguments: Sequence[Tensor | int]) -> None:
        """Start an entry with the arguments of WKV_PARAMETERS (wkv.cu) on the current stream."""


def line_parts(dim: int) -> int:
    """How many lanes share a line of the state (Shape::kParts of wkv_scan.h)."""
    return dim // (16 if dim < 64 else 32)


def block_lanes(dim: int) -> int:
    """Threads of a block: two directions of dim lines (Shape::kBlock of wkv_scan.h)."""
    return 2 * dim * line_parts(dim)


def check(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, dy: Tensor | None = None) -> None:
    """Raise UsageError unless r, k, v (and dy) are [B, h, N, d] of one dtype and device and log_w, u are [h, d]."""
    if r.dim() != 4:
        raise UsageError(f"wkv: r must be [B, h, N, d], not {list(r.shape)}")
    tensors = {"k": k, "v": v} if dy is None else {"k": k, "v": v, "dy": dy}
    for name, x in tensors.items():
        if x.shape != r.shape or x.dtype != r.dtype or x.device != r.device:
            raise UsageError(
                f"wkv: {name} and r must agree, but {name} is {x.dtype} {list(x.shape)} on {x.device} and "
                f"r is {r.dtype} {list(r.shape)} on {r.device}"
            )
    expected = torch.float64 if r.dtype == torch.float64 else torch.float32
    for name, x in {"log_w": log_w, "u": u}.items():
        if x.shape != (r.shape[1], r.shape[3]) or x.dtype != expected or x.device != r.device:
            raise UsageError(
                f"wkv: {name} is {x.dtype} {list(x.shape)} on {x.device}; it must be {expected} "
                f"[{r.shape[1]}, {r.shape[3]}] on {r.device}"
            )


def empty_tokens_first(r: Tensor) -> Tensor:
    """Uninitialised [B, h, N, d] like r that lies in memory as [B, N, h, d]: joining the heads then copies nothing."""
    batch, heads, tokens, width = r.shape
    return r.new_empty(batch, tokens, heads, width).transpose(1, 2)


def choose_chunks(streams: int, tokens: int, dim: int, multiprocessors: int) -> int:
    """How many chunks to cut N tokens into so that B h streams fill the multiprocessors; 1 if they already do.

    Cutting costs a second launch and two thirds more arithmetic, so 2 chunks would not pay.
    """
    warps_per_block = block_lanes(dim) // 32
    blocks_wanted = multiprocessors * WARPS_WANTED // warps_per_block
    chunks = min(blocks_wanted // max(streams, 1), tokens // MIN_CHUNK_TOKENS, MAX_CHUNKS)
    return chunks if chunks >= 3 else 1


def forward(
    kernels: Kernels, r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, chunks: int | None = None
) -> Tensor:
    """y [B, h, N, d] of r's dtype. r, k, v: float32, bfloat16 or float16; log_w, u: float32 [h, d].

    chunks: the number of chunks, chosen by ``choose_chunks`` by default.
    """
    check(r, k, v, log_w, u)
    sweeps = _Sweeps(kernels, r, log_w, u, chunks)
    r, k, v = (_readable(x) for x in (r, k, v))
    states = sweeps.states("wkv_columns_state", vec=k, own=v)
    return sweeps.read("wkv_columns", vec=k, own=v, query=r, states=states)


def backward(
    kernels: Kernels,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    log_w: Tensor,
    u: Tensor,
    dy: Tensor,
    chunks: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dr, dk, dv [B, h, N, d] of r's dtype and dlog_w, du float32 [h, d], from dy [B, h, N, d]."""
    check(r, k, v, log_w, u, dy)
    sweeps = _Sweeps(kernels, r, log_w, u, chunks)
    r, k, v, dy = (_readable(x) for x in (r, k, v, dy))
    states = sweeps.states("wkv_columns_state", vec=r, own=dy)
    dv = sweeps.read("wkv_columns", vec=r, own=dy, query=k, states=states)
    dk = sweeps.read("wkv_rows", vec=dy, own=r, query=v, states=states, transposed=True)
    states = sweeps.states("wkv_rows_tangent_state", vec=v, own=k)
    batch, heads, _, width = r.shape
    sums = log_w.new_empty(batch, heads, sweeps.chunks, 2, line_parts(width), 2, width)
    dr = sweeps.read("wkv_rows_tangent", vec=v, own=k, query=dy, partner=r, states=states, sums=sums)
    # One fixed order of summation, so that the same input gives the same gradient.
    dlog_w, du = sums.sum(dim=(0, 2, 3, 4), dtype=torch.float64).float().unbind(1)
    return dr, dk, dv, dlog_w.contiguous(), du.contiguous()


class _Sweeps:
    """What the launches of one call have in common."""

    def __init__(self, kernels: Kernels, r: Tensor, log_w: Tensor, u: Tensor, chunks: int | None) -> None:
        self.kernels, self.like = kernels, r
        self.log_w, self.u = log_w.contiguous(), u.contiguous()
        batch, heads, tokens, width = r.shape
        if width not in DIMS:
            raise UsageError(f"wkv: the kernel supports head sizes {DIMS}, not {width}")
        self.streams = batch * heads
        if chunks is None:
            chunks = choose_chunks(self.streams, tokens, width, kernels.multiprocessors)
        self.chunk_tokens = -(-tokens // max(1, min(chunks, tokens)))
        self.chunks = -(-tokens // self.chunk_tokens)
        # Stands in for pointers that an entry does not use.
        self.nothing = self.log_w

    def states(self, entry: str, vec: Tensor, own: Tensor) -> Tensor | None:
        """The state that each chunk alone leaves; None if there is only one chunk."""
        if self.chunks == 1:
            return None
        width = self.like.shape[3]
        kinds = 2 if "tangent" in entry else 1
        states = self.log_w.new_empty(self.streams, 2, self.chunks, kinds, width, width)
        self._launch(entry, vec, own, vec, vec, states, self.nothing, self.like, self.nothing, False)
        return states

    def read(
        self,
        entry: str,
        vec: Tensor,
        own: Tensor,
        query: Tensor,
        states: Tensor | None,
        partner: Tensor | None = None,
        sums: Tensor | None = None,
        transposed: bool = False,
    ) -> Tensor:
        out = empty_tokens_first(self.like)
        scratch = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
        self._launch(
            entry,
            vec,
            own,
            query,
            query if partner is None else partner,
            self.nothing if states is None else states,
            scratch,
            out,
            self.nothing if sums is None else sums,
            transposed,
        )
        return out

    def _launch(
        self,
        entry: str,
        vec: Tensor,
        own: Tensor,
        query: Tensor,
        partner: Tensor,
        states: Tensor,
        scratch: Tensor,
        out: Tensor,
        sums: Tensor,
        transposed: bool,
    ) -> None:
        _, heads, tokens, width = self.like.shape
        arguments: list[Tensor | int] = [vec, own, query, partner, self.log_w, self.u, states, scratch, out, sums]
        arguments += [heads, tokens, self.chunk_tokens, *((1, width) if transposed else (width, 1))]
        for x in (vec, own, query, partner, out):
            arguments += x.stride()[:3]
        self.kernels.launch(entry, self.streams, self.chunks, arguments)


def _readable(x: Tensor) -> Tensor:
    """x itself where the kernel can read it in place (channels side by side, strides that fit an int), else a copy."""
    return x if x.stride(-1) == 1 and max(x.stride()) <= _INT_MAX else x.contiguous()
