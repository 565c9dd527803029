"""The inputs of the step cell's products over calibration samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lcr_edge.errors import CalibrationError

if TYPE_CHECKING:
    from lcr_edge.calibration.samples import Samples
    from lcr_edge.model.step_cell import StepCell

Ranges = dict[str, "tuple[float, float]"]
# Rows kept of each product's input: enough for its second moments, at least 1500 times the square root of its columns.
ROWS = 12_000


@dataclass(frozen=True)
class Inputs:
    """The inputs of one product. rows: float32 [rows, in], drawn at random from all tokens of all samples. low, high:
    float32 [in], the smallest and largest value of each channel over all tokens."""

    rows: Tensor
    low: Tensor
    high: Tensor

    def divided(self, scale: Tensor) -> Inputs:
        """The same with channel j divided by scale[j] > 0."""
        scale = scale.float()
        return Inputs(self.rows / scale, self.low / scale, self.high / scale)

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value over all channels."""
        return float(self.low.min()), float(self.high.max())


def observe(cell: StepCell, samples: Samples, rows: int = ROWS, seed: int = 0) -> dict[str, Inputs]:
    """The inputs of each product of ``cell.linears()``, by name.

    Each sample is one step from its own states. Raises CalibrationError, naming the product, for NaN or Inf.
    """
    generator = torch.Generator().manual_seed(seed)
    share = -(-rows // len(samples))
    kept: dict[str, list[Tensor]] = {name: [] for name in cell.linears()}
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        if not bool(torch.isfinite(x).all()):
            raise CalibrationError(
                f"{name} receives NaN or Inf on the calibration clips: the checkpoint has diverged; train it again "
                "with a lower learning rate, or give another one with --checkpoint"
            )
        picked = torch.randperm(len(x), generator=generator)[:share]
        kept[name].append(x[picked].clone())
        smallest, largest = x.amin(dim=0), x.amax(dim=0)
        low[name] = torch.minimum(low.get(name, smallest), smallest)
        high[name] = torch.maximum(high.get(name, largest), largest)

    def watch(name: str, linear: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        return linear.register_forward_pre_hook(lambda _, inputs: keep(name, inputs[0]))

    _step_all(cell, samples, [watch(name, linear) for name, linear in cell.linears().items()])
    return {name: Inputs(torch.cat(parts), low[name], high[name]) for name, parts in kept.items()}


def ranges(cell: StepCell, samples: Samples) -> tuple[Ranges, Ranges]:
    """The smallest and largest value of the input, and of the output, of each product of ``cell.linears()``, by name.
    The output includes the bias."""
    inputs: Ranges = {}
    outputs: Ranges = {}

    def watch(name: str, linear: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def keep(_: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
            for found, x in ((inputs, given[0]), (outputs, y)):
                low, high = found.get(name, (math.inf, -math.inf))
                found[name] = (min(low, float(x.min())), max(high, float(x.max())))

        return linear.register_forward_hook(keep)

    _step_all(cell, samples, [watch(name, linear) for name, linear in cell.linears().items()])
    return inputs, outputs


def _step_all(cell: StepCell, samples: Samples, handles: Sequence[torch.utils.hooks.RemovableHandle]) -> None:
    """Step once for each sample, from its own states; then remove the hooks."""
    try:
        with torch.inference_mode():
            for index in range(len(samples)):
                feeds = {name: torch.from_numpy(array) for name, array in samples.feeds(index).items()}
                cell.step(feeds["frame"], feeds["edge"], feeds["state_h_in"], feeds["state_c_in"])
    finally:
        for handle in handles:
            handle.remove()
