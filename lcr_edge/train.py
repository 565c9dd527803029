"""Train a network on rendered gestures: ``lcr-edge train --config lcr_nano --out RUN``.

What matters for a stream, and is done here: with probability one half a clip starts from the state that another clip
left behind (detached), so the network learns to leave an old gesture; clips are played at two speeds, more and more at
the full frame rate; the loss counts every frame after the first quarter, the later the more.

The renderer knows where the hand's joints are. A second head, used in training only, finds them among the patches and
tells how far each moved since the last frame; without it the network learns faces and rooms by heart before hands.

Large numbers inside the layers are penalised. They do not help the accuracy, but their rounding is what makes float32
engines disagree, and int8 needs small ranges.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lcr_edge.checkpoint import build_model, default_labels, load, save
from lcr_edge.config import CONFIGS, Config, get_config
from lcr_edge.data.augment import augment
from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered import clip_joints, clip_seed, render_set
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import CheckpointError, LcrError, OutputError, UsageError
from lcr_edge.model.network import LCR, State

CLIP_FRAMES = 16
FULL_RATE = (0.0, 0.6)  # share of batches at full frame rate, first and last step; the others play at double speed
FRACTION_IGNORED = 0.25
MAX_SHIFT = 1 / 14  # of the frame's height
CARRY = 0.5
WARMUP = 100
CLIP_GRADIENT = 1.0
SOFT_LIMIT = 2.0  # of the outputs of every layer's projections
LABEL_SMOOTHING = 0.05
JOINTS = 21
SAVE_EVERY = 500  # steps
JOINT_WEIGHT = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="lcr_nano", help=f"one of {', '.join(CONFIGS)} (default: lcr_nano)")
    parser.add_argument("--variant", default="default", help="default or paper")
    parser.add_argument("--out", required=True, type=Path, help="folder for checkpoint, metrics and rendered clips")
    parser.add_argument("--init", type=Path, default=None, metavar="FILE", help="checkpoint to start from")
    parser.add_argument("--per-class", type=int, default=400, help="rendered training clips a class (default: 400)")
    parser.add_argument("--steps", type=int, default=3800, help="optimiser steps (default: 3800)")
    parser.add_argument("--stop-after", type=int, default=None, metavar="N", help="end after N steps of the schedule")
    parser.add_argument("--batch", type=int, default=24, help="clips a step (default: 24)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: 2e-3)")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="on matrices only (default: 0.1)")
    parser.add_argument(
        "--limit-weight", type=float, default=1.0, help="weight of the penalty on large values (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch (default: torch's choice)")
    parser.add_argument("--workers", type=int, default=2, help="processes that render clips (default: 2)")
    parser.add_argument("--fp32", action="store_true", help="no bfloat16 in matrix products")


def run(args: argparse.Namespace) -> int:
    for name in ("per_class", "steps", "stop_after", "batch", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    config = get_config(args.config, variant=args.variant)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = build_model(config) if args.init is None else _initial(args.init, config)
    data = training_set(args.out, args.per_class, args.seed, config, args.workers)
    started = time.monotonic()
    loss = fit(model, data, args)
    training = {
        "data": "rendered gestures",
        "minutes": round((time.monotonic() - started) / 60, 1),
        "final_loss": round(loss, 4),
        **{name: value for name, value in vars(args).items() if isinstance(value, (str, int, float)) and name != "out"},
    }
    save(args.out / f"{config.name}.safetensors", model, default_labels(config.classes), training)
    print(f"wrote {args.out / config.name}.safetensors after {training['minutes']} minutes, loss {loss:.3f}")
    return 0


def _initial(path: Path, config: Config) -> LCR:
    checkpoint = load(path)
    if checkpoint.config != config:
        raise CheckpointError(
            f"{path} is of config {checkpoint.config.name}, not the {config.name} asked for (or of another variant): "
            f"use --config {checkpoint.config.name}"
        )
    return checkpoint.model


class TrainingSet(NamedTuple):
    clips: NDArray[np.uint8]  # [n, T, S, S, 3]
    joints: NDArray[np.float32]  # [n, T, 21, 2], fractions of the frame
    labels: NDArray[np.int64]  # [n]


def training_set(folder: Path, per_class: int, seed: int, config: Config, workers: int) -> TrainingSet:
    """Rendered clips, memory-mapped from a file in ``folder`` that is rendered once, their joints and labels."""
    path = folder / f"rendered-{config.height}-{per_class}-seed{seed}.npy"
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            clips, _ = render_set(
                per_class,
                seed,
                size=config.height,
                frames=CLIP_FRAMES,
                fps=config.train_fps,
                workers=workers,
                progress=True,
            )
            temporary = path.with_suffix(".part.npy")
            np.save(temporary, clips)
            temporary.replace(path)
        except OSError as error:
            raise OutputError(f"cannot write rendered clips to {folder}: {error}; choose another --out") from error
    jobs = [(label, clip_seed(seed, index)) for index in range(per_class) for label in range(len(JESTER))]
    joints = np.stack([clip_joints(label, n, frames=CLIP_FRAMES, fps=config.train_fps) for label, n in jobs])
    return TrainingSet(np.load(path, mmap_mode="r"), joints, np.array([label for label, _ in jobs]))


class Batch(NamedTuple):
    frames: Tensor  # uint8 [B, T, S, S, 3]
    edges: Tensor  # uint8 [B, T, S, S]
    joints: Tensor  # float32 [B, T, 21, 2], fractions of the frame
    labels: Tensor  # int64 [B]


class Batches:
    """Endless shuffled, augmented batches of a training set; deterministic per seed."""

    def __init__(self, data: TrainingSet, batch: int, seed: int) -> None:
        self.data, self.batch = data, batch
        self.random = np.random.default_rng(seed)
        self.order: list[int] = []

    def next(self, progress: float) -> Batch:
        """progress: part of the training that is done, in [0, 1]."""
        full_rate = FULL_RATE[0] + (FULL_RATE[1] - FULL_RATE[0]) * progress
        stride = 1 if self.random.random() < full_rate else 2
        skip = int(self.random.integers(0, 3))
        shift = round(MAX_SHIFT * self.data.clips.shape[2])
        rows = []
        for _ in range(self.batch):
            if not self.order:
                self.order = self.random.permutation(len(self.data.clips)).tolist()
            i = self.order.pop()
            rows.append(augment(self.data.clips[i], self.data.joints[i], int(self.data.labels[i]), self.random, shift))
        frames = np.stack([clip[skip::stride] for clip, _, _ in rows])
        joints = np.stack([points[skip::stride] for _, points, _ in rows])
        edges = np.stack([[host_edges(frame) for frame in clip] for clip in frames])
        labels = torch.tensor([label for _, _, label in rows])
        return Batch(torch.from_numpy(frames), torch.from_numpy(edges), torch.from_numpy(joints), labels)


class JointHead(nn.Module):
    """Where each joint is among the patches and how far it moved, read from every patch's [H ; C]. Training only."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.grid = config.grid
        self.norm = nn.LayerNorm(2 * config.dim)
        self.read = nn.Linear(2 * config.dim, 3 * JOINTS)

    def loss(self, hidden: Tensor, cells: Tensor, joints: Tensor) -> Tensor:
        """hidden, cells [B, T, N+1, C], joints [B, T, 21, 2] to a scalar: cross entropy over patches + motion error."""
        rows, columns = self.grid
        place = joints * torch.tensor([columns, rows])  # in patches
        inside = ((place >= 0) & (place < torch.tensor([columns, rows]))).all(-1)  # [B, T, 21]
        cell = place.floor().long()
        target = torch.where(inside, cell[..., 1] * columns + cell[..., 0], 0)
        read = self.read(self.norm(torch.cat([hidden, cells], dim=-1)[:, :, 1:])).float()  # [B, T, N, 63]
        where, motion = read.split([JOINTS, 2 * JOINTS], dim=-1)
        found = F.cross_entropy(where.permute(0, 2, 1, 3), target, reduction="none")
        motion = motion.reshape(*motion.shape[:-1], JOINTS, 2)
        index = target[:, :, None, :, None].expand(-1, -1, 1, -1, 2)
        moved = motion.gather(2, index).squeeze(2)[:, 1:]
        error = F.smooth_l1_loss(moved, place.diff(dim=1), reduction="none", beta=0.1).sum(-1)
        seen = inside.float()
        return (found * seen).sum() / seen.sum().clamp(min=1) + (error * seen[:, 1:]).sum() / seen.sum().clamp(min=1)


def frame_weights(frames: int) -> Tensor:
    """Weight of each frame in the loss, [T], mean 1: nothing in the first quarter, then rising to the end."""
    position = (torch.arange(frames) + 1) / frames
    weight = torch.where(position > FRACTION_IGNORED, position, 0.0)
    return weight / weight.mean()


def clip_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits [B, T, classes] against one label a clip, weighted over frames."""
    time_steps = logits.shape[1]
    per_frame = F.cross_entropy(
        logits.float().flatten(0, 1),
        labels.repeat_interleave(time_steps),
        reduction="none",
        label_smoothing=LABEL_SMOOTHING,
    )
    return (per_frame.reshape(-1, time_steps) * frame_weights(time_steps)).mean()


class SizePenalty:
    """How far the outputs of all layers' projections exceed SOFT_LIMIT: the mean square of the excess, summed."""

    def __init__(self, model: LCR) -> None:
        self.terms: list[Tensor] = []
        for layer in model.blocks():
            for module in (layer.rg, layer.kv_projection, layer.attend, layer.mix_out):
                module.register_forward_hook(self._collect)

    def _collect(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.terms.append((output.abs() - SOFT_LIMIT).clamp(min=0).float().square().mean())

    def take(self) -> Tensor:
        """The penalty of all forward passes since the last call."""
        total = torch.stack(self.terms).mean()
        self.terms.clear()
        return total


def carried(state: State | None, batch: int, random: torch.Generator) -> State | None:
    """The state that the last batch left, zeroed in about half of the rows (a fresh stream)."""
    if state is None:
        return None
    keep = (torch.rand(batch, 1, 1, 1, generator=random) < CARRY).float()
    return state[0].detach() * keep, state[1].detach() * keep


def fit(model: LCR, data: TrainingSet, args: argparse.Namespace) -> float:
    """AdamW with warm-up and cosine; returns the last loss, averaged. metrics.csv gets a line every 20 steps."""
    from tqdm import tqdm

    joint_head, size_penalty = JointHead(model.config), SizePenalty(model)
    trained = [*model.parameters(), *joint_head.parameters()]
    matrices = [p for p in trained if p.ndim == 2 and p.shape[0] > model.config.heads]
    others = [p for p in trained if not any(p is m for m in matrices)]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": args.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99))
    batches = Batches(data, args.batch, args.seed)
    random = torch.Generator().manual_seed(args.seed)
    state: State | None = None
    smooth = math.log(model.config.classes)
    model.train()
    # One thread makes the next batch while this one is learned from; one, so that the order of clips stays the same.
    with (args.out / "metrics.csv").open("w", newline="") as file, ThreadPoolExecutor(1) as loader:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "accuracy", "joint_loss", "size_penalty", "learning_rate"])
        bar = tqdm(range(min(args.steps, args.stop_after or args.steps)), desc="training", unit="step", mininterval=5.0)
        coming = loader.submit(batches.next, 0.0)
        hits, seen = 0, 0
        for step in bar:
            rate = args.lr * min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / args.steps))
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = coming.result()
            coming = loader.submit(batches.next, (step + 1) / args.steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=not args.fp32):
                hidden, cells, state = model.features(batch.frames, carried(state, args.batch, random), batch.edges)
                logits = model.head(hidden, cells)
                joint_loss = joint_head.loss(hidden, cells, batch.joints)
            named = clip_loss(logits, batch.labels)
            size = size_penalty.take()
            loss = named + JOINT_WEIGHT * joint_loss + args.limit_weight * size
            if not math.isfinite(loss.item()):
                raise LcrError(f"the loss became {loss.item()} at step {step}; lower --lr")
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained, CLIP_GRADIENT)
            optimiser.step()
            smooth += 0.02 * (named.item() - smooth)
            hits += int((logits[:, -1].argmax(-1) == batch.labels).sum())
            seen += args.batch
            if (step + 1) % 20 == 0:
                figures = (smooth, hits / seen, joint_loss.item(), size.item())
                writer.writerow([step + 1, *(f"{x:.4f}" for x in figures), f"{rate:.2e}"])
                file.flush()
                bar.set_postfix(loss=f"{smooth:.3f}", accuracy=f"{hits / seen:.3f}", refresh=False)
                hits, seen = 0, 0
            if (step + 1) % SAVE_EVERY == 0 and step + 1 < args.steps:
                name = f"{model.config.name}-step{step + 1}.safetensors"
                save(args.out / name, model, default_labels(model.config.classes), {"step": step + 1})
    model.eval()
    return smooth
