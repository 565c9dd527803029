"""How model.bin of a C bundle stores an int8 product: read back by walking the file as ``lcr_weights.c`` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.export.targets.c_convert import ALIGNMENT, FIXED, FLOAT, HEADER, PANEL, PARTS, PRODUCT, WORD, input_grid
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.export.targets.stored import F32, Stored


def wanted(name: str, weight: F32, bias: F32 | None, plan: Plan) -> Stored:
    """What the file should have for a prepared product: weight [out, in], bias [out]."""
    grid = input_grid(plan, name) if plan.mode_of(name) == "static" else ()
    return Stored(*quantise_weight(weight), grid, np.zeros(len(weight), np.float32) if bias is None else bias)


def read(path: Path) -> dict[str, Stored]:
    """The int8 products of a file, by name. Raises ValueError for a file that ends too early."""
    tensors = Tensors(path.read_bytes())
    found = {}
    for name, shape in layout(tensors.sizes):
        product = tensors.product(*shape)
        if name and product is not None:
            found[name] = product
    return found


def layout(sizes: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What lies in the file, in order: a product's name with (inner, columns), or no name and the number of floats."""
    height, width, patch, dim, layers, classes, head_dim, hidden = sizes
    tokens, values = height * width // patch**2 + 1, 3 * patch**2
    each = -(-values // PARTS)
    yield from [("", (dim,))] * 6
    for part in range(PARTS):
        yield f"embed.parts.{part}", (max(0, min(each, values - part * each)), dim)
    yield "embed_edge", (patch**2, dim)
    yield "prompt", (dim, layers * dim)
    yield from [("", (tokens * head_dim,))] * 2
    for layer in range(layers):
        for short, inner, columns, before in (
            ("rg", 2 * dim, 2 * dim, (2 * dim,)),
            ("kv", dim, 2 * dim, (dim,)),
            ("attend", dim, dim, (dim, dim, 1, dim, dim)),
            ("mix_in", dim, dim + hidden, (dim,)),
            ("mix_out", hidden, dim, ()),
        ):
            yield from [("", (count,)) for count in before]
            yield f"layers.{layer}.{short}", (inner, columns)
    yield "", (2 * dim,)
    yield "classify", (2 * dim, classes)


class Tensors:
    """Takes one tensor after the other. sizes: the eight numbers of the header that say how large they are."""

    def __init__(self, content: bytes | bytearray) -> None:
        numbers = HEADER.unpack_from(content)
        self.sizes: tuple[int, ...] = numbers[7:15]
        self._content, self._place = content, HEADER.size + numbers[21]

    def product(self, inner: int, columns: int = 0) -> Stored | None:
        """The next product; None for one with float weights, and for a row of floats, which has no columns."""
        if not columns:
            self._take(inner, "<f4")
            return None
        padded = -(-columns // PANEL) * PANEL
        kind, low, high, scale = PRODUCT.unpack(self._take(PRODUCT.size, "u1").tobytes())
        if kind == FLOAT:
            self._take(inner * padded, "<f4")
            self._take(padded, "<f4")
            return None
        words = -(-inner // len(WORD))
        packed = self._take(padded * words * len(WORD), "i1").reshape(-1, words, PANEL, len(WORD))
        steps = packed[..., np.argsort(WORD)].transpose(0, 2, 1, 3).reshape(padded, -1)[:columns, :inner]
        scales = self._take(padded, "<f4")[:columns]
        sums = self._take(padded, "<i4")[:columns]
        if (sums != steps.sum(axis=1, dtype=np.int32)).any():
            steps = np.zeros_like(steps)  # not what any export wrote
        bias = self._take(padded, "<f4")[:columns]
        return Stored(steps, scales, (low, high, scale) if kind == FIXED else (), bias)

    def _take(self, count: int, dtype: str) -> npt.NDArray[Any]:
        place = -(-self._place // ALIGNMENT) * ALIGNMENT
        found = np.frombuffer(self._content, dtype, count, place)
        self._place = place + found.nbytes
        return found
