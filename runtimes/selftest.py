"""``lcr-edge selftest BUNDLE``: a bundle against its own golden clip, on the device, without torch.

The clip's expected logits and states come from the float PyTorch cell. Each step is checked from the reference state
(teacher-forced) and with the bundle's own state fed back (free-running), by the promises of lcr_edge.tolerances. The
growth of an int8 bundle's error is not judged: it shows in hundreds of frames, not in a golden clip.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcr_edge.contract import LOGITS, STATE_NAMES
from lcr_edge.errors import BundleError, ParityError, StateError
from lcr_edge.options import add_json, text_stream, write_json
from lcr_edge.runtimes.api import Floats, Model, State, load
from lcr_edge.runtimes.checks import (
    ONE_STEP,
    STREAM,
    Check,
    failures_of,
    max_error,
    promised,
    relative_error,
    same_class,
)
from lcr_edge.runtimes.golden import Golden, read_golden
from lcr_edge.runtimes.tallies import Tally
from lcr_edge.tolerances import Promise

_TENSORS = (LOGITS, *STATE_NAMES)


@dataclass(frozen=True)
class SelftestReport:
    """What was measured. ``failures`` holds one sentence per missed promise; empty means passed.

    step_error, stream_error: max abs error of logits, state_h, state_c over the clip, teacher-forced and
    free-running; step_relative, stream_relative: rms error / standard deviation of the reference, over the frames that
    averages of this precision count. top1: share of those frames, free-running, with the reference's class. checks:
    each promise, as lines for people. latency_ms: median of one step.
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
    checks: tuple[str, ...]
    latency_ms: float
    seconds: float
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, with ``passed``."""
        return {"passed": self.passed, **dataclasses.asdict(self)}


def selftest(
    bundle: str | os.PathLike[str] | Model, threads: int | None = None, golden_file: Path | None = None
) -> SelftestReport:
    """Step the golden clip and compare. ``threads`` counts only when ``bundle`` is a path.

    golden_file: another clip with the reference's answers, from ``lcr-edge verify --save-golden``.

    Does not raise on a missed promise (see ``failures``); raises ParityError for a state with NaN or Inf, BundleError
    when the clip or the precision's promise is missing, and what :func:`lcr_edge.runtimes.load` raises.
    """
    started = time.perf_counter()
    model = bundle if isinstance(bundle, Model) else load(bundle, threads=threads)
    golden = read_golden(model.bundle, golden_file)
    promise = promised(model)
    if len(golden.frames) <= promise.settled:
        raise BundleError(
            f"the golden clip of {model.bundle.folder} has {len(golden.frames)} frames; {model.bundle.precision} is "
            f"judged from frame {promise.settled} on: export the bundle again, or give a longer clip with --golden"
        )
    try:
        one_step, failures = _teacher_forced(model, golden, promise.settled)
        stream, latencies = _free_running(model, golden, promise.settled)
    except StateError as error:
        raise ParityError(f"selftest failed: {model.bundle.folder} makes a state that is unusable: {error}") from error
    checks = list(_checks(promise, one_step, stream))
    return SelftestReport(
        bundle=str(model.bundle.folder),
        engine=model.engine.name,
        precision=model.bundle.precision,
        frames=len(golden.frames),
        step_error=one_step.largest(),
        stream_error=stream.largest(),
        step_relative=one_step.relative(),
        stream_relative=stream.relative(),
        top1=stream.agreed / stream.judged,
        checks=tuple(check.line() for check in checks),
        latency_ms=float(np.median(latencies) * 1e3),
        seconds=time.perf_counter() - started,
        failures=(*failures, *failures_of(checks)),
    )


class _Mode:
    """Errors of one mode. judged, agreed: frames from ``settled`` on, and those of them with the reference's class."""

    def __init__(self, settled: int) -> None:
        self._settled = settled
        self.whole = {name: Tally() for name in _TENSORS}
        self.rest = {name: Tally() for name in _TENSORS}
        self.judged = self.agreed = 0

    def add(self, model: Model, logits: Floats, state: State, golden: Golden, t: int) -> None:
        found = (logits, *model.state_values(state))
        wanted = (golden.logits[t], golden.state_h[t], golden.state_c[t])
        counts = t >= self._settled
        for name, have, want in zip(_TENSORS, found, wanted):
            self.whole[name].add(have, want)
            if counts:
                self.rest[name].add(have, want)
        if counts:
            self.judged += 1
            self.agreed += int(logits.argmax() == golden.logits[t].argmax())

    def largest(self) -> dict[str, float]:
        return {name: tally.max_abs for name, tally in self.whole.items()}

    def relative(self) -> dict[str, float]:
        return {name: tally.relative for name, tally in self.rest.items()}


def _checks(promise: Promise, one_step: _Mode, stream: _Mode) -> Iterator[Check]:
    for title, mode, allowed in ((ONE_STEP, one_step, promise.step_abs), (STREAM, stream, promise.stream_abs)):
        if allowed is not None:
            yield from (max_error(title, name, tally, allowed) for name, tally in mode.whole.items())
    if promise.step_relative is not None:
        for name, tally in one_step.rest.items():
            yield relative_error(ONE_STEP, name, tally, promise.step_relative, promise.settled)
    yield same_class(STREAM, stream.agreed, stream.judged, promise)


def _teacher_forced(model: Model, golden: Golden, settled: int) -> tuple[_Mode, list[str]]:
    mode = _Mode(settled)
    state = zeros = model.initial_state()
    changed = dict.fromkeys(STATE_NAMES, True)
    for t, frame in enumerate(golden.frames):
        logits, after = model.step(frame, state)
        mode.add(model, logits, after, golden, t)
        changed["state_h"] &= not np.array_equal(after.h, state.h)
        changed["state_c"] &= not np.array_equal(after.c, state.c)
        before, state = state, model.state_of(golden.state_h[t], golden.state_c[t])
    failures = [f"{name} did not change in a step: it is not computed" for name in STATE_NAMES if not changed[name]]
    # The last step again with one state zeroed at a time: an input that nothing reads leaves the result as it was.
    for name, blind in (("state_h", State(zeros.h, before.c)), ("state_c", State(before.h, zeros.c))):
        other_logits, other = model.step(golden.frames[-1], blind)
        pairs = ((logits, other_logits), (after.h, other.h), (after.c, other.c))
        if all(np.array_equal(found, blinded) for found, blinded in pairs):
            failures.append(f"{name} fed to a step makes no difference: the model does not read it")
    if model.bundle.edges == "host":
        failures += _edge_failures(golden)
    return mode, failures


def _free_running(model: Model, golden: Golden, settled: int) -> tuple[_Mode, list[float]]:
    mode = _Mode(settled)
    state = model.initial_state()
    internal = model.bundle.state_mode == "internal"
    latencies = []
    model.reset()
    for t, frame in enumerate(golden.frames):
        begin = time.perf_counter()
        logits, state = model.step(frame, state)
        if internal:
            # The engine's own feedback is another path through the model; its states show in the logits only.
            mode.whole[LOGITS].add(logits, golden.logits[t])
            begin = time.perf_counter()
            logits = model.step_stream(frame)
        latencies.append(time.perf_counter() - begin)
        mode.add(model, logits, state, golden, t)
    model.reset()
    return mode, latencies


def _edge_failures(golden: Golden) -> list[str]:
    from lcr_edge.edges.host import host_edges

    for t, frame in enumerate(golden.frames):
        pixels = int((host_edges(frame) != golden.edges[t]).sum())
        if pixels:
            return [f"edges: {pixels} pixels of frame {t} differ from the reference: install another OpenCV or none"]
    return []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge selftest``."""
    parser.add_argument("bundle", help="bundle folder, as export wrote it")
    parser.add_argument("--threads", type=int, help="CPU threads of one step (default: the engine's choice)")
    parser.add_argument("--golden", type=Path, metavar="FILE", help="another clip, from lcr-edge verify --save-golden")
    add_json(parser, "also write the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report. Raises ParityError (exit 1) when a promise is missed."""
    return check_and_print(args.bundle, args.threads, args.golden, args.json)


def check_and_print(bundle: str | os.PathLike[str], threads: int | None, golden: Path | None, json: str | None) -> int:
    """:func:`selftest`, printed, and written to ``json`` as ``--json`` says. Returns the exit code, 0.

    Raises ParityError when a promise is missed, OutputError, and what :func:`selftest` raises.
    """
    report = selftest(bundle, threads=threads, golden_file=golden)
    lines = [f"{report.bundle} on {report.engine}: {report.frames} golden frames, {report.latency_ms:.2f} ms per step"]
    lines.append(f"{'':10}{'one step':>24}{'stream':>24}")
    for name in report.step_error:
        cells = (report.step_error, report.step_relative), (report.stream_error, report.stream_relative)
        lines.append(f"{name:10}{''.join(f'{error[name]:14.2e}{relative[name]:10.1e}' for error, relative in cells)}")
    out = text_stream(json)
    print(*lines, "columns: max abs error, rms error / std", *report.checks, sep="\n", file=out)
    write_json(json, report.to_dict())
    if not report.passed:
        raise ParityError("selftest failed: " + "; ".join(report.failures))
    print(f"passed in {report.seconds:.2f} s", file=out)
    return 0
