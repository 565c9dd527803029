"""How an int8 ONNX file stores a product: read back by following the graph, not by the names of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, numpy_helper

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.export.targets.stored import F32, Stored

Array = npt.NDArray[Any]
# Endings of the tensors of int8 weights, after the layer's name: ours, and onnxruntime's.
_OURS, _DYNAMIC = ".weight.int8", ".weight_quantized"


def wanted(name: str, weight: F32, bias: F32 | None, plan: Plan) -> Stored:
    """What the file should have for a prepared product: weight [out, in], bias [out]."""
    grid = plan.scale(name) if plan.mode_of(name) == "static" else ()
    return Stored(*quantise_weight(weight), grid, bias)


def read(path: Path) -> dict[str, Stored]:
    """The products of a file with int8 weights, by name."""
    graph = onnx.load(path).graph
    return _Graph(graph).products()


class _Graph:
    """constants: arrays by name. maker: the node that writes a tensor. readers: the nodes that read it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.maker: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def products(self) -> dict[str, Stored]:
        found = {}
        for tensor in self.constants:
            for ending, look in ((_OURS, self._ours), (_DYNAMIC, self._dynamic)):
                if tensor.endswith(ending):
                    # HostEdgeCell holds the StepCell as "cell".
                    found[tensor.removesuffix(ending).removeprefix("cell.")] = look(tensor)
        return found

    def _ours(self, tensor: str) -> Stored:
        """DequantizeLinear or Cast and Mul, then Gemm: static and weight-only."""
        (first,) = self.readers[tensor]
        if first.op_type == "DequantizeLinear":
            scale, last = self.constants[first.input[1]], first
            zero = self.constants[first.input[2]]
        else:
            (last,) = self.readers[first.output[0]]
            scale, zero = self.constants[last.input[1]].reshape(-1), np.zeros(1, np.int8)
        (gemm,) = self.readers[last.output[0]]
        if gemm.op_type == "Transpose":  # beside dynamic products, onnxruntime makes a MatMul and an Add of a Gemm
            (gemm,) = self.readers[gemm.output[0]]
        grid: tuple[float, ...] = ()
        source = self.maker.get(gemm.input[0])
        if source is not None and source.op_type == "DequantizeLinear":
            rounds = self.maker[source.input[0]]
            ends = [tuple(float(self.constants[name]) for name in node.input[1:]) for node in (rounds, source)]
            # The same numbers before and after; otherwise all four, which no prepared product has.
            grid = ends[0] if ends[0] == ends[1] else (*ends[0], *ends[1])
        bias = self.constants[gemm.input[2]] if len(gemm.input) > 2 else self._added(gemm.output[0])
        return Stored(self.constants[tensor] - zero.reshape(-1, 1), scale, grid, bias)

    def _dynamic(self, tensor: str) -> Stored:
        """MatMulInteger, Cast and Mul by both scales: the weight is transposed."""
        (product,) = self.readers[tensor]
        (cast,) = self.readers[product.output[0]]
        (scaled,) = self.readers[cast.output[0]]
        (scales,) = (self.maker[name] for name in scaled.input if name != cast.output[0])
        (scale,) = (self.constants[name] for name in scales.input if name in self.constants)
        steps = self.constants[tensor] - self.constants[product.input[3]].reshape(1, -1)
        return Stored(steps.T, scale, (), self._added(scaled.output[0]))

    def _added(self, tensor: str) -> F32 | None:
        """The constant that the only reader of a tensor adds to it."""
        readers = self.readers.get(tensor, [])
        if len(readers) != 1 or readers[0].op_type != "Add":
            return None
        constants = [self.constants[name] for name in readers[0].input if name in self.constants]
        return constants[0] if constants else None
