"""``lcr-edge bench BUNDLE [BUNDLE ...]``: the time of one step, all bundles in turn within one run.

A machine's speed drifts, so bundles are compared round by round: every round steps each bundle a few times, and the
ratio is that of the smallest times. The time is that of ``model.step``, host edges and checks included.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lcr_edge.errors import UsageError
from lcr_edge.files import write_atomically
from lcr_edge.runtimes.api import Model, State, load
from lcr_edge.runtimes.bundle import Golden, read_golden

WARM_UP = 5
STEPS_PER_ROUND = 4


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one step of a bundle; ratio: its smallest time over that of the first bundle."""

    bundle: str
    engine: str
    edges: str
    model_bytes: int
    minimum_ms: float
    median_ms: float
    p95_ms: float
    ratio: float


class _Stream:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.golden: Golden = read_golden(model.bundle)
        self.state: State = model.initial_state()
        self.times: list[float] = []
        self.count = 0

    def step(self) -> None:
        frame = self.golden.frames[self.count % len(self.golden.frames)]
        self.count += 1
        begin = time.perf_counter()
        _, self.state = self.model.step(frame, self.state)
        self.times.append(time.perf_counter() - begin)


def bench(folders: list[str], rounds: int = 50, threads: int | None = 1) -> list[Timing]:
    """Timings of the bundles in the order given, over the frames of their golden clips. Raises what ``load`` raises."""
    streams = [_Stream(load(folder, threads=threads)) for folder in folders]
    for stream in streams:
        for _ in range(WARM_UP):
            stream.step()
        stream.times.clear()
    for _ in range(rounds):
        for stream in streams:
            for _ in range(STEPS_PER_ROUND):
                stream.step()
    first = min(streams[0].times)
    return [
        Timing(
            bundle=stream.model.bundle.folder.name,
            engine=stream.model.engine.name,
            edges=stream.model.bundle.edges,
            model_bytes=sum(stream.model.manifest["files"][name]["bytes"] for name in stream.model.bundle.model_files),
            minimum_ms=1e3 * min(stream.times),
            median_ms=1e3 * float(np.median(stream.times)),
            p95_ms=1e3 * float(np.percentile(stream.times, 95)),
            ratio=min(stream.times) / first,
        )
        for stream in streams
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge bench``."""
    parser.add_argument("bundles", nargs="+", help="bundle folders; the first is what the others are compared with")
    parser.add_argument("--rounds", type=int, default=50, help=f"of {STEPS_PER_ROUND} steps each (default: 50)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one step (default: 1)")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Print a table, one row a bundle."""
    if args.rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {args.rounds}")
    timings = bench(args.bundles, args.rounds, args.threads)
    width = max(len(timing.bundle) for timing in timings)
    print(f"{'bundle':{width}}  {'model MB':>8}  {'min ms':>7}  {'median':>7}  {'p95':>7}  {'ratio':>5}  engine")
    for row in timings:
        print(
            f"{row.bundle:{width}}  {row.model_bytes / 1e6:8.2f}  {row.minimum_ms:7.2f}  {row.median_ms:7.2f}  "
            f"{row.p95_ms:7.2f}  {row.ratio:5.2f}  {row.engine}"
        )
    if args.json:
        write_atomically(Path(args.json), (json.dumps([asdict(row) for row in timings], indent=2) + "\n").encode())
    return 0
