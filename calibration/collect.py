"""Rolls the float cell over clips, mostly without reset, and keeps the step's inputs for a seeded choice of frames."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcr_edge.calibration.footage import CLIPS, SAMPLES, check_numbers, pack_footage, read_footage
from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint
from lcr_edge.config import CLIP_FRAMES, Config
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import CalibrationError
from lcr_edge.model.network import LCR, State
from lcr_edge.progress import with_bar

ROWS = 12  # streams rolled side by side
_LEAST_ON_A_ROW = 4  # clips, so that states can be carried on even if there are few
# First and last position since the reset, and the share of the samples. A stream spends nearly all of its time late,
# but its first frames meet states that never recur: without any of them, ranges would be too narrow at the start.
STRATA: tuple[tuple[int, int | None, float], ...] = (
    (0, 0, 0.125),
    (1, 3, 0.125),
    (4, 15, 0.25),
    (16, None, 0.5),
)
CARRY, KEEP = 13, 14  # tags that separate the random choices


def collect(
    checkpoint: Checkpoint,
    data: str | None,
    *,
    clips: int = CLIPS,
    samples: int = SAMPLES,
    seed: int = 0,
    workers: int = 1,
    progress: bool = False,
) -> Samples:
    """Samples of the float32 step on real streams.

    data: clips as ``footage.open_clips`` takes them; None for those of the network's judge pack, or else for rendered
    gestures, if it was trained on them. The network goes over ``clips``
    windows of CLIP_FRAMES frames, several streams side by side. Half of the windows start from the state that the
    previous one on their stream left, the others from zero.

    It keeps ``samples`` samples (frame, edge, states before the frame, position since the last reset), in random order.
    They are stratified by position: frame 0 after a reset, frames 1 to 3, 4 to 15, and later ones, in the shares of
    STRATA; if a stratum has too few frames, the others give more. Within a stratum every frame is equally likely.

    The same data, seed and numbers give the same samples on one machine, whatever the number of ``workers`` (which
    render or decode clips). Memory: the kept samples, and one frame and state of each stream; clips are kept in a
    temporary file, except for rendered ones. progress: bars on stderr, see ``lcr_edge.progress``.

    Raises CalibrationError if too many clips are unreadable or a state stops being finite (it names the layer),
    UsageError for numbers out of range and data that cannot be opened, OutputError, MissingExtraError.
    """
    check_numbers(clips, samples, seed, workers)
    if data is None and checkpoint.judge is not None:
        footage = pack_footage(checkpoint.judge.read(), clips)
    elif data is None and checkpoint.strange_to_gestures:
        raise CalibrationError(
            f"this network was trained on {checkpoint.training['data_name']}, and the judge pack that training wrote "
            "beside it is not there: copy it, or give clips of that kind with --calibration-data"
        )
    else:
        footage = read_footage(
            data, checkpoint.config, checkpoint.fit, clips=clips, seed=seed, workers=workers, progress=progress
        )
    plan = make_plan(len(footage.frames), samples, seed)
    arrays = _roll(checkpoint, footage.frames, plan, progress)
    return Samples(
        **arrays,
        checkpoint_sha256=checkpoint.sha256,
        config_name=checkpoint.config.name,
        source=footage.source,
        seed=seed,
        clips=clips,
    )


@dataclass(frozen=True)
class RollPlan:
    """Which clips are rolled one after another, and which frames are kept.

    Clip k is number k // rows on stream k % rows. start: int64 [clips], position of each clip's first frame since the
    reset; 0 for clips that start from a zero state. kept: int64 [samples], k * CLIP_FRAMES + frame, in random order.
    """

    rows: int
    start: NDArray[np.int64]
    kept: NDArray[np.int64]


def make_plan(clips: int, samples: int, seed: int) -> RollPlan:
    """The plan for this many clips, determined by the arguments alone. Fewer samples if there are too few frames."""
    random = np.random.default_rng((CARRY, seed))
    rows = max(1, min(ROWS, clips // _LEAST_ON_A_ROW))
    carried = random.choice(np.arange(rows, clips), min(clips // 2, clips - rows), replace=False)
    start = np.zeros(clips, np.int64)
    for k in np.sort(carried):
        start[k] = start[k - rows] + CLIP_FRAMES
    position = (start[:, None] + np.arange(CLIP_FRAMES)).reshape(-1)

    random = np.random.default_rng((KEEP, seed))
    within = [
        np.flatnonzero((position >= first) & (position <= (position.max() if last is None else last)))
        for first, last, _ in STRATA
    ]
    counts = _apportion([len(frames) for frames in within], samples)
    kept = np.concatenate([random.choice(frames, count, replace=False) for frames, count in zip(within, counts)])
    return RollPlan(rows, start, random.permutation(kept))


def _apportion(room: list[int], samples: int) -> list[int]:
    """How many samples each stratum gives, by Adams' method: each gets one before any gets a second."""
    counts = [0] * len(room)
    for _ in range(min(samples, sum(room))):
        free = [i for i in range(len(room)) if counts[i] < room[i]]
        counts[min(free, key=lambda i: counts[i] / STRATA[i][2])] += 1
    return counts


@torch.inference_mode()
def _roll(checkpoint: Checkpoint, frames: NDArray[np.uint8], plan: RollPlan, progress: bool) -> dict[str, NDArray[Any]]:
    """The arrays of the samples, by their names in Samples."""
    config = checkpoint.config
    model = copy.deepcopy(checkpoint.model).cpu().float().eval()
    arrays = _room(len(plan.kept), config)
    place = {int(key): row for row, key in enumerate(plan.kept)}
    state = model.initial_state(plan.rows)
    waves = list(_waves(len(frames), plan.rows))
    for clips in with_bar(waves, "calibrating", "wave", len(waves), progress):
        h, c = (part[: len(clips)].clone() for part in state)
        fresh = torch.from_numpy(plan.start[clips] == 0)
        h[fresh], c[fresh] = 0.0, 0.0
        for t in range(CLIP_FRAMES):
            pictures = np.ascontiguousarray(frames[clips, t])
            edges = np.stack([host_edges(picture) for picture in pictures])
            for row, k in enumerate(clips.tolist()):
                to = place.get(k * CLIP_FRAMES + t)
                if to is not None:
                    arrays["frames"][to], arrays["edges"][to] = pictures[row], edges[row]
                    arrays["state_h"][to], arrays["state_c"][to] = h[row].numpy(), c[row].numpy()
                    arrays["position"][to] = plan.start[k] + t
            inputs = (torch.from_numpy(pictures), (h, c), torch.from_numpy(edges))
            logits, (h, c) = model.step(*inputs)
            if not all(bool(part.isfinite().all()) for part in (logits, h, c)):
                frames_in = plan.start[clips].max() + t + 1
                raise CalibrationError(
                    f"{_first_not_finite(model, inputs)}: NaN or Inf within {frames_in} frames of a stream: the "
                    "checkpoint has diverged; use an earlier one, or train again with a lower learning rate"
                )
        state = (h, c)
    return arrays


def _room(count: int, config: Config) -> dict[str, NDArray[Any]]:
    return {
        "frames": np.empty((count, *config.frame_shape), np.uint8),
        "edges": np.empty((count, *config.frame_shape[:2]), np.uint8),
        "state_h": np.empty((count, *config.state_shape), np.float32),
        "state_c": np.empty((count, *config.state_shape), np.float32),
        "position": np.empty(count, np.int64),
    }


def _waves(clips: int, rows: int) -> Iterator[NDArray[np.int64]]:
    """Clips that are rolled at the same time; the last group may have fewer than ``rows``."""
    for first in range(0, clips, rows):
        yield np.arange(first, min(first + rows, clips))


def _first_not_finite(model: LCR, inputs: tuple[Tensor, State, Tensor]) -> str:
    """Name of the first module that makes NaN or Inf in this step, found by repeating it with a hook on each."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(_: nn.Module, given: Any, made: Any) -> None:
            if not found and not _finite(made):
                # Sums and products between modules belong to none of them: the next one only receives the result.
                found.append(name if _finite(given) else f"what is computed right before {name}")

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        model.step(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the state"


def _finite(values: Any) -> bool:
    """Whether all tensors in nested tuples are free of NaN and Inf."""
    if isinstance(values, Tensor):
        return bool(values.isfinite().all())
    return all(_finite(value) for value in values) if isinstance(values, (tuple, list)) else True
