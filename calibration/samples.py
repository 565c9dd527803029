"""Calibration samples: the step's inputs at single frames of a float rollout, and the file that stores them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from lcr_edge.arrays import read_npz
from lcr_edge.contract import EDGE, FRAME, STATES_IN
from lcr_edge.errors import CalibrationError
from lcr_edge.files import write_atomically

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint
    from lcr_edge.config import Config

FORMAT = "lcr_edge calibration samples 1"
ARRAYS = {"frames": "uint8", "edges": "uint8", "state_h": "float32", "state_c": "float32", "position": "int64"}
METADATA = ("checkpoint_sha256", "config_name", "source", "seed", "clips")
_ABOUT = "about"  # name of the array that holds format, metadata and digest, as JSON in bytes
_WAY_OUT = "delete the file, or give another --calibration-cache"


@dataclass(frozen=True, eq=False)
class Samples:
    """n single frames of float rollouts.

    frames: uint8 [n, H, W, 3], RGB. edges: uint8 [n, H, W] in {0, 1}. state_h, state_c: float32 [n, L, N+1, C], the
    states before the frame. position: int64 [n], frames since the last reset; at 0 the state is zero.
    checkpoint_sha256, config_name: of the network that was rolled. source: where the clips came from. seed: for every
    random choice. clips: how many were asked for.
    """

    frames: npt.NDArray[np.uint8]
    edges: npt.NDArray[np.uint8]
    state_h: npt.NDArray[np.float32]
    state_c: npt.NDArray[np.float32]
    position: npt.NDArray[np.int64]
    checkpoint_sha256: str
    config_name: str
    source: str
    seed: int
    clips: int = 0

    def __len__(self) -> int:
        return len(self.position)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of metadata and arrays: the same for the same samples, however they are stored."""
        digest = hashlib.sha256(json.dumps([FORMAT, self._metadata()], sort_keys=True).encode())
        for name, dtype in ARRAYS.items():
            array = np.ascontiguousarray(getattr(self, name), np.dtype(dtype).newbyteorder("<"))
            digest.update(f"{name} {dtype} {list(array.shape)}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    @property
    def share_with_state(self) -> float:
        """Share of the samples whose states are not zero, in [0, 1]; of a stream all are, but for its first frame."""
        return float((self.state_h.reshape(len(self), -1) != 0).any(axis=1).mean())

    def feeds(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """The step's inputs for one sample, by the names of the step contract: frame uint8 [1, H, W, 3], edge uint8
        [1, H, W], state_h_in and state_c_in float32 [L, N+1, C]. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        states = (self.state_h[index], self.state_c[index])
        return {
            FRAME: self.frames[index : index + 1],
            EDGE: self.edges[index : index + 1],
            **{name: np.ascontiguousarray(state) for name, state in zip(STATES_IN, states)},
        }

    def with_zero_states(self) -> Samples:
        """The same frames as if each were the first of its stream: what calibration without a stream would see."""
        return dataclasses.replace(
            self,
            state_h=np.zeros_like(self.state_h),
            state_c=np.zeros_like(self.state_c),
            position=np.zeros_like(self.position),
        )

    def _metadata(self) -> dict[str, str | int]:
        return {name: getattr(self, name) for name in METADATA}


def save(path: str | Path, samples: Samples) -> None:
    """Write an uncompressed .npz, whole or not at all; the same samples give the same bytes.

    Raises CalibrationError for arrays with a wrong shape or with NaN or Inf, and OutputError.
    """
    wrong = _misfit(samples)
    if wrong:
        raise CalibrationError(f"these calibration samples cannot be saved: {wrong}; collect them again")
    about = {"format": FORMAT, **samples._metadata(), "digest": samples.digest}
    arrays: dict[str, npt.NDArray[Any]] = {
        _ABOUT: np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8),
        **{name: getattr(samples, name) for name in ARRAYS},
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(Path(path), buffer.getvalue())


def load(path: str | Path, checkpoint: Checkpoint) -> Samples:
    """Samples that :func:`save` wrote for the same checkpoint.

    Raises CalibrationError for a file that is missing, damaged or in another format, for samples of another checkpoint
    (by SHA-256) or config, and for values that were altered.
    """
    path = Path(path)
    arrays = _arrays(path)
    try:
        about = json.loads(arrays.pop(_ABOUT).tobytes())
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ValueError
    except (KeyError, ValueError, RecursionError):
        raise CalibrationError(
            f"{path} has no calibration samples for this lcr_edge ({FORMAT!r}); {_WAY_OUT}"
        ) from None
    kinds = {name: int if name in ("seed", "clips") else str for name in METADATA}
    if any(type(about.get(name)) is not kind for name, kind in kinds.items()) or set(arrays) != set(ARRAYS):
        raise CalibrationError(f"{path}: its entries are not those of calibration samples: altered; {_WAY_OUT}")
    samples = Samples(**cast("dict[str, Any]", arrays), **{name: about[name] for name in METADATA})
    if samples.checkpoint_sha256 != checkpoint.sha256:
        raise CalibrationError(
            f"{path} was made with another checkpoint (sha256 {samples.checkpoint_sha256[:12]}..., this one has "
            f"{checkpoint.sha256[:12]}...); {_WAY_OUT}"
        )
    if samples.config_name != checkpoint.config.name:
        raise CalibrationError(
            f"{path} was made with config {samples.config_name}, but the checkpoint has {checkpoint.config.name}; "
            f"{_WAY_OUT}"
        )
    wrong = _misfit(samples, checkpoint.config)
    if wrong:
        raise CalibrationError(f"{path}: {wrong}: damaged or altered; {_WAY_OUT}")
    if about.get("digest") != samples.digest:
        raise CalibrationError(f"{path}: its values changed after it was saved (the digest differs); {_WAY_OUT}")
    return samples


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an .npz file. Raises CalibrationError."""
    try:
        return read_npz(path)
    except FileNotFoundError:
        raise CalibrationError(f"the calibration samples {path} do not exist; collect them first") from None
    except OSError as error:
        raise CalibrationError(f"cannot read {path}: {error.strerror}; check it, or {_WAY_OUT}") from error
    except ValueError as error:
        raise CalibrationError(f"{path} is not a complete .npz file: damaged, or not an .npz; {_WAY_OUT}") from error


def _misfit(samples: Samples, config: Config | None = None) -> str:
    """What is wrong with the arrays, among themselves and for ``config``; empty when nothing is."""
    count = len(samples.position) if samples.position.ndim == 1 else 0
    if not count:
        return "there are no samples"
    height, width = samples.frames.shape[1:3] if samples.frames.ndim == 4 else (0, 0)
    state = samples.state_h.shape[1:]
    if config is not None:
        (height, width), state = config.frame_shape[:2], config.state_shape
    elif len(state) != 3:
        return f"state_h has shape {list(samples.state_h.shape)}, not [n, L, N+1, C]"
    wanted = {
        "frames": (count, height, width, 3),
        "edges": (count, height, width),
        "state_h": (count, *state),
        "state_c": (count, *state),
        "position": (count,),
    }
    for name, shape in wanted.items():
        array = getattr(samples, name)
        if array.dtype != ARRAYS[name] or array.shape != shape:
            return f"{name} is {array.dtype} {list(array.shape)}, expected {ARRAYS[name]} {list(shape)}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name} contains NaN or Inf"
    if samples.edges.max(initial=0) > 1 or samples.position.min() < 0:
        return "edges other than 0 and 1, or positions below 0"
    return ""
