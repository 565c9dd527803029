"""Compare the precisions of one network on every engine: size, decisions and speed, in one Markdown table.

A bundle that is already in --out is used again if it comes from the same checkpoint (int8: and the same calibration).
The others are exported. A missed promise is shown, and the exit code is then 1. ``--help`` needs no torch.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lcr_edge.calibration import options as calibration
from lcr_edge.calibration.footage import MIN_CLIPS, MIN_SAMPLES
from lcr_edge.calibration.quant_plan import QUANT_MODES
from lcr_edge.errors import ParityError, UsageError
from lcr_edge.export.compare.measure import BASE, ROUNDS, compare
from lcr_edge.export.options import add_network, check_network, find_checkpoint
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import PRECISIONS, TARGETS, require
from lcr_edge.export.verify.measure import WORKERS
from lcr_edge.files import check_writable
from lcr_edge.options import add_json, add_out, check_choice, check_json, check_least, text_stream, write_json
from lcr_edge.runtimes.speed.timing import STEPS_PER_ROUND

if TYPE_CHECKING:
    from lcr_edge.config import Config

COMPARED = (*PRECISIONS, *(f"int8:{quant}" for quant in QUANT_MODES))
_USUAL = (*PRECISIONS, "int8:dynamic", "int8:weight-only")
MOST_THREADS = 256
# Frames that a bundle is checked over when only its speed is asked for.
QUICK_FRAMES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge compare``. Values are checked in :func:`run`, so that errors name the way out."""
    add_network(parser)
    every = ",".join(TARGETS)
    parser.add_argument("--targets", default=every, metavar="LIST", help=f"some of {every} (default: all)")
    parser.add_argument(
        "--precisions",
        default=",".join(_USUAL),
        metavar="LIST",
        help=f"some of {', '.join(COMPARED)} (default: {','.join(_USUAL)}); fp32 is always included",
    )
    parser.add_argument("--threads", default="1,2", metavar="LIST", help="CPU threads of one step (default: 1,2)")
    parser.add_argument(
        "--rounds",
        type=int,
        default=ROUNDS,
        metavar="N",
        help=f"rounds of timing, {STEPS_PER_ROUND} steps each (default: {ROUNDS})",
    )
    parser.add_argument(
        "--speed-only", action="store_true", help="sizes and speed only: quick exports whose promises are not checked"
    )
    calibration.add_arguments(parser)
    add_out(parser, "folder of the bundles", default="out/compare")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table. Raises ParityError (exit 1), after it, when a promise is missed."""
    targets = _list("target", args.targets, tuple(TARGETS))
    precisions = tuple(dict.fromkeys((BASE, *_list("precision", args.precisions, COMPARED))))
    threads = _threads(args.threads)
    check_least("--rounds", args.rounds, 1)
    int8 = any(name.startswith("int8") for name in precisions)
    _check_calibration(args, int8)
    check_network(args, int8)
    for name in targets:
        require(TARGETS[name], int8=int8)
    checkpoint = find_checkpoint(args)
    requests = dict.fromkeys(
        _request(checkpoint.config, name, text)
        for name in targets
        for text in precisions
        if text.partition(":")[0] in TARGETS[name].precisions
    )
    check_writable(args.out)
    check_json(args.json)
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
    print(comparison.table(), file=text_stream(args.json))
    write_json(args.json, comparison.to_dict())
    if comparison.failures:
        raise ParityError(f"{len(comparison.failures)} promises were missed; they are listed below the table")
    return 0


def _check_calibration(args: argparse.Namespace, int8: bool) -> None:
    """UsageError for options of calibration that are out of range, or that nothing would use.

    With --speed-only and without such options, sets the smallest calibration: ranges change neither size nor speed.
    """
    given = calibration.given(args)
    if given and not int8:
        raise UsageError(f"{', '.join(given)}: only with int8 among --precisions")
    if args.speed_only and not given:
        args.calibration_clips, args.calibration_samples = MIN_CLIPS, MIN_SAMPLES
    calibration.check(args)


def _list(what: str, text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for part in parts:
        check_choice(what, part, allowed)
    return parts


def _threads(text: str) -> tuple[int, ...]:
    allowed = {str(count): count for count in range(1, MOST_THREADS + 1)}
    parts = dict.fromkeys(part.strip() for part in text.split(","))
    if not set(parts) <= set(allowed):
        raise UsageError(f"--threads must be a comma-separated list of numbers from 1 to {MOST_THREADS}, got {text!r}")
    return tuple(allowed[part] for part in parts)


def _request(config: Config, target: str, precision: str) -> Request:
    name, _, quant = precision.partition(":")
    return Request(config, target, name, quant=quant or TARGETS[target].default_quant)
