"""What a converter receives and what it returns."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor, nn

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.calibration.samples import Samples
from lcr_edge.contract import input_specs
from lcr_edge.export.targets.request import Request
from lcr_edge.frames import DEFAULT_FIT
from lcr_edge.model.step_cell import HostEdgeCell, StepCell, with_state_precision, with_streams


class Source:
    """A step cell to convert, and what converters have made from it so far.

    Keep the source to convert one cell several times: slow results that several bundles share, such as the ONNX trace,
    are then made once. The cell must not change in between.
    """

    def __init__(self, cell: StepCell) -> None:
        self.cell = cell.eval()
        self._made: dict[tuple[str, str, str, int], bytes] = {}

    def once(self, what: str, request: Request, make: Callable[[], bytes]) -> bytes:
        """The result of ``make``, from memory if it was made before for the request's edges, state precision and batch.

        what: a name for it. It must not depend on anything else in the request.
        """
        key = what, request.edges, request.state_precision, request.batch
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class Job:
    """One conversion.

    source: the cell; for int8, as prepared with the plan. request: the bundle to make. folder: where the files of
    ``request.row.files`` go. plan: which layers become int8 and how; None for float and for ``--io int8``. samples:
    what the network saw on calibration clips; None unless the precision is int8. labels, fit: the checkpoint's, for
    files that hold them.
    """

    source: Source
    request: Request
    folder: Path
    plan: Plan | None = None
    samples: Samples | None = None
    labels: tuple[str, ...] = ()
    fit: str = DEFAULT_FIT

    @property
    def path(self) -> Path:
        """The first of the files to write."""
        return self.folder / self.request.row.files[0]

    def step(self) -> nn.Module:
        """The module to convert: it takes :meth:`example_inputs` and returns the contract's outputs in order."""
        cell: nn.Module = self.source.cell
        if self.request.edges == "host":
            cell = HostEdgeCell(self.source.cell).eval()
        return with_state_precision(with_streams(cell, self.request.batch), self.request.state_precision)

    def example_inputs(self) -> dict[str, Tensor]:
        """Zeros for the step's inputs, by name, in contract order.

        int8 states are float32 here: the converter quantises the boundary.
        """
        precision = "fp32" if self.request.state_precision == "int8" else self.request.state_precision
        request = self.request
        specs = input_specs(request.config, request.edges, state_precision=precision, batch=request.batch)
        return {spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs}


@dataclass(frozen=True)
class Converted:
    """What a converter says about the model it wrote. operators: op types that the model needs. boundary: for
    ``--io int8``, (scale, zero point) of logits and states by tensor name."""

    operators: list[str]
    boundary: Mapping[str, tuple[float, int]] | None = None


def convert(job: Job) -> Converted:
    """Write the model's files with the converter that the target's row names."""
    made: Converted = importlib.import_module(job.request.row.converter).convert(job)
    return made
