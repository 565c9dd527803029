"""The step cell as one TFLite file: builtin operators, static shapes, called by the signature "serving_default"."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from lcr_edge.contract import output_specs
from lcr_edge.errors import LcrError, how_to_install
from lcr_edge.export.targets import tflite_file, tflite_int8, tflite_integers
from lcr_edge.export.targets.job import Converted, Job
from lcr_edge.model.step_cell import StepCell, with_joined_factors


class _Named(nn.Module):
    """Returns results by name: the signature takes its tensor names from the keyword arguments and this dict."""

    def __init__(self, cell: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.cell, self.names = cell, names

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.cell(**inputs)))


def convert(job: Job) -> Converted:
    """Write model.tflite, with builtin operators. For ``--io int8`` ai-edge-quantizer takes ranges from the samples."""
    path, plan = job.path, job.plan
    path.write_bytes(job.source.once("tflite" if plan is None else "tflite int8", job.request, lambda: _floats(job)))
    if job.request.precision == "fp16":
        path.write_bytes(_halved(path))
    boundary = None
    if plan is not None:
        _check_weights(path, job.source.cell)
        path.write_bytes(tflite_int8.quantise(path, plan, plan.outputs))
    if job.request.io == "int8":
        feeds = () if job.samples is None else map(job.samples.feeds, range(len(job.samples)))
        content, boundary = tflite_integers.quantise_full(path, feeds)
        path.write_bytes(content)
    operators = sorted({str(op["op_name"]) for op in Interpreter(str(path))._get_ops_details()})
    foreign = [name for name in operators if name == "CUSTOM" or name.startswith("Flex")]
    if foreign:
        raise LcrError(
            f"the TFLite model needs {', '.join(foreign)}, which devices lack; this network cannot go to TFLite"
        )
    return Converted([name for name in operators if name != "DELEGATE"], boundary)


def _floats(job: Job) -> bytes:
    """The float32 model. If a plan will quantise it, its norms are ordered to keep the weights on their grid."""
    step = job.step() if job.plan is None else with_joined_factors(job.step())
    names = tuple(spec.name for spec in output_specs(job.request.config))
    edge_model: Any = litert_torch.convert(_Named(step, names).eval(), sample_kwargs=job.example_inputs())
    with tempfile.TemporaryDirectory(prefix="lcr_edge_") as folder:
        path = Path(folder, "model.tflite")
        edge_model.export(str(path))
        return path.read_bytes()


def _check_weights(path: Path, cell: StepCell) -> None:
    """Raise LcrError unless the file has every product's weights as they were prepared, on their int8 grid."""
    model = tflite_file.read(path.read_bytes())
    layers = tflite_int8.name_layers(model)
    for name, linear in cell.linears().items():
        if name not in layers or not np.array_equal(
            tflite_file.array(model, layers[name].inputs[1]), linear.weight.numpy()
        ):
            raise LcrError(
                f"litert-torch changed the weights of {name} after they were rounded for int8; install the tested "
                f"versions: {how_to_install('export')}"
            )


def _halved(path: Path) -> bytes:
    """The model with its FULLY_CONNECTED matrices stored as float16 and arithmetic in float32."""
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
