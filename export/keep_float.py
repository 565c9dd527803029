"""The fewest layers in float with which an int8 bundle passes the gate: for --keep-float auto."""

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


def export_with_fewest(exporter: Exporter, request: Request, gate: Gate) -> Exported:
    """Export int8 with as few layers in float as pass the gate.

    First none is in float. If that misses its promise, each kind of layers is quantised alone (``int8.costs``);
    then the costliest kind is left in float, the next one too, and so on, until the gate passes, or no kind fits into
    half of the layers.

    A try is written only after the whole gate, by ``Exporter.export``. Before that it has to pass the gate's own first
    part, errors on one clip, from a temporary folder. Raises ParityError with the last try's complaint where none
    passes; then nothing is written, unless the gate is not enforced, and what was there stays. Otherwise raises as
    ``Exporter.export``, and UsageError for a request whose layers cannot be left in float.
    """
    if request.precision != "int8" or request.io != "float" or request.quant == "weight-only":
        raise UsageError(
            "auto chooses layers that compute in float, which --precision int8 with --quant static or dynamic and "
            "--io float can leave: give these, or leave --keep-float out"
        )
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
    raise ParityError(f"{missed}. This was with {len(kept)} of {len(names)} layers in float, auto leaves no more")


def _first_part(trials: Trials, float_layers: Collection[str], gate: Gate) -> None:
    """ParityError where a bundle misses what the gate looks at first: cheap, and whatever misses it misses the gate."""
    from lcr_edge.export.verify.measure import measure_all

    request = trials.request
    title = f"{request.name}: {len(float_layers)} layers in float, over {gate.frames} frames"
    with step(title), trials.quantised(None, float_layers) as model:
        report = measure_all(model, trials.checkpoint, frames=gate.frames, decisions=False)
    if not report.passed:
        raise ParityError(f"{request.name} was not written, it breaks its promise: {report.complaint}")
