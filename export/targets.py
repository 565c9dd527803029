"""The table of export targets: one row each, readable without torch. A new target is a row here, a converter beside
this file (``convert``, imported when it is used) and an engine in ``lcr_edge.runtimes``."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from lcr_edge.config import Config
from lcr_edge.contract import EDGE_MODES, STATE_MODES
from lcr_edge.errors import MissingExtraError, UsageError

PRECISIONS = ("fp32", "fp16")
DEFAULT_PRECISION = "fp32"
# Edges inside the graph cost more than the whole rest of lcr_nano's step (ARCHITECTURE.md has the figures).
DEFAULT_EDGES = "host"
DEFAULT_STATE_MODE = "explicit"


@dataclass(frozen=True)
class Target:
    """What one target can do and needs.

    module: the converter's module. files: what it writes. packages: (import name, package name) pairs beyond torch.
    """

    name: str
    module: str
    files: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]
    precisions: tuple[str, ...] = PRECISIONS
    state_modes: tuple[str, ...] = (DEFAULT_STATE_MODE,)
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
        ),
    )
}


@dataclass(frozen=True)
class Request:
    """One bundle to make. Raises UsageError, which lists the valid values."""

    config: Config
    target: str
    precision: str = DEFAULT_PRECISION
    edges: str = DEFAULT_EDGES
    state_mode: str = DEFAULT_STATE_MODE

    def __post_init__(self) -> None:
        check_choice("target", self.target, tuple(TARGETS))
        row = TARGETS[self.target]
        check_choice(f"precision for {self.target}", self.precision, row.precisions)
        check_choice("edges", self.edges, EDGE_MODES)
        check_choice(f"state mode for {self.target}", self.state_mode, row.state_modes)

    @property
    def row(self) -> Target:
        return TARGETS[self.target]

    @property
    def name(self) -> str:
        """The bundle's folder: CONFIG-TARGET-PRECISION, and what differs from the default modes."""
        edges = "" if self.edges == DEFAULT_EDGES else f"-{self.edges}edges"
        state = "" if self.state_mode == DEFAULT_STATE_MODE else "-stateful"
        return f"{self.config.name}-{self.target}-{self.precision}{edges}{state}"


def check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    """UsageError, naming the valid values, unless ``value`` is one of them."""
    if value not in allowed:
        raise UsageError(f"unknown {what}: {value!r}; choose one of {', '.join(allowed)}")


def require(target: Target) -> None:
    """MissingExtraError for the first package of the target that is not installed."""
    for module, package in target.packages:
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
