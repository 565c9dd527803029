"""The options of ``lcr-edge train``: what they are called, which values they take, and the settings they make."""

from __future__ import annotations

import argparse
from pathlib import Path

from lcr_edge.config import CONFIGS, MAX_CLIP_FRAMES, MIN_CLIP_FRAMES, VARIANTS
from lcr_edge.errors import UsageError
from lcr_edge.frames import DEFAULT_FIT, FITS
from lcr_edge.options import Number, add_out, add_seed, add_threads, check_least, check_numbers, check_seed
from lcr_edge.training.loss import PLACEMENTS
from lcr_edge.training.optimiser import OPTIMISERS
from lcr_edge.training.precision import PRECISIONS
from lcr_edge.training.processes import DEVICES
from lcr_edge.training.settings import MOST_CALM, Conduct, Settings

_STANDARD, _USUAL = Settings(), Conduct()

# One row: name, help, type, smallest and largest value. Where a row names no field, the option's name is that of a
# field of Settings (HOW) or Conduct (RUN), and its default comes from there.
HOW = (
    Number("steps", f"optimiser steps (default: {_STANDARD.steps}, unless --epochs is given)"),
    Number("epochs", "passes over the clips, in place of --steps", field="epochs"),
    Number("batch", "clips per step, over all processes", default=_STANDARD.batch),
    Number(
        "clip-frames", "longest clip in frames, at the config's rate", low=MIN_CLIP_FRAMES, high=MAX_CLIP_FRAMES,
        default=_STANDARD.frames, field="frames",
    ),
    Number("lr", "peak learning rate", float, 0, default=_STANDARD.lr, metavar="RATE"),
    Number("weight-decay", "weight decay of matrices", float, 0, default=_STANDARD.weight_decay, metavar="X"),
    Number(
        "clip-gradient", "largest norm of the gradient", float, 0, above_low=True,
        default=_STANDARD.clip_gradient, metavar="X",
    ),
    Number(
        "label-smoothing", "share of the target that is spread over all classes", float, 0, 1, below_high=True,
        default=_STANDARD.label_smoothing, metavar="SHARE",
    ),
    Number(
        "ema", "decay of the average of the weights, which is what is saved; 0 saves the weights themselves", float,
        0, 1, below_high=True, default=_STANDARD.ema, metavar="X",
    ),
    Number(
        "carry-state", "probability that a clip starts from the state that another clip left", float, 0, 1,
        default=_STANDARD.carry_state, metavar="SHARE",
    ),
    Number(
        "tube-mask", "share of the patches to drop from all frames of a clip, which saves time", float, 0, 1,
        below_high=True, default=_STANDARD.tube_mask, metavar="SHARE",
    ),
    Number(
        "joint-weight", "weight of the loss on the hand's joints (rendered gestures only)", float, 0,
        default=_STANDARD.joint_weight, metavar="X",
    ),
    Number(
        "limit-weight", "weight of the penalty on large values, which cost parity and int8 accuracy", float, 0,
        default=_STANDARD.limit_weight, metavar="X",
    ),
    Number(
        "calm-weight", "weight, in the last steps, of the penalty on states that amplify small changes; 0 for none",
        float, 0, default=_STANDARD.calm_weight, metavar="X",
    ),
    Number(
        "calm-share", f"share of the steps, the last ones and at most {MOST_CALM}, that calm the network, in float32; "
        "each takes longer than another step. 1: all steps calm", float, 0, 1,
        default=_STANDARD.calm_share, metavar="SHARE",
    ),
    Number(
        "full-rate", "share of the batches that play at full frame rate, at the first and at the last step; the others "
        "skip every second frame", float, 0, 1, default=_STANDARD.full_rate, metavar=("FIRST", "LAST"),
    ),
)  # fmt: skip
RUN = (
    Number("workers", "processes that read clips; 0 reads in a thread", low=0, default=_USUAL.workers),
    Number("save-every", "steps between two checkpoints", default=_USUAL.save_every),
    Number(
        "look-every", "steps between two looks at held-out clips, 0 for none (default: a tenth of the steps)", low=0,
    ),
    Number("patience", "end the learning after N looks that were no better than the best one, and calm"),
    Number("stop-after", "stop after N steps of the schedule; --resume goes on from there"),
    Number(
        "max-corrupt", "stop when a larger share of the clips is unreadable", float, 0, 1,
        default=_USUAL.max_corrupt, metavar="SHARE",
    ),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge train``; :func:`parse` checks the values, so that errors name the way out."""
    what = parser.add_argument_group("what to train, and on what")
    what.add_argument(
        "--data", default="rendered", metavar="DIR",
        help="folder of the clips; a layout may be named: jester:DIR, ssv2:DIR, kinetics:DIR, folder:DIR. Or "
        "rendered[:CLIPS_PER_CLASS] (default: rendered)",
    )  # fmt: skip
    what.add_argument(
        "--backgrounds", type=Path, nargs="+", default=(), metavar="FILE",
        help="photos and videos that stand behind rendered people in half of the clips, instead of a drawn room",
    )  # fmt: skip
    what.add_argument(
        "--fit", choices=FITS,
        help="how a frame is brought to the network's size, here and wherever it is used: letterbox, the whole frame "
        f"with black bars, or crop, its centre (default: that of --init or --resume, otherwise {DEFAULT_FIT})",
    )  # fmt: skip
    what.add_argument(
        "--config", default="lcr_nano", metavar="NAME", help=f"one of {', '.join(CONFIGS)} (default: lcr_nano)"
    )
    what.add_argument(
        "--variant", default="default", metavar="NAME", help=f"one of {', '.join(VARIANTS)} (default: default)"
    )
    add_out(what, "folder of the run, the same on all machines", required=True)
    what.add_argument("--resume", action="store_true", help="go on with the run in --out, exactly where it stopped")
    what.add_argument(
        "--init", metavar="FILE",
        help="start from a checkpoint of the same config; packaged is the lcr_nano that comes along, with a new "
        "classifier for other classes; vrwkv:FILE are Vision-RWKV ImageNet weights",
    )  # fmt: skip
    what.add_argument("--new-head", action="store_true", help="with --init: learn a new classifier, for other classes")

    how = parser.add_argument_group("how to train")
    for row in HOW:
        row.add(how)
    add_seed(how)
    how.add_argument(
        "--optimiser", default=_STANDARD.optimiser, choices=OPTIMISERS,
        help="muon is used for the matrices of the layers, AdamW for the rest (default: adamw)",
    )  # fmt: skip
    how.add_argument(
        "--loss", default=_STANDARD.loss, choices=PLACEMENTS, help="count every frame or the last one (default: every)"
    )
    how.add_argument("--no-augment", dest="augment", action="store_false", help="do not change the clips")
    how.add_argument(
        "--balance", action="store_true",
        help="draw all classes equally often on average, clips of small ones again and again "
        "(default: every clip once an epoch)",
    )  # fmt: skip
    how.add_argument(
        "--precision", default=PRECISIONS[0], choices=PRECISIONS,
        help="of matrix products: bfloat16, float32, or (auto, the default) bfloat16 where the processor has "
        "instructions for it; --resume keeps what the run has",
    )  # fmt: skip

    run = parser.add_argument_group("how to carry out the run")
    run.add_argument(
        "--device", default="auto", choices=DEVICES, help="auto takes a GPU where there is one (default: auto)"
    )
    add_threads(run, None, "CPU threads of torch", engine="torch")
    for row in RUN:
        row.add(run)
    run.add_argument("--cache", type=Path, metavar="DIR", help="folder of the rendered clips (default: --out)")
    run.add_argument("--compile", action="store_true", help="use torch.compile: faster steps after some minutes")
    run.add_argument("--no-tensorboard", dest="tensorboard", action="store_false", help="write metrics.csv only")


def parse(args: argparse.Namespace) -> tuple[Settings, Conduct]:
    """The settings that the arguments ask for. Raises UsageError, which names the option and what it takes."""
    check_numbers((*HOW, *RUN), args)
    check_seed(args.seed)
    check_least("--threads", args.threads, 1)
    _check_together(args)
    # An epoch has as many steps as the data say, and "auto" depends on the device: see training.command.
    given = {**vars(args), "full_rate": tuple(args.full_rate), "steps": args.steps or _STANDARD.steps}
    given["fp32"] = args.precision == "fp32"
    settings = Settings(**{name: given[name] for name in Settings.__dataclass_fields__})
    return settings, Conduct(**{name: given[name] for name in Conduct.__dataclass_fields__})


def _check_together(args: argparse.Namespace) -> None:
    for wrong, message in (
        (args.new_head and not args.init,
         "--new-head replaces the classifier of --init FILE: give one, or leave it out"),
        (args.steps and args.epochs,
         "--steps and --epochs both say how long to train: give one of them"),
        (args.patience and args.look_every == 0,
         "--patience counts looks at held-out clips, and --look-every 0 has none: leave one out"),
        (args.patience and args.calm_share == 1 and args.calm_weight,
         "--patience ends the learning, and with --calm-share 1 there is none: leave one out"),
        (args.tube_mask and args.carry_state == 1,
         "with --carry-state 1 no clip ever gets a new tube mask: lower one of them"),
    ):  # fmt: skip
        if wrong:
            raise UsageError(message)
