"""The matrix products of one step: their number and shapes follow from the config alone.

They are what a step cannot do without. Timed alone, in the same engine and precision, they are its floor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lcr_edge.config import Config

_EMBED_PARTS = 4  # the exported step sums a patch's pixels in quarters
# The WKV takes all tokens at once up to so many, else in chunks of at most _CHUNK; in an integer-only model in twos.
_DENSE_TOKENS, _CHUNK, _INTEGER_CHUNK = 64, 33, 2


@dataclass(frozen=True)
class Product:
    """[batch, rows, inner] times [batch, inner, columns], batch products in all; without batch axis where it is 0.

    name: as in the manifest's ``float_layers``. weights: whether the second factor is constant, else both are computed.
    """

    name: str
    rows: int
    inner: int
    columns: int
    batch: int = 0
    weights: bool = True

    @property
    def multiply_adds(self) -> int:
        """Multiplications of the product."""
        return max(1, self.batch) * self.rows * self.inner * self.columns


def products(config: Config, io: str = "float", streams: int = 1) -> tuple[Product, ...]:
    """Every product of one call of a bundle, in the order of the step. io, streams: the bundle's io and batch."""
    return tuple(
        replace(item, rows=streams * item.rows) if item.weights else replace(item, batch=streams * item.batch)
        for item in _products(config, io)
    )


def _products(config: Config, io: str) -> Iterator[Product]:
    dim, hidden, tokens = config.dim, config.dim * config.ffn_mult, config.tokens
    pixels = config.patch * config.patch
    for part, inner in enumerate(_parts(3 * pixels)):
        yield Product(f"embed.parts.{part}", tokens - 1, inner, dim)
    yield Product("embed_edge", tokens - 1, pixels, dim)
    yield Product("prompt", tokens, dim, config.layers * dim)
    for layer in range(config.layers):
        name = f"layers.{layer}"
        yield Product(f"{name}.rg", tokens, 2 * dim, 2 * dim)
        yield Product(f"{name}.kv", tokens, dim, 2 * dim)
        yield from _wkv(f"{name}.wkv", config, io)
        yield Product(f"{name}.attend", tokens, dim, dim)
        yield Product(f"{name}.mix_in", tokens, dim, dim + hidden)
        yield Product(f"{name}.mix_out", tokens, hidden, dim)
    yield Product("classify", 1, 2 * dim, config.classes)


def _parts(size: int) -> Iterator[int]:
    each = math.ceil(size / _EMBED_PARTS)
    for start in range(0, size, each):
        yield min(each, size - start)


def _wkv(name: str, config: Config, io: str) -> Iterator[Product]:
    tokens, width, heads = config.tokens, config.head_dim, config.heads
    most = _INTEGER_CHUNK if io == "int8" else tokens if tokens <= _DENSE_TOKENS else _CHUNK
    chunks = math.ceil(tokens / most)
    size = math.ceil(tokens / chunks)
    for part in ("before", "after"):
        yield Product(f"{name}.{part}", size, width, size, heads * chunks, weights=False)
    yield Product(f"{name}.read", size, size, width, heads * chunks, weights=False)
    if chunks > 1:
        for part in ("down", "up"):
            yield Product(f"{name}.{part}.own", width, size, width, heads * chunks, weights=False)
            yield Product(f"{name}.{part}.carried", chunks, chunks, width, heads * width, weights=False)
            yield Product(f"{name}.{part}.read", size, width, width, heads * chunks, weights=False)
