"""The table of export targets: one row each, importable without torch.

A row holds everything export knows about a target. CONTRIBUTING.md, "Add a target", says what else a new one needs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lcr_edge.contract import IO_MODES, MAX_BATCH
from lcr_edge.errors import MissingExtraError, how_to_install
from lcr_edge.runtimes.c_library import sources
from lcr_edge.runtimes.engines import ENGINES, EngineRow

PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_PRECISION = "fp32"
DEFAULT_QUANT = "static"
# Products that compute in float in static int8 unless told otherwise. The input of attend, a gate times a norm, has
# tails too long for 256 steps, and attend is a twentieth of the work. classify alone costs the logits a third of what
# all the others together do, and is one row. Measured with ``lcr-edge sensitivity``.
FLOAT_BY_DEFAULT = "layers.*.attend,classify"
# How the states cross the step's boundary: --state-precision fp32 or fp16; "int8" comes only with --io int8.
STATE_PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_STATE_PRECISION = "fp32"
# "int8": every tensor of the model is an integer, for NPUs and microcontrollers.
DEFAULT_IO = "float"
# Edges inside the graph cost more than the rest of lcr_nano's step (ARCHITECTURE.md has the figures).
DEFAULT_EDGES = "host"
DEFAULT_STATE_MODE = "explicit"


# (import name, package name) of what every export needs.
_ALWAYS = (("torch", "torch"), ("safetensors", "safetensors"), ("cv2", "opencv-python-headless"))
_ONNX = (("onnx", "onnx"), ("onnxscript", "onnxscript"))


@dataclass(frozen=True)
class Target:
    """What one target can do and needs.

    engine: its row in the runtimes' table, which names the target and says where the states can be. converter: a module
    with ``convert(job: Job) -> Converted``. files: what the converter writes; the engine opens the first one.
    packages: (import name, package name) pairs that the export needs, beyond what every export needs; int8_packages:
    what int8 needs in addition. The manifest records their versions. extra: the lcr-edge extra that installs them.
    io_modes: from ``contract.IO_MODES``. default_quant: for int8. default_edges: where edges are found unless told
    otherwise. state_precisions: of ``STATE_PRECISIONS``. most_streams: in a call. golden: a module that also writes the
    golden clip in a form of the target's own. firmware: a module that writes a bundle's files as C arrays. stored: a
    module that reads int8 products back from the files, see ``targets.stored``. None where that cannot be done. hints:
    the manifest's runtime hints; int8_hints: what int8 adds to them, by quant.
    """

    engine: EngineRow
    converter: str
    files: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]
    extra: str
    precisions: tuple[str, ...] = PRECISIONS
    io_modes: tuple[str, ...] = (DEFAULT_IO,)
    int8_packages: tuple[tuple[str, str], ...] = ()
    default_quant: str = DEFAULT_QUANT
    default_edges: str = DEFAULT_EDGES
    state_precisions: tuple[str, ...] = STATE_PRECISIONS
    most_streams: int = MAX_BATCH
    golden: str | None = None
    firmware: str | None = None
    stored: str | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)
    int8_hints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rounds: Mapping[str, bool] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The target's name."""
        return self.engine.name

    @property
    def state_modes(self) -> tuple[str, ...]:
        """Where the states may be, from ``contract.STATE_MODES``."""
        return self.engine.state_modes

    def missing(self, *, int8: bool = False) -> list[str]:
        """The packages that an export needs, with int8 if asked, and that are not installed."""
        needed = (*_ALWAYS, *self.packages, *(self.int8_packages if int8 else ()))
        return [package for module, package in needed if importlib.util.find_spec(module) is None]


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            ENGINES["onnx"],
            "lcr_edge.export.targets.onnx_convert",
            ("model.onnx",),
            (*_ONNX, ("onnxruntime", "onnxruntime")),
            "export",
            stored="lcr_edge.export.targets.onnx_stored",
            hints={"intra_op_num_threads": "physical cores, at most 4", "inter_op_num_threads": 1},
            rounds={"per_row": False, "outputs": False},
        ),
        Target(
            ENGINES["openvino"],
            "lcr_edge.export.targets.openvino_convert",
            ("model.xml", "model.bin"),
            (*_ONNX, ("openvino", "openvino")),
            "demo",
            stored="lcr_edge.export.targets.openvino_stored",
            hints={"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"},
            # OpenVINO quantises the inputs of layers with int8 weights in groups of this size, or not at all (0).
            int8_hints={
                "dynamic": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 32},
                "weight-only": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
            },
            rounds={"per_row": True, "outputs": False},
        ),
        Target(
            ENGINES["tflite"],
            "lcr_edge.export.targets.tflite_convert",
            ("model.tflite",),
            (("litert_torch", "litert-torch"), ("ai_edge_litert", "ai-edge-litert")),
            "export",
            stored="lcr_edge.export.targets.tflite_stored",
            io_modes=IO_MODES,
            int8_packages=(("ai_edge_quantizer", "ai-edge-quantizer"),),
            # Its static form rounds the outputs of products too, and is no faster.
            default_quant="dynamic",
            hints={"signature": "serving_default", "num_threads": "physical cores, at most 4"},
            rounds={"per_row": True, "outputs": True},
        ),
        Target(
            ENGINES["c"],
            "lcr_edge.export.targets.c_convert",
            ("model.bin", *sources()),
            (),
            "export",
            precisions=("fp32", "int8"),
            # Its own edges cost a tenth of a step, and its caller is C.
            default_edges="graph",
            state_precisions=("fp32",),
            most_streams=1,
            golden="lcr_edge.export.targets.c_convert",
            stored="lcr_edge.export.targets.c_stored",
            rounds={"per_row": True, "outputs": False},
            firmware="lcr_edge.export.targets.c_firmware",
        ),
    )
}


def require(target: Target, *, int8: bool = False) -> None:
    """Raise MissingExtraError for the target's first package, with int8 if asked, that is not installed."""
    for package in target.missing(int8=int8):
        raise MissingExtraError(package, target.extra, f"Exporting to {target.name}")


def producers() -> tuple[str, ...]:
    """Packages whose versions a manifest records if they are installed: torch, and those of all targets."""
    pairs = [pair for row in TARGETS.values() for pair in (*row.packages, *row.int8_packages)]
    return tuple(dict.fromkeys(["torch", *(package for _, package in pairs)]))


def table() -> str:
    """What ``--list`` prints: one line per target."""
    lines = [f"{'target':10}{'precisions':18}{'state modes':20}{'files':24}packages"]
    for row in TARGETS.values():
        missing = row.missing()
        needs = "installed" if not missing else f"missing {', '.join(missing)}: {how_to_install(row.extra)}"
        modes, files = ", ".join(row.state_modes), ", ".join(row.files[:2])
        files = files if len(row.files) <= 2 else f"{row.files[0]}, sources"
        lines.append(f"{row.name:10}{', '.join(row.precisions):18}{modes:20}{files:24}{needs}")
    return "\n".join(lines)
