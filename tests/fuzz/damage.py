"""Ways in which a file can be wrong, as hypothesis strategies, and how often each test tries some."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st

Array = npt.NDArray[Any]
# The same examples in every run and on every machine; one is never cut short because the machine is busy.
bounded = settings(derandomize=True, deadline=None, database=None, max_examples=100)

# Where formats keep what they are trusted with: zip's records, numpy's headers, braces of JSON.
_STRUCTURE = re.compile(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06|\x93NUMPY|[{\[]")
_NEAR = 96

_numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.5, 1e308, float("nan"), float("inf")]),
    st.integers(-(2**70), 2**70),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` cut off, or with some bytes changed, removed or put in: mostly near what gives it structure."""
    starts = [found.start() for found in _STRUCTURE.finditer(content)][:400] or [0]
    near = st.builds(
        lambda start, off: min(start + off, len(content) - 1), st.sampled_from(starts), st.integers(0, _NEAR)
    )
    place = st.one_of(st.integers(0, len(content) - 1), near, near)
    kind = draw(st.sampled_from(["change", "change", "change", "cut", "remove", "insert"]))
    if kind == "cut":
        return content[: draw(place)]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = min(draw(place), len(changed) - 1)
        if kind == "change":
            new = draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 255, changed[at] ^ 1, changed[at] ^ 128])))
            changed[at] = new
        elif kind == "remove":
            del changed[at : at + draw(st.integers(1, 40))]
        else:
            changed[at:at] = draw(st.binary(min_size=1, max_size=40))
        if not changed:
            break
    return bytes(changed)


@st.composite
def changed_json(draw: st.DrawFn, whole: Any) -> Any:
    """A copy of a JSON value in which one part, at any depth, is another value, is missing, or is there twice."""
    whole = copy.deepcopy(whole)
    paths = list(_paths(whole))
    path = draw(st.sampled_from(paths))
    parent = whole
    for key in path[:-1]:
        parent = parent[key]
    kind = draw(st.sampled_from(["value", "value", "value", "drop", "more"]))
    if kind == "value":
        parent[path[-1]] = draw(values)
    elif kind == "drop":
        del parent[path[-1]]
    elif isinstance(parent, list):
        parent.insert(path[-1], draw(st.sampled_from(parent)))
    else:
        parent[draw(st.text(max_size=4))] = draw(values)
    return whole


@st.composite
def changed_arrays(draw: st.DrawFn, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Some arrays of which one has another dtype, shape or name, is missing, or holds NaN."""
    changed = dict(arrays)
    name = draw(st.sampled_from(sorted(changed)))
    kind = draw(st.sampled_from(["dtype", "shape", "name", "drop", "nan", "empty"]))
    array = changed.pop(name)
    if kind == "dtype":
        names = ["int8", "uint8", "int64", "float16", "float64", ">f4", "complex64", "bool", "U3", "M8[s]", "V4"]
        changed[name] = np.zeros(array.shape, draw(st.sampled_from(names)))
    elif kind == "shape":
        changed[name] = np.zeros(draw(st.lists(st.integers(0, 5), max_size=5)), array.dtype)
    elif kind == "name":
        changed[draw(st.text(st.characters(codec="ascii", categories=["L"]), max_size=4))] = array
    elif kind == "nan":
        changed[name] = np.full(array.shape, np.nan, np.float32)
    elif kind == "empty":
        changed[name] = array[:0] if array.ndim else np.zeros(0, array.dtype)
    return changed


def npz(arrays: Mapping[str, Array]) -> bytes:
    """An .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def as_json(value: Any) -> str:
    """JSON as Python writes it, NaN and Inf included; lone surrogates escaped."""
    return json.dumps(value)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from _paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from _paths(value[index], (*path, index))
