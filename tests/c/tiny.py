"""Weights files of small networks, without a network: every value is 0.01. Needs no torch."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

import numpy as np

from lcr_edge.contract import CONTRACT_VERSION
from lcr_edge.runtimes.c_library import FORMAT_VERSION

_HEADER = 256
# In the place of a count: what says how a product's rows are rounded, not at all.
_FLOAT_PRODUCT = -1
_NUMBERS = {"height": 16, "width": 16, "patch": 16, "dim": 4, "layers": 1, "classes": 1, "head_dim": 4, "hidden": 4}


def signed(content: bytearray) -> bytes:
    """With the digest that these bytes have. Changes ``content``."""
    content[32:64] = bytes(32)
    content[32:64] = hashlib.sha256(content).digest()
    return bytes(content)


def tiny(**numbers: int) -> bytes:
    """A signed weights file for a network of these numbers, of the sizes that the reader takes."""
    made = _NUMBERS | numbers
    labels = b"x\0" * made["classes"]
    content = bytearray(_HEADER) + labels
    for count in _counts(made):
        content += bytes(-len(content) % 64)
        content += bytes(16) if count == _FLOAT_PRODUCT else np.full(count, 0.01, "<f4").tobytes()
    versions = 0x0A0B0C0D, FORMAT_VERSION, CONTRACT_VERSION, _HEADER
    struct.pack_into("<8s4IQ", content, 0, b"LCRSTEP", *versions, len(content))
    struct.pack_into("<14iI4f", content, 64, *made.values(), *[0] * 6, len(labels), 0.9, 12.0, 1e-5, 1e-5)
    return signed(content)


def _counts(made: dict[str, int]) -> Iterator[int]:
    """Floats of every tensor, in order."""
    dim, layers, head_dim, hidden = (made[name] for name in ("dim", "layers", "head_dim", "hidden"))
    tokens, values = made["height"] * made["width"] // made["patch"] ** 2 + 1, 3 * made["patch"] ** 2

    def matrix(inner: int, columns: int) -> list[int]:
        padded = -(-columns // 32) * 32
        return [_FLOAT_PRODUCT, inner * padded, padded]

    yield from [dim] * 6
    each = -(-values // 4)
    for part in range(4):
        yield from matrix(max(0, min(each, values - part * each)), dim)
    yield from (*matrix(made["patch"] ** 2, dim), *matrix(dim, layers * dim), *[tokens * head_dim] * 2)
    for _ in range(layers):
        yield from (2 * dim, *matrix(2 * dim, 2 * dim), dim, *matrix(dim, 2 * dim), dim, dim, 1, dim, dim)
        yield from (*matrix(dim, dim), dim, *matrix(dim, dim + hidden), *matrix(hidden, dim))
    yield from (2 * dim, *matrix(2 * dim, made["classes"]))
