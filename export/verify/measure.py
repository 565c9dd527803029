"""Everything that is measured on a bundle: the two modes of ``parity``, ``identity``, then ``streams`` and
``decisions``."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lcr_edge.errors import CheckpointError, UsageError
from lcr_edge.export.verify.judge_data import with_judge_data
from lcr_edge.files import write_atomically
from lcr_edge.progress import with_bar
from lcr_edge.runtimes import Model, load
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.checks import ONE_STEP, Check, promised
from lcr_edge.tolerances import CLIPS_PER_CLASS, LATE, STREAM_FRAMES

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.export.verify.report import Report
    from lcr_edge.runtimes.golden import Golden

FRAMES = 500
# Clips of each class for a network whose accuracy on them means nothing: enough for streams.
_FEW = 4
# Processes of the command line that draw clips.
WORKERS = 2


def verify(
    bundle: str | os.PathLike[str],
    *,
    checkpoint: str | None = None,
    clip: str | None = None,
    judge_data: str | None = None,
    frames: int = FRAMES,
    threads: int | None = 1,
    decisions: bool | None = None,
    workers: int = 1,
    progress: bool = False,
) -> Report:
    """Measure a bundle; see ``lcr_edge.export.verify.report.Report``. Needs torch.

    checkpoint: the file that it was exported from; by default the packaged one, or the random weights that its
    manifest names. judge_data: clips in place of the network's own, see the module of that name. The other arguments
    are those of :func:`measure_all`. Does not raise on a missed promise. Raises BundleError, CheckpointError (not the
    bundle's checkpoint), VideoError, UsageError, MissingExtraError, and ParityError for a state that is NaN before
    there is anything to judge.
    """
    model = load(bundle, threads=threads)
    _check_frames(model, frames)
    decided = promised(model).drift is not None if decisions is None else decisions
    if judge_data is not None and clip is not None and not decided:
        raise UsageError(
            f"--judge-data would not be used: --clip gives the frames, and {model.bundle.precision} compares no "
            "decisions; add --decisions, or leave one of the two out"
        )
    reference = with_judge_data(reference_checkpoint(model.bundle, checkpoint), judge_data, decided=decided)
    return measure_all(
        model, reference, clip=clip, frames=frames, decisions=decisions, workers=workers, progress=progress
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
    rollout: Golden | None = None,
    identity: bool = True,
) -> Report:
    """Everything that the bundle's precision promises, and in the report what else was measured.

    clip: a video file for the two modes, fitted as the bundle says; frames: of it. Without one, the network's own
    clips: those of ``--judge-data`` or of its judge pack, or rendered gestures. If it was trained on other data and has
    neither, only what holds on any frame is judged. decisions: also compare them on its own clips, by default where the
    precision promises something about them (int8): one stream of max(streams, frames) frames with shorter ones beside
    it, and clips (``per_class`` held-out ones of each rendered gesture, or all that judge it); then the video is also
    played from several places, if ``frames`` reaches the end of the window LATE. workers: processes that draw gestures,
    see ``clips.rendered_clips``. progress: bars on a terminal's stderr.
    rollout: the float network's answers to those frames (``reference.roll``), where they are at hand from another
    bundle of the same checkpoint. identity: also compare the bundle with its checkpoint, see ``verify.identity``; only
    a bundle that nobody keeps can do without.

    Does not raise on a missed promise. Raises BundleError, VideoError, UsageError, MissingExtraError.
    """
    from lcr_edge.export.verify import clips, parity
    from lcr_edge.export.verify.decisions import measure_clips, why_not
    from lcr_edge.export.verify.identity import measure_identity
    from lcr_edge.export.verify.reference import steps, steps_of
    from lcr_edge.export.verify.report import CLIPS, IDENTITY, MODES, STREAMS, VIDEO
    from lcr_edge.export.verify.streams import measure_streams, measure_video

    _check_frames(model, frames)
    seconds: dict[str, float] = {}
    if rollout is None:
        answers = steps(checkpoint.model, clips.stream(clip, checkpoint, frames))
    else:
        answers = itertools.islice(steps_of(rollout), frames)
    shown = with_bar(answers, "verifying", "frame", frames, progress, line=True)
    with _timed(seconds, MODES):
        report = parity.measure(model, shown, clips.name_of(checkpoint) if clip is None else Path(clip).name)
    unknown = clips.strange(checkpoint)
    if unknown and clip is None:
        report = dataclasses.replace(report, checks=tuple(_unjudged(check, unknown) for check in report.checks))
    report = dataclasses.replace(report, seconds=seconds)
    if identity:
        with _timed(seconds, IDENTITY):
            report = dataclasses.replace(report, identity=measure_identity(model, checkpoint))
    if not (report.promise.drift is not None if decisions is None else decisions) or unknown:
        return report
    shared = {"per_class": min(per_class, _FEW) if why_not(checkpoint) else per_class, "workers": workers}
    # A clip of fewer frames was asked for to be quick, or is for a look at the first ones.
    if clip is not None and frames >= LATE[1]:
        with _timed(seconds, VIDEO):
            report = dataclasses.replace(report, video=measure_video(model, checkpoint, clip, progress=progress))
    with _timed(seconds, STREAMS):
        found = measure_streams(model, checkpoint, frames=max(streams, frames), **shared, progress=progress)
    with _timed(seconds, CLIPS):
        decided = measure_clips(model, checkpoint, **shared, progress=progress)
    return dataclasses.replace(report, streams=found, clips=decided)


def _unjudged(check: Check, why: str) -> Check:
    """A check of a stream over frames that say nothing about the network; single steps hold on any frame."""
    return (
        check if check.name.startswith(ONE_STEP) else dataclasses.replace(check, met=None, remark=f"not judged: {why}")
    )


@contextlib.contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - begin


def _check_frames(model: Model, frames: int) -> None:
    from lcr_edge.export.verify import clips

    clips.check_count(frames, max(2, promised(model).settled + 1))


def save_golden(
    path: Path,
    bundle: str | os.PathLike[str],
    *,
    checkpoint: str | None = None,
    clip: str | None = None,
    judge_data: str | None = None,
    frames: int,
) -> None:
    """Write the clip and the reference's answers to ``path`` (.npz), for a long selftest where there is no torch.

    Raises what :func:`verify` raises, and OutputError.
    """
    from lcr_edge.export.verify import clips
    from lcr_edge.export.verify.reference import roll

    checked = read_bundle(bundle)
    reference = with_judge_data(reference_checkpoint(checked, checkpoint), judge_data, decided=False)
    golden = roll(reference.model, clips.stream(clip, reference, frames))
    write_atomically(path, golden.to_bytes())


def reference_checkpoint(bundle: Bundle, file: str | None = None) -> Checkpoint:
    """The checkpoint that a bundle was exported from. CheckpointError where ``file`` holds another one."""
    from lcr_edge import checkpoint

    seed = bundle.manifest.get("random_seed")
    if file is None and isinstance(seed, int):
        found = checkpoint.random_checkpoint(bundle.config, seed)
        origin = f"random weights of seed {seed}"
    else:
        found = checkpoint.load(file)
        origin = "the packaged checkpoint" if file is None else file
    wanted = str(bundle.manifest.get("checkpoint_sha256"))
    if found.sha256 != wanted:
        raise CheckpointError(
            f"bundle {bundle.folder} was exported from another checkpoint (sha256 {wanted[:12]}..., {origin} has "
            f"{found.sha256[:12]}...): give its file with --checkpoint, or export the bundle again"
        )
    return found
