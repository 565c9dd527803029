"""C bundles: the step of ``c/lcr_edge.h``, called through ctypes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.config import Config
from lcr_edge.contract import EDGE, FRAME, LOGITS, STATES_IN, STATES_OUT, TensorSpec, input_specs, output_specs
from lcr_edge.errors import BundleError, LcrError
from lcr_edge.runtimes.api import EngineOptions
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.c_library import library
from lcr_edge.runtimes.feedback import EngineStream

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
_Pointer = ctypes.c_void_p


class _Info(ctypes.Structure):
    """lcr_info."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("height", "width", "classes", "layers", "tokens", "dim", "fit", "int8")),
        ("train_fps", ctypes.c_float),
        ("kernels", ctypes.c_char_p),
    )


class _Options(ctypes.Structure):
    """lcr_options."""

    _fields_ = (("threads", ctypes.c_int), ("plain", ctypes.c_int))


class CEngine:
    """One model, opened for one step at a time on one thread. Raises BundleError (no compiler, unusable weights)."""

    def __init__(self, bundle: Bundle, _: EngineOptions) -> None:
        self._library = declared(library())
        path = bundle.folder / bundle.model_files[0]
        self._model = _Pointer()
        status = self._library.lcr_open(os.fsencode(path), None, ctypes.byref(self._model))
        if status:
            raise BundleError(f"cannot load {path}: {self._message(status)}")
        info: _Info = self._library.lcr_about(self._model)
        self.name = f"C, {info.kernels.decode()}"
        self.inputs = input_specs(bundle.config, bundle.edges)
        self.outputs = output_specs(bundle.config)
        found = (info.height, info.width, info.classes, info.layers, info.tokens, info.dim)
        wanted = (bundle.config.height, bundle.config.width, bundle.config.classes, *bundle.config.state_shape)
        if found != wanted:
            raise BundleError(f"{path} is of another network than its manifest: {found}, not {wanted}; export it again")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One step."""
        stream = self.open_stream()
        stream.write(*(feeds[name] for name in STATES_IN))
        stream.give(feeds[FRAME][0], feeds[EDGE][0] if EDGE in feeds else None)
        stream.compute()
        logits = stream.take()
        h, c = stream.read()
        return {LOGITS: logits, **dict(zip(STATES_OUT, (h, c)))}

    def open_stream(self) -> EngineStream:
        """A stream whose state is stepped in place."""
        return _Stream(self, self._library, self._model, self.outputs)

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._library.lcr_close(self._model)

    def _message(self, status: int) -> str:
        return str(self._library.lcr_message(status).decode())


class _Stream:
    """One state, and a frame to step it with."""

    inside = False

    def __init__(self, engine: CEngine, c: Any, model: Any, outputs: tuple[TensorSpec, ...]) -> None:
        self._engine = engine  # which closes the model when it goes
        self._library, self._model = c, model
        logits, h, _ = outputs
        self._state = np.zeros((2, *h.shape), np.float32)
        self._logits = np.empty(logits.shape, np.float32)

    def give(self, frame: Array, edge: Array | None) -> None:
        """See ``EngineStream``."""
        self._frame, self._edge = frame, edge

    def compute(self) -> None:
        """See ``EngineStream``."""
        state = self._state.ctypes.data
        edge = None if self._edge is None else self._edge.ctypes.data
        status = self._library.lcr_step_edges(
            self._model, self._frame.ctypes.data, edge, state, state, self._logits.ctypes.data
        )
        if status:
            raise LcrError(f"the C step failed: {self._library.lcr_message(status).decode()}")

    def take(self) -> Array:
        """See ``EngineStream``."""
        return self._logits.copy()

    def read(self) -> tuple[Array, Array]:
        """See ``EngineStream``."""
        return self._state[0], self._state[1]

    def write(self, h: Array, c: Array) -> None:
        """See ``EngineStream``."""
        np.copyto(self._state[0], h, casting="no")
        np.copyto(self._state[1], c, casting="no")


def plain_answers(path: Path, frames: Array, config: Config) -> tuple[Floats, Floats, Floats]:
    """What plain C computes on this and every other processor: logits [T, classes] and states [T, L, N+1, C] of a clip.

    path: model.bin. Raises BundleError (no compiler, unusable weights).
    """
    c, model = declared(library()), _Pointer()
    status = c.lcr_open(os.fsencode(path), ctypes.byref(_Options(1, 1)), ctypes.byref(model))
    if status:
        raise BundleError(f"cannot load {path}: {c.lcr_message(status).decode()}")
    logits = np.empty((len(frames), config.classes), np.float32)
    states = np.zeros((len(frames) + 1, 2, *config.state_shape), np.float32)
    for t, frame in enumerate(np.ascontiguousarray(frames)):
        before, after = (states[place].ctypes.data for place in (t - 1, t))  # at first the last one, all zeros
        status = c.lcr_step_edges(model, frame.ctypes.data, None, before, after, logits[t].ctypes.data)
        if status:
            raise LcrError(f"the C step failed: {c.lcr_message(status).decode()}")
    c.lcr_close(model)
    return logits, states[:-1, 0], states[:-1, 1]


def declared(c: ctypes.CDLL) -> Any:
    """The library with the types of its functions."""
    c.lcr_open.argtypes = (ctypes.c_char_p, _Pointer, _Pointer)
    c.lcr_close.argtypes, c.lcr_close.restype = (_Pointer,), None
    c.lcr_about.argtypes, c.lcr_about.restype = (_Pointer,), _Info
    c.lcr_message.argtypes, c.lcr_message.restype = (ctypes.c_int,), ctypes.c_char_p
    c.lcr_step_edges.argtypes = (_Pointer,) * 6
    return c
