"""onnxruntime and OpenVINO, imported so that they contact nobody.

Both report to their makers by default: which processor, which model, how many steps, under a number that they keep in
the home folder. A camera must not do that unasked, and does not go through here. A program that imported one of them
itself before has decided for itself.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Any

_OPENVINO = "openvino_telemetry"
_ONNXRUNTIME = "ORT_DISABLE_TELEMETRY"
_importing = threading.Lock()


def onnxruntime(module: str = "onnxruntime") -> Any:
    """onnxruntime, or one of its modules. Since 1.29 it reports, from threads of its own, unless the environment says
    that it must not; that is said here where nothing is. Raises ImportError."""
    os.environ.setdefault(_ONNXRUNTIME, "1")
    return importlib.import_module(module)


def openvino(module: str = "openvino") -> Any:
    """OpenVINO, or one of its modules. It reports when it is imported, from a process that it forks, which may hang
    where other threads run. Where its telemetry package is missing it goes on without, so that is missing for as long
    as the import takes. Raises ImportError."""
    with _importing:
        hidden = "openvino" not in sys.modules and _OPENVINO not in sys.modules
        if hidden:
            sys.modules[_OPENVINO] = None  # type: ignore[assignment]  # an import of it fails
        try:
            return importlib.import_module(module)
        finally:
            if hidden:
                del sys.modules[_OPENVINO]
