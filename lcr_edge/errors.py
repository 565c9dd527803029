"""All errors that lcr_edge raises on purpose.

Command line tools print ``str(error)`` and exit with ``error.exit_code``: 2 when the caller can fix the call
(arguments, files, shapes, a missing package), 1 when a check ran and failed. Messages name the fix.
"""

from __future__ import annotations


class LcrError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 2


class UsageError(LcrError):
    """An argument that cannot be used: an unknown target, precision or config, or a value out of range."""


class MissingExtraError(LcrError):
    """A package of an optional extra is not installed. The message has the exact pip command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "lcr-edge[{extra}]"'
        )


class CheckpointError(LcrError):
    """A checkpoint file that cannot be used: missing, truncated, for another config, not safetensors, with NaN."""


class BundleError(LcrError):
    """A bundle that cannot be trusted: missing or changed files, unknown contract version, other tensors."""


class FrameError(LcrError, ValueError):
    """A frame with the wrong shape, dtype or channel order."""


class StateError(LcrError, ValueError):
    """A recurrent state with the wrong shape or dtype, or with NaN or Inf in it."""


class VideoError(LcrError):
    """A video source that cannot be read: missing, empty, corrupt, or no such camera."""


class OutputError(LcrError):
    """An output that cannot be written: folder not writable, disk full."""


class CalibrationError(LcrError):
    """Calibration that is not possible: too few readable clips, NaN in the network, samples of another checkpoint."""


class UnsafeDecayError(LcrError):
    """Decays so strong that the requested WKV form would overflow float32."""


class ParityError(LcrError):
    """A check ran and its promise was missed."""

    exit_code = 1
