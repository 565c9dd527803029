"""All errors that lcr_edge raises on purpose.

Command line tools print ``str(error)`` and exit with ``error.exit_code``: 2 when the caller can fix the call
(arguments, files, shapes, a missing package), 1 when a check ran and failed. Messages name the fix.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# The versions that lcr_edge is tested with; for workstations, on Python 3.11 and newer.
CONSTRAINTS = _PACKAGE / "constraints.txt"
_WORKSTATION = ("train", "demo", "export", "all", "dev")


def how_to_install(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, for where this copy of lcr_edge is.

    In a checkout: to activate its environment where ``make`` has built it and another Python runs; ``make build`` where
    it has not; otherwise, and for an extra that a device needs, pip. Installed from a wheel: pip. For the extras of a
    workstation pip gets the tested versions (``CONSTRAINTS``).
    """
    root = _PACKAGE.parent
    versions = f"-c {shlex.quote(str(CONSTRAINTS))} " if extra in _WORKSTATION else ""
    if (root / "Makefile").is_file() and (root / "pyproject.toml").is_file():
        environment = root / ".venv"
        whole, here = (environment / ".dev-installed").is_file(), Path(sys.prefix).resolve() == environment.resolve()
        if whole and not here:
            return f"source {shlex.quote(str(environment / 'bin' / 'activate'))}"
        if extra in _WORKSTATION and not whole:
            return f"make -C {shlex.quote(str(root))} build"
        return f"pip install {versions}-e {_quoted(f'{root}[{extra}]')}"
    return f"pip install {versions}{_quoted(f'lcr-edge[{extra}]')}"


def _quoted(requirement: str) -> str:
    """For a shell. Brackets are quoted as people write it."""
    safe = not set(requirement) & set('"$`\\!')
    return f'"{requirement}"' if safe else shlex.quote(requirement)


class LcrError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 2


class UsageError(LcrError):
    """An argument that cannot be used: an unknown target, precision or config, or a value out of range."""


class MissingExtraError(LcrError):
    """A package of an optional extra is not installed. The message has the exact command, see how_to_install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{purpose} needs the package {package!r}, which this Python does not have. "
            + f"To have it: {how_to_install(extra)}"
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


class SourceLostError(VideoError):
    """A camera or stream that worked, was lost, and did not come back."""

    exit_code = 1


class OutputError(LcrError):
    """An output that cannot be written: folder not writable, disk full."""


class CalibrationError(LcrError):
    """Calibration that is not possible: too few readable clips, NaN in the network, samples of another checkpoint."""


class UnsafeDecayError(LcrError):
    """Decays so strong that the requested WKV form would overflow float32."""


class ParityError(LcrError):
    """A check ran and its promise was missed."""

    exit_code = 1
