"""From a checkpoint to a verified bundle: convert, record golden answers, measure, and only then put it in place."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lcr_edge.calibration.prepare import Prepared, prepare
from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint
from lcr_edge.errors import CalibrationError, ParityError
from lcr_edge.export.int8.layers import kinds_of, matching
from lcr_edge.export.int8.trials import Trials
from lcr_edge.export.manifest import PARITY, write_manifest
from lcr_edge.export.quiet import quiet
from lcr_edge.export.staging import staged
from lcr_edge.export.targets.request import Converted, Request
from lcr_edge.export.targets.table import FLOAT_BY_DEFAULT, require
from lcr_edge.export.targets.tflite_integers import CHUNK
from lcr_edge.export.verify.clips import rendered_stream, stream
from lcr_edge.export.verify.measure import measure_all
from lcr_edge.export.verify.page import write_page
from lcr_edge.export.verify.reference import roll
from lcr_edge.export.verify.report import Report
from lcr_edge.model.step_cell import HostEdgeCell, StepCell, with_state_precision
from lcr_edge.progress import step
from lcr_edge.runtimes import load
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.golden import GOLDEN
from lcr_edge.tolerances import CLIPS_PER_CLASS, STREAM_FRAMES

VERIFY_FRAMES = 50
COST_FRAMES = 200  # over which kinds of layers are compared
# The golden clip: long enough to fill the state, short enough for a device's disk and a check within a second.
GOLDEN_FRAMES = 16
GOLDEN_BYTES = 8_000_000
_GOLDEN_LEAST = 6


@dataclass(frozen=True)
class Gate:
    """How much is measured before a bundle is written, see ``verify.measure.measure_all``. enforced: a miss raises."""

    frames: int = VERIFY_FRAMES
    streams: int = STREAM_FRAMES
    per_class: int = CLIPS_PER_CLASS
    workers: int = 1
    enforced: bool = True


@dataclass(frozen=True)
class Exported:
    """A bundle in its place, the size of each of its files in bytes, what was measured, and the page that shows it."""

    folder: Path
    sizes: dict[str, int]
    report: Report
    page: Path | None = None


class Exporter:
    """Exports one checkpoint to any number of bundles; what several of them share is made once.

    samples: what the network saw on calibration clips, for int8. threads: CPU threads of the engine that verifies.
    pages: folder for a page BUNDLE.html on each export, also on one that is refused.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        out: Path,
        *,
        samples: Samples | None = None,
        threads: int = 1,
        pages: Path | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.out = out
        self.samples = samples
        self.threads = threads
        self.pages = pages
        self._float = StepCell(checkpoint.model).eval()
        self._integers: StepCell | None = None
        self._prepared: dict[tuple[str, str, tuple[str, ...]], Prepared] = {}
        self._cells: dict[tuple[StepCell, str, str], torch.nn.Module] = {}
        self._trials: dict[Request, Trials] = {}
        self._costs: dict[Request, tuple[tuple[str, float], ...]] = {}

    def trials(self, request: Request) -> Trials:
        """Trials of an int8 request, made once. Raises CalibrationError without samples."""
        if request not in self._trials:
            with step(f"{request.name}: what the layers read"):
                self._trials[request] = Trials(self.checkpoint, self._samples(), request, self.threads)
        return self._trials[request]

    def costs(self, request: Request) -> tuple[tuple[str, float], ...]:
        """What quantising each kind of layers alone costs over COST_FRAMES rendered frames, the costliest first:
        (kind, rms error / std in the stream, of logits or state, whichever is largest). Measured once; takes a
        conversion for each kind. Empty for what has no layers to choose from."""
        if request.precision != "int8" or request.io == "int8":
            return ()
        if request not in self._costs:
            trials = self.trials(request)
            reference = roll(self.checkpoint.model, stream(None, request.config, self.checkpoint.fit, COST_FRAMES))
            groups = kinds_of(trials.cell.linears())
            found = [(kind, trials.cost(reference, f"{kind} alone", group).total) for kind, group in groups.items()]
            self._costs[request] = tuple(sorted(found, key=lambda row: -row[1]))
        return self._costs[request]

    def float_layers(self, request: Request, pattern: str | None) -> tuple[str, ...]:
        """The products that compute in float: those that match, see :func:`matching`, or those usual for the mode."""
        if pattern is None:
            pattern = FLOAT_BY_DEFAULT if request.quant == "static" else "none"
        return matching(pattern, tuple(self._float.linears()))

    def export(
        self, request: Request, gate: Gate | None = None, float_layers: Collection[str] | None = None
    ) -> Exported:
        """Write one bundle, measured as ``gate`` says (by default in full).

        float_layers: of int8, names of products that compute in float; None for the usual ones. Raises
        MissingExtraError, UnsafeDecayError, OutputError, CalibrationError (int8 without samples), and ParityError where
        the bundle misses its promise: then nothing is written. Progress goes to stderr.
        """
        require(request.row, int8=request.precision == "int8")
        gate = gate or Gate()
        with staged(self.out, request.name) as folder:
            plan = None
            cell = self._float
            if request.io == "int8":
                cell = self._integer_cell()
            if request.precision == "int8" and request.io != "int8":
                with step(f"{request.name}: rounding weights, choosing ranges"):
                    chosen = self.float_layers(request, None) if float_layers is None else tuple(float_layers)
                    cell, plan = self._prepare(request, chosen)
            with step(f"{request.name}: converting"), quiet():
                made = self._convert(request, folder, cell, plan)
            with step(f"{request.name}: verifying over {gate.frames} frames"):
                frames = rendered_stream(request.config, self.checkpoint.fit)
                golden = roll(self.checkpoint.model, itertools.islice(frames, _golden(request)))
                (folder / GOLDEN).write_bytes(golden.to_bytes())
                self._write_manifest(folder, request, made, plan)
                report = self._measure(folder, gate)
            page = None
            if self.pages is not None:
                report = dataclasses.replace(report, sensitivity=self.costs(request))
                page = write_page(report, self.pages / f"{request.name}.html", read_bundle(folder).manifest)
            if not report.passed and gate.enforced:
                shown = "" if page is None else f". The report is {page}"
                raise ParityError(f"{request.name} was not written, it breaks its promise: {report.complaint}{shown}")
            (folder / PARITY).write_bytes(report.to_json())
            self._write_manifest(folder, request, made, plan)
            sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        return Exported(self.out / request.name, sizes, report, page)

    def _prepare(self, request: Request, float_layers: tuple[str, ...]) -> tuple[StepCell, Plan]:
        key = (request.quant, request.activations, float_layers)
        if key not in self._prepared:
            self._prepared[key] = prepare(self._float, self._samples(), *key)
        return self._prepared[key].cell, self._prepared[key].plan

    def _integer_cell(self) -> StepCell:
        if self._integers is None:
            self._integers = StepCell(self.checkpoint.model, chunk=CHUNK).eval()
        return self._integers

    def _samples(self) -> Samples:
        if self.samples is None:
            raise CalibrationError("int8 needs calibration samples: calibration.collect.collect makes them")
        return self.samples

    def _convert(self, request: Request, folder: Path, cell: StepCell, plan: Plan | None) -> Converted:
        key = (cell, request.edges, request.state_precision)
        if key not in self._cells:
            whole = HostEdgeCell(cell).eval() if request.edges == "host" else cell
            self._cells[key] = with_state_precision(whole, request.state_precision)
        converter = importlib.import_module(request.row.module)
        samples = self._samples() if request.io == "int8" else None
        made: Converted = converter.convert(self._cells[key], request, folder, plan, samples)
        return made

    def _write_manifest(self, folder: Path, request: Request, made: Converted, plan: Plan | None) -> None:
        write_manifest(
            folder,
            request,
            self.checkpoint,
            made.operators,
            boundary=made.boundary,
            calibration_digest=self._samples().digest if request.precision == "int8" else None,
            float_layers=() if plan is None else plan.float_layers,
        )

    def _measure(self, folder: Path, gate: Gate) -> Report:
        with quiet():
            model = load(folder, threads=self.threads)
            # Engines that prepare and chat at their first step do it here.
            model.step(np.zeros(model.frame_shape, np.uint8), model.initial_state())
        return measure_all(
            model,
            self.checkpoint,
            frames=gate.frames,
            streams=gate.streams,
            per_class=gate.per_class,
            workers=gate.workers,
        )


def _golden(request: Request) -> int:
    """Frames of the golden clip: fewer for a network whose states would make it large."""
    per_frame = 2 * 4 * int(torch.Size(request.config.state_shape).numel())
    return max(_GOLDEN_LEAST, min(GOLDEN_FRAMES, GOLDEN_BYTES // per_frame))
