"""The tensors at the step's boundary as a bundle's manifest lists them: names, dtypes, shapes, int8 scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lcr_edge.contract import LOGITS, STATES_IN, STATES_OUT, TensorSpec
from lcr_edge.errors import BundleError

REEXPORT = "export the bundle again, or copy the whole folder again"


def tensor_table(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    """Tensor specs as in the manifest's ``inputs`` and ``outputs``; int8 tensors with scale and zero point."""
    return [
        {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape), **scaling(spec.quantised)} for spec in specs
    ]


def scaling(quantised: tuple[float, int] | None) -> dict[str, Any]:
    """``{"scale": ..., "zero_point": ...}`` of an int8 tensor as in the manifest, empty for None."""
    return {} if quantised is None else {"scale": float(quantised[0]), "zero_point": int(quantised[1])}


def read_specs(table: list[Any], where: Path) -> tuple[TensorSpec, ...]:
    """Tensor specs from what :func:`tensor_table` made. Raises BundleError."""
    try:
        return tuple(
            TensorSpec(str(row["name"]), str(row["dtype"]), tuple(int(size) for size in row["shape"])) for row in table
        )
    except (TypeError, KeyError, ValueError):
        raise BundleError(f"{where}: the tensor tables are damaged; {REEXPORT}") from None


def read_boundary(table: list[Any], where: Path) -> dict[str, tuple[float, int]]:
    """(scale, zero point) of every int8 tensor, from the rows of the manifest's inputs and outputs.

    Raises BundleError if one is missing, or if a state's input and output differ in them.
    """
    rows = {str(row.get("name")): row for row in table if isinstance(row, dict)}
    found: dict[str, tuple[float, int]] = {}
    for name in (LOGITS, *STATES_IN, *STATES_OUT):
        scale, zero_point = rows.get(name, {}).get("scale"), rows.get(name, {}).get("zero_point")
        # The arithmetic is float32; a scale of 0 there would make every state 0.
        if type(scale) is not float or not 1e-30 < scale < 1e30 or type(zero_point) is not int:
            raise BundleError(f"{where}: {name} is int8 and needs a scale and a zero point; {REEXPORT}")
        if not -128 <= zero_point <= 127:
            raise BundleError(f"{where}: {name} has zero point {zero_point}, outside int8; {REEXPORT}")
        found[name] = (scale, zero_point)
    for name_in, name_out in zip(STATES_IN, STATES_OUT):
        if found[name_in] != found[name_out]:
            raise BundleError(
                f"{where}: {name_in} has scale and zero point {found[name_in]}, {name_out} {found[name_out]}: "
                f"the state would change its meaning when fed back; {REEXPORT}"
            )
    return found


def compare_specs(found: Sequence[TensorSpec], expected: Sequence[TensorSpec], where: str) -> None:
    """Raise BundleError, naming the first difference, unless both have the same tensors in the same order."""
    for position, (have, want) in enumerate(zip(found, expected)):
        if have != want:
            found_and_wanted = f"is {_describe(have)}, the step contract expects {_describe(want)}"
            raise BundleError(f"{where}: tensor {position} {found_and_wanted}; {REEXPORT}")
    if len(found) != len(expected):
        raise BundleError(
            f"{where}: {len(found)} tensors ({', '.join(spec.name for spec in found)}), the step contract expects "
            f"{len(expected)} ({', '.join(spec.name for spec in expected)}); {REEXPORT}"
        )


def _describe(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {list(spec.shape)}"
