"""lcr_edge: train LCR, the LSTM CrossRWKV video network, and step it on edge devices with proven parity.

Importing this package needs numpy only. ``build`` and ``load_checkpoint`` import torch when called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lcr_edge.model.network import LCR

__version__ = "0.1.0"
__all__ = ["__version__", "build", "load_checkpoint"]

# In a checkout the packages export/, runtimes/ and calibration/ lie beside this folder; installed, they lie in it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "runtimes" / "__init__.py").is_file():
    __path__.append(str(_checkout))


def build(config: str, *, classes: int | None = None, variant: str = "default") -> LCR:
    """A freshly initialised network of a named config, e.g. ``build("lcr_tiny", classes=27, variant="paper")``.

    Raises UsageError (lists the valid names) or MissingExtraError when torch is not installed.
    """
    from lcr_edge.checkpoint import build_model

    return build_model(config, classes=classes, variant=variant)


def load_checkpoint(path: str | Path | None = None) -> LCR:
    """A trained network, in evaluation mode, from a safetensors file; the packaged lcr_nano without ``path``.

    Raises CheckpointError or MissingExtraError.
    """
    from lcr_edge.checkpoint import load

    return load(path).model
