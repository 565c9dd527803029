"""Torch-free runtimes: step an exported bundle on onnxruntime, OpenVINO or TFLite.

    from lcr_edge.runtimes import load

    model = load("out/lcr_nano-openvino-fp32")
    state = model.initial_state()
    logits, state = model.step(frame, state)  # frame uint8 [H, W, 3] RGB

Importing this package needs numpy only; the engine is imported by :func:`load`.
"""

from __future__ import annotations

if __name__ != "lcr_edge.runtimes":
    raise ImportError("import lcr_edge.runtimes, not runtimes: one folder must not become two packages")

from lcr_edge.runtimes.api import Model, State, clip_decision, load

__all__ = ["Model", "State", "clip_decision", "load"]
