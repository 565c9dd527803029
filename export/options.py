"""Which network a command of this package takes: a checkpoint, or random weights of a config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lcr_edge.config import get_config
from lcr_edge.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint


def find_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """The checkpoint that --checkpoint, --config, --random-weights and --variant name. CheckpointError, UsageError."""
    from lcr_edge import checkpoint

    if args.random_weights is not None:
        if args.checkpoint is not None:
            raise UsageError("--checkpoint and --random-weights exclude each other: leave one out")
        if args.random_weights < 0:
            raise UsageError(f"--random-weights takes a seed of at least 0, got {args.random_weights}")
        config = get_config(args.config or "lcr_nano", variant=args.variant or "default")
        return checkpoint.random_checkpoint(config, args.random_weights)
    if args.variant is not None:
        raise UsageError("--variant goes with --random-weights; a checkpoint knows its own")
    found = checkpoint.load(args.checkpoint)
    if args.config not in (None, found.config.name):
        origin = args.checkpoint or "the packaged checkpoint"
        raise CheckpointError(
            f"{origin} is of config {found.config.name}, not {args.config}: leave --config out, give a checkpoint of "
            f"{args.config}, or use --random-weights SEED"
        )
    return found
