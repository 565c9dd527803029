"""The step contract, version 1: what goes in and out of one step, in every format and language.

Torch-free; shared by the exporters, which promise it, and the runtimes, which check it.

Frame and edges are bytes in every bundle. The states cross the boundary in one of three dtypes, which the manifest
names (``state_precision``); whatever the dtype, the arithmetic inside is that of the bundle's precision:

- fp32: float32, the default;
- fp16: float16, half the memory and traffic of every stream's state;
- int8: int8, for an integer-only model (``io`` "int8"); its logits are int8 too. An int8 tensor q means
  ``scale * (q - zero_point)``; the manifest has both numbers, and they are the same for a state's input and output.

A bundle of ``--batch N`` steps N streams in one call. The leading axis of frame, edge and logits is then N, and the
states have one more axis before the others: [N, L, N+1, C]. Row n of every tensor belongs to stream n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lcr_edge.config import Config

CONTRACT_VERSION = 1
EDGE_MODES = ("graph", "host")
STATE_MODES = ("explicit", "internal")
# Streams in one call. More gain nothing on a CPU, and the graph grows with them.
MAX_BATCH = 64
IO_MODES = ("float", "int8")
# numpy's dtype of the states by state precision.
STATE_DTYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}

FRAME = "frame"
EDGE = "edge"
LOGITS = "logits"
STATE_NAMES = ("state_h", "state_c")
STATES_IN = tuple(f"{name}_in" for name in STATE_NAMES)
STATES_OUT = tuple(f"{name}_out" for name in STATE_NAMES)

# (scale, zero point) of int8 tensors, by tensor name.
Boundary = Mapping[str, "tuple[float, int]"]


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and static shape of one tensor at the step's boundary.

    quantised: (scale, zero point) of an int8 tensor if known. Not part of equality: most engines do not report them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    quantised: tuple[float, int] | None = field(default=None, compare=False)


def input_specs(
    config: Config,
    edges: str = "graph",
    state_mode: str = "explicit",
    state_precision: str = "fp32",
    boundary: Boundary | None = None,
    batch: int = 1,
) -> tuple[TensorSpec, ...]:
    """Inputs in contract order: frame, edge (only ``edges="host"``), state_h_in, state_c_in.

    ``state_mode="internal"`` (OpenVINO stateful model) has no state tensors at its boundary. batch: streams in a call.
    """
    specs = [TensorSpec(FRAME, "uint8", (batch, config.height, config.width, 3))]
    if edges == "host":
        specs.append(TensorSpec(EDGE, "uint8", (batch, config.height, config.width)))
    return tuple(specs + _states(STATES_IN, config, state_mode, state_precision, boundary or {}, batch))


def output_specs(
    config: Config,
    state_mode: str = "explicit",
    state_precision: str = "fp32",
    boundary: Boundary | None = None,
    batch: int = 1,
) -> tuple[TensorSpec, ...]:
    """Outputs in contract order: logits, state_h_out, state_c_out. Logits are float32, or int8 if the states are."""
    boundary = boundary or {}
    dtype = "int8" if state_precision == "int8" else "float32"
    logits = TensorSpec(LOGITS, dtype, (batch, config.classes), boundary.get(LOGITS))
    return (logits, *_states(STATES_OUT, config, state_mode, state_precision, boundary, batch))


def _states(
    names: tuple[str, ...], config: Config, state_mode: str, state_precision: str, boundary: Boundary, batch: int
) -> list[TensorSpec]:
    if state_mode != "explicit":
        return []
    dtype = STATE_DTYPES[state_precision]
    shape = config.state_shape if batch == 1 else (batch, *config.state_shape)
    return [TensorSpec(name, dtype, shape, boundary.get(name)) for name in names]
