"""The options of calibration on the command line, and the samples that they ask for.

A command that takes them also takes ``--seed`` (``lcr_edge.options.add_seed`` with None as its default).
"""

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

# Where argparse keeps each option of add_arguments.
OPTIONS = {
    "--calibration-data": "calibration_data",
    "--calibration-clips": "calibration_clips",
    "--calibration-samples": "calibration_samples",
    "--calibration-cache": "calibration_cache",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of calibration. They are None unless given, so that a cache is checked only against what was given."""
    group = parser.add_argument_group("calibration (int8)")
    group.add_argument(
        "--calibration-data",
        metavar="SPEC",
        help="clips to calibrate on: a folder of videos (labels do not matter), jester:FOLDER, ssv2:FOLDER, "
        "kinetics:FOLDER, folder:FOLDER, rendered or rendered:CLIPS_PER_CLASS (default: the network's judge "
        "pack, or rendered)",
    )
    group.add_argument("--calibration-clips", type=int, metavar="N", help=f"clips to go over (default: {CLIPS})")
    group.add_argument(
        "--calibration-samples", type=int, metavar="N", help=f"frames to keep from them (default: {SAMPLES})"
    )
    group.add_argument(
        "--calibration-cache",
        type=Path,
        metavar="FILE",
        help="save the samples in this .npz file, or read them from it if it exists",
    )


def given(args: argparse.Namespace) -> tuple[str, ...]:
    """The options of calibration that were given, as spelt on the command line."""
    return tuple(option for option, place in OPTIONS.items() if getattr(args, place) is not None)


def check(args: argparse.Namespace) -> None:
    """Check the options before the work starts, without torch. Raises UsageError."""
    check_numbers(*_numbers(args))
    cache: Path | None = args.calibration_cache
    if cache is None or cache.is_file():
        return
    if cache.exists():
        raise UsageError(f"--calibration-cache {cache} is not a file; give the name of a file to write")
    if not cache.parent.is_dir() or not os.access(cache.parent, os.W_OK):
        raise UsageError(f"--calibration-cache {cache}: cannot write to the folder {cache.parent}; choose another")


def samples_for(args: argparse.Namespace, checkpoint: Checkpoint) -> Samples:
    """The samples that the options ask for: from the cache if that file exists, else collected and saved there.

    Progress is reported on stderr. Raises UsageError, OutputError, and CalibrationError: if ``collect`` fails, if
    ``samples.load`` refuses the cache, or if the cache was made with data, numbers or a seed that differ from the
    options.
    """
    check(args)
    cache: Path | None = args.calibration_cache
    if cache is not None and cache.exists():
        found = kept.load(cache, checkpoint)
        _compare(args, found, checkpoint)
        print(f"calibration: {len(found)} samples of {found.source} from {cache}", file=sys.stderr)
        return found
    # Imported here because it needs torch and --help does not.
    from lcr_edge.calibration.collect import collect

    clips, count, seed = _numbers(args)
    print(f"calibration: going over {clips} clips of {_shown(args, checkpoint)}", file=sys.stderr)
    found = collect(checkpoint, args.calibration_data, clips=clips, samples=count, seed=seed, progress=True)
    if cache is not None:
        kept.save(cache, found)
        print(f"calibration: wrote {len(found)} samples to {cache}", file=sys.stderr)
    return found


def _shown(args: argparse.Namespace, checkpoint: Checkpoint) -> str:
    """What is gone over, for people."""
    if args.calibration_data is not None:
        return str(args.calibration_data)
    return "rendered gestures" if checkpoint.judge is None else "its judge pack"


def _numbers(args: argparse.Namespace) -> tuple[int, int, int]:
    """Clips, samples and seed, with their defaults."""
    asked = (args.calibration_clips, args.calibration_samples, args.seed)
    clips, count, seed = (usual if value is None else int(value) for value, usual in zip(asked, (CLIPS, SAMPLES, 0)))
    return clips, count, seed


def _compare(args: argparse.Namespace, found: Samples, checkpoint: Checkpoint) -> None:
    """Raise CalibrationError if a cache was made with other values than the options give."""
    data = None if args.calibration_data is None else source_name(args.calibration_data, checkpoint.config)
    rows = (
        ("data", "--calibration-data", data, found.source),
        ("clips", "--calibration-clips", args.calibration_clips, found.clips),
        ("samples", "--calibration-samples", args.calibration_samples, len(found)),
        ("seed", "--seed", args.seed, found.seed),
    )
    for name, option, asked, made in rows:
        if asked is not None and asked != made:
            raise CalibrationError(
                f"{args.calibration_cache} was made with {name} {made}, but {option} asks for {asked}: delete the "
                "file, name another --calibration-cache, or leave the option out"
            )
