"""The floor of a bundle: its matrix products alone, as a model of its own in the same engine and precision.

Nothing of the products is left out, and nothing is added: each reads its factors and writes its result. What a step
takes beyond that is norms, gates, activations and moves of memory, and what the engine needs around them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.speed.products import Product, products

Array = npt.NDArray[Any]
# A product, and whether it multiplies int8 numbers.
Work = Sequence["tuple[Product, bool]"]
_MODULES = {
    "onnx": "lcr_edge.runtimes.speed.onnx_floor",
    "openvino": "lcr_edge.runtimes.speed.openvino_floor",
    "tflite": "lcr_edge.runtimes.speed.tflite_floor",
}


@dataclass(frozen=True)
class Floor:
    """compute: all products once. results: what came out last, in their order, with the batch axis where there is one;
    those of int8 products have the engine's own scale."""

    compute: Callable[[], object]
    results: Callable[[], list[Array]]


def work_of(bundle: Bundle) -> list[tuple[Product, bool]]:
    """The products of one call of a bundle; those with weights are int8 where the bundle computes them so."""
    manifest = bundle.manifest
    integer = bundle.precision == "int8" and manifest.get("quant") != "weight-only"
    in_float = manifest.get("float_layers")
    names = set(in_float) if isinstance(in_float, list) else set()
    every = products(bundle.config, bundle.io, bundle.batch)
    return [(item, integer and item.weights and item.name not in names) for item in every]


def open_floor(bundle: Bundle, threads: int | None) -> tuple[Floor | None, str]:
    """The floor of a bundle, or None and the reason why it cannot be had."""
    module = _MODULES.get(bundle.target)
    if module is None:
        return None, f"it is not built for {bundle.target}"
    try:
        floor: Floor = importlib.import_module(module).build(work_of(bundle), threads)
        floor.compute()
    except ImportError as error:
        return None, f"it takes the package {error.name or error}, which is not installed"
    except Exception as error:  # of the engine, which may lack an operator; a floor is no reason to end a bench
        lines = [line for line in str(error).splitlines() if line.strip()]
        return None, f"the engine refuses it ({lines[-1].strip()[:80] if lines else type(error).__name__})"
    return floor, ""


def factors(work: Work) -> tuple[dict[str, Array], dict[str, Array], list[tuple[str, str]]]:
    """Numbers to multiply: (inputs, constants, names of the two factors of each product).

    Products with weights read one input for each shape and dtype; where both factors are computed, as in the WKV, they
    are inputs of the product's own, so that no engine takes two products for one. float32; int8 products take uint8
    [rows, inner] and int8 [inner, columns].
    """
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    constants: dict[str, Array] = {}
    pairs = []
    for item, integer in work:
        left, right = (item.rows, item.inner), (item.inner, item.columns)
        if item.batch:
            left, right = (item.batch, *left), (item.batch, *right)  # type: ignore[assignment]
        first = f"x{item.rows}x{item.inner}{'u8' if integer else ''}" if item.weights else f"{item.name}.x"
        second = f"{item.name}.w"
        if integer:
            inputs.setdefault(first, random.integers(0, 256, left).astype(np.uint8))
            constants[second] = random.integers(-127, 128, right).astype(np.int8)
        else:
            inputs.setdefault(first, random.standard_normal(left).astype(np.float32))
            (constants if item.weights else inputs)[second] = random.standard_normal(right).astype(np.float32)
        pairs.append((first, second))
    return inputs, constants, pairs
