"""All that is measured of a bundle: the two modes of ``parity``, and the decisions of ``streams`` and ``decisions``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lcr_edge.errors import CheckpointError
from lcr_edge.files import write_atomically
from lcr_edge.progress import with_bar
from lcr_edge.runtimes import Model, load
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.checks import promised
from lcr_edge.tolerances import CLIPS_PER_CLASS, LATE, STREAM_FRAMES

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.export.verify.report import Report

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
    """Measure a bundle; see ``lcr_edge.export.verify.parity.Report``. Needs torch.

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

    clip: a video file for the two modes, fitted as the bundle says, by default rendered gestures; frames: of it.
    decisions: also compare them on rendered gestures, by default where the precision promises something about them
    (int8): one stream of max(streams, frames) frames with shorter ones beside it, and ``per_class`` held-out clips of
    each gesture; and play the video from several places, where ``frames`` reaches the end of the window LATE. workers:
    processes that draw gestures, see ``clips.rendered_clips``. progress: bars on a terminal's stderr.

    Does not raise on a missed promise. Raises BundleError, VideoError, UsageError, MissingExtraError.
    """
    from lcr_edge.export.verify import clips, parity
    from lcr_edge.export.verify.decisions import measure_clips, why_not
    from lcr_edge.export.verify.streams import measure_streams, measure_video

    _check_frames(model, frames)
    source = clips.stream(clip, model.bundle.config, model.bundle.fit, frames)
    shown = with_bar(source, "verifying", "frame", frames, progress)
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
    from lcr_edge.export.verify import clips

    clips.check_count(frames, max(2, promised(model).settled + 1))


def save_golden(
    path: Path, bundle: str | os.PathLike[str], *, against: str | None = None, clip: str | None = None, frames: int
) -> None:
    """Write the clip and the reference's answers to ``path`` (.npz), for a long selftest where there is no torch.

    Raises what :func:`verify` raises, and OutputError.
    """
    from lcr_edge.export.verify import clips
    from lcr_edge.export.verify.reference import roll

    checked = read_bundle(bundle)
    checkpoint = reference_checkpoint(checked, against)
    golden = roll(checkpoint.model, clips.stream(clip, checked.config, checked.fit, frames))
    write_atomically(path, golden.to_bytes())


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
