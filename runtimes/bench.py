"""``lcr-edge bench BUNDLE [BUNDLE ...]``: the time of one step, all bundles taking turns within one run.

A machine's speed drifts, so bundles are compared round by round: every round steps each bundle a few times, and the
ratio compares the smallest times. What is timed is ``model.step``, including host edges and checks; the time spent in
the engine is reported beside it.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lcr_edge import options
from lcr_edge.runtimes.api import Array, Engine, Model, State
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.golden import Golden, read_golden
from lcr_edge.runtimes.provider import add_provider, load_on

WARM_UP = 5
STEPS_PER_ROUND = 4
_CPU = Path("/proc/cpuinfo")
# x86-64 and ARM instructions that multiply int8 and accumulate in int32, as _CPU names them.
_INT8 = ("avx512_vnni", "avx_vnni", "asimddp", "i8mm")


@dataclass(frozen=True)
class Timing:
    """Milliseconds per step of one bundle; ratio: its smallest time over that of the first bundle.

    engine_ms, engine_ratio: smallest time and ratio of the engine alone, without host edges, checks or conversions.
    """

    bundle: str
    engine: str
    edges: str
    model_bytes: int
    minimum_ms: float
    median_ms: float
    p95_ms: float
    ratio: float
    engine_ms: float
    engine_ratio: float


class _TimedEngine:
    """An engine that records the seconds of every run in ``times``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self.times: list[float] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        begin = time.perf_counter()
        results = self._engine.run(feeds)
        self.times.append(time.perf_counter() - begin)
        return results


class _TimedBundle:
    """A bundle stepped over the frames of its golden clip. times, engine_times: seconds of each step."""

    def __init__(self, model: Model) -> None:
        self.model = model
        timed = _TimedEngine(model.engine)
        model.engine = timed
        self.golden: Golden = read_golden(model.bundle)
        self.state: State = model.initial_state()
        self.times: list[float] = []
        self.engine_times = timed.times
        self.count = 0

    def step(self) -> None:
        frame = self.golden.frames[self.count % len(self.golden.frames)]
        self.count += 1
        begin = time.perf_counter()
        _, self.state = self.model.step(frame, self.state)
        self.times.append(time.perf_counter() - begin)

    def warm_up(self) -> None:
        for _ in range(WARM_UP):
            self.step()
        self.times.clear()
        self.engine_times.clear()


def bench(
    folders: Sequence[str | os.PathLike[str]], rounds: int = 50, threads: int | None = 1, provider: str = "cpu"
) -> list[Timing]:
    """Time the bundles on the frames of their golden clips, in the order given. Raises what ``load_on`` raises."""
    streams = [_TimedBundle(load_on(folder, provider, threads)) for folder in folders]
    for stream in streams:
        stream.warm_up()
    for _ in range(rounds):
        for stream in streams:
            for _ in range(STEPS_PER_ROUND):
                stream.step()
    first, first_engine = min(streams[0].times), min(streams[0].engine_times)
    return [
        Timing(
            bundle=stream.model.bundle.folder.name,
            engine=stream.model.engine.name,
            edges=stream.model.bundle.edges,
            model_bytes=model_bytes(stream.model.bundle),
            minimum_ms=1e3 * min(stream.times),
            median_ms=1e3 * float(np.median(stream.times)),
            p95_ms=1e3 * float(np.percentile(stream.times, 95)),
            ratio=min(stream.times) / first,
            engine_ms=1e3 * min(stream.engine_times),
            engine_ratio=min(stream.engine_times) / first_engine,
        )
        for stream in streams
    ]


def model_bytes(bundle: Bundle) -> int:
    """Bytes that the engine loads: the bundle without its golden clip and manifest."""
    return sum(int(bundle.manifest["files"][name]["bytes"]) for name in bundle.model_files)


def machine() -> str:
    """The CPU in words: its name, its int8 dot product instructions and its number of hardware threads."""
    try:
        text = _CPU.read_text()
    except OSError:  # not Linux
        text = ""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine() or "unknown CPU"
    flags = facts.get("flags", facts.get("Features"))
    if flags is None:
        return f"{name}, {os.cpu_count()} hardware threads"
    found = [flag for flag in _INT8 if flag in flags.split()]
    return f"{name} ({', '.join(found) or 'no int8 dot product'}), {os.cpu_count()} hardware threads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge bench``."""
    parser.add_argument("bundles", nargs="+", help="bundle folders; the others are compared with the first")
    rounds = f"rounds, each with {STEPS_PER_ROUND} steps of every bundle (default: 50)"
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help=rounds)
    add_provider(parser)
    options.add_threads(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a table with one row per bundle."""
    options.check_least("--rounds", args.rounds, 1)
    options.check_least("--threads", args.threads, 1)
    timings = bench(args.bundles, args.rounds, args.threads, args.provider)
    out = options.text_stream(args.json)
    width = max(len(timing.bundle) for timing in timings)
    head = f"{'bundle':{width}}  {'model MB':>8}  {'min ms':>7}  {'median':>7}  {'p95':>7}  {'ratio':>5}  engine"
    print(head, file=out)
    for row in timings:
        print(
            f"{row.bundle:{width}}  {row.model_bytes / 1e6:8.2f}  {row.minimum_ms:7.2f}  {row.median_ms:7.2f}  "
            f"{row.p95_ms:7.2f}  {row.ratio:5.2f}  {row.engine}",
            file=out,
        )
    options.write_json(args.json, [asdict(row) for row in timings])
    return 0
