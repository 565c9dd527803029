"""What a bundle and the float network decide on clips that training did not see, clip by clip."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lcr_edge.checkpoint import Checkpoint
from lcr_edge.data.labels import JESTER
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import StateError
from lcr_edge.evaluate.measure import BATCH
from lcr_edge.evaluate.scores import NO_DECISION, confusion, decide
from lcr_edge.export.verify.clips import judging, name_of, own_clips
from lcr_edge.progress import with_bar
from lcr_edge.runtimes.api import Model, State
from lcr_edge.runtimes.checks import Check, points_lost, promised
from lcr_edge.tolerances import CLIPS_PER_CLASS, LEARNT

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
UNLABELLED = "the clips of --judge-data have no classes of the network: no accuracy, only agreement"
_SHOWN = 6  # pairs of classes in the table
# Every bundle of a checkpoint is compared with the same logits of the float network, and these take longest to make.
# The last few are kept, by all that they depend on: (digest, clips, frames).
_KEPT = 4
_kept_logits: dict[tuple[str, int, int], F32] = {}


@dataclass(frozen=True)
class Clips:
    """Decisions on clips, each stepped from a zero state. A decision is the largest mean logit over the second half of
    the frames (``evaluate.scores.decide``), for the float network and the bundle alike.

    agreement: share of the clips with the same decision, in [0, 1]. float_top1, bundle_top1: right decisions in per
    cent, or None where the network does not know the gestures, which ``note`` then says. confusion: number of clips,
    [classes][classes], by the float network's decision (rows) and the bundle's (columns). broken: sentences about
    clips without a decision.
    """

    data: str
    clips: int
    labels: tuple[str, ...]
    agreement: float
    float_top1: float | None
    bundle_top1: float | None
    confusion: list[list[int]]
    note: str
    checks: tuple[Check, ...]
    broken: tuple[str, ...]

    def changed(self) -> list[tuple[str, str, int]]:
        """Decisions that differ, the most frequent first: (float's class, the bundle's class, number of clips)."""
        counts = np.array(self.confusion, np.int64)
        np.fill_diagonal(counts, 0)
        pairs = [(int(counts[i, k]), int(i), int(k)) for i, k in zip(*np.nonzero(counts))]
        return [(self.labels[i], self.labels[k], count) for count, i, k in sorted(pairs, key=lambda p: (-p[0], p[1:]))]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "data": self.data,
            "clips": self.clips,
            "agreement": self.agreement,
            "float_top1": self.float_top1,
            "bundle_top1": self.bundle_top1,
            "note": self.note,
            "labels": list(self.labels),
            "confusion": self.confusion,
        }

    def table(self) -> str:
        """Lines for people."""
        lines = [f"    clips {self.clips} of {self.data}: the same decision on {self.agreement:.2%}"]
        if self.float_top1 is not None and self.bundle_top1 is not None:
            lines.append(f"{'':10}top-1: float {self.float_top1:.2f} %, bundle {self.bundle_top1:.2f} %")
        if self.note:
            lines.append(f"{'':10}{self.note}")
        changed = self.changed()
        lines += [f"{'':10}{count} x {was} became {now}" for was, now, count in changed[:_SHOWN]]
        return "\n".join(lines + ([f"{'':10}..."] if len(changed) > _SHOWN else []))


def measure_clips(
    model: Model, checkpoint: Checkpoint, *, per_class: int = CLIPS_PER_CLASS, workers: int = 1, progress: bool = False
) -> Clips:
    """Decide the network's own clips (``clips.own_clips``) with the bundle and with the float network.

    The clips and the float network's logits are kept for the next bundle. workers: see ``clips.rendered_clips``. Does
    not raise on a missed promise. Raises BundleError for a precision without a promise, MissingExtraError, UsageError.
    """
    promise = promised(model)
    clips, true = own_clips(checkpoint, per_class, workers, progress)
    float_logits = _float_logits(checkpoint, clips, progress)
    logits = np.full(float_logits.shape, np.nan, np.float32)
    starts = range(0, len(clips), model.batch)
    for start in with_bar(starts, "deciding clips", "clip", len(starts), progress, line=True):
        some = clips[start : start + model.batch]
        states = [model.initial_state() for _ in some]
        alive = list(range(len(some)))
        for t in range(clips.shape[1]):
            found, after = model.step_many([some[row, t] for row in alive], [states[row] for row in alive])
            for row, answer, state in zip(alive, found, after):
                logits[start + row, t], states[row] = answer, state
            alive = [row for row in alive if _usable(model, states[row])]  # else no decision
    theirs, ours = decide(float_logits), decide(logits)
    note = why_not(checkpoint)
    top1, checks = None, []
    if not note:
        top1 = tuple(100 * int((made == true).sum()) / len(true) for made in (theirs, ours))
        if top1[0] < LEARNT:
            note = f"float itself is right on {top1[0]:.1f} % of the clips: what it loses is not judged"
        elif promise.clip_points is not None:
            checks.append(points_lost(top1[0], top1[1], len(true), promise.clip_points))
    undecided = int((ours == NO_DECISION).sum())
    return Clips(
        data=name_of(checkpoint),
        clips=len(clips),
        labels=checkpoint.labels,
        agreement=float((theirs == ours).mean()),
        float_top1=top1[0] if top1 else None,
        bundle_top1=top1[1] if top1 else None,
        confusion=confusion(theirs, ours, checkpoint.config.classes),
        note=note,
        checks=tuple(checks),
        broken=(f"clips: {undecided} of {len(clips)} end in logits that are not finite",) if undecided else (),
    )


def _usable(model: Model, state: State) -> bool:
    try:
        model.states.check(state)
    except StateError:  # NaN or Inf
        return False
    return True


def why_not(checkpoint: Checkpoint) -> str:
    """Why accuracy on the clips at hand means nothing for this network; empty where it may."""
    if checkpoint.training.get("random_seed") is not None:
        return "the weights are random: no accuracy, only agreement"
    pack = judging(checkpoint)
    if pack is not None:
        return UNLABELLED if (pack.targets < 0).any() else ""
    missing = sum(name not in checkpoint.labels for name in JESTER)
    if missing:
        return f"{missing} of the {len(JESTER)} rendered gestures are not among its labels: no accuracy, only agreement"
    return ""


def _float_logits(checkpoint: Checkpoint, clips: U8, progress: bool) -> F32:
    """Logits [n, T, classes] of the float network, float32, each clip from a zero state; see _kept_logits."""
    key = (_digest(checkpoint), len(clips), clips.shape[1])
    if key not in _kept_logits:
        if len(_kept_logits) >= _KEPT:
            del _kept_logits[next(iter(_kept_logits))]  # the oldest
        _kept_logits[key] = _float_rollout(checkpoint, clips, progress)
    return _kept_logits[key]


def _digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of config, fit, the clips of --judge-data and the weights as they are now: the file's own says nothing of
    weights that changed."""
    named = checkpoint.judged_on
    what = (checkpoint.config, checkpoint.fit, None if named is None else named.sha256)
    digest = hashlib.sha256(repr(what).encode())
    for value in checkpoint.model.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _float_rollout(checkpoint: Checkpoint, clips: U8, progress: bool) -> F32:
    network = copy.deepcopy(checkpoint.model).eval().float()
    parts = []
    starts = range(0, len(clips), BATCH)
    for start in with_bar(starts, "float decisions", "batch", len(starts), progress, line=True):
        part = clips[start : start + BATCH]
        edges = np.stack([[host_edges(frame) for frame in clip] for clip in part])
        with torch.inference_mode():
            logits, _ = network(torch.from_numpy(part.copy()), None, torch.from_numpy(edges))
        parts.append(logits.numpy())
    return np.concatenate(parts)
