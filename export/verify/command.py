"""Measure a bundle against the float PyTorch cell of its checkpoint; without torch, against its golden clip.

Two modes: one step from the reference's state, and a stream in which the bundle feeds its own state back. Logits and
both states are compared on every frame, by the promises of lcr_edge.tolerances. For int8 bundles, and for others on
request, the decisions on the network's own clips are compared too: on long streams and clip by clip.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import sys
from pathlib import Path

from lcr_edge.errors import MissingExtraError, ParityError, UsageError
from lcr_edge.export.verify.judge_data import add_judge_data
from lcr_edge.export.verify.measure import FRAMES, WORKERS, save_golden, verify
from lcr_edge.export.verify.report import Report
from lcr_edge.files import check_file, check_writable, write_atomically
from lcr_edge.options import (
    add_checkpoint,
    add_frames,
    add_json,
    add_threads,
    check_json,
    check_least,
    text_stream,
    write_json,
)
from lcr_edge.progress import load_torch
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.selftest import check_and_print
from lcr_edge.tolerances import CLIPS_PER_CLASS, STREAM_FRAMES

# Options that mean nothing to the check that needs no torch, with where argparse keeps them and their defaults.
_WITH_TORCH = {
    "--checkpoint": ("checkpoint", None),
    "--clip": ("clip", None),
    "--judge-data": ("judge_data", None),
    "--frames": ("frames", FRAMES),
    "--decisions": ("decisions", False),
    "--report": ("report", None),
    "--sensitivity": ("sensitivity", None),
    "--junit": ("junit", None),
    "--save-golden": ("save_golden", None),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge verify``."""
    parser.add_argument("bundle", help="bundle folder, as export wrote it")
    add_checkpoint(parser, "the packaged lcr_nano, or the random weights that the bundle was made of")
    parser.add_argument("--clip", metavar="FILE", help="a video; a short one is played forward and backward in turn")
    add_judge_data(parser)
    add_frames(parser, "frames to step", FRAMES)
    parser.add_argument(
        "--decisions",
        action="store_true",
        help=f"also compare decisions on the network's own clips: streams of {STREAM_FRAMES} frames, and up to "
        f"{CLIPS_PER_CLASS} clips of each class (int8: always)",
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write the report as DIR/BUNDLE.html")
    parser.add_argument(
        "--sensitivity",
        type=Path,
        metavar="FILE",
        help="with --report: show these figures, which lcr-edge sensitivity --json wrote (default: the export's own)",
    )
    add_json(parser, "also write the report as JSON")
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="also write each check as a test case of a JUnit XML file"
    )
    parser.add_argument(
        "--save-golden",
        type=Path,
        metavar="FILE",
        help="also write the frames and the reference's answers, for lcr-edge selftest --golden on a device",
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table. Raises ParityError (exit 1) when a promise is missed."""
    check_least("--threads", args.threads, 1)
    check_json(args.json)
    if importlib.util.find_spec("torch") is None:
        return _without_torch(args)
    bundle = read_bundle(args.bundle)
    _check_outputs(args, bundle)
    load_torch()
    import torch

    # The reference's matrices are small: more threads would mostly wait for each other.
    torch.set_num_threads(args.threads)
    print(f"loading {bundle.folder} and its reference", file=sys.stderr, flush=True)
    try:
        report = verify(
            args.bundle,
            checkpoint=args.checkpoint,
            clip=args.clip,
            judge_data=args.judge_data,
            frames=args.frames,
            threads=args.threads,
            decisions=args.decisions or None,
            workers=WORKERS,
            progress=True,
        )
    except ParityError as error:
        if args.junit is not None:
            from lcr_edge.export.verify.junit import junit_of_error

            write_atomically(args.junit, junit_of_error(str(bundle.manifest["name"]), str(error)))
        raise
    out = text_stream(args.json)
    print(report.table(), file=out)
    for path in _write_files(args, bundle, report):
        print(f"wrote {path}", file=out)
    write_json(args.json, report.to_json().decode())
    if not report.passed:
        raise ParityError(f"verify failed: {report.complaint}")
    print("passed", file=out)
    return 0


def _without_torch(args: argparse.Namespace) -> int:
    given = [option for option, (place, default) in _WITH_TORCH.items() if getattr(args, place) != default]
    if given:
        raise MissingExtraError("torch", "train", f"verify with {', '.join(given)}")
    print("torch is not installed: checking against the bundle's golden clip only (lcr-edge selftest)", file=sys.stderr)
    return check_and_print(args.bundle, args.threads, None, args.json)


def _check_outputs(args: argparse.Namespace, bundle: Bundle) -> None:
    """Find a place that cannot be written before the work, which may take long. Raises OutputError, UsageError."""
    if args.sensitivity is not None and args.report is None:
        raise UsageError("--sensitivity is shown on the page of --report: give that too")
    if args.report is not None:
        _sensitivity(args.sensitivity, bundle)
        check_writable(args.report, "--report")
    for option, path in (("--junit", args.junit), ("--save-golden", args.save_golden)):
        if path is not None:
            check_file(path, option)


def _write_files(args: argparse.Namespace, bundle: Bundle, report: Report) -> list[Path]:
    """Write the page, the JUnit file and the golden clip that the options ask for. Returns what was written."""
    written = []
    if args.report is not None:
        from lcr_edge.export.verify.page import write_page

        shown = dataclasses.replace(report, sensitivity=_sensitivity(args.sensitivity, bundle))
        path = args.report / f"{bundle.folder.resolve().name}.html"
        written.append(write_page(shown, path, bundle.manifest))
    if args.junit is not None:
        from lcr_edge.export.verify.junit import junit

        write_atomically(args.junit, junit(report))
        written.append(args.junit)
    if args.save_golden is not None:
        made_of = {"checkpoint": args.checkpoint, "clip": args.clip, "judge_data": args.judge_data}
        save_golden(args.save_golden, args.bundle, **made_of, frames=args.frames)
        written.append(args.save_golden)
    return written


def _sensitivity(file: Path | None, bundle: Bundle) -> tuple[tuple[str, float], ...]:
    """(layer, cost) for the page: from a file that ``lcr-edge sensitivity`` wrote, or as measured at the export.

    Raises UsageError for a file that it did not write or that is for another network or target, and BundleError.
    """
    if file is None:
        from lcr_edge.export.manifest import read_parity

        return tuple((str(name), float(cost)) for name, cost in read_parity(bundle).get("sensitivity", ()))
    again = f"make it with lcr-edge sensitivity --target {bundle.target} --json {file}"
    try:
        found = json.loads(file.read_text())
        made_for = found["checkpoint_sha256"], found["target"]
        rows = [(str(row["what"]), row["cost"]) for row in found["rows"] if row["kind"] == "layer"]
        costs = tuple((name, math.inf if cost is None else float(cost)) for name, cost in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--sensitivity {file} cannot be read ({error}); {again}") from error
    if made_for != (bundle.manifest.get("checkpoint_sha256"), bundle.target):
        raise UsageError(f"--sensitivity {file} is for another checkpoint or target than {bundle.folder}; {again}")
    return costs
