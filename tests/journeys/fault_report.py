"""Plant faults in real bundles of the packaged network, and see whether verify and selftest notice.

    .venv/bin/python tests/journeys/planted_faults

Each fault is planted in one bundle: in the converter's file, in the prepared cell, in the code around the step, in the
manifest or the golden clip, or in how a frame is prepared. Digests are made right again, so that none of it is found by
them alone. By default a fault in a file or a cell is planted once on each engine, and one in the code around it on one
engine, with precisions that change from row to row; --all plants it in every way that it can be. Prints each planting
to stderr as it comes, then a table with a row for each kind, and exits with 1 if verify misses a fault, or complains
about a bundle without one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from lcr_edge import checkpoint
from lcr_edge.calibration import samples as caches
from lcr_edge.calibration.collect import collect
from lcr_edge.errors import LcrError
from tests.journeys.fault_bench import Answer, Bench
from tests.journeys.fault_table import ALL, ENGINES, FAULTS, HEALTHY, Fault

_HEAD = """\
| fault | planted in | on | one step, rms error / std | caught by `verify` | caught by `selftest` |
|---|---|---|---|---|---|"""


class _Row(NamedTuple):
    """One planting: engine and precision, the largest error of one step, and which checks of each command saw it."""

    on: str
    worst: str
    verify: str
    selftest: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every fault on every engine and in every precision")
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="faults whose kind contains one of these, separated by commas"
    )
    parser.add_argument("--frames", type=int, default=24, help="frames that verify steps (default: 24)")
    parser.add_argument("--work", type=Path, help="keep healthy bundles and calibration samples here for the next time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="lcr_edge_faults_") as temporary:
        return _run(args, args.work or Path(temporary))


def _run(args: argparse.Namespace, work: Path) -> int:
    network = checkpoint.load()
    kept = work / "samples.npz"
    if not kept.is_file():
        work.mkdir(parents=True, exist_ok=True)
        caches.save(kept, collect(network, None))
    bench = Bench(network, caches.load(kept, network), work, args.frames)
    wanted = args.only.split(",")
    rows = [row for row in _rows(args.all) if any(text in row[0].kind for text in wanted)]
    caught = planted = alarms = 0
    missed: list[str] = []
    kinds: dict[tuple[str, str], list[_Row]] = {}
    for fault, target, precision in rows:
        verified, tested = _ask(bench, fault, target, precision)
        shown = verified.short or ("passed" if fault is HEALTHY else "**nothing**")
        unseen = f"cannot: {fault.unseen}" if fault.unseen else "nothing"
        row = _Row(f"{target} {precision}", f"{verified.worst:.1e}", shown, tested.short or unseen)
        kinds.setdefault((fault.kind, fault.where), []).append(row)
        print(f"{fault.kind}: {', '.join(row)}", file=sys.stderr, flush=True)
        if fault is HEALTHY:
            alarms += bool(verified.caught) + bool(tested.caught)
            continue
        planted += 1
        caught += bool(verified.caught)
        if not verified.caught:
            missed.append(f"{fault.kind}, {target} {precision}")
    print(_HEAD)
    for (kind, where), found in kinds.items():
        on, worst, verify, self = (tuple(dict.fromkeys(cells)) for cells in zip(*found))
        cells = (kind, where, ", ".join(on), "; ".join(worst).replace("nan", "-"), " / ".join(verify), " / ".join(self))
        print(f"| {' | '.join(cells)} |")
    print(f"\ncaught {caught} of {planted}; {alarms} complaints about bundles without a fault")
    for text in missed:
        print(f"missed: {text}")
    return 1 if missed or alarms else 0


def _rows(everything: bool) -> Iterator[tuple[Fault, str, str]]:
    for target in ENGINES:
        for precision in ALL:
            yield HEALTHY, target, precision
    for number, fault in enumerate(FAULTS):
        one = fault.where not in ("file", "cell") and not everything
        for place, target in enumerate(fault.engines):
            if one and place != number % len(fault.engines):
                continue
            turn = fault.precisions[(number + place) % len(fault.precisions)]
            for precision in fault.precisions if everything else (turn,):
                yield fault, target, precision


def _ask(bench: Bench, fault: Fault, target: str, precision: str) -> tuple[Answer, Answer]:
    """Whether the export, verify and selftest notice. An export that refuses leaves nothing to ask the others about."""
    try:
        with fault.plant(bench, target, precision) as folder:
            return bench.ask_verify(folder), bench.ask_selftest(folder)
    except LcrError as error:
        print(error, file=sys.stderr)
        return Answer(("refused by the export",)), Answer(("not asked",))
