"""Bidirectional WKV, the linear-time token mixing of the Cross RWKV gate.

For every head, with channels c of width d and token indices i, j in 0..N-1:

    y_i = sum_c r_i[c] ( u[c] k_i[c] v_i + sum_{j != i} w[c]^(|i-j|-1) k_j[c] v_j )

Shapes, all forms: r, k, v [B, h, N, d]; log_w, u [h, d]; result [B, h, N, d], float32 or float64. log_w = log(w) <= 0
is passed instead of w because a w close to 1 has lost its digits.

    reference   the definition as a double loop: read this first, everything else is checked against it
    scan        one forward and one backward scan over a [d, d] state: any length, any decay
    matmul      the same sums as a few matrix products over chunks of tokens: fast, static shapes, exportable
    op          wkv: the CUDA kernel (wkv.cu, README.md) where it can be compiled, else portable.py
"""

from __future__ import annotations

from lcr_edge.kernels.wkv.matmul import (
    MAX_EXPONENT,
    WkvTables,
    choose_chunk,
    is_safe,
    make_tables,
    wkv_matmul,
    wkv_with_tables,
)
from lcr_edge.kernels.wkv.op import PortableFormWarning, wkv
from lcr_edge.kernels.wkv.reference import wkv_reference
from lcr_edge.kernels.wkv.scan import wkv_scan

__all__ = [
    "MAX_EXPONENT",
    "PortableFormWarning",
    "WkvTables",
    "choose_chunk",
    "is_safe",
    "make_tables",
    "wkv",
    "wkv_matmul",
    "wkv_reference",
    "wkv_scan",
    "wkv_with_tables",
]
