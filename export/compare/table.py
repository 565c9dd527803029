"""The precisions of one network side by side on every engine: size, decisions and speed, as one table.

Figures on decisions are those that were measured at the export (parity.json); speed is measured here.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcr_edge.data.labels import JESTER
from lcr_edge.errors import BundleError, UsageError
from lcr_edge.export.int8.layers import in_float
from lcr_edge.export.manifest import read_parity
from lcr_edge.export.quiet import quiet
from lcr_edge.export.targets import table as targets
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.measure import measure_all
from lcr_edge.progress import step
from lcr_edge.runtimes import bench, load
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.tolerances import EARLY, LATE, PROMISES

if TYPE_CHECKING:
    from lcr_edge.calibration.samples import Samples
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.export.exporter import Exporter, Gate
    from lcr_edge.export.verify.report import Report

BASE = "fp32"
ROUNDS = 50
# Streams are compared from this frame on, whatever the precision: the states have filled.
SETTLED = PROMISES["int8"].settled


@dataclass(frozen=True)
class Row:
    """One bundle. size_ratio: of the model's bytes, to the target's fp32. timings: by CPU threads, ratios to fp32's.

    clip_top1 in per cent, same_class as a share of the frames, drift: None where that was not measured or means
    nothing. failures: a sentence for each missed promise.
    """

    target: str
    precision: str
    bundle: str
    reused: bool
    model_bytes: int
    size_ratio: float
    clip_top1: float | None
    same_class: float | None
    drift: float | str | None
    failures: tuple[str, ...]
    timings: dict[int, bench.Timing]


@dataclass(frozen=True)
class Comparison:
    """All rows, what they were measured on, and whether decisions were compared (judged) or sizes and speed only."""

    rows: tuple[Row, ...]
    judged: bool
    notes: tuple[str, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """Each missed promise of each bundle."""
        return tuple(f"{row.bundle}: {sentence}" for row in self.rows for sentence in row.failures)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**dataclasses.asdict(self), "failures": list(self.failures)}

    def table(self) -> str:
        """Markdown: the table, what its columns are, and whether the promises were met."""
        head = ["target", "precision", "model MB", "of fp32"]
        head += ["clip top-1", "same class", "drift"] if self.judged else []
        for count in self.rows[0].timings:
            head += [f"{what}, {_threads(count)}" for what in ("engine", "step")]
        lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *(self._cells(row) for row in self.rows)]
        verdict = ["all promises met"] if self.judged else ["promises were not judged (--speed-only)"]
        if self.failures:
            verdict = ["promises missed:\n", *(f"- {sentence}" for sentence in self.failures)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" + "\n".join([*self.notes, "", *verdict])

    def _cells(self, row: Row) -> list[str]:
        missed = " (MISSED)" if row.failures else ""
        cells = [row.target, row.precision + missed, f"{row.model_bytes / 1e6:.2f}", f"{row.size_ratio:.2f}"]
        if self.judged:
            cells += [_shown(row.clip_top1, "{:.2f} %"), _shown(row.same_class, "{:.2%}"), _shown(row.drift, "{:.2f}")]
        for timing in row.timings.values():
            pairs = ((timing.engine_ratio, timing.engine_ms), (timing.ratio, timing.minimum_ms))
            cells += [f"{1 / ratio:.2f} ({ms:.2f} ms)" for ratio, ms in pairs]
        return cells


def compare(
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    out: Path,
    *,
    samples: Callable[[], Samples] | None = None,
    threads: Sequence[int] = (1,),
    rounds: int = ROUNDS,
    gate: Gate | None = None,
    judged: bool = True,
) -> Comparison:
    """Export what is missing in ``out``, and compare. Of each target, fp32 must be requested first.

    samples: gives those for int8; called once at most, and not where speed alone counts and nothing has to be exported.
    gate: of the exports, in full by default; never enforced. judged: also compare decisions, of float bundles too.
    Progress, with what is used again, goes to stderr. Raises what ``Exporter.export`` raises, but for missed promises.
    """
    from lcr_edge.export.exporter import Gate

    gate = dataclasses.replace(gate or Gate(), enforced=False)
    exporter = _exporter(checkpoint, out, judged)
    by_target = {name: [request for request in requests if request.target == name] for name in targets.TARGETS}
    by_target = {name: own for name, own in by_target.items() if own}
    for name, own in by_target.items():
        if own[0].precision != BASE:
            raise UsageError(f"{name}: fp32 must come first, the others are compared with it")
    rows: list[Row] = []
    engines = []
    for name, own in by_target.items():
        found = [_bundle(exporter, request, gate, judged, samples) for request in own]
        timings: list[dict[int, bench.Timing]] = [{} for _ in own]
        for count in threads:
            with step(f"{name}: timing {len(own)} bundles, {_threads(count)}"), quiet():
                timed = bench.bench([bundle.folder for bundle, _ in found], rounds, count)
            for table, timing in zip(timings, timed):
                table[count] = timing
        engines.append(timings[0][threads[0]].engine)
        base = bench.model_bytes(found[0][0])
        rows += [_row(*row, base, judged) for row in zip(own, found, timings)]
    notes = [_decisions_note(read_parity(found[0][0]))] if judged else []
    notes.append(
        "Speed: fp32's smallest time / the row's, more than 1 is faster; in brackets the smallest time. engine: the "
        "time inside the engine; step: all of model.step, with edges found on the host. All bundles of an engine take "
        f"turns in one run, {rounds} rounds of {bench.STEPS_PER_ROUND} steps each."
    )
    busy = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    notes.append(f"Machine: {bench.machine()}{busy}. Engines: {', '.join(engines)}.")
    again = [row.bundle for row in rows if row.reused]
    notes.append(f"Exported before: {', '.join(again) or 'none'}.")
    return Comparison(tuple(rows), judged, tuple(notes))


def _exporter(checkpoint: Checkpoint, out: Path, decisions: bool) -> Exporter:
    """One that compares decisions for every precision, or for none."""
    from lcr_edge.export.exporter import Exporter

    class Measuring(Exporter):
        def _measure(self, folder: Path, gate: Gate) -> Report:
            with quiet():
                model = load(folder, threads=self.threads)
                # Engines that prepare and chat at their first step do it here.
                model.step(np.zeros(model.frame_shape, np.uint8), model.initial_state())
            return measure_all(
                model,
                self.checkpoint,
                frames=gate.frames,
                decisions=decisions,
                streams=gate.streams,
                per_class=gate.per_class,
                workers=gate.workers,
            )

    return Measuring(checkpoint, out)


def reusable(exporter: Exporter, request: Request, gate: Gate, judged: bool) -> tuple[Bundle | None, str]:
    """The bundle that is in ``exporter.out`` already, or None and why there is none to use.

    Where speed alone counts, neither its calibration nor what was measured at its export does.
    """
    from lcr_edge.export.verify.decisions import why_not

    folder = exporter.out / request.name
    if not folder.exists():
        return None, ""
    try:
        bundle = read_bundle(folder)
    except BundleError as error:
        return None, str(error)
    manifest = bundle.manifest
    if manifest.get("checkpoint_sha256") != exporter.checkpoint.sha256:
        return None, "it is of another checkpoint"
    if manifest.get("name") != request.name or bundle.config != request.config:
        return None, f"it is {manifest.get('name')}"
    if request.precision == "int8":
        wanted = (request.quant, list(in_float(exporter.layers, request.quant)))
        if (manifest.get("quant"), manifest.get("float_layers")) != wanted:
            return None, "it was quantised in another way"
        digest = None if exporter.samples is None else exporter.samples.digest
        if judged and manifest.get("calibration_digest") != digest:
            return None, "it was calibrated with other samples"
    if judged:
        parity = read_parity(bundle)
        streams, clips = parity.get("streams") or {}, parity.get("clips") or {}
        least = 1 if why_not(exporter.checkpoint) else gate.per_class * len(JESTER)
        if (
            streams.get("frames", 0) < gate.streams
            or clips.get("clips", 0) < least
            or parity.get("frames", 0) < gate.frames
        ):
            return None, "its decisions were not measured in full"
    return bundle, ""


def _bundle(
    exporter: Exporter, request: Request, gate: Gate, judged: bool, samples: Callable[[], Samples] | None
) -> tuple[Bundle, bool]:
    """The bundle of one row, and whether it was there before."""
    int8 = request.precision == "int8"
    if int8 and judged and exporter.samples is None and samples is not None:
        exporter.samples = samples()
    bundle, why = reusable(exporter, request, gate, judged)
    if bundle is not None:
        print(f"{request.name}: used again", file=sys.stderr)
        return bundle, True
    if int8 and exporter.samples is None and samples is not None:
        exporter.samples = samples()
    if why:
        print(f"{request.name}: exported again, {why}", file=sys.stderr)
    return read_bundle(exporter.export(request, gate).folder), False


def _row(
    request: Request, found: tuple[Bundle, bool], timings: dict[int, bench.Timing], base: int, judged: bool
) -> Row:
    bundle, reused = found
    parity = read_parity(bundle) if judged else {}
    streams, clips = parity.get("streams") or {}, parity.get("clips") or {}
    phases = {name.partition("-")[0]: line for name, line in streams.get("lines", {}).items()}
    late = [line for first, line in phases.items() if first.isdigit() and int(first) >= SETTLED]
    frames = sum(line["frames"] for line in late)
    size = bench.model_bytes(bundle)
    return Row(
        target=request.target,
        precision=f"int8 {request.quant}" if request.precision == "int8" else request.precision,
        bundle=request.name,
        reused=reused,
        model_bytes=size,
        size_ratio=size / base,
        clip_top1=clips.get("bundle_top1"),
        same_class=sum(line["frames"] * line["top1"] for line in late) / frames if frames else None,
        drift=streams.get("drift"),
        failures=tuple(parity.get("failures", ())),
        timings=timings,
    )


def _decisions_note(parity: dict[str, Any]) -> str:
    clips, streams = parity["clips"], parity["streams"]
    top1 = clips["note"] or f"the float network has {clips['float_top1']:.2f} %"
    return (
        f"Clip top-1: of {clips['clips']} clips of held-out rendered gestures; {top1}. Same class as float's: "
        f"share of the frames from frame {SETTLED} on, in {streams['streams']} streams of such clips, the longest of "
        f"{streams['frames']} frames, the bundle's own state fed back. Drift: rms logit error of these at frames "
        f"{LATE[0]}-{LATE[1]} / frames {EARLY[0]}-{EARLY[1]}."
    )


def _shown(value: float | str | None, form: str) -> str:
    return "-" if value is None else value if isinstance(value, str) else form.format(value)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"
