"""The memory of a stream, and what its numbers mean in each dtype of the step contract."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.arrays import read_npz
from lcr_edge.contract import CONTRACT_VERSION, STATE_DTYPES, STATE_NAMES, STATES_IN
from lcr_edge.errors import StateError
from lcr_edge.files import write_atomically
from lcr_edge.runtimes.bundle import Bundle

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(eq=False)
class State:
    """The memory of one stream: ``h`` and ``c`` [L, N+1, C]. Zeros at the start of a stream. One per camera.

    Their dtype is that of the model's states: float32, float16 or int8. Only its own model knows what an int8 state
    means: see :meth:`Model.state_values`.
    """

    h: Array
    c: Array

    def copy(self) -> State:
        """A state that shares no memory with this one."""
        return State(self.h.copy(), self.c.copy())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .npz file, in the state's dtype, whole or not at all. Raises OutputError."""
        buffer = io.BytesIO()
        np.savez(buffer, h=self.h, c=self.c, contract_version=np.int64(CONTRACT_VERSION))
        write_atomically(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> State:
        """Read what :meth:`save` wrote; nothing is unpickled. Raises StateError."""
        try:
            arrays = read_npz(Path(path))
            h, c, written_by = arrays["h"], arrays["c"], arrays["contract_version"]
            if written_by.shape or written_by.dtype.kind not in "iu":
                raise ValueError("its contract version is not a whole number")
            version = int(written_by)
        except FileNotFoundError:
            raise StateError(f"state file {path} does not exist; start from model.initial_state()") from None
        except (OSError, ValueError, KeyError) as error:
            raise StateError(f"state file {path} cannot be read ({error}); start from model.initial_state()") from error
        if version != CONTRACT_VERSION:
            raise StateError(
                f"state file {path} has contract version {version}, this lcr_edge supports {CONTRACT_VERSION}; "
                "start from model.initial_state()"
            )
        return cls(h, c)


@dataclass(frozen=True)
class StateFormat:
    """How one model stores its states. scalings: (scale, zero point) of h and c, for int8 only."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scalings: tuple[tuple[float, int], ...] = ()

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> StateFormat:
        """The format of a bundle's states."""
        scalings = tuple(bundle.boundary[name] for name in STATES_IN) if bundle.io == "int8" else ()
        return cls(bundle.config.state_shape, np.dtype(STATE_DTYPES[bundle.state_precision]), scalings)

    def zero(self) -> State:
        """The state whose values are all 0."""
        zeros = [zero_point for _, zero_point in self.scalings] or [0, 0]
        h, c = (np.full(self.shape, zero, self.dtype) for zero in zeros)
        return State(h, c)

    def values(self, state: State) -> tuple[Floats, Floats]:
        """See ``Model.state_values``."""
        self.check(state)
        if not self.scalings:
            return state.h.astype(np.float32, copy=False), state.c.astype(np.float32, copy=False)
        return dequantised(state.h, self.scalings[0]), dequantised(state.c, self.scalings[1])

    def of(self, h: Array, c: Array) -> State:
        """See ``Model.state_of``."""
        given: tuple[tuple[str, Any], ...] = tuple(zip(STATE_NAMES, (h, c)))
        for name, array in given:
            if not isinstance(array, np.ndarray) or array.shape != self.shape or array.dtype.kind != "f":
                found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                raise StateError(
                    f"the values of {name} are {found}; give floats {list(self.shape)}, or use model.initial_state()"
                )
            if not np.isfinite(array).all():
                raise StateError(f"the values of {name} contain NaN or Inf: use model.initial_state()")
        if self.scalings:
            return State(_quantised(h, self.scalings[0]), _quantised(c, self.scalings[1]))
        return State(_narrowed(h, self.dtype), _narrowed(c, self.dtype))

    def check(self, state: State) -> None:
        """Raise StateError unless both arrays have the shape and dtype and contain neither NaN nor Inf."""
        for name in ("h", "c"):
            array = getattr(state, name, None)
            if not isinstance(array, np.ndarray):
                raise StateError(f"a state needs numpy arrays h and c, got {type(state).__name__}; use initial_state()")
            if array.shape != self.shape or array.dtype != self.dtype:
                raise StateError(
                    f"state {name} is {array.dtype} {list(array.shape)}, this model's is {self.dtype} "
                    f"{list(self.shape)}; {self._way_out(array)}"
                )
        self.check_finite((state.h, state.c))

    def check_finite(self, arrays: tuple[Array, Array]) -> None:
        """Raise StateError if h or c, of the right shape and dtype, contains NaN or Inf."""
        for name, array in zip(("h", "c"), arrays):
            if not _finite(array):
                raise StateError(f"state {name} contains NaN or Inf; this stream is lost: use model.initial_state()")

    def _way_out(self, array: Array) -> str:
        if array.shape == self.shape and array.dtype.kind == "f":
            return "use model.state_of(h, c), which rounds float values to this model's states, or initial_state()"
        return "states of other models do not fit: use model.initial_state()"


def dequantised(q: Array, scaling: tuple[float, int]) -> Floats:
    """scale * (q - zero_point) of int8 numbers, as float32."""
    scale, zero_point = scaling
    return (q.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _quantised(values: Array, scaling: tuple[float, int]) -> npt.NDArray[np.int8]:
    scale, zero_point = scaling
    steps: Array = np.rint(values.astype(np.float64) / scale) + zero_point
    return steps.clip(-128, 127).astype(np.int8)


def _narrowed(values: Array, dtype: np.dtype[Any]) -> Array:
    # Rounding alone would turn values beyond the dtype's largest into Inf.
    limit = float(np.finfo(dtype).max)
    return values.astype(np.float64).clip(-limit, limit).astype(dtype)


def _finite(array: Array) -> bool:
    """Whether a state is free of NaN and Inf, by the cheapest full read that its dtype allows."""
    if array.dtype == np.int8:
        return True
    if array.dtype == np.float16:
        # float16 arithmetic is slow, integer arithmetic on its bits is not: NaN and Inf have every exponent bit set.
        bits = np.ascontiguousarray(array).view(np.uint16) & np.uint16(0x7FFF)
        return bool(bits.max() < 0x7C00)
    return bool(np.isfinite(array).all())
