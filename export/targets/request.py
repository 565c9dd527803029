"""A request for one bundle. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lcr_edge.calibration.quant_plan import ACTIVATIONS, QUANT_MODES
from lcr_edge.config import Config
from lcr_edge.contract import EDGE_MODES, MAX_BATCH
from lcr_edge.errors import UsageError
from lcr_edge.export.targets.table import (
    DEFAULT_IO,
    DEFAULT_PRECISION,
    DEFAULT_QUANT,
    DEFAULT_STATE_MODE,
    DEFAULT_STATE_PRECISION,
    TARGETS,
    Target,
)
from lcr_edge.options import check_choice


@dataclass(frozen=True)
class Request:
    """One bundle to make. Raises UsageError, which lists the valid values.

    edges: where they are found, from ``contract.EDGE_MODES``; empty for what is usual for the target.
    quant, activations: for int8, see ``calibration.quant_plan``. state_precision: dtype of the states at the boundary.
    io: "int8" for an integer-only model, whose states are int8 too. batch: streams that one call steps.
    firmware: also write weights and golden clip as C arrays; the bundle's name stays.
    """

    config: Config
    target: str
    precision: str = DEFAULT_PRECISION
    edges: str = ""
    state_mode: str = DEFAULT_STATE_MODE
    quant: str = DEFAULT_QUANT
    activations: str = ACTIVATIONS[0]
    state_precision: str = DEFAULT_STATE_PRECISION
    io: str = DEFAULT_IO
    batch: int = 1
    firmware: bool = False

    def __post_init__(self) -> None:
        check_choice("target", self.target, tuple(TARGETS))
        row = TARGETS[self.target]
        if not self.edges:
            object.__setattr__(self, "edges", row.default_edges)
        check_choice(f"precision for {self.target}", self.precision, row.precisions)
        check_choice("edges", self.edges, EDGE_MODES)
        check_choice(f"state mode for {self.target}", self.state_mode, row.state_modes)
        check_choice("quant", self.quant, QUANT_MODES)
        check_choice("int8 activations", self.activations, ACTIVATIONS)
        check_choice(f"state precision for {self.target}", self.state_precision, row.state_precisions)
        check_choice(f"io for {self.target}", self.io, row.io_modes)
        if (self.io == "int8") != (self.state_precision == "int8"):
            raise UsageError("int8 states need --io int8, and --io int8 needs int8 states: give both or neither")
        if self.io == "int8" and (self.precision, self.quant) != ("int8", "static"):
            raise UsageError("--io int8 needs --precision int8 and --quant static: give both, or leave --io out")
        if self.io == "int8" and self.edges == "graph":
            raise UsageError("an integer-only model cannot compute edges itself: export with --edges host")
        if not 1 <= self.batch <= MAX_BATCH:
            raise UsageError(f"a call steps 1 to {MAX_BATCH} streams, got --batch {self.batch}")
        if self.batch > row.most_streams:
            raise UsageError(f"a bundle for {self.target} steps one stream in a call: leave --batch out")
        if self.batch > 1:
            self._check_batch()
        if self.firmware and row.firmware is None:
            able = ", ".join(name for name, other in TARGETS.items() if other.firmware is not None)
            raise UsageError(f"{self.target} has no arrays for firmware: --firmware works with --target {able}")

    def _check_batch(self) -> None:
        if self.state_mode == "internal":
            raise UsageError("a model that keeps its states steps one stream: --batch needs --state-mode explicit")
        if self.io == "int8":
            raise UsageError("an integer-only model steps one stream: leave --batch or --io int8 out")
        if self.target == "onnx" and self.precision == "int8" and self.quant == "dynamic":
            raise UsageError(
                "onnxruntime scales the inputs of dynamic int8 over all streams of a call, so that they would change "
                "each other's answers: use --quant static with --batch"
            )

    @property
    def row(self) -> Target:
        """The target's row."""
        return TARGETS[self.target]

    @property
    def name(self) -> str:
        """The bundle's folder: CONFIG-TARGET-PRECISION, and what differs from the default modes."""
        parts = [self.config.name, self.target, self.precision]
        if self.precision == "int8":
            usual = self.row.default_quant if self.io == DEFAULT_IO else DEFAULT_QUANT
            parts += [] if self.quant == usual else [self.quant.replace("-", "")]
            parts += [] if self.activations == ACTIVATIONS[0] else [self.activations]
        parts += [] if self.io == DEFAULT_IO else ["io8"]
        parts += [] if self.edges == self.row.default_edges else [f"{self.edges}edges"]
        parts += [] if self.state_mode == DEFAULT_STATE_MODE else ["stateful"]
        parts += ["state16"] if self.state_precision == "fp16" else []
        parts += [f"batch{self.batch}"] if self.batch > 1 else []
        return "-".join(parts)
