"""The loss: cross entropy over the frames of a clip, the places of the joints, and the size of inner values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcr_edge.config import Config
from lcr_edge.model.network import LCR, State
from lcr_edge.model.probe import Probe
from lcr_edge.training.processes import World

FRACTION_IGNORED = 0.25
JOINTS = 21
# Least weight of the penalty on large values while the network is calmed: they are what rounding errors scale with.
CALM_LIMIT = 5.0
# Length of the changes of a token's state whose growth is penalised.
PROBE = 1e-2
PLACEMENTS = ("every", "last")


def frame_weights(frames: int, placement: str = "every", device: torch.device | None = None) -> Tensor:
    """Weight of each frame in the loss, [T], mean 1: none in the first quarter, then rising; or "last": that frame."""
    if placement == "last":
        return float(frames) * (torch.arange(frames, device=device) == frames - 1)
    position = (torch.arange(frames, device=device) + 1) / frames
    weight = torch.where(position > FRACTION_IGNORED, position, 0.0)
    return weight / weight.mean()


def clip_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0, placement: str = "every") -> Tensor:
    """Cross entropy of logits [B, T, classes] against one label per clip, int64 [B], weighted over frames; a scalar."""
    time = logits.shape[1]
    per_frame = F.cross_entropy(
        logits.float().flatten(0, 1), labels.repeat_interleave(time), reduction="none", label_smoothing=smoothing
    )
    return (per_frame.reshape(-1, time) * frame_weights(time, placement, logits.device)).mean()


class JointHead(nn.Module):
    """Finds each joint among the patches, and how far it moved, from every patch's [H ; C]. Training only."""

    size: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.grid = config.grid
        self.register_buffer("size", torch.tensor([config.grid[1], config.grid[0]]), persistent=False)
        self.norm = nn.LayerNorm(2 * config.dim)
        self.read = nn.Linear(2 * config.dim, 3 * JOINTS)

    def forward(self, hidden: Tensor, cells: Tensor, joints: Tensor, keep: Tensor | None, world: World) -> Tensor:
        """hidden, cells [B, T, n+1, C], joints [B, T, 21, 2] in fractions of the frame, keep [B, n] as in the network.

        Returns cross entropy over the patches plus the error of the motion in patches, a scalar. Joints outside of the
        frame or in patches that were dropped do not count.
        """
        rows, columns = self.grid
        place = joints * self.size  # in patches
        inside = ((place >= 0) & (place < self.size)).all(-1)  # [B, T, 21]
        cell = place.floor().long()
        patch = torch.where(inside, cell[..., 1] * columns + cell[..., 0], 0)
        if keep is not None:
            slots = torch.full((len(keep), rows * columns), -1, device=keep.device)
            slots.scatter_(1, keep, torch.arange(keep.shape[1], device=keep.device).expand_as(keep))
            slot = slots.gather(1, patch.flatten(1)).reshape(patch.shape)
            inside &= slot >= 0
            patch = slot.clamp(min=0)
        read = self.read(self.norm(torch.cat([hidden, cells], dim=-1)[:, :, 1:])).float()  # [B, T, n, 63]
        where, motion = read.split([JOINTS, 2 * JOINTS], dim=-1)
        found = F.cross_entropy(where.permute(0, 2, 1, 3), patch, reduction="none")
        motion = motion.reshape(*motion.shape[:-1], JOINTS, 2)
        index = patch[:, :, None, :, None].expand(-1, -1, 1, -1, 2)
        moved = motion.gather(2, index).squeeze(2)[:, 1:]
        error = F.smooth_l1_loss(moved, place.diff(dim=1), reduction="none", beta=0.1).sum(-1)
        seen = inside.float()
        # Of all processes: their gradients are averaged, so each divides by the mean number of joints.
        count = world.mean(seen.sum()).clamp(min=1)
        return (found * seen).sum() / count + (error * seen[:, 1:]).sum() / count


class Losses(NamedTuple):
    """Scalars of one step, the logits of its frames and the state after it."""

    total: Tensor
    named: Tensor  # cross entropy of the class
    joints: Tensor  # zero where the data has none
    excess: Tensor
    expansion: Tensor
    logits: Tensor  # [B, T, classes]
    state: State


class Learner(nn.Module):
    """The network and its training-only parts as one module, so that one backward pass (and DDP) covers all of it."""

    def __init__(
        self,
        model: LCR,
        *,
        joints: bool,
        world: World,
        smoothing: float,
        placement: str,
        joint_weight: float,
        limit_weight: float,
        calm_weight: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.joint_head = JointHead(model.config) if joints else None
        self.world, self.smoothing, self.placement = world, smoothing, placement
        self.joint_weight, self.limit_weight, self.calm_weight = joint_weight, limit_weight, calm_weight

    def forward(
        self,
        frames: Tensor,
        edges: Tensor,
        labels: Tensor,
        joints: Tensor | None,
        state: State | None,
        keep: Tensor | None,
        calm: bool = False,
    ) -> Losses:
        """Shapes as in :class:`lcr_edge.data.batches.Batch` and :meth:`lcr_edge.model.network.LCR.features`.

        calm: whether growth of small changes counts, which needs float32.
        """
        features = self.model.features(frames, state, edges, keep, probe=Probe(PROBE) if calm else None)
        logits = self.model.head(features.hidden, features.cells)
        named = clip_loss(logits, labels, self.smoothing, self.placement)
        limit = max(self.limit_weight, CALM_LIMIT) if calm else self.limit_weight
        total = named + limit * features.excess + self.calm_weight * features.expansion
        located = named.new_zeros(())
        if self.joint_head is not None and joints is not None:
            located = self.joint_head(features.hidden, features.cells, joints, keep, self.world)
            total = total + self.joint_weight * located
        return Losses(total, named, located, features.excess, features.expansion, logits, features.state)
