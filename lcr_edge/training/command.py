"""Train a network: ``lcr-edge train --data jester:/data/jester --config lcr_nano --out runs/jester``.

RUN gets the network (CONFIG.safetensors, the average of the weights), the state to --resume from (run.safetensors),
metrics.csv, TensorBoard events and curve.png. Several GPUs:
torchrun --nproc-per-node N -m lcr_edge train ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lcr_edge.checkpoint import build_model, load
from lcr_edge.config import CONFIGS, VARIANTS, Config, get_config
from lcr_edge.data.sets import ClipSet, open_set
from lcr_edge.errors import CheckpointError, UsageError
from lcr_edge.model.network import LCR
from lcr_edge.training import run_state
from lcr_edge.training.loop import Outcome, Trainer
from lcr_edge.training.loss import PLACEMENTS
from lcr_edge.training.optimiser import OPTIMISERS
from lcr_edge.training.settings import Conduct, Settings
from lcr_edge.training.world import DEVICES, World

VRWKV = "vrwkv:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    standard, usual = Settings(), Conduct()
    what = parser.add_argument_group("what is trained, on what")
    what.add_argument(
        "--data", default="rendered", metavar="KIND:PATH",
        help="rendered[:CLIPS_PER_CLASS], jester:DIR, ssv2:DIR, kinetics:DIR or folder:DIR (default: rendered)",
    )  # fmt: skip
    what.add_argument("--config", default="lcr_nano", help=f"one of {', '.join(CONFIGS)} (default: lcr_nano)")
    what.add_argument("--variant", default="default", help=f"one of {', '.join(VARIANTS)}")
    what.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    what.add_argument("--resume", action="store_true", help="go on with the run in --out, exactly")
    what.add_argument(
        "--init", default=None, metavar="FILE",
        help="start from a checkpoint of the same config, or vrwkv:FILE for Vision-RWKV ImageNet weights",
    )  # fmt: skip
    what.add_argument("--new-head", action="store_true", help="with --init: classes may differ; the classifier is new")

    how = parser.add_argument_group("how it is trained")
    for name, kind, text in (
        ("steps", int, "optimiser steps"),
        ("batch", int, "clips a step, of all processes together"),
        ("frames", int, "frames of a clip at most, at the config's rate"),
        ("lr", float, "peak learning rate"),
        ("weight-decay", float, "on matrices only"),
        ("clip-gradient", float, "largest norm of the gradient"),
        ("label-smoothing", float, "share of the target given to all classes"),
        ("ema", float, "decay of the average of weights that is written; 0: the weights themselves"),
        ("carry-state", float, "probability that a clip starts from the state another clip left"),
        ("tube-mask", float, "share of patches dropped from all frames of a clip; saves time"),
        ("joint-weight", float, "of the loss of the hand's joints (rendered gestures only)"),
        ("limit-weight", float, "of the penalty on large values, which cost parity and int8 accuracy"),
        ("seed", int, "of everything random"),
    ):
        default = getattr(standard, name.replace("-", "_"))
        how.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default: {default})")
    how.add_argument("--optimiser", default="adamw", choices=OPTIMISERS, help="muon: for the layers' matrices")
    how.add_argument("--loss", default="every", choices=PLACEMENTS, help="at every frame, or at the last one")
    how.add_argument(
        "--full-rate", type=float, nargs=2, default=standard.full_rate, metavar=("FIRST", "LAST"),
        help="share of batches that play at full frame rate, at the first and at the last step; the others skip every "
        "second frame (default: %(default)s)",
    )  # fmt: skip
    how.add_argument("--no-augment", dest="augment", action="store_false", help="clips as they are")
    how.add_argument("--fp32", action="store_true", help="no bfloat16 in matrix products")

    run = parser.add_argument_group("how the run is carried out")
    run.add_argument("--device", default="auto", choices=DEVICES)
    run.add_argument("--threads", type=int, default=None, help="CPU threads of torch (default: torch's choice)")
    run.add_argument("--workers", type=int, default=usual.workers, help="processes that read clips; 0: none")
    run.add_argument("--cache", type=Path, default=None, help="where rendered clips are kept (default: in --out)")
    run.add_argument("--save-every", type=int, default=usual.save_every, metavar="N", help="steps between checkpoints")
    run.add_argument("--stop-after", type=int, default=None, metavar="N", help="end after N steps of the schedule")
    run.add_argument(
        "--max-corrupt", type=float, default=usual.max_corrupt, metavar="SHARE", help="of unreadable clips; more: stop"
    )
    run.add_argument("--compile", action="store_true", help="torch.compile; faster steps after a minute")
    run.add_argument("--no-tensorboard", dest="tensorboard", action="store_false", help="metrics.csv only")


def run(args: argparse.Namespace) -> int:
    settings, conduct = parse(args)
    get_config(args.config, variant=args.variant)  # a wrong name is told before anything is opened
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    world = World.start(args.device)
    try:
        outcome, path = train(args, settings, conduct, world)
    finally:
        world.close()
    if world.leads:
        if outcome.loss is None:
            print(f"nothing left to do: {args.out} has done {outcome.step} steps")
        else:
            print(f"wrote {path} after step {outcome.step} of {settings.steps}, loss {outcome.loss:.3f}")
    return 0


def parse(args: argparse.Namespace) -> tuple[Settings, Conduct]:
    """Raises UsageError, naming the option and what it takes."""
    for name in ("steps", "batch", "save_every", "stop_after", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.frames < 2:
        raise UsageError(f"--frames must be at least 2, got {args.frames}")
    for name in ("lr", "weight_decay", "joint_weight", "limit_weight", "workers", "seed"):
        if not getattr(args, name) >= 0:
            raise UsageError(f"--{name.replace('_', '-')} must not be negative, got {getattr(args, name)}")
    if not args.clip_gradient > 0:
        raise UsageError(f"--clip-gradient must be positive, got {args.clip_gradient}")
    for name in ("label_smoothing", "ema", "tube_mask"):
        if not 0 <= getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 0 and below 1, got {getattr(args, name)}")
    for name, values in (
        ("carry-state", [args.carry_state]), ("full-rate", args.full_rate), ("max-corrupt", [args.max_corrupt]),
    ):  # fmt: skip
        if not all(0 <= value <= 1 for value in values):
            raise UsageError(f"--{name} must lie between 0 and 1, got {' '.join(map(str, values))}")
    if args.resume and args.init:
        raise UsageError("--resume goes on with the weights in --out, --init starts from others: use one of them")
    given = vars(args)
    settings = Settings(**{name: given[name] for name in Settings.__dataclass_fields__ if name != "full_rate"},
                        full_rate=(args.full_rate[0], args.full_rate[1]))  # fmt: skip
    return settings, Conduct(**{name: given[name] for name in Conduct.__dataclass_fields__})


def train(args: argparse.Namespace, settings: Settings, conduct: Conduct, world: World) -> tuple[Outcome, Path]:
    """Open the data, make or load the network, train it; returns how it ended and the network's file."""
    if not args.resume and (args.out / run_state.NAME).is_file():
        raise UsageError(f"{args.out} holds a run already; add --resume to go on with it, or choose another --out")
    config = get_config(args.config, variant=args.variant)
    if args.resume:
        run_state.read(args.out)  # before hours of rendering
    with world.leader_first():  # it renders what the others then find
        data = open_set(
            args.data,
            split="train",
            size=(config.height, config.width),
            fps=config.train_fps,
            frames=settings.frames,
            cache=args.cache or args.out,
            workers=max(1, args.workers),
            seed=settings.seed,
        )
    config = get_config(args.config, classes=len(data.labels), variant=args.variant)
    if world.leads:
        for note in data.notes:
            print(note)
    torch.manual_seed(settings.seed)
    model = build_model(config) if args.init is None else initial(args.init, config, data, args.new_head, world.leads)
    about = {"config": config.to_dict(), "data": data.fingerprint}
    trainer = Trainer(model, data, settings, conduct, world, args.out, about, args.init or "random")
    if args.resume:
        trainer.resume()
    return trainer.run(), args.out / f"{config.name}.safetensors"


def initial(source: str, config: Config, data: ClipSet, new_head: bool, report: bool) -> LCR:
    """The network to start from. Raises CheckpointError where it does not fit the config or the classes."""
    if source.startswith(VRWKV):
        from lcr_edge.training.vrwkv import load_vrwkv

        model = build_model(config)
        found = load_vrwkv(Path(source[len(VRWKV) :]), model)
        if report:
            print(found.text())
        return model
    checkpoint = load(source)
    there = {**checkpoint.config.to_dict(), "classes": config.classes}
    if there != config.to_dict():
        raise CheckpointError(
            f"{source} is of config {checkpoint.config.name}, not the {config.name} asked for (or of another variant): "
            f"use --config {checkpoint.config.name}"
        )
    if new_head:
        model = build_model(config)
        kept = {k: v for k, v in checkpoint.model.state_dict().items() if not k.startswith("classify.")}
        model.load_state_dict(kept, strict=False)
        return model
    if checkpoint.labels != data.labels:
        raise CheckpointError(
            f"{source} knows {len(checkpoint.labels)} classes, {data.name} has {len(data.labels)}, or others: "
            "add --new-head to learn a new classifier"
        )
    return checkpoint.model
