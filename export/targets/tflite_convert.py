"""The step cell as one TFLite file: builtin operators, static shapes, called by the signature "serving_default"."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litert_torch
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from lcr_edge.contract import output_specs
from lcr_edge.errors import LcrError
from lcr_edge.export.targets import tflite_file, tflite_int8, tflite_integers
from lcr_edge.export.targets.onnx_convert import example_inputs
from lcr_edge.export.targets.request import Converted, Request
from lcr_edge.model.step_cell import HostEdgeCell, StepCell, with_joined_factors

if TYPE_CHECKING:
    from lcr_edge.calibration.quant_plan import Plan
    from lcr_edge.calibration.samples import Samples


class _Named(nn.Module):
    """Results by name: the signature takes its tensor names from keyword arguments and from this dict."""

    def __init__(self, cell: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.cell, self.names = cell, names

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.cell(**inputs)))


def convert(
    cell: nn.Module, request: Request, folder: Path, plan: Plan | None = None, samples: Samples | None = None
) -> Converted:
    """Write model.tflite, of builtin operators. plan: for int8, with the cell that was prepared for it.

    samples: for ``--io int8``, whose ranges ai-edge-quantizer finds on them.
    """
    if plan is not None:
        cell = with_joined_factors(cell)
    names = tuple(spec.name for spec in output_specs(request.config))
    edge_model: Any = litert_torch.convert(_Named(cell, names).eval(), sample_kwargs=example_inputs(request))
    path = folder / request.row.files[0]
    edge_model.export(str(path))
    if request.precision == "fp16":
        path.write_bytes(_halved(path))
    boundary = None
    if plan is not None:
        _check_weights(path, cell)
        path.write_bytes(tflite_int8.quantise(path, plan, plan.outputs))
    if request.io == "int8" and samples is not None:
        content, boundary = tflite_integers.quantise_full(path, map(samples.feeds, range(len(samples))))
        path.write_bytes(content)
    operators = sorted({str(op["op_name"]) for op in Interpreter(str(path))._get_ops_details()})
    foreign = [name for name in operators if name == "CUSTOM" or name.startswith("Flex")]
    if foreign:
        raise LcrError(
            f"the TFLite model needs {', '.join(foreign)}, which devices lack; this network cannot go to TFLite"
        )
    return Converted([name for name in operators if name != "DELEGATE"], boundary)


def _check_weights(path: Path, cell: nn.Module) -> None:
    """LcrError unless the file holds the weights of every product as they were prepared, on their int8 grid."""
    step = cell.cell if isinstance(cell, HostEdgeCell) else cell
    assert isinstance(step, StepCell)
    model = tflite_file.read(path.read_bytes())
    layers = tflite_int8.name_layers(model)
    for name, linear in step.linears().items():
        if name not in layers or not np.array_equal(
            tflite_file.array(model, layers[name].inputs[1]), linear.weight.numpy()
        ):
            raise LcrError(
                f"litert-torch changed the weights of {name} after they were rounded for int8; install the versions of "
                "constraints.txt"
            )


def _halved(path: Path) -> bytes:
    """The model with the matrices of its FULLY_CONNECTED operators stored as float16, the arithmetic in float32."""
    qtyping, quantizer, managers, algorithms = (
        importlib.import_module(f"ai_edge_quantizer.{name}")
        for name in ("qtyping", "quantizer", "recipe_manager", "algorithm_manager")
    )
    recipe = managers.RecipeManager()
    recipe.add_weight_only_config(
        regex="^(?!.*EdgeGraph).*",  # whole numbers and exact fractions, which must stay exact
        operation_name=qtyping.TFLOperationName.FULLY_CONNECTED,
        num_bits=16,
        algorithm_key=algorithms.AlgorithmName.FLOAT_CASTING,
    )
    result: Any = quantizer.Quantizer(str(path), recipe.get_quantization_recipe()).quantize()
    return bytes(result.quantized_model)
