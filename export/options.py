"""The options that choose the network of a command: a checkpoint, or random weights for a config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lcr_edge.config import CONFIGS, VARIANTS, get_config
from lcr_edge.errors import CheckpointError, UsageError
from lcr_edge.options import add_checkpoint, add_seed, check_seed
from lcr_edge.progress import load_torch

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint


def add_network(parser: argparse.ArgumentParser) -> None:
    """``--checkpoint``, ``--config``, ``--random-weights``, ``--variant``, and ``--seed``: None if not given."""
    add_checkpoint(parser)
    parser.add_argument("--config", metavar="NAME", help=f"one of {', '.join(CONFIGS)}; must be the checkpoint's")
    parser.add_argument(
        "--random-weights", action="store_true", help="random weights instead of a checkpoint, to try out a config"
    )
    parser.add_argument(
        "--variant", metavar="NAME", help=f"with --random-weights: one of {', '.join(VARIANTS)} (default: default)"
    )
    add_seed(parser, "where random weights and the choice of calibration clips start", default=None)


def check_network(args: argparse.Namespace, int8: bool) -> None:
    """Find what is wrong with the options without torch. int8: whether the command calibrates. Raises UsageError."""
    check_seed(args.seed)
    if args.random_weights and args.checkpoint is not None:
        raise UsageError("--checkpoint and --random-weights exclude each other: leave one out")
    if args.variant is not None and not args.random_weights:
        raise UsageError("--variant needs --random-weights; a checkpoint has its own variant")
    if args.seed is not None and not args.random_weights and not int8:
        raise UsageError("--seed needs --random-weights or int8: nothing else is random here, leave it out")
    if args.config is not None or args.random_weights:
        get_config(args.config or "lcr_nano", variant=args.variant or "default")


def find_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """The network that the options name, once :func:`check_network` passed. Says on stderr what takes long.

    Raises CheckpointError.
    """
    load_torch()
    from lcr_edge import checkpoint

    if args.random_weights:
        config = get_config(args.config or "lcr_nano", variant=args.variant or "default")
        return checkpoint.random_checkpoint(config, args.seed or 0)
    found = checkpoint.load(args.checkpoint)
    if args.config not in (None, found.config.name):
        origin = args.checkpoint or "the packaged checkpoint"
        raise CheckpointError(
            f"{origin} has config {found.config.name}, not {args.config}: leave --config out, give a checkpoint of "
            f"{args.config}, or use --random-weights"
        )
    return found
