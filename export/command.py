"""Write verified step bundles: the trained network as one recurrent step for onnxruntime, OpenVINO or TFLite.

``--help`` and ``--list`` need neither torch nor any converter.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lcr_edge.config import CONFIGS, VARIANTS, get_config
from lcr_edge.contract import EDGE_MODES, STATE_MODES
from lcr_edge.errors import CheckpointError, UsageError
from lcr_edge.export import targets

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.export.pipeline import Exported

_ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge export``. Values are checked in :func:`run`, so that errors name the way out."""
    names = ", ".join((*targets.TARGETS, _ALL))
    parser.add_argument("--target", help=f"one of {names}")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="a trained .safetensors file (default: the packaged lcr_nano)"
    )
    parser.add_argument("--config", metavar="NAME", help=f"one of {', '.join(CONFIGS)}; must be the checkpoint's")
    parser.add_argument(
        "--random-weights", type=int, metavar="SEED", help="random weights instead, to try a config out"
    )
    parser.add_argument("--variant", help=f"with --random-weights: one of {', '.join(VARIANTS)} (default: default)")
    parser.add_argument("--precision", default=targets.DEFAULT_PRECISION, help="fp32 (default), or fp16 weights")
    parser.add_argument(
        "--edges",
        default=targets.DEFAULT_EDGES,
        help=f"where edges are found, one of {', '.join(EDGE_MODES)} (default: {targets.DEFAULT_EDGES}); "
        "runtimes hide the difference",
    )
    parser.add_argument(
        "--state-mode",
        default=targets.DEFAULT_STATE_MODE,
        help=f"one of {', '.join(STATE_MODES)} (default: explicit); internal, a stateful model, is OpenVINO's",
    )
    parser.add_argument("--out", default="out", metavar="DIR", help="folder to write CONFIG-TARGET-PRECISION/ into")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads of the verifying engine (default: 1)"
    )
    parser.add_argument("--list", action="store_true", help="list the targets and what they need, and stop")


def run(args: argparse.Namespace) -> int:
    """Export and print what was written. Raises LcrError subclasses; then nothing is half-written."""
    if args.list:
        print(targets.table())
        return 0
    chosen = _targets(args.target)
    # Everything that can be wrong with the call is found before torch is imported and minutes are spent.
    for name in chosen:
        targets.check_choice(f"precision for {name}", args.precision, targets.TARGETS[name].precisions)
        targets.check_choice(f"state mode for {name}", args.state_mode, targets.TARGETS[name].state_modes)
    targets.check_choice("edges", args.edges, EDGE_MODES)
    if args.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {args.threads}")
    if args.config is not None:
        get_config(args.config)
    for name in chosen:
        targets.require(targets.TARGETS[name])
    checkpoint = _checkpoint(args)
    import torch

    from lcr_edge.export.pipeline import Exporter

    # The reference's matrices are small: more threads would mostly wait for each other.
    torch.set_num_threads(args.threads)

    exporter = Exporter(checkpoint, Path(args.out), threads=args.threads)
    for name in chosen:
        request = targets.Request(checkpoint.config, name, args.precision, args.edges, args.state_mode)
        _print(exporter.export(request))
    return 0


def _targets(name: str | None) -> tuple[str, ...]:
    if name is None:
        raise UsageError(f"--target is missing; choose one of {', '.join((*targets.TARGETS, _ALL))}")
    targets.check_choice("target", name, (*targets.TARGETS, _ALL))
    return tuple(targets.TARGETS) if name == _ALL else (name,)


def _checkpoint(args: argparse.Namespace) -> Checkpoint:
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


def _print(exported: Exported) -> None:
    sizes = "  ".join(f"{name} {size / 1024:.0f} KiB" for name, size in exported.sizes.items())
    print(f"wrote {exported.folder}/\n  {sizes}")
    one_step, stream = exported.report.one_step["all"], exported.report.stream["all"]
    worst = [max(tally.max_abs for tally in line.tensors.values()) for line in (one_step, stream)]
    print(
        f"  parity over {exported.report.frames} frames on {exported.report.engine}: max abs error {worst[0]:.1e} "
        f"after one step, {worst[1]:.1e} in a stream, top-1 equal {stream.top1:.1%}"
    )
    sys.stdout.flush()
