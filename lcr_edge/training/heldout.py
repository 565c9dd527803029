"""Held-out clips during training: how the averaged weights do on clips that training never sees."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lcr_edge.config import Config
from lcr_edge.data.sampling import Sample
from lcr_edge.data.sets import ClipSet
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import VideoError
from lcr_edge.evaluate.scores import mean_logits, score
from lcr_edge.model.network import LCR
from lcr_edge.training.loss import clip_loss
from lcr_edge.training.readiness import FRAMES, Readiness, measure

MOST = 216  # clips
BATCH = 27  # clips per forward call


class Look(NamedTuple):
    """One look at the held-out clips. loss: as in training, without label smoothing. accuracy: in [0, 1].

    NaN both if no clip could be read.
    """

    loss: float
    accuracy: float

    def better_than(self, other: Look | None) -> bool:
        """More clips decided rightly, or as many with a lower loss."""
        if other is None or math.isnan(other.loss):
            return not math.isnan(self.loss)
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


class Verdicts(NamedTuple):
    """What a network made of the clips that could be read.

    clips: their indices in the data, int64 [n]. true, decided: classes, int64 [n]; decided may be NO_DECISION
    (``evaluate.scores``). logits: what decided, the mean over the second half of the frames, float64 [n, classes].
    """

    clips: NDArray[np.int64]
    true: NDArray[np.int64]
    decided: NDArray[np.int64]
    logits: NDArray[np.float64]


class HeldOut:
    """Some clips of a held-out set, always the same ones, each whole and from a zero state.

    frames: of a clip. At most MOST clips, drawn at random where there are more. Clips that cannot be read do not count.
    verdicts: those of the last look, None before, or if no clip could be read.
    """

    def __init__(self, data: ClipSet, config: Config, frames: int) -> None:
        self.data = data
        self._sample, self._size = Sample(frames, config.train_fps, 0.5), (config.height, config.width)
        self.verdicts: Verdicts | None = None
        self._chosen = np.sort(np.random.default_rng(0).permutation(len(data))[:MOST])

    def __len__(self) -> int:
        return len(self._chosen)

    @torch.no_grad()
    def look(self, model: LCR, weights: dict[str, Tensor]) -> Look:
        """How a copy of the network with these weights does, in float32."""
        network = copy.deepcopy(model).eval()
        network.load_state_dict(weights)
        losses, parts = [], []
        for start in range(0, len(self), BATCH):
            chosen, frames, edges, labels = self._read(self._chosen[start : start + BATCH])
            if not len(labels):
                continue
            device = network.cos.device
            logits = network(frames.to(device), None, edges.to(device))[0].cpu()
            losses += [float(clip_loss(logits, labels))] * len(labels)
            true = labels.numpy()
            parts.append(Verdicts(chosen, true, score(logits.numpy(), true).decisions, mean_logits(logits.numpy())))
        self.verdicts = Verdicts(*(np.concatenate(column) for column in zip(*parts))) if parts else None
        if self.verdicts is None:
            return Look(math.nan, math.nan)
        return Look(float(np.mean(losses)), float(np.mean(self.verdicts.decided == self.verdicts.true)))

    def frames_of(self, clip: int) -> NDArray[np.uint8]:
        """The frames that a look shows the network, uint8 RGB [T, H, W, 3]. clip: index. Raises VideoError."""
        return self.data.read(clip, self._sample, self._size)[0]

    def readiness(self, model: LCR, weights: dict[str, Tensor]) -> Readiness | None:
        """How ready a copy of the network with these weights is to export, on the clips as one stream.

        None if no clip can be read.
        """
        network = copy.deepcopy(model)
        network.load_state_dict(weights)
        frames = list(itertools.islice(self._frames(), FRAMES))
        return measure(network, itertools.islice(itertools.cycle(frames), FRAMES)) if frames else None

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        """The frames of the clips that can be read, in another order than theirs: neighbours are often of one class."""
        for index in np.random.default_rng(1).permutation(self._chosen):
            with contextlib.suppress(VideoError):
                yield from self.frames_of(int(index))

    def _read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor, Tensor, Tensor]:
        """Of what can be read: index int64 [n], frames uint8 [n, T, H, W, 3], edges uint8 [n, T, H, W] and label
        int64 [n]."""
        clips, read = [], []
        for index in indices:
            with contextlib.suppress(VideoError):
                clips.append(self.frames_of(int(index)))
                read.append(int(index))
        edges = [[host_edges(frame) for frame in clip] for clip in clips]
        labels = torch.from_numpy(self.data.targets[read])
        return np.array(read, np.int64), torch.from_numpy(np.array(clips)), torch.from_numpy(np.array(edges)), labels
