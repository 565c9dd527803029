"""The table of export targets: one row each, readable without torch. A new target is a row here, a converter beside
this file (``convert``, imported when it is used) and an engine in ``lcr_edge.runtimes``."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from lcr_edge.contract import IO_MODES, STATE_MODES
from lcr_edge.errors import MissingExtraError

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
            "lcr_edge.export.targets.onnx_convert",
            ("model.onnx",),
            (*_TORCH, *_ONNX, ("onnxruntime", "onnxruntime")),
        ),
        Target(
            "openvino",
            "lcr_edge.export.targets.openvino_convert",
            ("model.xml", "model.bin"),
            (*_TORCH, *_ONNX, ("openvino", "openvino")),
            state_modes=STATE_MODES,
            extra="demo",
        ),
        Target(
            "tflite",
            "lcr_edge.export.targets.tflite_convert",
            ("model.tflite",),
            (*_TORCH, ("litert_torch", "litert-torch"), ("ai_edge_litert", "ai-edge-litert")),
            io_modes=IO_MODES,
            int8_packages=(("ai_edge_quantizer", "ai-edge-quantizer"),),
            # Its static form rounds the outputs of products too, and is no faster.
            default_quant="dynamic",
        ),
    )
}


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
