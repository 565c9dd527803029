"""``--provider``: what a bundle runs on. The CPU is what all engines have; onnxruntime may have CUDA and TensorRT too.

With ``auto`` every provider that is there makes one step of the golden clip. Of those that keep what the bundle
promises, the one whose steps take the least time is taken.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Callable

from lcr_edge.errors import LcrError, ParityError, UsageError
from lcr_edge.runtimes.api import Model, load
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.checks import ONE_STEP, Check, failures_of, max_error, promised, relative_error
from lcr_edge.runtimes.engines import ENGINES
from lcr_edge.runtimes.golden import Golden, read_golden
from lcr_edge.runtimes.libraries import onnxruntime
from lcr_edge.runtimes.onnx_providers import CPU, CUDA, TENSORRT
from lcr_edge.runtimes.tallies import TENSORS, Tally

AUTO = "auto"
# What onnxruntime is given, best first: what a provider does not take goes to the next one.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": (CPU,),
    "cuda": (CUDA, CPU),
    "tensorrt": (TENSORRT, CUDA, CPU),
}
_TIMED = 5  # steps


def add_provider(parser: argparse._ActionsContainer) -> None:
    """``--provider``: a string, "cpu" by default; see :func:`load_on`."""
    parser.add_argument(
        "--provider",
        choices=(AUTO, *PROVIDERS),
        default="cpu",
        help="what an ONNX bundle runs on; auto: the quickest that passes one step of the golden clip (default: cpu)",
    )


def load_on(
    path: str | os.PathLike[str],
    provider: str = "cpu",
    threads: int | None = None,
    say: Callable[[str], None] | None = None,
) -> Model:
    """Load a bundle on a provider: a name in ``PROVIDERS``, or "auto".

    say: is told what "auto" tries, which one it took, and why not the others; by default lines on stderr.

    Raises UsageError for a provider that the bundle's engine does not have, or that cannot be used here; ParityError
    where "auto" found none; and what :func:`lcr_edge.runtimes.load` raises. There is no silent way back to the CPU.
    """
    if provider == "cpu":
        return load(path, threads=threads)
    bundle = read_bundle(path)
    check_provider(bundle, provider)
    if bundle.target != "onnx":
        return load(path, threads=threads)
    if provider == AUTO:
        return best_of(path, PROVIDERS, threads, say or _say)
    return load(path, threads=threads, providers=PROVIDERS[provider])


def check_provider(bundle: Bundle, provider: str) -> None:
    """Raise UsageError for a provider that no engine of this bundle has."""
    if bundle.target != "onnx" and provider not in (AUTO, "cpu"):
        raise UsageError(
            f"--provider {provider} is for ONNX bundles; {bundle.folder} is for {bundle.target}, which runs on the "
            "CPU: leave it out, or export with --target onnx"
        )


def best_of(
    path: str | os.PathLike[str],
    providers: Mapping[str, Sequence[str]],
    threads: int | None,
    say: Callable[[str], None],
) -> Model:
    """The quickest of those providers on which an ONNX bundle passes one golden step. Raises ParityError if none does.

    providers: names for people, and for each the list that onnxruntime is given.
    """
    try:
        available = onnxruntime().get_available_providers()
    except ImportError as error:
        raise ENGINES["onnx"].missing() from error
    best: Model | None = None
    taken, least, refused = "", float("inf"), []
    for name, wanted in providers.items():
        if wanted[0] not in available:
            refused.append(f"{name}: not in this onnxruntime")
            continue
        if wanted[0] != CPU:  # to build TensorRT's engine may take minutes
            say(f"provider: trying {name}")
        try:
            model = load(path, threads=threads, providers=wanted)
            golden = read_golden(model.bundle)
            failures = failures_of(golden_step(model, golden))
        except LcrError as error:
            refused.append(f"{name}: {error}")
            continue
        if failures:
            refused.append(f"{name}: {failures[0]}")
            continue
        step_s = seconds_of_a_step(model, golden)
        if best is not None:
            slower = name if step_s >= least else taken
            refused.append(f"{slower}: {1e3 * max(step_s, least):.1f} ms a step")
        if step_s < least:
            best, taken, least = model, name, step_s
    others = f" (not {'; not '.join(refused)})" if refused else ""
    if best is None:
        raise ParityError(f"{path} passes its golden step on no provider{others}: see lcr-edge doctor {path}")
    say(f"provider: {taken}, {1e3 * least:.1f} ms a step{others}")
    return best


def golden_step(model: Model, golden: Golden) -> tuple[Check, ...]:
    """One step from a state of the reference, compared with its answer: a check for the logits and for each state.

    It is the first step that the bundle's precision promises something about. Raises BundleError where the clip is too
    short, and StateError for NaN or Inf.
    """
    promise = promised(model)
    t = min(promise.settled, len(golden.frames) - 1)
    before = model.state_of(golden.state_h[t - 1], golden.state_c[t - 1]) if t else model.initial_state()
    logits, after = model.step(golden.frames[t], before)
    checks = []
    for name, found, wanted in zip(TENSORS, (logits, *model.state_values(after)), golden.answer(t)):
        tally = Tally()
        tally.add(found, wanted)
        if promise.step_abs is not None:
            checks.append(max_error(ONE_STEP, name, tally, promise.step_abs))
        elif promise.step_relative is not None:
            checks.append(relative_error(ONE_STEP, name, tally, promise.step_relative, promise.settled))
    return tuple(checks)


def seconds_of_a_step(model: Model, golden: Golden, steps: int = _TIMED) -> float:
    """The median of some steps on the golden clip, which make a stream of their own."""
    state, times = model.initial_state(), []
    for t in range(steps):
        begin = time.perf_counter()
        _, state = model.step(golden.frames[t % len(golden.frames)], state)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
