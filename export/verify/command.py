"""Measure a bundle against the float PyTorch cell of its checkpoint; without torch, against its golden clip.

Two modes: one step from the reference's state, and a stream in which the bundle feeds its own state back. Logits and
both states are compared on every frame, by the promises of lcr_edge.tolerances. Of int8 bundles, and of others on
request, the decisions on rendered gestures are compared too: on long streams and clip by clip.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lcr_edge.errors import ParityError, UsageError
from lcr_edge.export.verify.measure import FRAMES, WORKERS, save_golden, verify
from lcr_edge.files import make_folder, write_atomically
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.selftest import run as run_selftest
from lcr_edge.tolerances import CLIPS_PER_CLASS, STREAM_FRAMES

if TYPE_CHECKING:
    pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge verify``."""
    parser.add_argument("bundle", help="bundle folder, as export wrote it")
    parser.add_argument(
        "--against", metavar="CHECKPOINT", help="the checkpoint it was exported from (default: packaged)"
    )
    parser.add_argument("--clip", metavar="FILE", help="a video; a short one is played forward and backward in turn")
    parser.add_argument("--frames", type=int, default=FRAMES, metavar="N", help=f"frames to step (default: {FRAMES})")
    parser.add_argument(
        "--decisions",
        action="store_true",
        help=f"also compare decisions on rendered gestures: streams of {STREAM_FRAMES} frames and {CLIPS_PER_CLASS} "
        "clips of each class (int8: always)",
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write the report as DIR/BUNDLE.html")
    parser.add_argument(
        "--sensitivity",
        type=Path,
        metavar="FILE",
        help="with --report: show these figures, which lcr-edge sensitivity --json wrote (default: the export's own)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    parser.add_argument(
        "--save-golden",
        type=Path,
        metavar="FILE",
        help="also write the frames and the reference's answers, for lcr-edge selftest --golden on a device",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of one step (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Print the table. Raises ParityError (exit 1) when a promise is missed."""
    if importlib.util.find_spec("torch") is None:
        print(
            "torch is not installed: checking against the bundle's golden clip only (lcr-edge selftest)",
            file=sys.stderr,
        )
        golden = argparse.Namespace(bundle=args.bundle, threads=args.threads, golden=None, json=args.json)
        return run_selftest(golden)
    import torch

    # The reference's matrices are small: more threads would mostly wait for each other.
    torch.set_num_threads(max(args.threads, 1))
    if args.sensitivity is not None and args.report is None:
        raise UsageError("--sensitivity is shown on the page of --report: give that too")
    if args.report is not None:  # before the work, which may take long
        make_folder(args.report, "--report")
        _sensitivity(args.sensitivity, read_bundle(args.bundle))
    report = verify(
        args.bundle,
        against=args.against,
        clip=args.clip,
        frames=args.frames,
        threads=args.threads,
        decisions=args.decisions or None,
        workers=WORKERS,
        progress=True,
    )
    print(report.table())
    if args.json:
        write_atomically(Path(args.json), report.to_json())
    if args.report is not None:
        from lcr_edge.export.verify.page import write_page

        bundle = read_bundle(args.bundle)
        report = dataclasses.replace(report, sensitivity=_sensitivity(args.sensitivity, bundle))
        path = args.report / f"{bundle.folder.resolve().name}.html"
        print(f"wrote {write_page(report, path, bundle.manifest)}")
    if args.save_golden:
        save_golden(args.save_golden, args.bundle, against=args.against, clip=args.clip, frames=args.frames)
        print(f"wrote {args.save_golden}")
    if not report.passed:
        raise ParityError(f"verify failed: {report.complaint}")
    print("passed")
    return 0


def _sensitivity(file: Path | None, bundle: Bundle) -> tuple[tuple[str, float], ...]:
    """(layer, cost) for the page: from a file of ``lcr-edge sensitivity``, or as measured at the export.

    Raises UsageError for a file that is none, or of another network or target than the bundle, and BundleError.
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
        raise UsageError(f"--sensitivity {file} is of another checkpoint or target than {bundle.folder}; {again}")
    return costs
