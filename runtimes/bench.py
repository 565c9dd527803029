"""``lcr-edge bench BUNDLE [BUNDLE ...]``: the time of one step, where it goes, and what it takes of the machine.

All bundles take turns within one run (``runtimes.speed.timing``). Beside the steps stand their floor, the memory of a
process that runs the bundle alone, energy where the machine has a meter, and what the machine says of itself.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lcr_edge import options
from lcr_edge.files import check_file, write_atomically
from lcr_edge.runtimes.golden import read_golden
from lcr_edge.runtimes.provider import add_provider, load_on
from lcr_edge.runtimes.speed.energy import find_meter
from lcr_edge.runtimes.speed.machine import condition, machine, sentences
from lcr_edge.runtimes.speed.memory import Memory, measure
from lcr_edge.runtimes.speed.page import page
from lcr_edge.runtimes.speed.timing import STEPS_PER_ROUND, Stepper, Timing, bench

_ENERGY_STEPS = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge bench``."""
    parser.add_argument("bundles", nargs="+", help="bundle folders; the others are compared with the first")
    rounds = f"rounds, each with {STEPS_PER_ROUND} steps of every bundle (default: 100)"
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help=rounds)
    parser.add_argument("--quick", action="store_true", help="time the steps only: no floor, no memory, no energy")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also write a page with bars, HTML")
    options.add_threads(parser)
    add_provider(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a table with one row per bundle, and lines about the machine.

    Raises what ``load_on`` raises, and OutputError.
    """
    options.check_least("--rounds", args.rounds, 1)
    options.check_least("--threads", args.threads, 1)
    options.check_json(args.json)
    if args.plot is not None:
        check_file(args.plot, "--plot")
    before = condition()
    timings = bench(args.bundles, args.rounds, args.threads, floors=not args.quick, provider=args.provider)
    after = condition()
    notes = [f"{row.bundle}: no floor, {row.floor_note}." for row in timings if row.floor_ms is None]
    memory: list[Memory | None] = [None] * len(timings)
    energy: dict[str, Any] = {"meter": None, "why": "not asked for"}
    joules: list[float | None] = [None] * len(timings)
    if args.quick:
        notes = []
    else:
        for number, folder in enumerate(args.bundles):
            memory[number], why = measure(folder, args.threads, args.provider)
            if why:
                notes.append(f"{timings[number].bundle}: memory not available, {why}.")
        joules, energy = _energy(args.bundles, args.threads, args.provider)
        notes.append(_energy_sentence(timings, joules, energy))
    notes[:0] = [
        f"{row.bundle} steps {row.streams} streams in a call: its times are a call's, divided by {row.streams}."
        for row in timings
        if row.streams > 1
    ]
    lines = [
        f"Machine: {machine()}. Steps on {args.threads} thread{'s' if args.threads > 1 else ''}.",
        *sentences(before, after),
        *notes,
    ]
    out = options.text_stream(args.json)
    print("\n".join([*table(timings, memory), "", *lines]), file=out)
    report = {
        "machine": machine(),
        "threads": args.threads,
        "rounds": args.rounds,
        "steps": args.rounds * STEPS_PER_ROUND,
        "condition": {"before": before, "after": after},
        "energy": energy,
        "bundles": [
            {**asdict(row), "memory": None if used is None else asdict(used), "joules_per_step": taken}
            for row, used, taken in zip(timings, memory, joules)
        ],
    }
    options.write_json(args.json, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if args.plot is not None:
        write_atomically(args.plot, page(timings, lines).encode())
    return 0


def table(timings: Sequence[Timing], memory: Sequence[Memory | None]) -> list[str]:
    """The lines of the table; times in milliseconds."""
    width = max(6, *(len(row.bundle) for row in timings))
    head = ("MB", "min", "p50", "p95", "p99", "ratio", "fit", "edges", "engine", "Python", "floor", "/floor")
    widths = (5, 6, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 8, 4)
    rows: list[tuple[str, ...]] = [("bundle", *head, "16 steps", "RSS")]
    for row, used in zip(timings, memory):
        rows.append(
            (
                row.bundle,
                f"{row.model_bytes / 1e6:.2f}",
                *(f"{value:.2f}" for value in (row.minimum_ms, row.median_ms, row.p95_ms, row.p99_ms, row.ratio)),
                *(f"{value:.2f}" for value in (row.fit_ms, row.edges_ms)),
                f"{row.engine_ms:.2f}",
                f"{row.python_ms:.3f}",
                "-" if row.floor_ms is None else f"{row.floor_ms:.2f}",
                "-" if row.floor_ratio is None else f"{row.floor_ratio:.2f}",
                f"{row.window_ms:.1f}",
                "-" if used is None else f"{used.stepped / 1e6:.0f}",
            )
        )
    return [
        f"{name:{width}} " + " ".join(f"{cell:>{size}}" for cell, size in zip(cells, widths)) for name, *cells in rows
    ]


def _energy(
    folders: Sequence[str | os.PathLike[str]], threads: int | None, provider: str
) -> tuple[list[float | None], dict[str, Any]]:
    """Joules of a step of each bundle alone, by the machine's meter, and what the meter is."""
    meter, why = find_meter()
    if meter is None:
        return [None] * len(folders), {"meter": None, "why": why}
    found: list[float | None] = []
    for folder in folders:
        model = load_on(folder, provider, threads)
        frames = read_golden(model.bundle).frames
        stepper, streams = Stepper(model), model.batch

        def work(stepper: Stepper = stepper, streams: int = streams, frames: Any = frames) -> None:
            for number in range(_ENERGY_STEPS):
                stepper.step([frames[number % len(frames)]] * streams)

        taken = meter.joules(work)
        found.append(None if taken is None else taken / _ENERGY_STEPS / streams)
    return found, {"meter": meter.name, "why": ""}


def _energy_sentence(timings: Sequence[Timing], joules: Sequence[float | None], energy: dict[str, Any]) -> str:
    if energy["meter"] is None:
        return f"Energy: not available, {energy['why']}."
    each = ", ".join(
        f"{row.bundle} {'-' if taken is None else f'{1e3 * taken:.2f} mJ'}" for row, taken in zip(timings, joules)
    )
    return f"Energy of a step: {each}; of the whole {energy['meter']}, idling and other programs included."
