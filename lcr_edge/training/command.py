"""Train a network on recorded or rendered clips, for example ``--data jester:/data/jester --out runs/jester``.

The folder of the run gets the network (CONFIG.safetensors, the average of the weights), the state from which --resume
goes on (run.safetensors), metrics.csv, TensorBoard events, curve.png, and a page about the run (report.html). On
several GPUs: torchrun --nproc-per-node N -m lcr_edge train ...
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lcr_edge.config import Config, get_config
from lcr_edge.data.pack import SUFFIX, PackFile, choose, write
from lcr_edge.data.sets import ClipSet, open_set
from lcr_edge.errors import LcrError, UsageError
from lcr_edge.files import make_folder
from lcr_edge.frames import DEFAULT_FIT
from lcr_edge.model.network import LCR
from lcr_edge.training import run_state
from lcr_edge.training.classes import check_classes, class_notes
from lcr_edge.training.heldout import HeldOut
from lcr_edge.training.holding import holding
from lcr_edge.training.loop import BEST, Outcome, Trainer
from lcr_edge.training.options import add_arguments, parse
from lcr_edge.training.page import NAME, Run, write_page
from lcr_edge.training.precision import float32_wanted
from lcr_edge.training.processes import World
from lcr_edge.training.schedule import Schedule
from lcr_edge.training.settings import Conduct, Settings
from lcr_edge.training.start import Start
from lcr_edge.training.stopping import EXIT_CODE, resume_command

RENDERED_HELDOUT = "rendered:8"  # a class: enough for a look

__all__ = ["add_arguments", "run", "train"]


def run(args: argparse.Namespace) -> int:
    """Train, and print what was written. Raises LcrError subclasses."""
    settings, conduct = parse(args)
    get_config(args.config, variant=args.variant)  # a wrong name is told before anything is opened
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    world = World.start(args.device)
    with holding(args.out) if world.leads else contextlib.nullcontext():
        with _explained(settings, world):
            trainer, outcome, path = train(args, settings, conduct, world)
            world.close()  # not after an error: other processes may be waiting, and closing would wait for them
        return _tell(args, world, trainer, outcome, path)


def _tell(args: argparse.Namespace, world: World, trainer: Trainer, outcome: Outcome, path: Path) -> int:
    """Print what came of the run and write its page; the exit code."""
    if outcome.stopped is not None:
        if world.leads:
            print(f"stopped after step {outcome.step} of {trainer.schedule.goal}; everything is saved. To go on:")
            resume = resume_command("lcr-edge train", args.words, world.size)
            print(f"    {resume}", flush=True)
            _write_page(trainer, outcome, path, resume)
        return EXIT_CODE + outcome.stopped
    if world.leads and not outcome.trained:
        print(f"nothing left to do: {args.out} has done {outcome.step} steps")
    elif world.leads:
        loss = "" if outcome.loss is None else f", loss {outcome.loss:.3f}"
        print(f"wrote {path} after step {outcome.step} of {trainer.schedule.goal}{loss}")
        _tell_heldout(outcome, path)
        _tell_patience(outcome, trainer.schedule)
        _tell_ready(outcome)
    if world.leads and (outcome.trained or _older(path.with_name(NAME), path)):
        _write_page(trainer, outcome, path)
    return 0


def _older(page: Path, network: Path) -> bool:
    """Whether the page is missing, or tells of an earlier moment than the network is of."""
    return not page.is_file() or page.stat().st_mtime < network.stat().st_mtime


def _write_page(trainer: Trainer, outcome: Outcome, network: Path, resume: str | None = None) -> None:
    """Write the page of the run. resume: the command that goes on with one that was stopped."""

    def run() -> Run:
        known, heldout = outcome, trainer.heldout
        # Somebody waits for a run that is being stopped: what the last look found has to do.
        if known.stopped is None and heldout is not None and known.looked != known.step:
            look = heldout.look(trainer.model, trainer.average.tensors)
            known = known._replace(look=look, looked=known.step)
        settings = {**trainer.identity, **trainer.course}
        return Run(known, network, trainer.schedule.goal, settings, trainer.data.labels, heldout, resume)

    path = write_page(network, run)
    if path is not None:
        print(f"report: {path}")


def _tell_ready(outcome: Outcome) -> None:
    """Whether the network is ready to export, with what was measured."""
    ready = outcome.ready
    if ready is None:
        return
    if not ready.complaints:
        print(f"ready to export: {ready.line()}")
        return
    print(f"not ready to export: {'; '.join(ready.complaints)}")
    print(f"    measured: {ready.line()}")
    print("    an export may be refused; train for more --steps, or with a larger --calm-share or --limit-weight")


def _tell_patience(outcome: Outcome, schedule: Schedule) -> None:
    """Where patience ended the learning, and whether the network was calmed all the same."""
    if schedule.cut is not None:
        calmed = f"; {outcome.step - schedule.cut} steps of calming followed" if outcome.step > schedule.cut else ""
        print(f"learning ended early, after step {schedule.cut} of {schedule.planned} (--patience){calmed}")


def _tell_heldout(outcome: Outcome, path: Path) -> None:
    """What the run came to on held-out clips, and which file holds the better weights."""
    if outcome.look is None or outcome.best is None:
        return
    look, best = outcome.look, outcome.best
    better = ""
    if best.since:
        name = f"{path.stem}{BEST}{path.suffix}"
        better = f"; the best was {best.look.accuracy:.1%} after step {best.step}, in {path.with_name(name)}"
    print(f"held-out clips: {look.accuracy:.1%} right, loss {look.loss:.3f}{better}")


def train(
    args: argparse.Namespace, settings: Settings, conduct: Conduct, world: World
) -> tuple[Trainer, Outcome, Path]:
    """Open the data, make or load the network, train it; returns the trainer, how it ended, the network's file."""
    config = get_config(args.config, variant=args.variant)
    network = args.out / f"{config.name}.safetensors"
    begun = _check_folder(args, network)
    if settings.batch % world.size:
        raise UsageError(f"--batch {settings.batch} cannot be shared by {world.size} processes; use a multiple of them")
    saved = begun.get("fp32") if args.precision == "auto" else None
    settings = dataclasses.replace(
        settings, fp32=saved if isinstance(saved, bool) else float32_wanted(args.precision, world)
    )
    start = Start(None if args.resume else args.init, config)
    # What a run goes on from decides, unless the command line does. A saved run with another fit is refused later.
    fit = str(args.fit or begun.get("fit") or start.fit or DEFAULT_FIT)
    data = _open_data(args, config, settings, world, fit)
    check_classes(data)
    if args.epochs:
        settings = dataclasses.replace(settings, steps=args.epochs * max(1, len(data) // settings.batch))
    config = get_config(args.config, classes=len(data.labels), variant=args.variant)
    heldout = _open_heldout(args, config, settings, data) if world.leads else None
    torch.manual_seed(settings.seed)
    model, report = start.network(config, data, args.new_head)
    if world.leads:
        run_state.clean(args.out)
        _announce(model, data, settings, world, report)
    # Without held-out clips the training clips say whether the network can be exported, though not whether it is right.
    judge = None if not world.leads else heldout or HeldOut(data, config, settings.frames)
    about = {"config": config.to_dict(), "data": data.fingerprint, "fit": data.fit}
    trainer = Trainer(model, data, settings, conduct, world, args.out, about, start.origin, heldout, judge)
    if args.resume:
        trainer.resume()
        if args.init and args.init != trainer.origin:
            raise UsageError(
                f"the run in {args.out} started from {trainer.origin}, not from {args.init}: leave out --init, or "
                "choose another --out"
            )
    if judge is not None:  # not before it is certain that the run goes on: the pack belongs to the networks there
        trainer.pack = _write_pack(network, judge.data, config, settings)
    return trainer, trainer.run(), network


def _check_folder(args: argparse.Namespace, network: Path) -> dict[str, Any]:
    """Refuse what can be refused before hours of rendering. The settings of the run to resume; {} for a new one.

    Raises UsageError, CheckpointError.
    """
    if args.resume:
        return run_state.read(args.out).settings
    if (args.out / run_state.NAME).is_file():
        raise UsageError(f"{args.out} holds a run already; add --resume to go on with it, or choose another --out")
    if network.is_file():
        raise UsageError(f"{network} exists and would be overwritten; choose another --out")
    return {}


def _open_data(args: argparse.Namespace, config: Config, settings: Settings, world: World, fit: str) -> ClipSet:
    with world.leader_first():  # it renders what the others then find
        return open_set(
            args.data,
            split="train",
            size=(config.height, config.width),
            fps=config.train_fps,
            frames=settings.frames,
            cache=args.cache or args.out,
            workers=max(1, args.workers),
            seed=settings.seed,
            fit=fit,
            backdrops=args.backgrounds,
        )


def _open_heldout(args: argparse.Namespace, config: Config, settings: Settings, data: ClipSet) -> HeldOut | None:
    """The held-out clips; None if the data have none, which is said, or nobody wants to look at them."""
    if args.look_every == 0:
        return None
    try:
        found = open_set(
            RENDERED_HELDOUT if args.data.partition(":")[0] == "rendered" else args.data,
            split="heldout",
            size=(config.height, config.width),
            fps=config.train_fps,
            frames=settings.frames,
            cache=None,
            workers=max(1, args.workers),
            classes=data.labels,
            fit=data.fit,
        )
    except UsageError as error:
        print(f"no held-out clips to look at: {error}")
        return None
    return HeldOut(found, config, settings.frames)


def _write_pack(network: Path, data: ClipSet, config: Config, settings: Settings) -> PackFile | None:
    """The judge pack of a network trained on recorded clips. Rendered gestures need none: they are drawn again."""
    if data.reversible:
        return None
    chosen = choose(data, (config.height, config.width), config.train_fps, settings.frames)
    if not len(chosen.clips):
        return None
    make_folder(network.parent)
    path = network.with_name(config.name + SUFFIX)
    return PackFile(path, write(path, chosen))


def _announce(model: LCR, data: ClipSet, settings: Settings, world: World, report: str) -> None:
    for line in (*((report,) if report else ()), *data.notes, *class_notes(data, settings.balance)):
        print(line)
    parameters = sum(p.numel() for p in model.parameters())
    epochs = settings.steps / max(1, len(data) // settings.batch)
    others = f" and {world.size - 1} more" if world.size > 1 else ""
    form = "float32" if settings.fp32 else "bfloat16"
    print(
        f"{model.config.name}, {parameters / 1e6:.2f} M parameters, on {world.device}{others} in {form}; {data.name}: "
        f"{len(data)} clips in {len(data.labels)} classes; {settings.steps} steps = {epochs:.1f} epochs",
        flush=True,
    )


@contextlib.contextmanager
def _explained(settings: Settings, world: World) -> Iterator[None]:
    """Turn what PyTorch raises without memory, or without another process, into LcrError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
            raise LcrError(
                f"out of memory on {world.device} (batch {settings.batch}, {settings.frames} frames): lower --batch or "
                "--clip-frames, raise --tube-mask, or use more processes, each with its own device"
            ) from error
        if world.size > 1 and (isinstance(error, torch.distributed.DistError) or "by peer" in text):
            raise LcrError(
                f"process {world.rank} of {world.size} lost the others; see what another one says"
            ) from error
        raise
