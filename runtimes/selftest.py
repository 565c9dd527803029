"""``lcr-edge selftest BUNDLE``: a bundle against its own golden clip, on the device, without torch.

The clip's expected logits and states come from the float PyTorch cell. Each step is checked from the reference state
(teacher-forced) and with the bundle's own state fed back (free-running), by the promises of lcr_edge.tolerances.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcr_edge.contract import LOGITS, STATE_NAMES
from lcr_edge.errors import BundleError, ParityError
from lcr_edge.files import write_atomically
from lcr_edge.runtimes.api import Floats, Model, State, load
from lcr_edge.runtimes.bundle import Golden, read_golden
from lcr_edge.tolerances import PROMISES


@dataclass(frozen=True)
class SelftestReport:
    """What was measured. ``failures`` holds one sentence per missed promise; empty means passed.

    step_error, stream_error: max abs error of logits, state_h, state_c over the clip, teacher-forced and
    free-running. top1: share of free-running frames with the reference's class. latency_ms: median of one step.
    """

    bundle: str
    engine: str
    precision: str
    frames: int
    step_error: dict[str, float]
    stream_error: dict[str, float]
    top1: float
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

    Does not raise on a missed promise (see ``failures``); raises BundleError when the clip or the precision's promise
    is missing, and what :func:`lcr_edge.runtimes.load` raises.
    """
    started = time.perf_counter()
    model = bundle if isinstance(bundle, Model) else load(bundle, threads=threads)
    golden = read_golden(model.bundle, golden_file)
    promise = PROMISES.get(model.bundle.precision)
    if promise is None:
        raise BundleError(
            f"precision {model.bundle.precision!r} has no promise in this lcr_edge ({', '.join(PROMISES)}): upgrade it"
        )
    step_error, failures = _teacher_forced(model, golden)
    stream_error, top1, latencies = _free_running(model, golden)
    for name, error in step_error.items():
        # "not <=" also catches NaN.
        if not error <= promise.step_abs:
            failures.append(f"one step: {name} is off by {error:.2e}, promised {promise.step_abs:.0e}")
    for name, error in stream_error.items():
        if not error <= promise.stream_abs:
            failures.append(f"stream: {name} is off by {error:.2e}, promised {promise.stream_abs:.0e}")
    if not top1 >= promise.top1:
        failures.append(f"stream: the class is right in {top1:.1%} of the frames, promised {promise.top1:.1%}")
    return SelftestReport(
        bundle=str(model.bundle.folder),
        engine=model.engine.name,
        precision=model.bundle.precision,
        frames=len(golden.frames),
        step_error=step_error,
        stream_error=stream_error,
        top1=top1,
        latency_ms=float(np.median(latencies) * 1e3),
        seconds=time.perf_counter() - started,
        failures=tuple(failures),
    )


def _teacher_forced(model: Model, golden: Golden) -> tuple[dict[str, float], list[str]]:
    errors = dict.fromkeys((LOGITS, *STATE_NAMES), 0.0)
    failures: list[str] = []
    state = model.initial_state()
    changed = dict.fromkeys(STATE_NAMES, True)
    for t, frame in enumerate(golden.frames):
        logits, after = model.step(frame, state)
        _worst(errors, logits, after, golden, t)
        changed["state_h"] &= not np.array_equal(after.h, state.h)
        changed["state_c"] &= not np.array_equal(after.c, state.c)
        before, state = state, State(golden.state_h[t], golden.state_c[t])
    failures += [f"{name} did not change in a step: it is not computed" for name in STATE_NAMES if not changed[name]]
    # The last step again with one state zeroed at a time: an input that nothing reads leaves the result as it was.
    for name, blind in (
        ("state_h", State(np.zeros_like(before.h), before.c)),
        ("state_c", State(before.h, np.zeros_like(before.c))),
    ):
        other_logits, other = model.step(golden.frames[-1], blind)
        if _same(logits, other_logits) and _same(after.h, other.h) and _same(after.c, other.c):
            failures.append(f"{name} fed to a step makes no difference: the model does not read it")
    if model.bundle.edges == "host":
        failures += _edge_failures(golden)
    return errors, failures


def _free_running(model: Model, golden: Golden) -> tuple[dict[str, float], float, list[float]]:
    errors = dict.fromkeys((LOGITS, *STATE_NAMES), 0.0)
    state, right = model.initial_state(), 0
    latencies = []
    for t, frame in enumerate(golden.frames):
        begin = time.perf_counter()
        logits, state = model.step(frame, state)
        latencies.append(time.perf_counter() - begin)
        _worst(errors, logits, state, golden, t)
        right += int(logits.argmax() == golden.logits[t].argmax())
    if model.bundle.state_mode == "internal":
        # The engine's own feedback is another path through the model; its states show in the logits only.
        model.reset()
        latencies = []
        for t, frame in enumerate(golden.frames):
            begin = time.perf_counter()
            logits = model.step_stream(frame)
            latencies.append(time.perf_counter() - begin)
            errors[LOGITS] = _larger(errors[LOGITS], logits, golden.logits[t])
        model.reset()
    return errors, right / len(golden.frames), latencies


def _edge_failures(golden: Golden) -> list[str]:
    from lcr_edge.edges.host import host_edges

    for t, frame in enumerate(golden.frames):
        pixels = int((host_edges(frame) != golden.edges[t]).sum())
        if pixels:
            return [f"edges: {pixels} pixels of frame {t} differ from the reference: install another OpenCV or none"]
    return []


def _worst(errors: dict[str, float], logits: Floats, state: State, golden: Golden, t: int) -> None:
    errors[LOGITS] = _larger(errors[LOGITS], logits, golden.logits[t])
    errors["state_h"] = _larger(errors["state_h"], state.h, golden.state_h[t])
    errors["state_c"] = _larger(errors["state_c"], state.c, golden.state_c[t])


def _larger(error: float, found: Floats, reference: Floats) -> float:
    # numpy's maximum keeps a NaN, Python's max may drop it.
    return float(np.maximum(error, np.abs(found - reference).max()))


def _same(found: Floats, other: Floats) -> bool:
    return np.array_equal(found, other)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge selftest``."""
    parser.add_argument("bundle", help="bundle folder, as export wrote it")
    parser.add_argument("--threads", type=int, help="CPU threads of one step (default: the engine's choice)")
    parser.add_argument("--golden", type=Path, metavar="FILE", help="another clip, from lcr-edge verify --save-golden")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report. Raises ParityError (exit 1) when a promise is missed."""
    report = selftest(args.bundle, threads=args.threads, golden_file=args.golden)
    promise = PROMISES[report.precision]
    print(f"{report.bundle} on {report.engine}: {report.frames} golden frames, {report.latency_ms:.2f} ms per step")
    print(f"{'max abs error':14}{'one step':>12}{'stream':>12}")
    for name in report.step_error:
        print(f"{name:14}{report.step_error[name]:12.2e}{report.stream_error[name]:12.2e}")
    print(f"{'promised':14}{promise.step_abs:12.0e}{promise.stream_abs:12.0e}")
    print(f"{'top-1 equal':14}{'':12}{report.top1:12.1%}")
    if args.json:
        write_atomically(Path(args.json), (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    if not report.passed:
        raise ParityError("selftest failed: " + "; ".join(report.failures))
    print(f"passed in {report.seconds:.2f} s")
    return 0
