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
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lcr_edge.errors import CheckpointError, OutputError, ParityError, UsageError
from lcr_edge.files import write_atomically
from lcr_edge.runtimes import Model, judge, load
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.selftest import run as run_selftest
from lcr_edge.tolerances import CLIPS_PER_CLASS, LATE, STREAM_FRAMES

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.export.parity import Report

FRAMES = 500
_RENDERED = "rendered gestures"
# Clips of each class for a network whose accuracy on them means nothing: enough for streams.
_FEW = 4
# Processes of the command line that draw clips.
WORKERS = 2


def verify(
    bundle: str | os.PathLike[str],
    *,
    against: str | None = None,
    clip: str | None = None,
    frames: int = FRAMES,
    threads: int | None = 1,
    decisions: bool | None = None,
    workers: int = 1,
    progress: bool = False,
) -> Report:
    """Measure a bundle; see ``lcr_edge.export.parity.Report``. Needs torch.

    against: the checkpoint file it was exported from; by default the packaged one, or the random weights that its
    manifest names. The others as of :func:`measure_all`. Does not raise on a missed promise. Raises BundleError,
    CheckpointError (another checkpoint than the bundle's), VideoError, UsageError, MissingExtraError.
    """
    model = load(bundle, threads=threads)
    _check_frames(model, frames)
    checkpoint = reference_checkpoint(model.bundle, against)
    return measure_all(
        model, checkpoint, clip=clip, frames=frames, decisions=decisions, workers=workers, progress=progress
    )


def measure_all(
    model: Model,
    checkpoint: Checkpoint,
    *,
    clip: str | None = None,
    frames: int = FRAMES,
    decisions: bool | None = None,
    streams: int = STREAM_FRAMES,
    per_class: int = CLIPS_PER_CLASS,
    workers: int = 1,
    progress: bool = False,
) -> Report:
    """Everything that the bundle's precision promises, and in the report what else was measured.

    clip: a video file for the two modes, by default rendered gestures; frames: of it. decisions: also compare them on
    rendered gestures, by default where the precision promises something about them (int8): one stream of
    max(streams, frames) frames with shorter ones beside it, and ``per_class`` held-out clips of each gesture; and play
    the video from several places, where ``frames`` reaches the end of the window LATE. workers: processes that draw
    gestures, see ``clips.rendered_clips``. progress: bars on a terminal's stderr.

    Does not raise on a missed promise. Raises BundleError, VideoError, UsageError, MissingExtraError.
    """
    from lcr_edge.export import clips, parity
    from lcr_edge.export.decisions import measure_clips, why_not
    from lcr_edge.export.streams import measure_streams, measure_video

    _check_frames(model, frames)
    source = clips.stream(clip, model.bundle.config, frames)
    shown = clips.with_bar(source, "verifying", "frame", progress, frames)
    report = parity.measure(model, checkpoint.model, shown, _RENDERED if clip is None else Path(clip).name)
    if not (report.promise.drift is not None if decisions is None else decisions):
        return report
    shared = {"per_class": min(per_class, _FEW) if why_not(checkpoint) else per_class, "workers": workers}
    # A clip of fewer frames was asked for to be quick, or is for a look at the first ones.
    played = clip is not None and frames >= LATE[1]
    return dataclasses.replace(
        report,
        video=measure_video(model, checkpoint, str(clip), progress=progress) if played else None,
        streams=measure_streams(model, checkpoint, frames=max(streams, frames), **shared, progress=progress),
        clips=measure_clips(model, checkpoint, **shared, progress=progress),
    )


def _check_frames(model: Model, frames: int) -> None:
    from lcr_edge.export import clips

    clips.check_count(frames, max(2, judge.promised(model).settled + 1))


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
        make_folder(args.report)
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
        from lcr_edge.export.report import write_page

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
        from lcr_edge.export.bundle import read_parity

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


def make_folder(folder: Path) -> None:
    """Make the folder of the pages. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}; choose another --report") from error
