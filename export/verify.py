"""Measure a bundle against the float PyTorch cell of its checkpoint; without torch, against its golden clip.

Two modes: one step from the reference's state, and a stream in which the bundle feeds its own state back. Logits and
both states are compared on every frame, by the promises of lcr_edge.tolerances.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lcr_edge.errors import CheckpointError, ParityError
from lcr_edge.files import write_atomically
from lcr_edge.runtimes import load
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.selftest import run as run_selftest

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.export.parity import Report

FRAMES = 500
_RENDERED = "rendered gestures"


def verify(
    bundle: str | os.PathLike[str],
    *,
    against: str | None = None,
    clip: str | None = None,
    frames: int = FRAMES,
    threads: int | None = 1,
    progress: bool = False,
) -> Report:
    """Measure a bundle; see ``lcr_edge.export.parity.Report``. Needs torch.

    against: the checkpoint file it was exported from; by default the packaged one, or the random weights that its
    manifest names. clip: a video file, by default rendered gestures. Does not raise on a missed promise. Raises
    BundleError, CheckpointError (another checkpoint than the bundle's), VideoError, UsageError, MissingExtraError.
    """
    from lcr_edge.export import clips, parity

    clips.check_count(frames)
    model = load(bundle, threads=threads)
    checkpoint = reference_checkpoint(model.bundle, against)
    source = clips.stream(clip, model.bundle.config, frames)
    shown = _with_progress(source, frames) if progress else source
    return parity.measure(model, checkpoint.model, shown, _RENDERED if clip is None else Path(clip).name)


def save_golden(
    path: Path, bundle: str | os.PathLike[str], *, against: str | None = None, clip: str | None = None, frames: int
) -> None:
    """Write the clip and the reference's answers to ``path`` (.npz), for a long selftest where there is no torch.

    Raises what :func:`verify` raises, and OutputError.
    """
    from lcr_edge.calibration.rollout import roll
    from lcr_edge.export import clips
    from lcr_edge.export.bundle import golden_bytes

    checked = read_bundle(bundle)
    checkpoint = reference_checkpoint(checked, against)
    write_atomically(path, golden_bytes(roll(checkpoint.model, clips.stream(clip, checked.config, frames))))


def reference_checkpoint(bundle: Bundle, against: str | None = None) -> Checkpoint:
    """The checkpoint that a bundle was exported from. CheckpointError when its sha256 is another one."""
    from lcr_edge import checkpoint

    seed = bundle.manifest.get("random_seed")
    if against is None and isinstance(seed, int):
        found = checkpoint.random_checkpoint(bundle.config, seed)
        origin = f"random weights of seed {seed}"
    else:
        found = checkpoint.load(against)
        origin = "the packaged checkpoint" if against is None else str(against)
    wanted = str(bundle.manifest.get("checkpoint_sha256"))
    if found.sha256 != wanted:
        raise CheckpointError(
            f"bundle {bundle.folder} was exported from another checkpoint (sha256 {wanted[:12]}..., {origin} has "
            f"{found.sha256[:12]}...): give its file with --against, or export the bundle again"
        )
    return found


def _with_progress(source: Iterable[npt.NDArray[np.uint8]], total: int) -> Iterator[npt.NDArray[np.uint8]]:
    try:
        from tqdm import tqdm
    except ImportError:
        yield from source
        return
    # Not on a log file: a bar is for people who wait.
    yield from tqdm(source, total=total, desc="verifying", unit="frame", leave=False, disable=not sys.stderr.isatty())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge verify``."""
    parser.add_argument("bundle", help="bundle folder, as export wrote it")
    parser.add_argument(
        "--against", metavar="CHECKPOINT", help="the checkpoint it was exported from (default: packaged)"
    )
    parser.add_argument("--clip", metavar="FILE", help="a video; a short one is played forward and backward in turn")
    parser.add_argument("--frames", type=int, default=FRAMES, metavar="N", help=f"frames to step (default: {FRAMES})")
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
    report = verify(
        args.bundle, against=args.against, clip=args.clip, frames=args.frames, threads=args.threads, progress=True
    )
    print(report.table())
    if args.json:
        write_atomically(Path(args.json), (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    if args.save_golden:
        save_golden(args.save_golden, args.bundle, against=args.against, clip=args.clip, frames=args.frames)
        print(f"wrote {args.save_golden}")
    if not report.passed:
        raise ParityError("verify failed: " + "; ".join(report.failures))
    print("passed")
    return 0
