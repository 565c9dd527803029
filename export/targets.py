"""The table of export targets: one row each, readable without torch. A new target is a row here, a converter beside
this file (``convert``, imported when it is used) and an engine in ``lcr_edge.runtimes``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from lcr_edge.calibration.plan import ACTIVATIONS, QUANT_MODES
from lcr_edge.config import Config
from lcr_edge.contract import EDGE_MODES, STATE_MODES
from lcr_edge.errors import MissingExtraError, UsageError

PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_PRECISION = "fp32"
DEFAULT_QUANT = "static"
# Products that compute in float in static int8 unless told otherwise. The input of attend, a gate times a norm, has
# tails that 256 steps cannot hold, and is a twentieth of the work; classify alone costs the logits a third of what all
# others together do, and is one row. Measured with ``lcr-edge sensitivity``.
FLOAT_BY_DEFAULT = "layers.*.attend,classify"
# How the states cross the step's boundary: --state-precision fp32 or fp16; "int8" comes with --io int8 alone.
STATE_PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_STATE_PRECISION = "fp32"
# "int8": every tensor of the model is an integer, for NPUs and microcontrollers.
IO_MODES = ("float", "int8")
DEFAULT_IO = "float"
# Edges inside the graph cost more than the whole rest of lcr_nano's step (ARCHITECTURE.md has the figures).
DEFAULT_EDGES = "host"
DEFAULT_STATE_MODE = "explicit"


@dataclass(frozen=True)
class Target:
    """What one target can do and needs.

    module: the converter's module. files: what it writes. packages: (import name, package name) pairs beyond torch.
    int8_packages: those that int8 needs besides. default_quant: of int8.
    """

    name: str
    module: str
    files: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]
    precisions: tuple[str, ...] = PRECISIONS
    state_modes: tuple[str, ...] = (DEFAULT_STATE_MODE,)
    io_modes: tuple[str, ...] = (DEFAULT_IO,)
    int8_packages: tuple[tuple[str, str], ...] = ()
    default_quant: str = DEFAULT_QUANT
    extra: str = "export"


_TORCH = (("torch", "torch"), ("safetensors", "safetensors"), ("cv2", "opencv-python-headless"))
_ONNX = (("onnx", "onnx"), ("onnxscript", "onnxscript"))
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "onnx",
            "lcr_edge.export.to_onnx",
            ("model.onnx",),
            (*_TORCH, *_ONNX, ("onnxruntime", "onnxruntime")),
        ),
        Target(
            "openvino",
            "lcr_edge.export.to_openvino",
            ("model.xml", "model.bin"),
            (*_TORCH, *_ONNX, ("openvino", "openvino")),
            state_modes=STATE_MODES,
            extra="demo",
        ),
        Target(
            "tflite",
            "lcr_edge.export.to_tflite",
            ("model.tflite",),
            (*_TORCH, ("litert_torch", "litert-torch"), ("ai_edge_litert", "ai-edge-litert")),
            io_modes=IO_MODES,
            int8_packages=(("ai_edge_quantizer", "ai-edge-quantizer"),),
            # Its static form rounds the outputs of products too, and is no faster.
            default_quant="dynamic",
        ),
    )
}


@dataclass(frozen=True)
class Request:
    """One bundle to make. Raises UsageError, which lists the valid values.

    quant, activations: of int8, see ``calibration.plan``. state_precision: dtype of the states at the boundary.
    io: "int8" for a model of integers only, whose states are int8 too.
    """

    config: Config
    target: str
    precision: str = DEFAULT_PRECISION
    edges: str = DEFAULT_EDGES
    state_mode: str = DEFAULT_STATE_MODE
    quant: str = DEFAULT_QUANT
    activations: str = ACTIVATIONS[0]
    state_precision: str = DEFAULT_STATE_PRECISION
    io: str = DEFAULT_IO

    def __post_init__(self) -> None:
        check_choice("target", self.target, tuple(TARGETS))
        row = TARGETS[self.target]
        check_choice(f"precision for {self.target}", self.precision, row.precisions)
        check_choice("edges", self.edges, EDGE_MODES)
        check_choice(f"state mode for {self.target}", self.state_mode, row.state_modes)
        check_choice("quant", self.quant, QUANT_MODES)
        check_choice("int8 activations", self.activations, ACTIVATIONS)
        check_choice("state precision", self.state_precision, STATE_PRECISIONS)
        check_choice(f"io for {self.target}", self.io, row.io_modes)
        if (self.io == "int8") != (self.state_precision == "int8"):
            raise UsageError("int8 states come with --io int8, and only with it")
        if self.io == "int8" and (self.precision, self.quant) != ("int8", "static"):
            raise UsageError("--io int8 is of --precision int8 --quant static: leave the others out")
        if self.io == "int8" and self.edges == "graph":
            raise UsageError("a model of integers cannot find edges itself: export with --edges host")

    @property
    def row(self) -> Target:
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
        parts += [] if self.edges == DEFAULT_EDGES else [f"{self.edges}edges"]
        parts += [] if self.state_mode == DEFAULT_STATE_MODE else ["stateful"]
        parts += ["state16"] if self.state_precision == "fp16" else []
        return "-".join(parts)


@dataclass(frozen=True)
class Converted:
    """What a converter tells of the model that it wrote. operators: op types that the model needs. boundary: of a model
    of integers, (scale, zero point) of logits and states by tensor name."""

    operators: list[str]
    boundary: Mapping[str, tuple[float, int]] | None = None


def check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    """UsageError, naming the valid values, unless ``value`` is one of them."""
    if value not in allowed:
        raise UsageError(f"unknown {what}: {value!r}; choose one of {', '.join(allowed)}")


def require(target: Target, *, int8: bool = False) -> None:
    """MissingExtraError for the first package of the target, with int8 if asked, that is not installed."""
    for module, package in (*target.packages, *(target.int8_packages if int8 else ())):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(package, target.extra, f"Exporting to {target.name}")


def table() -> str:
    """What ``--list`` prints: one line per target."""
    lines = [f"{'target':10}{'precisions':13}{'state modes':20}{'files':24}packages"]
    for row in TARGETS.values():
        missing = [package for module, package in row.packages if importlib.util.find_spec(module) is None]
        needs = "installed" if not missing else f'missing {", ".join(missing)}: pip install "lcr-edge[{row.extra}]"'
        modes, files = ", ".join(row.state_modes), ", ".join(row.files)
        lines.append(f"{row.name:10}{', '.join(row.precisions):13}{modes:20}{files:24}{needs}")
    return "\n".join(lines)
