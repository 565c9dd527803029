"""Int8 trials: steps with only some layers quantised, on the target's real engine, and what that costs.

A trial is a whole conversion. Nothing of it is kept: its files are in a temporary folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lcr_edge.calibration.observe import observe
from lcr_edge.calibration.prepare import prepare
from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint
from lcr_edge.contract import STATE_DTYPES, STATE_NAMES
from lcr_edge.errors import StateError
from lcr_edge.export.manifest import write_manifest
from lcr_edge.export.quiet import load_ready, quiet
from lcr_edge.export.targets.job import Job, Source, convert
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import DEFAULT_QUANT
from lcr_edge.model.step_cell import StepCell
from lcr_edge.progress import step
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.golden import Golden
from lcr_edge.runtimes.state import StateFormat
from lcr_edge.runtimes.tallies import TENSORS, Floats, Line, Triple
from lcr_edge.tolerances import PROMISES

U8 = npt.NDArray[np.uint8]
# (frame uint8 [H, W, 3], h, c float32 [L, N+1, C]) -> (logits, h, c). Raises StateError for NaN and Inf.
StepOf = Callable[[U8, Floats, Floats], Triple]


@dataclass(frozen=True)
class Cost:
    """The effect of a changed step on a stream. one_step, stream: from the reference's state and from its own, over
    all frames from ``settled`` on; lost: its own state stopped being finite."""

    one_step: Line
    stream: Line
    lost: bool = False

    @property
    def total(self) -> float:
        """The largest rms error / std of logits and states in the stream; Inf if the stream was lost."""
        worst = max(self.stream_errors())
        return math.inf if self.lost or not math.isfinite(worst) else worst

    def stream_errors(self) -> list[float]:
        """rms error / std in the stream, of logits and both states."""
        return relative(self.stream)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; None for what is not finite."""
        both = {"one_step": self.one_step, "stream": self.stream}
        errors = {
            mode: {name: _finite(value) for name, value in zip(TENSORS, relative(line))} for mode, line in both.items()
        }
        return {"cost": _finite(self.total), **errors, "agreement": agreement(self.stream), "lost": self.lost}


def relative(line: Line) -> list[float]:
    """rms error / std of logits and both states; Inf if there is a NaN or nothing to count."""
    errors = [tally.relative if tally.count else math.inf for tally in line.tensors.values()]
    return [math.inf if math.isnan(value) else value for value in errors]


def agreement(line: Line) -> float:
    """Share of the frames with the reference's class, 0 without frames."""
    return line.top1 if line.frames else 0.0


class Trials:
    """Steps of one network, converted as a request says except for the choice of quantised layers.

    request: for int8. samples: the checkpoint's. threads: CPU threads of the engine.
    """

    def __init__(self, checkpoint: Checkpoint, samples: Samples, request: Request, threads: int = 1) -> None:
        self.checkpoint = checkpoint
        self.samples = samples
        self.request = dataclasses.replace(request, batch=1)  # the same numbers, sooner
        self.threads = threads
        self.cell = StepCell(checkpoint.model).eval()
        # Observed once: it takes longer than rounding a layer.
        self._seen = observe(self.cell, samples)

    @contextlib.contextmanager
    def quantised(self, layers: Collection[str] | None = None, float_layers: Collection[str] = ()) -> Iterator[Model]:
        """The step with these layers quantised, by default all; the others are not even equalised.

        float_layers: those among them that compute in float, see ``calibration.quant_plan``.
        Raises what ``Exporter.export`` raises.
        """
        chosen = self.request.quant, self.request.activations
        prepared = prepare(self.cell, self.samples, *chosen, float_layers, layers, self._seen)
        with self._converted(self.request, Source(prepared.cell), prepared.plan) as model:
            yield model

    def cost(self, reference: Golden, title: str, layers: Collection[str], float_layers: Collection[str] = ()) -> Cost:
        """:func:`measure` of :meth:`quantised`, over the frames that int8 promises count. title: for stderr."""
        with step(f"{self.request.name}: {title}"), self.quantised(layers, float_layers) as model:
            return measure(step_of(model), reference, PROMISES["int8"].settled)

    @contextlib.contextmanager
    def float32(self) -> Iterator[Model]:
        """The step without int8, with float32 states."""
        request = dataclasses.replace(self.request, precision="fp32", quant=DEFAULT_QUANT, state_precision="fp32")
        with self._converted(request, Source(self.cell), None) as model:
            yield model

    @contextlib.contextmanager
    def _converted(self, request: Request, source: Source, plan: Plan | None) -> Iterator[Model]:
        with tempfile.TemporaryDirectory(prefix="lcr_edge_") as name:
            folder = Path(name)
            with quiet():
                made = convert(Job(source, request, folder, plan))
                digest = None if plan is None else self.samples.digest
                write_manifest(folder, request, self.checkpoint, made.operators, calibration_digest=digest)
            yield load_ready(folder, self.threads)


def step_of(model: Model) -> StepOf:
    """A bundle's step on float32 states, whatever dtype its own have."""

    def stepped(frame: U8, h: Floats, c: Floats) -> Triple:
        logits, after = model.step(frame, model.state_of(h, c))
        return (logits, *model.state_values(after))

    return stepped


def with_rounded(whole: StepOf, form: StateFormat, state: str) -> StepOf:
    """The step with one of its states, "state_h" or "state_c", kept between frames as ``form`` stores it."""
    place = STATE_NAMES.index(state)

    def narrow(h: Floats, c: Floats) -> tuple[Floats, Floats]:
        kept = form.values(form.of(h, c))[place]
        return (kept, c) if place == 0 else (h, kept)

    def stepped(frame: U8, h: Floats, c: Floats) -> Triple:
        logits, next_h, next_c = whole(frame, *narrow(h, c))
        return (logits, *narrow(next_h, next_c))

    return stepped


def state_format(samples: Samples, precision: str) -> StateFormat:
    """How states of a precision are stored: int8 with one scale and zero point per state, which cover the samples."""
    scalings = []
    for name in STATE_NAMES if precision == "int8" else ():
        values = getattr(samples, name)
        plan = Plan("static", "u8", (), {name: (float(values.min()), float(values.max()))})
        scale, zero = plan.scale(name)
        scalings.append((scale, zero - 128))
    return StateFormat(samples.state_h.shape[1:], np.dtype(STATE_DTYPES[precision]), tuple(scalings))


def measure(stepped: StepOf, reference: Golden, settled: int) -> Cost:
    """Step along a rollout of more than ``settled`` frames, from its states and, as a stream, from the step's own."""
    one_step, stream = Line(), Line()
    zeros = np.zeros_like(reference.state_h[0]), np.zeros_like(reference.state_c[0])
    before, own = zeros, zeros
    for t, frame in enumerate(reference.frames):
        wanted = (reference.logits[t], reference.state_h[t], reference.state_c[t])
        try:
            found, streamed = stepped(frame, *before), stepped(frame, *own)
        except StateError:  # the previous step produced NaN or Inf
            return Cost(one_step, stream, lost=True)
        if t >= settled:
            one_step.add(found, wanted)
            stream.add(streamed, wanted)
        before, own = wanted[1:], streamed[1:]
    return Cost(one_step, stream)


def multiply_adds(cell: StepCell) -> dict[str, int]:
    """Multiply-adds of each product in one step, by name."""
    found: dict[str, int] = {}

    def watch(name: str, linear: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def count(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            found[name] = len(inputs[0]) * linear.weight.numel()

        return linear.register_forward_pre_hook(count)

    handles = [watch(name, linear) for name, linear in cell.linears().items()]
    config = cell.config
    state = torch.zeros(config.state_shape)
    try:
        with torch.inference_mode():
            shape = (1, *config.frame_shape)
            cell.step(torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape[:3], dtype=torch.uint8), state, state)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
