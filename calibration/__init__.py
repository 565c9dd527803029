"""Rolls the float cell over clips and keeps what its layers and states actually receive."""

from __future__ import annotations

# The folder lies at the root of the checkout: without this check "import calibration" would load a second copy of it.
if __name__ != "lcr_edge.calibration":
    raise ImportError("this package is lcr_edge.calibration: write 'import lcr_edge.calibration'")
