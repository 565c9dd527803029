"""The integer products of an int8 bundle, as prepared and as they are in the model file.

A single wrong step of a weight or of a zero point changes a step of the network by less than the healthy rounding of
all its products does, so no measurement of logits and states shows it. Here the numbers themselves are compared. The
export writes a digest of each *prepared* product into the manifest, and both the export and every later ``verify`` read
the products back from the model file: what a converter changed is found as well as what was changed afterwards.

For each engine a module says how its file stores a product: ``onnx_stored``, ``openvino_stored``, ``tflite_stored``.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lcr_edge.errors import CalibrationError
from lcr_edge.export.targets.table import TARGETS

if TYPE_CHECKING:
    from torch import Tensor

    from lcr_edge.calibration.quant_plan import Plan
    from lcr_edge.model.step_cell import StepCell

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
PRODUCTS = "int8_products"  # the manifest's entry
# Of a step: float32 holds 127 steps to some 1e-5 of one.
_OFF_GRID = 1e-3


@dataclass(frozen=True)
class Stored:
    """One product in the form of an engine's file.

    steps: int8 [out, in], the weight in steps of its grid. scale: float32 [out], the step of each output channel. grid:
    what the file says about the grid of the input (scale and zero point, or the two ends), empty where the engine finds
    it at every step or the product computes in float. bias: float32 [out]; None where there is none or where the file
    has it in a form that depends on more than the product.
    """

    steps: I8
    scale: F32
    grid: tuple[float, ...] = ()
    bias: F32 | None = None

    def digest(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 of all numbers."""
        grid = np.asarray(self.grid, np.float32)
        bias = np.zeros(0, np.float32) if self.bias is None else self.bias
        found = hashlib.sha256(repr((self.steps.shape, len(grid), len(bias))).encode())
        for array in (self.steps, self.scale, grid, bias):
            # A zero has two forms in floats, and which one a converter writes means nothing.
            found.update(np.ascontiguousarray(array + np.zeros((), array.dtype)).tobytes())
        return found.hexdigest()[:16]


def prepared_digests(cell: StepCell, plan: Plan, target: str) -> dict[str, str]:
    """The digest of each product of a prepared cell in the form of the target's file, by name.

    Raises CalibrationError for weights that are not on their grid, UsageError for ranges that are no numbers.
    """
    linears = cell.linears()
    wanted = _module(target).wanted
    found = {}
    for name in plan.layers:
        bias: Tensor | None = linears[name].bias
        arrays = linears[name].weight.detach().numpy(), None if bias is None else bias.detach().numpy()
        product: Stored = wanted(name, *arrays, plan)
        _check_grid(name, arrays[0])
        found[name] = product.digest()
    return found


def _check_grid(name: str, weight: F32) -> None:
    """CalibrationError unless a prepared weight [out, in] is on the int8 grid of its channels."""
    steps = weight / (np.maximum(np.abs(weight).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127)
    off = float(np.abs(steps - np.rint(steps)).max())
    if not off <= _OFF_GRID:
        raise CalibrationError(
            f"the prepared weights of {name} are off their int8 grid by {off:.2g} of a step, so the converter would "
            "round them again: report it, or leave the layer in float with --keep-float"
        )


def differing(folder: Path, target: str, files: tuple[str, ...], digests: Mapping[str, Any]) -> list[str]:
    """The names of the products whose numbers in the model file are not those that ``digests`` was made of.

    A product that the file lacks differs. Raises ImportError where the package that reads the file is not installed.
    """
    stored: Mapping[str, Stored] = _module(target).read(folder / files[0])
    found = {name: product.digest() for name, product in stored.items()}
    return [name for name in {**digests, **found} if found.get(name) != digests.get(name)]


def can_read(target: str) -> bool:
    """Whether the target's int8 files can be read back."""
    return target in TARGETS and TARGETS[target].stored is not None


def _module(target: str) -> Any:
    return importlib.import_module(str(TARGETS[target].stored))
