"""Write verified step bundles: the trained network as one recurrent step for onnxruntime, OpenVINO or TFLite.

``--help`` and ``--list`` need neither torch nor any converter.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lcr_edge.calibration import options as calibration
from lcr_edge.calibration.quant_plan import ACTIVATIONS, QUANT_MODES
from lcr_edge.config import CONFIGS, VARIANTS, Config, get_config
from lcr_edge.contract import EDGE_MODES, STATE_MODES
from lcr_edge.errors import UsageError
from lcr_edge.export.options import find_checkpoint
from lcr_edge.export.targets import table as targets
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.measure import WORKERS
from lcr_edge.options import check_choice

if TYPE_CHECKING:
    from lcr_edge.export.exporter import Exported

_ALL = "all"
_AUTO = "auto"


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
    parser.add_argument(
        "--precision", default=targets.DEFAULT_PRECISION, help=f"one of {', '.join(targets.PRECISIONS)} (default: fp32)"
    )
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
    parser.add_argument(
        "--state-precision",
        help="states at the step's boundary: fp32 (default) or fp16, which halves what a camera keeps and moves",
    )
    parser.add_argument(
        "--no-gate", action="store_true", help="write the bundle even if it misses what its precision promises"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="also write what was measured as DIR/BUNDLE.html, with what each kind of layers costs in int8",
    )
    int8 = parser.add_argument_group("int8")
    int8.add_argument(
        "--quant",
        help=f"one of {', '.join(QUANT_MODES)} (default: {_default_quants()})",
    )
    int8.add_argument(
        "--int8-activations",
        default=_AUTO,
        help="auto (default: u8, for CPUs), u8, or s8: symmetric with zero point 0, as TensorRT needs",
    )
    int8.add_argument(
        "--keep-float",
        metavar="PATTERN",
        help="layers that compute in float, as a comma-separated list of shell patterns ('layers.0.*,classify'), "
        f"none, or auto: the fewest that pass (default for static: {targets.FLOAT_BY_DEFAULT})",
    )
    int8.add_argument(
        "--io",
        default=targets.DEFAULT_IO,
        help="float (default), or int8: a TFLite model of integers only, for NPUs and microcontrollers",
    )
    calibration.add_arguments(parser)
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
        check_choice(f"precision for {name}", args.precision, targets.TARGETS[name].precisions)
        check_choice(f"state mode for {name}", args.state_mode, targets.TARGETS[name].state_modes)
        check_choice(f"io for {name}", args.io, targets.TARGETS[name].io_modes)
    check_choice("edges", args.edges, EDGE_MODES)
    _check_int8(args)
    if args.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {args.threads}")
    if args.config is not None:
        get_config(args.config)
    for name in chosen:
        targets.require(targets.TARGETS[name], int8=args.precision == "int8")
    checkpoint = find_checkpoint(args)
    requests = [_request(args, checkpoint.config, name) for name in chosen]
    import torch

    from lcr_edge.export.exporter import Exporter, Gate
    from lcr_edge.export.int8.layers import in_float
    from lcr_edge.export.keep_float import export_with_fewest
    from lcr_edge.files import make_folder

    # The reference's matrices are small: more threads would mostly wait for each other.
    torch.set_num_threads(args.threads)
    if args.report is not None:
        make_folder(args.report, "--report")
    samples = calibration.samples_for(args, checkpoint) if args.precision == "int8" else None
    exporter = Exporter(checkpoint, Path(args.out), samples=samples, threads=args.threads, pages=args.report)
    gate = Gate(enforced=not args.no_gate, workers=WORKERS)
    for request in requests:
        if args.keep_float == _AUTO:
            exported = export_with_fewest(exporter, request, gate)
        elif args.precision == "int8":
            exported = exporter.export(request, gate, in_float(exporter.layers, request.quant, args.keep_float))
        else:
            exported = exporter.export(request, gate)
        _print(exported)
        if exported.page is not None:
            print(f"  report {exported.page}")
    return 0


def _default_quants() -> str:
    return ", ".join(f"{row.default_quant} for {name}" for name, row in targets.TARGETS.items())


def _check_int8(args: argparse.Namespace) -> None:
    """Raises UsageError for values out of range, and for options of int8 without it."""
    check_choice("int8 activations", args.int8_activations, (_AUTO, *ACTIVATIONS))
    if args.quant is not None:
        check_choice("quant", args.quant, QUANT_MODES)
    if args.state_precision is not None:
        check_choice("state precision", args.state_precision, ("fp32", "fp16"))
    calibration.check(args)
    if args.precision == "int8":
        return
    given = {
        "--quant": args.quant is not None,
        "--int8-activations": args.int8_activations != _AUTO,
        "--keep-float": args.keep_float is not None,
        "--io": args.io != targets.DEFAULT_IO,
    }
    for name, value in vars(args).items():
        if name.startswith("calibration"):
            given[f"--{name.replace('_', '-')}"] = value is not None
    extra = [name for name, used in given.items() if used]
    if extra:
        raise UsageError(f"{', '.join(extra)}: only with --precision int8")


def _request(args: argparse.Namespace, config: Config, target: str) -> Request:
    if args.io == "int8":
        if args.state_precision is not None or args.keep_float is not None:
            raise UsageError("--io int8 quantises everything: leave --state-precision and --keep-float out")
        return Request(config, target, "int8", args.edges, args.state_mode, state_precision="int8", io="int8")
    activations = ACTIVATIONS[0] if args.int8_activations == _AUTO else args.int8_activations
    return Request(
        config,
        target,
        args.precision,
        args.edges,
        args.state_mode,
        quant=args.quant or targets.TARGETS[target].default_quant,
        activations=activations,
        state_precision=args.state_precision or targets.DEFAULT_STATE_PRECISION,
    )


def _targets(name: str | None) -> tuple[str, ...]:
    if name is None:
        raise UsageError(f"--target is missing; choose one of {', '.join((*targets.TARGETS, _ALL))}")
    check_choice("target", name, (*targets.TARGETS, _ALL))
    return tuple(targets.TARGETS) if name == _ALL else (name,)


def _print(exported: Exported) -> None:
    sizes = "  ".join(f"{name} {size / 1024:.0f} KiB" for name, size in exported.sizes.items())
    print(f"wrote {exported.folder}/\n  {sizes}")
    if exported.report.precision == "int8":
        print("\n".join(f"  {check.line()}" for check in exported.report.every_check))
        sys.stdout.flush()
        return
    one_step, stream = exported.report.one_step["all"], exported.report.stream["all"]
    worst = [max(tally.max_abs for tally in line.tensors.values()) for line in (one_step, stream)]
    print(
        f"  parity over {exported.report.frames} frames on {exported.report.engine}: max abs error {worst[0]:.1e} "
        f"after one step, {worst[1]:.1e} in a stream, top-1 equal {stream.top1:.1%}"
    )
    sys.stdout.flush()
