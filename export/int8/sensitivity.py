"""Measure the accuracy cost on a stream of quantising each layer of the step alone, and of narrower states.

There is one row for each layer (the others stay float), for each state kept as fp16 or int8 between frames (the step
stays float), for all layers at once, and for the default recipe. ``export --keep-float`` leaves layers in float.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcr_edge.calibration import options as calibration
from lcr_edge.calibration.quant_plan import ACTIVATIONS, QUANT_MODES
from lcr_edge.contract import STATE_NAMES
from lcr_edge.errors import UsageError
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import FLOAT_BY_DEFAULT, TARGETS, require
from lcr_edge.files import check_writable, write_atomically
from lcr_edge.options import (
    add_checkpoint,
    add_frames,
    add_json,
    add_out,
    add_seed,
    add_threads,
    check_choice,
    check_json,
    check_least,
    text_stream,
    write_json,
)
from lcr_edge.plots import plot_sensitivity, require_matplotlib
from lcr_edge.progress import step
from lcr_edge.runtimes.tallies import TENSORS
from lcr_edge.tolerances import PROMISES

if TYPE_CHECKING:
    from lcr_edge.calibration.samples import Samples
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.export.int8.trials import Cost, Trials

FRAMES = 200
LAYER, STATE, RECIPE = "layer", "state", "recipe"
_NARROW = ("fp16", "int8")


@dataclass(frozen=True)
class Row:
    """The cost of one change.

    what: a layer, a kind of layer (a pattern), a state and its precision, or a recipe. kind: LAYER, STATE or RECIPE.
    weight_bytes: size of the quantised weights with their scales. mac_share: their share of the step's multiply-adds,
    in [0, 1]. Both are None for a state.
    """

    what: str
    kind: str
    cost: Cost
    weight_bytes: int | None = None
    mac_share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        sizes = {"weight_bytes": self.weight_bytes, "mac_share": self.mac_share}
        return {"what": self.what, "kind": self.kind, **self.cost.to_dict(), **sizes}


@dataclass(frozen=True)
class Sensitivity:
    """All rows, costliest first. engine: where they were measured. clip: where the ``frames`` frames came from."""

    rows: tuple[Row, ...]
    engine: str
    clip: str
    frames: int
    request: Request
    checkpoint_sha256: str
    calibration_digest: str

    def together(self) -> list[float]:
        """The cost of quantising all layers if their errors were independent: the root of the sum of squares of the
        single layers' errors in the stream, for logits and both states."""
        single = [row.cost.stream_errors() for row in self.rows if row.kind == LAYER]
        return [math.sqrt(sum(value * value for value in column)) for column in zip(*single)]

    def table(self) -> str:
        """Lines for people."""
        width = max(len(row.what) for row in self.rows) + 2
        titles = "".join(f"{name:>10}" for name in TENSORS)
        lines = [
            f"{self.request.name} on {self.engine}, {self.frames} frames of {self.clip}",
            f"{'':{width + 8}}{'one step, rms error / std':>30}{'stream, rms error / std':>30}",
            f"{'what':{width}}{'kind':8}{titles}{titles}{'same class':>12}{'bytes':>10}{'MACs':>8}",
        ]
        for row in self.rows:
            found = row.cost.to_dict()
            errors = [found[mode][name] for mode in ("one_step", "stream") for name in TENSORS]
            cells = "".join(f"{'lost' if value is None else format(value, '.2e'):>10}" for value in errors)
            size = "" if row.weight_bytes is None else f"{row.weight_bytes:,}"
            share = "" if row.mac_share is None else f"{row.mac_share:.1%}"
            lines.append(f"{row.what:{width}}{row.kind:8}{cells}{found['agreement']:12.2%}{size:>10}{share:>8}")
        sums = "".join(f"{value:10.2e}" for value in self.together())
        return "\n".join([*lines, f"{'single layers, root of the sum of squares':{width + 38}}{sums}"])

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as in sensitivity.json."""
        names = ("target", "quant", "activations", "edges")
        return {
            "config": self.request.config.name,
            **{name: getattr(self.request, name) for name in names},
            "engine": self.engine,
            "clip": self.clip,
            "frames": self.frames,
            "checkpoint_sha256": self.checkpoint_sha256,
            "calibration_digest": self.calibration_digest,
            "rows": [row.to_dict() for row in self.rows],
        }


def sensitivity(
    checkpoint: Checkpoint,
    samples: Samples,
    request: Request,
    *,
    frames: int = FRAMES,
    clip: str | None = None,
    kinds: bool = False,
    threads: int = 1,
) -> Sensitivity:
    """Measure every row. The reference, in float64 (``export.verify.reference``), is computed once and kept in memory.

    request: int8 with float io. clip: a video file, by default rendered gestures. kinds: quantise all layers of a kind
    ("layers.*.rg") together, which takes fewer conversions. Progress goes to stderr. Raises UsageError for too few
    frames, VideoError, CalibrationError, MissingExtraError.
    """
    from lcr_edge.export.int8.layers import kinds_of, matching
    from lcr_edge.export.int8.trials import Trials, measure, state_format, step_of, with_rounded
    from lcr_edge.export.verify import clips
    from lcr_edge.export.verify.reference import roll
    from lcr_edge.runtimes.inspect import count_flops

    settled = PROMISES["int8"].settled
    clips.check_count(frames, settled + 1)
    with step(f"{request.name}: reference over {frames} frames"):
        reference = roll(checkpoint.model, clips.stream(clip, checkpoint, frames))
    with step(f"{request.name}: observing layer inputs"):
        trials = Trials(checkpoint, samples, request, threads)
    names = tuple(trials.cell.linears())
    groups = kinds_of(names) if kinds else {name: (name,) for name in names}
    sizes = _Sizes(trials, count_flops(request.config) // 2)
    rows = [Row(what, LAYER, trials.cost(reference, what, group), *sizes.of(group)) for what, group in groups.items()]
    rows.append(Row("all", RECIPE, trials.cost(reference, "all", names), *sizes.of(names)))
    if request.quant == "static":
        usual = f"all but {FLOAT_BY_DEFAULT}"
        kept = matching(FLOAT_BY_DEFAULT, names)
        cost = trials.cost(reference, usual, names, kept)
        rows.append(Row(usual, RECIPE, cost, *sizes.of([name for name in names if name not in kept])))
    with trials.float32() as model:
        engine = model.engine.name
        for precision in _NARROW:
            form = state_format(samples, precision)
            for state in STATE_NAMES:
                with step(f"{request.name}: {state} as {precision}"):
                    cost = measure(with_rounded(step_of(model), form, state), reference, settled)
                rows.append(Row(f"{state} as {precision}", STATE, cost))
    return Sensitivity(
        rows=tuple(sorted(rows, key=lambda row: -row.cost.total)),
        engine=engine,
        clip=clips.name_of(checkpoint) if clip is None else Path(clip).name,
        frames=frames,
        request=request,
        checkpoint_sha256=checkpoint.sha256,
        calibration_digest=samples.digest,
    )


class _Sizes:
    """Weight bytes and share of the step's multiply-adds of some layers."""

    def __init__(self, trials: Trials, total: int) -> None:
        from lcr_edge.export.int8.trials import multiply_adds

        self._macs, self._total = multiply_adds(trials.cell), total
        shapes = {name: linear.weight.shape for name, linear in trials.cell.linears().items()}
        # One byte per weight, one float32 scale per output channel.
        self._bytes = {name: shape[0] * (shape[1] + 4) for name, shape in shapes.items()}

    def of(self, layers: Collection[str]) -> tuple[int, float]:
        return sum(self._bytes[name] for name in layers), sum(self._macs[name] for name in layers) / self._total


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge sensitivity``."""
    add_checkpoint(parser)
    parser.add_argument("--target", metavar="NAME", help=f"one of {', '.join(TARGETS)}")
    add_frames(parser, "frames to step, as one stream without reset", FRAMES)
    parser.add_argument("--clip", metavar="FILE", help="a video; a short one is played forwards and backwards in turn")
    parser.add_argument(
        "--quant", metavar="MODE", help=f"one of {', '.join(QUANT_MODES)} (default: what export uses for the target)"
    )
    parser.add_argument(
        "--int8-activations", metavar="TYPE", default=ACTIVATIONS[0], help="u8 (default) or s8, see lcr-edge export"
    )
    parser.add_argument(
        "--kinds",
        action="store_true",
        help="quantise all layers of a kind at once instead of each layer alone: fewer rows, each of which takes a "
        "conversion of several seconds",
    )
    calibration.add_arguments(parser)
    add_seed(parser, "where the choice of calibration clips and samples starts", default=None)
    add_out(parser, "also write sensitivity.json and sensitivity.png there")
    add_json(parser)
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print the table. Raises LcrError subclasses; files are written completely or not at all."""
    _check(args)
    from lcr_edge import checkpoint

    found = checkpoint.load(args.checkpoint)
    row = TARGETS[args.target]
    request = Request(
        found.config, args.target, "int8", quant=args.quant or row.default_quant, activations=args.int8_activations
    )
    if args.out is not None:
        require_matplotlib()
        check_writable(args.out)
    check_json(args.json)
    import torch

    # The reference's matrices are small: more threads would mostly wait for each other.
    torch.set_num_threads(args.threads)
    samples = calibration.samples_for(args, found)
    result = sensitivity(
        found, samples, request, frames=args.frames, clip=args.clip, kinds=args.kinds, threads=args.threads
    )
    print(result.table(), file=text_stream(args.json))
    text = json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"
    write_json(args.json, text)
    if args.out is not None:
        write_atomically(args.out / "sensitivity.json", text.encode())
        plot_sensitivity(result.to_dict(), args.out / "sensitivity.png")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Check the arguments before torch is imported. Raises UsageError, MissingExtraError."""
    if args.target is None:
        raise UsageError(f"--target is missing; choose one of {', '.join(TARGETS)}")
    check_choice("target", args.target, tuple(TARGETS))
    if args.quant is not None:
        check_choice("quant", args.quant, QUANT_MODES)
    check_choice("int8 activations", args.int8_activations, ACTIVATIONS)
    check_least("--frames", args.frames, PROMISES["int8"].settled + 1)
    check_least("--threads", args.threads, 1)
    calibration.check(args)
    require(TARGETS[args.target], int8=True)
