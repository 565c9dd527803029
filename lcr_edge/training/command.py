"""Train a network: ``lcr-edge train --data jester:/data/jester --config lcr_nano --out runs/jester``.

RUN gets the network (CONFIG.safetensors, the average of the weights), the state to --resume from (run.safetensors),
metrics.csv, TensorBoard events and curve.png. Several GPUs:
torchrun --nproc-per-node N -m lcr_edge train ...
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from lcr_edge.checkpoint import Checkpoint, build_model, load
from lcr_edge.config import CONFIGS, VARIANTS, Config, get_config
from lcr_edge.data.sets import ClipSet, open_set
from lcr_edge.errors import CheckpointError, LcrError, UsageError
from lcr_edge.frames import DEFAULT_FIT, FITS
from lcr_edge.model.network import LCR
from lcr_edge.training import run_state
from lcr_edge.training.loop import Outcome, Trainer
from lcr_edge.training.loss import PLACEMENTS
from lcr_edge.training.optimiser import OPTIMISERS
from lcr_edge.training.processes import DEVICES, World
from lcr_edge.training.settings import Conduct, Settings

VRWKV = "vrwkv:"
MAX_SEED = 2**32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    standard, usual = Settings(), Conduct()
    what = parser.add_argument_group("what is trained, on what")
    what.add_argument(
        "--data", default="rendered", metavar="KIND:PATH",
        help="rendered[:CLIPS_PER_CLASS], jester:DIR, ssv2:DIR, kinetics:DIR or folder:DIR (default: rendered)",
    )  # fmt: skip
    what.add_argument(
        "--fit", default=DEFAULT_FIT, choices=FITS,
        help="how frames are brought to the network's size, here and wherever it is used: letterbox, the whole frame "
        f"with black bars, or crop, its centre (default: {DEFAULT_FIT})",
    )  # fmt: skip
    what.add_argument("--config", default="lcr_nano", help=f"one of {', '.join(CONFIGS)} (default: lcr_nano)")
    what.add_argument("--variant", default="default", help=f"one of {', '.join(VARIANTS)}")
    what.add_argument(
        "--out", required=True, type=Path, metavar="RUN", help="folder of the run; shared by all machines"
    )
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
        ("calm-weight", float, "of the penalty on states that blow small changes up; doubles the time, needs --fp32"),
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
    run.add_argument("--compile", action="store_true", help="torch.compile; faster steps after some minutes")
    run.add_argument("--no-tensorboard", dest="tensorboard", action="store_false", help="metrics.csv only")


def run(args: argparse.Namespace) -> int:
    settings, conduct = parse(args)
    get_config(args.config, variant=args.variant)  # a wrong name is told before anything is opened
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    world = World.start(args.device)
    with explained(settings, world):
        outcome, path = train(args, settings, conduct, world)
        world.close()  # not after an error: other processes may be waiting, and closing would wait for them
    if world.leads and not outcome.trained:
        print(f"nothing left to do: {args.out} has done {outcome.step} steps")
    elif world.leads:
        loss = "" if outcome.loss is None else f", loss {outcome.loss:.3f}"
        print(f"wrote {path} after step {outcome.step} of {settings.steps}{loss}")
    return 0


@contextlib.contextmanager
def explained(settings: Settings, world: World) -> Iterator[None]:
    """Turns what PyTorch raises for want of memory, or of another process, into LcrError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
            raise LcrError(
                f"out of memory on {world.device} (batch {settings.batch}, {settings.frames} frames): lower --batch or "
                "--frames, raise --tube-mask, or use more processes, each with its own device"
            ) from error
        if world.size > 1 and (isinstance(error, torch.distributed.DistError) or "by peer" in text):
            raise LcrError(
                f"process {world.rank} of {world.size} lost the others; see what another one says"
            ) from error
        raise


def parse(args: argparse.Namespace) -> tuple[Settings, Conduct]:
    """Raises UsageError, naming the option and what it takes."""
    for name in ("steps", "batch", "save_every", "stop_after", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.frames < 2:
        raise UsageError(f"--frames must be at least 2, got {args.frames}")
    for name in ("lr", "weight_decay", "joint_weight", "limit_weight", "calm_weight", "workers", "seed"):
        if not getattr(args, name) >= 0:
            raise UsageError(f"--{name.replace('_', '-')} must not be negative, got {getattr(args, name)}")
    if not args.clip_gradient > 0:
        raise UsageError(f"--clip-gradient must be positive, got {args.clip_gradient}")
    if args.seed >= MAX_SEED:
        raise UsageError(f"--seed must be below {MAX_SEED}, got {args.seed}")
    if args.new_head and not args.init:
        raise UsageError("--new-head replaces the classifier of --init FILE: give one, or leave it out")
    if args.calm_weight and not args.fp32:
        raise UsageError("--calm-weight compares states that differ by less than bfloat16 resolves: add --fp32")
    if args.tube_mask and args.carry_state == 1:
        raise UsageError("with --carry-state 1 no clip ever gets a new tube mask: lower one of them")
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
    network = args.out / f"{config.name}.safetensors"
    # Whatever can be refused is refused before hours of rendering.
    if not args.resume and network.is_file():
        raise UsageError(f"{network} exists and would be overwritten; choose another --out")
    if settings.batch % world.size:
        raise UsageError(f"--batch {settings.batch} cannot be shared by {world.size} processes; use a multiple of them")
    source = None
    if args.resume:
        run_state.read(args.out)
    elif args.init and not args.init.startswith(VRWKV):
        source = load(args.init)
        check_config(args.init, source.config, config)
    elif args.init and not Path(args.init[len(VRWKV) :]).is_file():
        raise CheckpointError(f"{args.init[len(VRWKV) :]} does not exist; give the path of Vision-RWKV weights")
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
            fit=args.fit,
        )
    config = get_config(args.config, classes=len(data.labels), variant=args.variant)
    torch.manual_seed(settings.seed)
    if source is not None:
        model = adapted(args.init, source, config, data, args.new_head)
    else:
        model = build_model(config)
        if args.init:
            from lcr_edge.training.vrwkv import load_vrwkv

            report = load_vrwkv(Path(args.init[len(VRWKV) :]), model)
            if world.leads:
                print(report.text())
    if world.leads:
        run_state.clean(args.out)
        for note in data.notes:
            print(note)
        parameters = sum(p.numel() for p in model.parameters())
        per_epoch = max(1, len(data) // settings.batch)
        print(
            f"{config.name}, {parameters / 1e6:.2f} M parameters, on {world.device}"
            f"{f' and {world.size - 1} more' if world.size > 1 else ''}; {data.name}: {len(data)} clips of "
            f"{len(data.labels)} classes; {settings.steps} steps = {settings.steps / per_epoch:.1f} epochs",
            flush=True,
        )
    about = {"config": config.to_dict(), "data": data.fingerprint, "fit": data.fit}
    trainer = Trainer(model, data, settings, conduct, world, args.out, about, args.init or "random")
    if args.resume:
        trainer.resume()
    return trainer.run(), network


def check_config(path: str, found: Config, wanted: Config) -> None:
    """Raises CheckpointError unless the two configs differ in the number of classes only."""
    if {**found.to_dict(), "classes": wanted.classes} != wanted.to_dict():
        raise CheckpointError(
            f"{path} is of config {found.name}, not the {wanted.name} asked for (or of another variant): "
            f"use --config {found.name}"
        )


def adapted(path: str, source: Checkpoint, config: Config, data: ClipSet, new_head: bool) -> LCR:
    """The network of a checkpoint, for the classes of the data. Raises CheckpointError where they differ."""
    if new_head:
        model = build_model(config)
        kept = {k: v for k, v in source.model.state_dict().items() if not k.startswith("classify.")}
        model.load_state_dict(kept, strict=False)
        return model
    if source.labels != data.labels:
        raise CheckpointError(
            f"{path} knows {len(source.labels)} classes, {data.name} has {len(data.labels)}, or others: "
            "add --new-head to learn a new classifier"
        )
    return source.model
