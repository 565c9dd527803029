"""A bundle's golden clip: some frames and the float PyTorch cell's answers, for the selftest on the device."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.arrays import read_npz
from lcr_edge.contract import LOGITS
from lcr_edge.errors import BundleError
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.tallies import TENSORS, Triple
from lcr_edge.runtimes.tensors import REEXPORT

GOLDEN = "golden.npz"
Halves = npt.NDArray[np.float16]
_ROUNDING = "rounding_"  # in the file, before the name of the tensor


@dataclass(frozen=True)
class Golden:
    """A short clip and the float PyTorch cell's answers, starting from zero states.

    frames uint8 [T, H, W, 3]; edges uint8 [T, H, W] in {0, 1}; logits float32 [T, classes];
    state_h, state_c float32 [T, L, N+1, C]: the states after each step.

    rounding: of an int8 bundle, what int8 adds to the answers of the last P frames where an engine rounds as planned,
    each as one step from the reference's state: float16 [P, classes], [P, L, N+1, C], [P, L, N+1, C]; P < T. None
    otherwise.
    """

    frames: npt.NDArray[np.uint8]
    edges: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    state_h: npt.NDArray[np.float32]
    state_c: npt.NDArray[np.float32]
    rounding: tuple[Halves, ...] | None = None

    def answer(self, frame: int) -> Triple:
        """The reference's logits, state_h and state_c of one frame."""
        return self.logits[frame], self.state_h[frame], self.state_c[frame]

    def to_bytes(self) -> bytes:
        """The content of golden.npz."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("frames", "edges", *TENSORS)}
        arrays |= {_ROUNDING + name: array for name, array in zip(TENSORS, self.rounding or ())}
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()


def read_golden(bundle: Bundle, path: Path | None = None) -> Golden:
    """The bundle's golden clip, or another for the same checkpoint, written by ``lcr-edge verify --save-golden``.

    Raises BundleError if it is missing or its arrays do not fit the config.
    """
    path = bundle.folder / GOLDEN if path is None else path
    config = bundle.config
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "frames": ("uint8", config.frame_shape),
        "edges": ("uint8", config.frame_shape[:2]),
        "logits": ("float32", (config.classes,)),
        "state_h": ("float32", config.state_shape),
        "state_c": ("float32", config.state_shape),
    }
    rounding: dict[str, npt.NDArray[Any]] = {}
    try:
        found = read_npz(path)
        arrays = {name: found[name] for name in wanted}
        if any(name.startswith(_ROUNDING) for name in found):  # bundles made before it existed have none
            rounding = {name: found[_ROUNDING + name] for name in TENSORS}
    except FileNotFoundError:
        raise BundleError(f"there is no golden clip {path} to check with; {REEXPORT}") from None
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path} cannot be read ({error}); {REEXPORT}") from error
    steps = len(arrays["frames"]) if arrays["frames"].ndim else 0
    for name, (dtype, shape) in wanted.items():
        array = arrays[name]
        if str(array.dtype) != dtype or array.shape != (steps, *shape) or steps < 2:
            raise BundleError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}, expected {dtype} [T >= 2, "
                f"{', '.join(map(str, shape))}]; {REEXPORT}"
            )
    count = len(rounding[LOGITS]) if rounding and rounding[LOGITS].ndim else 0
    for name, array in rounding.items():
        if str(array.dtype) != "float16" or array.shape != (count, *wanted[name][1]) or not 0 < count < steps:
            raise BundleError(
                f"{path}: {_ROUNDING}{name} is {array.dtype} {list(array.shape)}, expected float16 of fewer than "
                f"{steps} frames; {REEXPORT}"
            )
    return Golden(
        **arrays, rounding=(rounding[TENSORS[0]], rounding[TENSORS[1]], rounding[TENSORS[2]]) if rounding else None
    )
