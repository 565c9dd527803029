"""The step contract, version 1: what goes in and out of one step, in every format and language.

Torch-free; shared by the exporters that promise it and by the runtimes that check it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcr_edge.config import Config

CONTRACT_VERSION = 1
EDGE_MODES = ("graph", "host")
STATE_MODES = ("explicit", "internal")

FRAME = "frame"
EDGE = "edge"
LOGITS = "logits"
STATE_NAMES = ("state_h", "state_c")
STATES_IN = tuple(f"{name}_in" for name in STATE_NAMES)
STATES_OUT = tuple(f"{name}_out" for name in STATE_NAMES)


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and static shape of one tensor at the step's boundary."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def input_specs(config: Config, edges: str = "graph", state_mode: str = "explicit") -> tuple[TensorSpec, ...]:
    """Inputs in contract order: frame, edge (only ``edges="host"``), state_h_in, state_c_in.

    ``state_mode="internal"`` (OpenVINO stateful model) has no state tensors at its boundary.
    """
    specs = [TensorSpec(FRAME, "uint8", (1, config.height, config.width, 3))]
    if edges == "host":
        specs.append(TensorSpec(EDGE, "uint8", (1, config.height, config.width)))
    if state_mode == "explicit":
        specs += [TensorSpec(name, "float32", config.state_shape) for name in STATES_IN]
    return tuple(specs)


def output_specs(config: Config, state_mode: str = "explicit") -> tuple[TensorSpec, ...]:
    """Outputs in contract order: logits, state_h_out, state_c_out."""
    specs = [TensorSpec(LOGITS, "float32", (1, config.classes))]
    if state_mode == "explicit":
        specs += [TensorSpec(name, "float32", config.state_shape) for name in STATES_OUT]
    return tuple(specs)
