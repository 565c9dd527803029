"""onnxruntime and OpenVINO, imported so that they contact nobody.

Both report to their makers by default: which processor, which model, how many steps, under a number that they keep in
the home folder. A camera must not do that unasked, and does not go through here. A program that imported one of them
itself before has decided for itself.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

_OPENVINO = "openvino_telemetry"
_ONNXRUNTIME = "ORT_DISABLE_TELEMETRY"


def onnxruntime() -> Any:
    """onnxruntime, which reports from threads of its own since 1.29 unless the environment says otherwise: it is told
    so where it says nothing. Raises ImportError."""
    os.environ.setdefault(_ONNXRUNTIME, "1")
    return importlib.import_module("onnxruntime")


def openvino(module: str = "openvino") -> Any:
    """OpenVINO, or one of its modules. It reports when it is imported, from a process that it forks, which may hang
    where other threads run. Where its telemetry package is missing it goes on without, so that is missing for as long
    as the import takes. Raises ImportError."""
    if "openvino" in sys.modules or _OPENVINO in sys.modules:
        return importlib.import_module(module)
    sys.modules[_OPENVINO] = None  # type: ignore[assignment]  # an import of it fails
    try:
        return importlib.import_module(module)
    finally:
        del sys.modules[_OPENVINO]
