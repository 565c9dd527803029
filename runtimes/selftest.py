"""``lcr-edge selftest BUNDLE``: check a bundle against its own golden clip, on the device, without torch.

The clip's expected logits and states come from the float PyTorch cell. Each step is checked from the reference state
(teacher-forced) and with the bundle's own state fed back (free-running), against the promises of lcr_edge.tolerances.
The growth of an int8 bundle's error is not judged: it takes hundreds of frames to show, more than a golden clip has.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from lcr_edge import options
from lcr_edge.errors import BundleError, ParityError, StateError
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.checks import Check, StateUse, failures_of, finite, mode_checks, promised
from lcr_edge.runtimes.golden import Golden, read_golden
from lcr_edge.runtimes.planned import planned_check
from lcr_edge.runtimes.provider import add_provider, load_on
from lcr_edge.runtimes.row_check import row_check
from lcr_edge.runtimes.tallies import Line, Phases


@dataclass(frozen=True)
class SelftestReport:
    """What was measured. ``failures`` has one sentence per missed promise; empty means passed.

    step_error, stream_error: max abs error of logits, state_h, state_c over the clip, teacher-forced and
    free-running. step_relative, stream_relative: rms error / standard deviation of the reference, over the frames that
    averages count at this precision. top1: share of those frames, free-running, with the reference's class. checks:
    each promise with what was measured. latency_ms: median time per step. streams: how many a call could step. seconds:
    duration of the whole selftest.
    """

    bundle: str
    engine: str
    precision: str
    frames: int
    step_error: dict[str, float]
    stream_error: dict[str, float]
    step_relative: dict[str, float]
    stream_relative: dict[str, float]
    top1: float
    checks: tuple[Check, ...]
    latency_ms: float
    streams: int
    seconds: float
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with ``passed``; NaN and Inf, which JSON lacks, become strings."""
        checks = [check.to_dict() for check in self.checks]
        values: dict[str, Any] = finite({"passed": self.passed, **vars(self), "checks": checks})
        return values


def selftest(
    bundle: str | os.PathLike[str] | Model,
    threads: int | None = None,
    golden_file: Path | None = None,
    provider: str = "cpu",
) -> SelftestReport:
    """Step the golden clip and compare. ``threads`` and ``provider`` are used only if ``bundle`` is a path.

    golden_file: another clip with the reference's answers, from ``lcr-edge verify --save-golden``.

    Does not raise on a missed promise (see ``failures``). Raises ParityError for a state with NaN or Inf, BundleError
    if the clip or the precision's promise is missing, and what :func:`lcr_edge.runtimes.provider.load_on` raises.
    """
    started = time.perf_counter()
    model = bundle if isinstance(bundle, Model) else load_on(bundle, provider, threads)
    golden = read_golden(model.bundle, golden_file)
    promise = promised(model)
    if len(golden.frames) <= promise.settled:
        raise BundleError(
            f"the golden clip of {model.bundle.folder} has {len(golden.frames)} frames; {model.bundle.precision} is "
            f"judged from frame {promise.settled} on: export the bundle again, or give a longer clip with --golden"
        )
    starts = (0, promise.settled) if promise.settled else (0,)
    one_step, stream = Phases(starts, promise.settled), Phases(starts, promise.settled)
    try:
        unused = _teacher_forced(model, golden, one_step)
        latencies, unlike = _free_running(model, golden, stream)
        others = [planned_check(model, golden), row_check(model, golden)]
    except StateError as error:
        raise ParityError(f"selftest failed: {model.bundle.folder} produces an unusable state: {error}") from error
    checks = (*mode_checks(promise, one_step, stream), *(check for check in others if check is not None))
    return SelftestReport(
        bundle=str(model.bundle.folder),
        engine=model.engine.name,
        precision=model.bundle.precision,
        frames=len(golden.frames),
        step_error=_largest(one_step.everything()),
        stream_error=_largest(stream.everything()),
        step_relative=_relative(one_step.judged()),
        stream_relative=_relative(stream.judged()),
        top1=stream.judged().top1,
        checks=checks,
        latency_ms=float(np.median(latencies) * 1e3),
        streams=model.batch,
        seconds=time.perf_counter() - started,
        failures=(*unused, *unlike, *_edge_failures(model, golden), *failures_of(checks)),
    )


def _teacher_forced(model: Model, golden: Golden, tally: Phases) -> list[str]:
    """Tally each step from the reference's state. Returns one sentence per state that the model does not use."""
    use = StateUse(model)
    state = model.initial_state()
    for t, frame in enumerate(golden.frames):
        logits, after = model.step(frame, state)
        tally.add(t, (logits, *model.state_values(after)), golden.answer(t))
        use.add(frame, state, logits, after)
        state = model.state_of(golden.state_h[t], golden.state_c[t])
    return use.failures()


def _free_running(model: Model, golden: Golden, tally: Phases) -> tuple[list[float], list[str]]:
    """Tally the bundle's own stream. Returns the seconds of each step, and a sentence if ``step`` computes another."""
    state = model.initial_state()
    internal = model.bundle.state_mode == "internal"
    latencies, unlike = [], 0
    model.reset()
    for t, frame in enumerate(golden.frames):
        logits, state = model.step(frame, state)
        begin = time.perf_counter()
        streamed = model.step_stream(frame)  # what a device runs
        latencies.append(time.perf_counter() - begin)
        # If the engine keeps the states, only the stream's logits can be seen.
        tally.add(t, (streamed, *model.state_values(state)), golden.answer(t))
        if internal:
            tally.add_logits(t, logits, golden.logits[t])
        else:
            unlike += not np.array_equal(streamed, logits)
    model.reset()
    sentence = f"step_stream gives other logits than step in {unlike} frames: report it, and use step"
    return latencies, [sentence] if unlike else []


def _edge_failures(model: Model, golden: Golden) -> list[str]:
    if model.bundle.edges != "host":
        return []
    from lcr_edge.edges.host import host_edges

    for t, frame in enumerate(golden.frames):
        pixels = int((host_edges(frame) != golden.edges[t]).sum())
        if pixels:
            return [f"edges: {pixels} pixels of frame {t} differ from the reference: install another OpenCV, or none"]
    return []


def _largest(line: Line) -> dict[str, float]:
    return {name: tally.max_abs for name, tally in line.tensors.items()}


def _relative(line: Line) -> dict[str, float]:
    return {name: tally.relative for name, tally in line.tensors.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge selftest``."""
    parser.add_argument("bundle", help="bundle folder written by export")
    parser.add_argument("--golden", type=Path, metavar="FILE", help="another clip, from lcr-edge verify --save-golden")
    add_provider(parser)
    options.add_threads(parser, None)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report. Raises ParityError (exit 1) if a promise is missed."""
    return check_and_print(args.bundle, args.threads, args.golden, args.json, args.provider)


def check_and_print(
    bundle: str | os.PathLike[str],
    threads: int | None = None,
    golden: Path | None = None,
    json: str | None = None,
    provider: str = "cpu",
) -> int:
    """The whole command: :func:`selftest`, the report as text, and as JSON to ``json`` (a file, or "-").

    Returns 0. Raises ParityError if a promise is missed, after everything is written, and what :func:`selftest` and
    ``options.write_json`` raise.
    """
    options.check_least("--threads", threads, 1)
    report = selftest(bundle, threads, golden, provider)
    out = options.text_stream(json)
    print_report(report, out)
    options.write_json(json, report.to_dict())
    if not report.passed:
        raise ParityError("selftest failed: " + "; ".join(report.failures))
    print(f"passed in {report.seconds:.2f} s", file=out)
    return 0


def print_report(report: SelftestReport, out: IO[str] | None = None) -> None:
    """Print what was measured, by default to stdout: errors per tensor and mode, then one line per promise."""
    head = f"{report.bundle} on {report.engine}: {report.frames} golden frames, {report.latency_ms:.2f} ms per step"
    if report.streams > 1:
        head += f", a call for up to {report.streams} streams"
    print(head, f"{'':10}{'one step':>24}{'stream':>24}", sep="\n", file=out)
    for name in report.step_error:
        cells = (report.step_error, report.step_relative), (report.stream_error, report.stream_relative)
        shown = "".join(f"{error[name]:14.2e}{relative[name]:10.1e}" for error, relative in cells)
        print(f"{name:10}{shown}", file=out)
    print("columns: max abs error, rms error / std", *(check.line() for check in report.checks), sep="\n", file=out)
