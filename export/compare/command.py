"""Compare the precisions of one network on every engine: size, decisions and speed, in one Markdown table.

Bundles that are in --out already are used again when they are of the same checkpoint (int8: and of the same
calibration), the others are exported; a missed promise is shown, and makes the exit code 1. ``--help`` needs no torch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lcr_edge.calibration import options as calibration
from lcr_edge.calibration.footage import MIN_CLIPS, MIN_SAMPLES
from lcr_edge.calibration.quant_plan import QUANT_MODES
from lcr_edge.config import CONFIGS, VARIANTS, get_config
from lcr_edge.errors import ParityError, UsageError
from lcr_edge.export.compare.table import BASE, ROUNDS, compare
from lcr_edge.export.options import find_checkpoint
from lcr_edge.export.targets import table as targets
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.measure import WORKERS
from lcr_edge.files import check_writable, write_atomically
from lcr_edge.options import check_choice
from lcr_edge.runtimes.bench import STEPS_PER_ROUND

if TYPE_CHECKING:
    from lcr_edge.config import Config

PRECISIONS = (*targets.PRECISIONS, *(f"int8:{quant}" for quant in QUANT_MODES))
_USUAL = (*targets.PRECISIONS, "int8:dynamic", "int8:weight-only")
MOST_THREADS = 256
# Frames that a bundle is checked over when only its speed is asked for.
QUICK_FRAMES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge compare``. Values are checked in :func:`run`, so that errors name the way out."""
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="a trained .safetensors file (default: the packaged lcr_nano)"
    )
    parser.add_argument("--config", metavar="NAME", help=f"one of {', '.join(CONFIGS)}; must be the checkpoint's")
    parser.add_argument("--random-weights", type=int, metavar="SEED", help="random weights instead")
    parser.add_argument("--variant", help=f"with --random-weights: one of {', '.join(VARIANTS)} (default: default)")
    every = ",".join(targets.TARGETS)
    parser.add_argument("--targets", default=every, metavar="LIST", help=f"of {every} (default: all)")
    parser.add_argument(
        "--precisions",
        default=",".join(_USUAL),
        metavar="LIST",
        help=f"of {', '.join(PRECISIONS)} (default: {','.join(_USUAL)}); fp32 is always among them",
    )
    parser.add_argument("--threads", default="1,2", metavar="LIST", help="CPU threads of one step (default: 1,2)")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"of {STEPS_PER_ROUND} steps each (default: {ROUNDS})"
    )
    parser.add_argument(
        "--speed-only", action="store_true", help="sizes and speed only: quick exports whose promises are not checked"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/compare"), metavar="DIR", help="folder of the bundles (out/compare)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    calibration.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table. Raises ParityError (exit 1), after it, when a promise is missed."""
    chosen = _list("target", args.targets, tuple(targets.TARGETS))
    precisions = dict.fromkeys((BASE, *_list("precision", args.precisions, PRECISIONS)))
    threads = [int(text) for text in _list("thread count", args.threads, tuple(map(str, range(1, MOST_THREADS + 1))))]
    if args.rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {args.rounds}")
    int8 = any(name.startswith("int8") for name in precisions)
    given = [name for name, value in vars(args).items() if name.startswith("calibration") and value is not None]
    if given and not int8:
        raise UsageError(f"--{given[0].replace('_', '-')}: only with int8 among --precisions")
    if args.speed_only and not given:
        # Ranges change neither size nor speed.
        args.calibration_clips, args.calibration_samples = MIN_CLIPS, MIN_SAMPLES
    calibration.check(args)
    if args.config is not None:
        get_config(args.config)
    for name in chosen:
        targets.require(targets.TARGETS[name], int8=int8)
    checkpoint = find_checkpoint(args)
    requests = dict.fromkeys(_request(checkpoint.config, name, text) for name in chosen for text in precisions)
    for folder in (args.out, *([args.json.parent] if args.json else [])):
        check_writable(folder)
    import torch

    from lcr_edge.export.exporter import Gate

    # The reference's matrices are small: more threads would mostly wait for each other.
    torch.set_num_threads(1)
    comparison = compare(
        checkpoint,
        tuple(requests),
        args.out,
        samples=lambda: calibration.samples_for(args, checkpoint),
        threads=threads,
        rounds=args.rounds,
        gate=Gate(frames=QUICK_FRAMES) if args.speed_only else Gate(workers=WORKERS),
        judged=not args.speed_only,
    )
    print(comparison.table())
    if args.json:
        write_atomically(args.json, (json.dumps(comparison.to_dict(), indent=2) + "\n").encode())
    if comparison.failures:
        raise ParityError(f"{len(comparison.failures)} promises were missed, see the end of the table")
    return 0


def _list(what: str, text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for part in parts:
        check_choice(what, part, allowed)
    return parts


def _request(config: Config, target: str, precision: str) -> Request:
    name, _, quant = precision.partition(":")
    return Request(config, target, name, quant=quant or targets.TARGETS[target].default_quant)
