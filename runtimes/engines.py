"""The table of engines: one row per target that a bundle can be made for. Importing it needs numpy only.

This is the only list of target names. The loader, the checks of a manifest and the export table all read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcr_edge.contract import STATE_MODES
from lcr_edge.errors import MissingExtraError

_EXPLICIT = STATE_MODES[:1]


@dataclass(frozen=True)
class EngineRow:
    """What runs the bundles of one target.

    name: the target's. module, cls: where ``runtimes.api.Engine`` is implemented; imported when a bundle needs it.
    package: the engine's name for pip, empty for one that comes with lcr-edge. extra: the lcr-edge extra that installs
    it. state_modes: where the engine can
    keep the states, from ``contract.STATE_MODES``; "internal" requires that it has ``open_stream``.
    """

    name: str
    module: str
    cls: str
    package: str
    extra: str
    state_modes: tuple[str, ...] = _EXPLICIT

    def missing(self) -> MissingExtraError:
        """The error to raise if the package is not installed."""
        return MissingExtraError(self.package, self.extra, f"Running a bundle for {self.name}")


ENGINES: dict[str, EngineRow] = {
    row.name: row
    for row in (
        EngineRow("onnx", "lcr_edge.runtimes.onnx_engine", "OnnxEngine", "onnxruntime", "onnx"),
        EngineRow(
            "openvino",
            "lcr_edge.runtimes.openvino_engine",
            "OpenVinoEngine",
            "openvino",
            "openvino",
            state_modes=STATE_MODES,
        ),
        EngineRow("tflite", "lcr_edge.runtimes.tflite_engine", "TfliteEngine", "ai-edge-litert", "tflite"),
        EngineRow("c", "lcr_edge.runtimes.c_engine", "CEngine", "", ""),
    )
}
