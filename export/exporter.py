"""From a checkpoint to a verified bundle: convert, record golden answers, measure, and only then move it into place."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from lcr_edge.calibration.prepare import check_ranges, prepare
from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.calibration.samples import Samples
from lcr_edge.calibration.simulate import simulate
from lcr_edge.checkpoint import Checkpoint
from lcr_edge.errors import CalibrationError, ParityError
from lcr_edge.export.int8.costs import Costs
from lcr_edge.export.int8.layers import in_float
from lcr_edge.export.manifest import PARITY, write_manifest
from lcr_edge.export.quiet import load_ready, quiet
from lcr_edge.export.staging import staged
from lcr_edge.export.targets.job import Converted, Job, Source, convert
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.stored import can_read, prepared_digests
from lcr_edge.export.targets.table import require
from lcr_edge.export.verify.clips import own_stream
from lcr_edge.export.verify.measure import measure_all
from lcr_edge.export.verify.page import write_page
from lcr_edge.export.verify.reference import roll, with_rounding
from lcr_edge.export.verify.report import Report
from lcr_edge.model.step_cell import INTEGER_CHUNK, StepCell
from lcr_edge.progress import step
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.golden import GOLDEN
from lcr_edge.tolerances import CLIPS_PER_CLASS, STREAM_FRAMES

VERIFY_FRAMES = 50
# The golden clip: long enough to fill the state, short enough for a device's disk and for a check within a second.
GOLDEN_FRAMES = 16
GOLDEN_BYTES = 8_000_000
_GOLDEN_LEAST = 6


@dataclass(frozen=True)
class Gate:
    """How much is measured before a bundle is written, see ``verify.measure.measure_all``. enforced: a miss raises.

    decisions: whether they are compared; None for only if the precision promises something about them (int8)."""

    frames: int = VERIFY_FRAMES
    streams: int = STREAM_FRAMES
    per_class: int = CLIPS_PER_CLASS
    workers: int = 1
    enforced: bool = True
    decisions: bool | None = None


@dataclass(frozen=True)
class Exported:
    """A bundle in place, the size of each of its files in bytes, what was measured, and the page that shows it."""

    folder: Path
    sizes: dict[str, int]
    report: Report
    page: Path | None = None


class Exporter:
    """Exports one checkpoint to any number of bundles; what several of them share is made once.

    samples: what the network saw on calibration clips, for int8. threads: CPU threads of the engine that verifies.
    pages: folder for one page BUNDLE.html per export, including refused ones.
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
        self.costs = Costs(checkpoint, self._samples, threads)
        self._float = Source(StepCell(checkpoint.model))
        self._integers: Source | None = None
        self._prepared: dict[tuple[str, str, tuple[str, ...]], tuple[Source, Plan]] = {}

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the products that int8 quantises, in the order of a step."""
        return tuple(self._float.cell.linears())

    def export(
        self, request: Request, gate: Gate | None = None, float_layers: Collection[str] | None = None
    ) -> Exported:
        """Write one bundle, measured as ``gate`` says (by default in full).

        float_layers: for int8, names of products that compute in float; None for the default. Raises
        MissingExtraError, UnsafeDecayError, OutputError, CalibrationError (int8 without samples), and ParityError if
        the bundle misses its promise: then nothing is written. Progress goes to stderr.
        """
        require(request.row, int8=request.precision == "int8")
        gate = gate or Gate()
        with staged(self.out, request.name) as folder:
            source, plan = self._source(request, float_layers)
            # Of what was prepared, not of what the converter makes of it: that is what is checked.
            products = None
            if plan is not None:
                check_ranges(source.cell, plan, self._samples())
                if can_read(request.target):
                    products = prepared_digests(source.cell, plan, request.target)
            with step(f"{request.name}: converting"), quiet():
                samples = self._samples() if request.precision == "int8" else None
                made = convert(Job(source, request, folder, plan, samples, self.checkpoint.labels, self.checkpoint.fit))
            with step(f"{request.name}: verifying over {gate.frames} frames"):
                frames = itertools.islice(own_stream(self.checkpoint), _golden(request))
                golden = roll(self.checkpoint.model, frames)
                if plan is not None:
                    golden = with_rounding(golden, simulate(source.cell, plan, **request.row.rounds))
                (folder / GOLDEN).write_bytes(golden.to_bytes())
                if request.row.golden is not None:
                    module = importlib.import_module(request.row.golden)
                    for name, content in module.golden_files(golden, request, folder).items():
                        (folder / name).write_bytes(content)
                if request.firmware and request.row.firmware is not None:
                    module = importlib.import_module(request.row.firmware)
                    for name, text in module.firmware_files(folder, request.name, request.config).items():
                        (folder / name).write_text(text, encoding="utf-8")
                self._write_manifest(folder, request, made, plan, products)
                report = self._measure(folder, gate)
            page = None
            if self.pages is not None:
                report = dataclasses.replace(report, sensitivity=self.costs.of(request))
                page = write_page(report, self.pages / f"{request.name}.html", read_bundle(folder).manifest)
            if not report.passed and gate.enforced:
                shown = "" if page is None else f". The report is {page}"
                raise ParityError(f"{request.name} was not written: it breaks its promise: {report.complaint}{shown}")
            (folder / PARITY).write_bytes(report.to_json())
            self._write_manifest(folder, request, made, plan, products)
            sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        return Exported(self.out / request.name, sizes, report, page)

    def _source(self, request: Request, float_layers: Collection[str] | None) -> tuple[Source, Plan | None]:
        """What to convert and the plan to quantise it by; requests that can share a source get the same one."""
        if request.io == "int8":
            if self._integers is None:
                self._integers = Source(StepCell(self.checkpoint.model, chunk=INTEGER_CHUNK))
            return self._integers, None
        if request.precision != "int8":
            return self._float, None
        chosen = in_float(self.layers, request.quant) if float_layers is None else tuple(float_layers)
        key = (request.quant, request.activations, chosen)
        if key not in self._prepared:
            with step(f"{request.name}: rounding weights, choosing ranges"):
                made = prepare(self._float.cell, self._samples(), *key)
            self._prepared[key] = Source(made.cell), made.plan
        return self._prepared[key]

    def _samples(self) -> Samples:
        if self.samples is None:
            raise CalibrationError("int8 needs calibration samples: make them with calibration.collect.collect")
        return self.samples

    def _write_manifest(
        self, folder: Path, request: Request, made: Converted, plan: Plan | None, products: dict[str, str] | None
    ) -> None:
        int8 = request.precision == "int8"
        write_manifest(
            folder,
            request,
            self.checkpoint,
            made.operators,
            boundary=made.boundary,
            calibration_digest=self._samples().digest if int8 else None,
            float_layers=() if plan is None else plan.float_layers,
            products=products,
            calibration_states=self._samples().share_with_state if int8 else None,
        )

    def _measure(self, folder: Path, gate: Gate) -> Report:
        return measure_all(
            load_ready(folder, self.threads),
            self.checkpoint,
            frames=gate.frames,
            decisions=gate.decisions,
            streams=gate.streams,
            per_class=gate.per_class,
            workers=gate.workers,
        )


def _golden(request: Request) -> int:
    """Number of golden frames: fewer for a network whose states would make the clip large."""
    per_frame = 2 * 4 * int(torch.Size(request.config.state_shape).numel())
    return max(_GOLDEN_LEAST, min(GOLDEN_FRAMES, GOLDEN_BYTES // per_frame))
