"""Writes bundles: the trained cell as ONNX, OpenVINO or TFLite, verified against the float PyTorch cell."""

from __future__ import annotations

# The folder lies at the root of the checkout: without this check "import export" would load a second copy of it.
if __name__ != "lcr_edge.export":
    raise ImportError("this package is lcr_edge.export: write 'import lcr_edge.export' or 'python -m lcr_edge.export'")
