"""The options of calibration on the command line, and the samples that they ask for."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lcr_edge.calibration import samples as kept
from lcr_edge.calibration.footage import CLIPS, SAMPLES, check_numbers, source_name
from lcr_edge.errors import CalibrationError, UsageError

if TYPE_CHECKING:
    from lcr_edge.calibration.samples import Samples
    from lcr_edge.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of calibration. They are None unless given, so that a cache is compared with what was asked for only."""
    group = parser.add_argument_group("calibration (int8)")
    group.add_argument(
        "--calibration-data",
        metavar="SPEC",
        help="clips to calibrate on: a folder of videos (labels do not matter), jester:FOLDER, ssv2:FOLDER, "
        "kinetics:FOLDER, folder:FOLDER, rendered or rendered:CLIPS_PER_CLASS (default: rendered)",
    )
    group.add_argument("--calibration-clips", type=int, metavar="N", help=f"clips to go over (default: {CLIPS})")
    group.add_argument(
        "--calibration-samples", type=int, metavar="N", help=f"frames to keep of them (default: {SAMPLES})"
    )
    group.add_argument(
        "--calibration-cache",
        type=Path,
        metavar="FILE",
        help="keep the samples in this .npz file, or take them from there if it exists",
    )
    group.add_argument("--calibration-seed", type=int, metavar="N", help="of every random choice (default: 0)")


def check(args: argparse.Namespace) -> None:
    """Find what is wrong with the options before the work, without torch. Raises UsageError."""
    check_numbers(*_numbers(args))
    cache: Path | None = args.calibration_cache
    if cache is None or cache.is_file():
        return
    if cache.exists():
        raise UsageError(f"--calibration-cache {cache} is no file; give the name of a file to write")
    if not cache.parent.is_dir() or not os.access(cache.parent, os.W_OK):
        raise UsageError(f"--calibration-cache {cache}: cannot write to the folder {cache.parent}; choose another")


def samples_for(args: argparse.Namespace, checkpoint: Checkpoint) -> Samples:
    """The samples that the options ask for: from the cache when that file exists, else collected, and kept there.

    What is done is told on stderr. Raises UsageError, OutputError and CalibrationError: for what ``collect`` cannot do,
    a cache that ``samples.load`` refuses, and one made with other data, numbers or seed than were given explicitly.
    """
    check(args)
    cache: Path | None = args.calibration_cache
    if cache is not None and cache.exists():
        found = kept.load(cache, checkpoint)
        _compare(args, found, checkpoint)
        print(f"calibration: {len(found)} samples of {found.source} from {cache}", file=sys.stderr)
        return found
    # Here, not above: it needs torch, --help does not.
    from lcr_edge.calibration.collect import collect

    clips, count, seed = _numbers(args)
    print(f"calibration: going over {clips} clips of {args.calibration_data or 'rendered gestures'}", file=sys.stderr)
    found = collect(checkpoint, args.calibration_data, clips=clips, samples=count, seed=seed, progress=True)
    if cache is not None:
        kept.save(cache, found)
        print(f"calibration: wrote {len(found)} samples to {cache}", file=sys.stderr)
    return found


def _numbers(args: argparse.Namespace) -> tuple[int, int, int]:
    """Clips, samples and seed, with what they are by default."""
    given = (args.calibration_clips, args.calibration_samples, args.calibration_seed)
    clips, count, seed = (usual if value is None else int(value) for value, usual in zip(given, (CLIPS, SAMPLES, 0)))
    return clips, count, seed


def _compare(args: argparse.Namespace, found: Samples, checkpoint: Checkpoint) -> None:
    made = {"clips": found.clips, "samples": len(found), "seed": found.seed, "data": found.source}
    asked = {name: getattr(args, f"calibration_{name}") for name in made}
    if asked["data"] is not None:
        asked["data"] = source_name(asked["data"], checkpoint.config)
    for name, value in asked.items():
        if value is not None and value != made[name]:
            raise CalibrationError(
                f"{args.calibration_cache} was made with {name} {made[name]}, --calibration-{name} asks for {value}: "
                "delete the file, give another --calibration-cache, or leave the option out"
            )
