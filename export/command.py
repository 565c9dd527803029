"""Write verified step bundles: the trained network as one recurrent step for onnxruntime, OpenVINO or TFLite.

``--help`` and ``--list`` need neither torch nor any converter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lcr_edge.calibration import options as calibration
from lcr_edge.calibration.quant_plan import ACTIVATIONS, QUANT_MODES
from lcr_edge.config import Config
from lcr_edge.contract import EDGE_MODES, MAX_BATCH, STATE_MODES
from lcr_edge.errors import LcrError, ParityError, UsageError
from lcr_edge.export.int8.layers import in_float
from lcr_edge.export.options import add_network, check_network, find_checkpoint
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import (
    DEFAULT_EDGES,
    DEFAULT_IO,
    DEFAULT_PRECISION,
    DEFAULT_STATE_MODE,
    DEFAULT_STATE_PRECISION,
    FLOAT_BY_DEFAULT,
    PRECISIONS,
    TARGETS,
    Target,
    require,
    table,
)
from lcr_edge.export.verify.judge_data import add_judge_data, with_judge_data
from lcr_edge.export.verify.measure import WORKERS
from lcr_edge.files import check_writable
from lcr_edge.options import (
    add_json,
    add_out,
    add_threads,
    check_choice,
    check_json,
    check_least,
    text_stream,
    write_json,
)

if TYPE_CHECKING:
    from lcr_edge.export.exporter import Exported, Exporter, Gate

_ALL = "all"
_AUTO = "auto"
_CHOOSABLE_STATES = ("fp32", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge export``. Values are checked in :func:`run`, so that errors name the way out."""
    parser.add_argument("--target", metavar="NAME", help=f"one of {', '.join((*TARGETS, _ALL))}")
    add_network(parser)
    parser.add_argument(
        "--precision",
        metavar="NAME",
        default=DEFAULT_PRECISION,
        help=f"one of {', '.join(PRECISIONS)} (default: {DEFAULT_PRECISION})",
    )
    parser.add_argument(
        "--edges",
        metavar="PLACE",
        default="",
        help=f"where edges are found, one of {', '.join(EDGE_MODES)} (default: {DEFAULT_EDGES}; graph for "
        "c, which finds them itself); runtimes hide the difference",
    )
    parser.add_argument(
        "--state-mode",
        metavar="MODE",
        default=DEFAULT_STATE_MODE,
        help=f"one of {', '.join(STATE_MODES)} (default: {DEFAULT_STATE_MODE}); internal makes a stateful model and "
        "works with openvino only",
    )
    parser.add_argument(
        "--state-precision",
        metavar="NAME",
        help="precision of the states between two steps: fp32 (default), or fp16, which halves their size",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        default=1,
        help=f"step N streams in one call, for several cameras on one machine (1 to {MAX_BATCH}, default: 1)",
    )
    parser.add_argument(
        "--firmware",
        action="store_true",
        help="for c: also write weights and golden clip as C arrays, for processors without files",
    )
    parser.add_argument(
        "--no-gate", action="store_true", help="write the bundle even if it misses what its precision promises"
    )
    add_judge_data(parser)
    _add_int8(parser)
    calibration.add_arguments(parser)
    add_out(parser, "write each bundle as DIR/CONFIG-TARGET-PRECISION/", default="out")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="also write what was measured as DIR/BUNDLE.html, with the int8 cost of each kind of layer",
    )
    add_json(parser, "also write as JSON what was exported: files, sizes and what was measured")
    add_threads(parser)
    parser.add_argument("--list", action="store_true", help="list the targets and what they need, then stop")


def _add_int8(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("int8")
    defaults = ", ".join(f"{row.default_quant} for {name}" for name, row in TARGETS.items())
    group.add_argument("--quant", metavar="MODE", help=f"one of {', '.join(QUANT_MODES)} (default: {defaults})")
    group.add_argument(
        "--int8-activations",
        metavar="TYPE",
        default=_AUTO,
        help="auto (default: u8, for CPUs), u8, or s8: symmetric with zero point 0, as TensorRT needs",
    )
    group.add_argument(
        "--keep-float",
        metavar="PATTERN",
        help="layers to compute in float: a comma-separated list of shell patterns ('layers.0.*,classify'), none, or "
        f"auto, which keeps as few as possible (default: {FLOAT_BY_DEFAULT} with --quant static, else none)",
    )
    group.add_argument(
        "--io",
        metavar="TYPE",
        default=DEFAULT_IO,
        help="float (default), or int8: a TFLite model of integers only, for NPUs and microcontrollers",
    )


def run(args: argparse.Namespace) -> int:
    """Export and print what was written. Raises LcrError subclasses; then no bundle is half-written.

    With several targets a refused bundle does not keep the others from being written; the exit code is 1 then.
    """
    if args.list:
        print(table())
        return 0
    targets = _check(args)
    checkpoint = with_judge_data(find_checkpoint(args), args.judge_data, decided=args.precision == "int8")
    requests = [_request(args, checkpoint.config, target) for target in targets]
    _check_outputs(args)
    import torch

    from lcr_edge.export.exporter import Exporter, Gate

    # The reference's matrices are small: more threads would mostly wait for each other.
    torch.set_num_threads(args.threads)
    exporter = Exporter(checkpoint, args.out, threads=args.threads, pages=args.report)
    if args.precision == "int8":
        _check_keep_float(exporter, requests, args.keep_float)  # calibration takes minutes
        exporter.samples = calibration.samples_for(args, checkpoint)
    gate = Gate(enforced=not args.no_gate, workers=WORKERS)
    written: list[Exported] = []
    refused: dict[str, ParityError] = {}
    try:
        for request in requests:
            try:
                written.append(_export(exporter, request, gate, args.keep_float))
            except ParityError as error:
                refused[request.name] = error
                if len(requests) == 1:
                    raise
                print(f"error: {error}", file=sys.stderr, flush=True)
            else:
                _print(written[-1], text_stream(args.json))
    except LcrError as error:
        write_json(args.json, _document(written, refused, str(error)))
        raise
    write_json(args.json, _document(written, refused, None))
    if not refused:
        return 0
    for request in requests:
        outcome = "refused, see above" if request.name in refused else "written"
        print(f"{request.name:32} {outcome}", file=text_stream(args.json))
    return ParityError.exit_code


def _check(args: argparse.Namespace) -> tuple[str, ...]:
    """Find what is wrong with the call before torch is imported and minutes are spent. Returns the targets' names.

    Raises UsageError, and MissingExtraError for a converter that is not installed.
    """
    if args.target is None:
        raise UsageError(f"--target is missing; choose one of {', '.join((*TARGETS, _ALL))}")
    check_choice("target", args.target, (*TARGETS, _ALL))
    names = tuple(TARGETS) if args.target == _ALL else (args.target,)
    if args.target == _ALL and args.precision in PRECISIONS:
        names = tuple(name for name in names if _can(TARGETS[name], args))
    for name in names:
        check_choice(f"precision for {name}", args.precision, TARGETS[name].precisions)
        check_choice(f"state mode for {name}", args.state_mode, TARGETS[name].state_modes)
        check_choice(f"io for {name}", args.io, TARGETS[name].io_modes)
    if args.edges:
        check_choice("edges", args.edges, EDGE_MODES)
    if args.state_precision is not None:
        check_choice("state precision", args.state_precision, _CHOOSABLE_STATES)
    check_least("--threads", args.threads, 1)
    check_least("--batch", args.batch, 1)
    _check_firmware(args, names)
    int8 = args.precision == "int8"
    _check_int8(args)
    check_network(args, int8)
    for name in names:
        require(TARGETS[name], int8=int8)
    return names


def _can(row: Target, args: argparse.Namespace) -> bool:
    """Whether a target has what is asked of all of them."""
    states = args.state_precision or DEFAULT_STATE_PRECISION
    return args.precision in row.precisions and states in row.state_precisions and args.batch <= row.most_streams


def _check_firmware(args: argparse.Namespace, names: Sequence[str]) -> None:
    """UsageError for ``--firmware`` with targets that have no arrays."""
    if args.firmware and any(TARGETS[name].firmware is None for name in names):
        able = ", ".join(name for name, row in TARGETS.items() if row.firmware is not None)
        raise UsageError(f"--firmware works with --target {able} only: leave it out, or name that target")


def _check_int8(args: argparse.Namespace) -> None:
    """UsageError for int8 options with unknown values, and for int8 options without ``--precision int8``."""
    if args.precision != "int8":
        given = {
            "--quant": args.quant is not None,
            "--int8-activations": args.int8_activations != _AUTO,
            "--keep-float": args.keep_float is not None,
            "--io": args.io != DEFAULT_IO,
        }
        extra = [*(name for name, used in given.items() if used), *calibration.given(args)]
        if extra:
            raise UsageError(f"{', '.join(extra)}: only with --precision int8")
    check_choice("int8 activations", args.int8_activations, (_AUTO, *ACTIVATIONS))
    if args.quant is not None:
        check_choice("quant", args.quant, QUANT_MODES)
    calibration.check(args)


def _check_outputs(args: argparse.Namespace) -> None:
    """Find a place that cannot be written before the work. Makes the folders. Raises OutputError."""
    check_writable(args.out)
    if args.report is not None:
        check_writable(args.report, "--report")
    check_json(args.json)


def _request(args: argparse.Namespace, config: Config, target: str) -> Request:
    if args.io == "int8":
        if args.state_precision is not None or args.keep_float is not None:
            raise UsageError("--io int8 quantises everything: leave --state-precision and --keep-float out")
        mode = args.state_mode
        return Request(config, target, "int8", args.edges, mode, state_precision="int8", io="int8", batch=args.batch)
    activations = ACTIVATIONS[0] if args.int8_activations == _AUTO else args.int8_activations
    return Request(
        config,
        target,
        args.precision,
        args.edges,
        args.state_mode,
        quant=args.quant or TARGETS[target].default_quant,
        activations=activations,
        state_precision=args.state_precision or DEFAULT_STATE_PRECISION,
        batch=args.batch,
        firmware=args.firmware,
    )


def _check_keep_float(exporter: Exporter, requests: Sequence[Request], pattern: str | None) -> None:
    """UsageError for a pattern that matches no layer, and for auto where layers cannot stay in float."""
    from lcr_edge.export.keep_float import check_can_keep

    for request in requests:
        if pattern == _AUTO:
            check_can_keep(request)
        else:
            in_float(exporter.layers, request.quant, pattern)


def _export(exporter: Exporter, request: Request, gate: Gate, keep_float: str | None) -> Exported:
    from lcr_edge.export.keep_float import export_keeping_float

    if keep_float == _AUTO:
        return export_keeping_float(exporter, request, gate)
    float_layers = in_float(exporter.layers, request.quant, keep_float) if request.precision == "int8" else None
    return exporter.export(request, gate, float_layers)


def _print(exported: Exported, out: IO[str]) -> None:
    report = exported.report
    sizes = "  ".join(f"{name} {size / 1024:.0f} KiB" for name, size in exported.sizes.items())
    lines = [f"wrote {exported.folder}/", f"  {sizes}"]
    if report.precision == "int8":
        lines += [f"  {check.line()}" for check in report.every_check]
    else:
        one_step, stream = report.one_step["all"], report.stream["all"]
        worst = [max(tally.max_abs for tally in line.tensors.values()) for line in (one_step, stream)]
        lines.append(
            f"  parity over {report.frames} frames on {report.engine}: max abs error {worst[0]:.1e} after one step, "
            f"{worst[1]:.1e} in a stream, top-1 equal {stream.top1:.1%}"
        )
    if exported.page is not None:
        lines.append(f"  report {exported.page}")
    print("\n".join(lines), file=out, flush=True)


def _document(written: Sequence[Exported], refused: Mapping[str, ParityError], error: str | None) -> dict[str, Any]:
    """What ``--json`` writes. refused: by bundle, why. error: why the export stopped, None where it did not."""
    bundles = [
        {
            "folder": str(exported.folder),
            "files": exported.sizes,
            "page": None if exported.page is None else str(exported.page),
            "parity": exported.report.to_dict(),
        }
        for exported in written
    ]
    return {"bundles": bundles, "refused": {name: str(why) for name, why in refused.items()}, "error": error}
