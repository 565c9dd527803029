"""Exports the bundles that are missing, times all of them, and puts what was measured into rows.

Figures on decisions were measured at the export (parity.json); speed is measured here.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcr_edge.data.labels import JESTER
from lcr_edge.errors import BundleError, UsageError
from lcr_edge.export.compare.table import Comparison, Row, threads_text
from lcr_edge.export.int8.layers import in_float
from lcr_edge.export.manifest import judged_on, read_parity
from lcr_edge.export.quiet import quiet
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import TARGETS
from lcr_edge.progress import step
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.speed.machine import machine
from lcr_edge.runtimes.speed.timing import STEPS_PER_ROUND, Timing, bench, model_bytes
from lcr_edge.tolerances import EARLY, LATE, PROMISES

if TYPE_CHECKING:
    from lcr_edge.calibration.samples import Samples
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.export.exporter import Exporter, Gate

BASE = "fp32"
ROUNDS = 50
# Streams are compared from this frame on, whatever the precision: the states have filled.
SETTLED = PROMISES["int8"].settled


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
    """Export what is missing in ``out``, and compare. The first request of each target must be fp32.

    samples: returns the samples for int8; called at most once, and not at all where only speed counts and nothing has
    to be exported. gate: for the exports, by default the full one; it is never enforced. judged: also compare
    decisions, those of float bundles too. Progress goes to stderr, with the names of the bundles that are used again.
    Raises what ``Exporter.export`` raises except for missed promises, and UsageError for requests in another order.
    """
    from lcr_edge.export.exporter import Exporter, Gate

    gate = dataclasses.replace(gate or Gate(), enforced=False, decisions=judged)
    exporter = Exporter(checkpoint, out)
    by_target = {name: [request for request in requests if request.target == name] for name in TARGETS}
    by_target = {name: own for name, own in by_target.items() if own}
    for name, own in by_target.items():
        if own[0].precision != BASE:
            raise UsageError(f"{name}: fp32 must come first, because the others are compared with it")
    rows: list[Row] = []
    engines = []
    for name, own in by_target.items():
        found = [_bundle(exporter, request, gate, judged, samples) for request in own]
        timings = _timings(name, [bundle for bundle, _ in found], threads, rounds)
        engines.append(timings[0][threads[0]].engine)
        base = model_bytes(found[0][0])
        rows += [_row(*row, base, judged) for row in zip(own, found, timings)]
    notes = [_decisions_note(read_parity(found[0][0]))] if judged else []
    return Comparison(tuple(rows), judged, (*notes, *_speed_notes(rows, engines, rounds)))


def _timings(target: str, bundles: Sequence[Bundle], threads: Sequence[int], rounds: int) -> list[dict[int, Timing]]:
    """For each bundle of a target: its timing by number of CPU threads."""
    timings: list[dict[int, Timing]] = [{} for _ in bundles]
    for count in threads:
        with step(f"{target}: timing {len(bundles)} bundles, {threads_text(count)}"), quiet():
            timed = bench([bundle.folder for bundle in bundles], rounds, count)
        for by_threads, timing in zip(timings, timed):
            by_threads[count] = timing
    return timings


def _speed_notes(rows: Sequence[Row], engines: Sequence[str], rounds: int) -> list[str]:
    busy = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    again = [row.bundle for row in rows if row.reused]
    return [
        "Speed: fp32's smallest time / the row's, so more than 1 is faster; in brackets the smallest time. engine: the "
        "time inside the engine; step: all of a stream's step, with edges found on the host. All bundles of an engine "
        f"take turns in one run, {rounds} rounds of {STEPS_PER_ROUND} steps each.",
        f"Machine: {machine()}{busy}. Engines: {', '.join(engines)}.",
        f"Exported before: {', '.join(again) or 'none'}.",
    ]


def reusable(exporter: Exporter, request: Request, gate: Gate, judged: bool) -> tuple[Bundle | None, str]:
    """The bundle that is in ``exporter.out`` already, or None and the reason why it cannot be used.

    Where only speed counts (not judged), its calibration and what was measured at its export do not matter.
    """
    from lcr_edge.export.verify.clips import judging
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
        return None, "it is from another checkpoint"
    if manifest.get("name") != request.name or bundle.config != request.config:
        return None, f"it is {manifest.get('name')}"
    if request.precision == "int8":
        wanted = (request.quant, list(in_float(exporter.layers, request.quant)))
        if (manifest.get("quant"), manifest.get("float_layers")) != wanted:
            return None, "it was quantised in another way"
        digest = None if exporter.samples is None else exporter.samples.digest
        if judged and manifest.get("calibration_digest") != digest:
            return None, "it was calibrated with other samples"
    if judged and manifest.get("judged_on") != judged_on(exporter.checkpoint):
        return None, "it was judged on other clips"
    if judged:
        parity = read_parity(bundle)
        streams, clips = parity.get("streams") or {}, parity.get("clips") or {}
        pack = judging(exporter.checkpoint)
        rendered = 1 if why_not(exporter.checkpoint) else gate.per_class * len(JESTER)
        least = rendered if pack is None else len(pack.clips)
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


def _row(request: Request, found: tuple[Bundle, bool], timings: dict[int, Timing], base: int, judged: bool) -> Row:
    bundle, reused = found
    parity = read_parity(bundle) if judged else {}
    streams, clips = parity.get("streams") or {}, parity.get("clips") or {}
    phases = {name.partition("-")[0]: line for name, line in streams.get("lines", {}).items()}
    late = [line for first, line in phases.items() if first.isdigit() and int(first) >= SETTLED]
    frames = sum(line["frames"] for line in late)
    size = model_bytes(bundle)
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
