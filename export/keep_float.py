"""``--keep-float auto``: as few layers in float as an int8 bundle needs to pass the gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING

from lcr_edge.errors import ParityError, UsageError
from lcr_edge.export.int8.layers import kinds_of
from lcr_edge.export.targets.request import Request
from lcr_edge.progress import step

if TYPE_CHECKING:
    from lcr_edge.export.exporter import Exported, Exporter, Gate
    from lcr_edge.export.int8.trials import Trials


def export_keeping_float(exporter: Exporter, request: Request, gate: Gate) -> Exported:
    """Export int8 with as few layers in float as pass the gate.

    The first try keeps no layer in float. If it misses its promise, each kind of layer is quantised alone
    (``int8.costs``). Then the costliest kind stays in float, then the next one too, and so on, until a try passes
    the gate. At most half of the layers stay in float.

    A try is written only after the whole gate, by ``Exporter.export``. From the second try on, it first has to pass
    the gate's cheapest part, the errors on one clip, in a temporary folder. Where no try passes, the last one's
    ParityError is raised and what was there before stays, unless the gate is not enforced: then the last one is
    written. Otherwise raises what ``Exporter.export`` raises, and UsageError for a request whose layers cannot stay
    in float.
    """
    check_can_keep(request)
    strict = dataclasses.replace(gate, enforced=True)
    try:
        return exporter.export(request, strict, ())
    except ParityError as error:
        missed = error
    trials = exporter.costs.trials(request)
    names = tuple(trials.cell.linears())
    groups = kinds_of(names)
    kept: tuple[str, ...] = ()
    for kind, _ in exporter.costs.of(request):
        if len(kept) + len(groups[kind]) > len(names) // 2:
            continue
        kept += groups[kind]
        in_order = tuple(name for name in names if name in kept)
        try:
            _first_part(trials, in_order, gate)
            return exporter.export(request, strict, in_order)
        except ParityError as error:
            missed = error
    if not gate.enforced:
        return exporter.export(request, gate, tuple(name for name in names if name in kept))
    raise ParityError(
        f"{missed}. This was with {len(kept)} of {len(names)} layers in float; auto keeps at most half of them in float"
    )


def check_can_keep(request: Request) -> None:
    """UsageError for a request whose layers cannot stay in float."""
    if request.precision != "int8" or request.io != "float" or request.quant == "weight-only":
        raise UsageError(
            "--keep-float auto needs --precision int8, --quant static or dynamic, and --io float: only then can single "
            "layers compute in float. Give these, or leave --keep-float out"
        )


def _first_part(trials: Trials, float_layers: Collection[str], gate: Gate) -> None:
    """The gate's cheapest part. ParityError for a bundle that misses it, and so would miss the whole gate."""
    from lcr_edge.export.verify.measure import measure_all

    request = trials.request
    title = f"{request.name}: {len(float_layers)} layers in float, over {gate.frames} frames"
    with step(title), trials.quantised(None, float_layers) as model:
        report = measure_all(model, trials.checkpoint, frames=gate.frames, decisions=False, identity=False)
    if not report.passed:
        raise ParityError(f"{request.name} was not written, it breaks its promise: {report.complaint}")
