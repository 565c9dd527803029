"""The one API over all engines: ``load`` a bundle, hold a ``State`` per camera, ``step`` frame by frame."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Protocol

import numpy as np

from lcr_edge.contract import EDGE, FRAME, LOGITS, STATES_IN, STATES_OUT, TensorSpec
from lcr_edge.errors import FrameError, UsageError
from lcr_edge.frames import FITS, Frame
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.engines import ENGINES
from lcr_edge.runtimes.feedback import ModelStream
from lcr_edge.runtimes.rows import Rows
from lcr_edge.runtimes.state import Array, Floats, State, StateFormat, dequantised
from lcr_edge.runtimes.tensors import compare_specs

__all__ = ["Array", "Engine", "EngineOptions", "Floats", "Model", "ModelStream", "State", "clip_decision", "load"]

PRECISION_HINTS = ("f32", "bf16", "f16")


@dataclass(frozen=True)
class EngineOptions:
    """How to run an engine. threads: CPU threads per step, None for the engine's own choice."""

    threads: int | None = None
    precision_hint: str = "f32"
    providers: tuple[str, ...] | None = None


class Engine(Protocol):
    """What the runtimes need from an engine. ``inputs`` and ``outputs`` come from the model file, not the manifest.

    One that can keep a stream's states in place has ``open_stream() -> EngineStream`` too (``runtimes.feedback``); one
    whose model holds the states (state mode "internal") must have it.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One step. The given arrays are only read; the returned ones belong to the caller."""


class Model:
    """A loaded bundle. It holds no stream state except that of :meth:`step_stream`; threads may share it.

    labels: class names in the order of the logits. frame_shape: (H, W, 3). manifest: the bundle's manifest.json. batch:
    streams that one call of the engine steps, 1 unless the bundle was exported with ``--batch``. Then streams that
    several threads step at the same time share calls, and so do those of :meth:`step_many`.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.batch = bundle.batch
        self.engine: Engine = Rows(engine, bundle) if bundle.batch > 1 else engine
        self.labels = bundle.labels
        self.manifest = bundle.manifest
        self.frame_shape = bundle.config.frame_shape
        self.states = StateFormat.of_bundle(bundle)
        self.host_edges: Callable[[Array], Array] | None = None
        if bundle.edges == "host":
            self.host_edges = importlib.import_module("lcr_edge.edges.host").host_edges
        # Where streams share calls, they have to come to the engine together.
        self.lock: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if bundle.batch == 1 else contextlib.nullcontext()
        )
        self._own: ModelStream | None = None

    def fit(self, frame: Frame) -> Frame:
        """Fit a camera frame of any size, uint8 [h, w, 3] RGB, to this model's input: a new uint8 [H, W, 3].

        The frame is fitted like the training frames, as the manifest's ``frame.fit`` says. Raises FrameError.
        """
        height, width, _ = self.frame_shape
        return FITS[self.bundle.fit](frame, height, width)

    def initial_state(self) -> State:
        """The state before a stream's first frame: zeros, which int8 states store as their zero points."""
        return self.states.zero()

    def state_values(self, state: State) -> tuple[Floats, Floats]:
        """The values of a state of this model: (h, c), float32 [L, N+1, C].

        A float32 state's own arrays are returned, otherwise new ones; int8 gives scale * (q - zero_point).
        Raises StateError.
        """
        return self.states.values(state)

    def state_of(self, h: Array, c: Array) -> State:
        """This model's state nearest to the values h, c, floats [L, N+1, C]; it shares no memory with them.

        The inverse of :meth:`state_values` up to rounding. Values outside the dtype's range are clipped to it.
        Raises StateError for the wrong shape, for integers, and for NaN or Inf.
        """
        return self.states.of(h, c)

    def step(self, frame: Array, state: State) -> tuple[Floats, State]:
        """One frame: (logits float32 [classes], the state after it).

        frame: uint8 [H, W, 3], RGB. ``frame`` and ``state`` are only read and the results are new arrays, so the states
        of any number of streams may be stepped in any order. Logits are float32 whatever the model's output dtype.
        Raises FrameError and StateError.
        """
        feeds = self._feeds(frame, state)
        with self.lock:
            results = self.engine.run(feeds)
        return self._answer(results)

    def step_many(self, frames: Sequence[Array] | Array, states: Sequence[State]) -> tuple[Floats, list[State]]:
        """One frame each of several streams: (logits float32 [streams, classes], the states after it).

        The same results as :meth:`step` for each. A bundle of ``export --batch N`` takes N streams in a call; any other
        takes them one after the other. frames: uint8 [H, W, 3] each, or one array [streams, H, W, 3]; frames and states
        are only read. Raises FrameError, StateError, and UsageError for different numbers of them.
        """
        if len(frames) != len(states):
            raise UsageError(
                f"step_many takes a state for each frame, got {len(frames)} frames and {len(states)} states"
            )
        if isinstance(self.engine, Rows):
            feeds = [self._feeds(frame, state) for frame, state in zip(frames, states)]
            answers = [self._answer(found) for found in self.engine.run_rows(feeds)]
        else:
            answers = [self.step(frame, state) for frame, state in zip(frames, states)]
        logits = np.zeros((len(answers), len(self.labels)), np.float32)
        for row, (found, _) in enumerate(answers):
            logits[row] = found
        return logits, [state for _, state in answers]

    def _feeds(self, frame: Array, state: State) -> dict[str, Array]:
        pixels, edge = self.look_at(frame)
        self.states.check(state)
        feeds = {FRAME: pixels[None]} if edge is None else {FRAME: pixels[None], EDGE: edge[None]}
        feeds.update(zip(STATES_IN, (np.ascontiguousarray(state.h), np.ascontiguousarray(state.c))))
        return feeds

    def _answer(self, results: Mapping[str, Array]) -> tuple[Floats, State]:
        h, c = (results[name] for name in STATES_OUT)
        return self.logits_of(results[LOGITS]), State(h, c)

    def open_stream(self) -> ModelStream:
        """A stream with a state of its own, which stays with the engine: ``stream.step(frame)`` gives the logits.

        The same results as :meth:`step` with less around the engine: for programs that step cameras and do not look at
        their states. Any number of streams may be open and stepped in any order; :meth:`step` does not see them.
        """
        return ModelStream(self)

    def step_stream(self, frame: Array) -> Floats:
        """One frame of the model's own single stream, see :meth:`open_stream`: logits float32 [classes].

        :meth:`step` neither reads nor changes this stream.
        """
        if self._own is None:
            self._own = self.open_stream()
        return self._own.step(frame)

    def reset(self) -> None:
        """Restart the stream of :meth:`step_stream` from zero states, as after a cut, a gap or a new scene."""
        if self._own is not None:
            self._own.reset()

    def logits_of(self, results: Array) -> Floats:
        """The engine's logits [1, classes] as float32 [classes]."""
        logits: Floats = results[0]
        return dequantised(logits, self.bundle.boundary[LOGITS]) if self.bundle.io == "int8" else logits

    def look_at(self, frame: Any) -> tuple[Array, Array | None]:
        """A frame that was checked, contiguous, and its edges, uint8 [H, W], if this model takes them.

        Raises FrameError.
        """
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape != self.frame_shape:
            raise FrameError(self._frame_message(frame))
        edge = None if self.host_edges is None else np.ascontiguousarray(self.host_edges(frame), dtype=np.uint8)
        return np.ascontiguousarray(frame), edge

    def _frame_message(self, frame: Any) -> str:
        height, width, _ = self.frame_shape
        wanted = f"this model takes uint8 [{height}, {width}, 3] RGB"
        if not isinstance(frame, np.ndarray):
            return f"a frame must be a numpy array, got {type(frame).__name__}; {wanted}: use numpy.asarray(frame)"
        found = f"the frame is {frame.dtype} {list(frame.shape)}, {wanted}"
        if frame.shape == (3, height, width):
            return f"{found}: its channels come first; use frame.transpose(1, 2, 0)"
        if frame.shape == (1, height, width, 3):
            return f"{found}: it has a batch dimension; use frame[0]"
        if frame.ndim == 2:
            return f"{found}: it is greyscale; use numpy.repeat(frame[..., None], 3, axis=2)"
        if frame.ndim == 3 and frame.shape[2] == 4:
            return f"{found}: it has an alpha channel; use frame[..., :3]"
        if frame.ndim != 3 or frame.shape[2] != 3:
            return f"{found}: give one frame, channels last"
        if frame.dtype != np.uint8:
            return f"{found}: give pixel values 0..255; for 0..1 floats use (frame * 255).round().astype(numpy.uint8)"
        return f"{found}: use model.fit(frame)"


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    precision_hint: str = "f32",
    providers: Sequence[str] | None = None,
) -> Model:
    """Check a bundle and load it on the engine that its manifest names.

    threads: CPU threads per step, None for the engine's own choice. precision_hint: OpenVINO's arithmetic, one of
    f32, bf16, f16; the parity promises cover f32 only. providers: onnxruntime execution providers, the CPU by default;
    the first one has to run at least one operator. On CUDA and TensorRT TF32 and fp16 are off, because the promises
    cover neither.
    Raises BundleError, MissingExtraError, UsageError.
    """
    _check_threads(threads)
    if precision_hint not in PRECISION_HINTS:
        raise UsageError(f"precision_hint must be one of {', '.join(PRECISION_HINTS)}, got {precision_hint!r}")
    if isinstance(providers, str):
        raise UsageError(f"providers must be a list of names, got the string {providers!r}; use [{providers!r}]")
    bundle = read_bundle(path)
    if precision_hint != "f32" and bundle.target != "openvino":
        raise UsageError(f"precision_hint is for OpenVINO; {bundle.folder} is for {bundle.target}: leave it out")
    if providers is not None and bundle.target != "onnx":
        raise UsageError(f"providers are for onnxruntime; {bundle.folder} is for {bundle.target}: leave them out")
    options = EngineOptions(threads, precision_hint, None if providers is None else tuple(providers))
    row = ENGINES[bundle.target]
    engine: Engine = getattr(importlib.import_module(row.module), row.cls)(bundle, options)
    compare_specs(engine.inputs, bundle.inputs, f"{bundle.folder / bundle.model_files[0]}, inputs")
    compare_specs(engine.outputs, bundle.outputs, f"{bundle.folder / bundle.model_files[0]}, outputs")
    return Model(bundle, engine)


def _check_threads(threads: Any) -> None:
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads must be None or a whole number of at least 1, got {threads!r}")


def clip_decision(logits: Array) -> int:
    """The class of a whole clip: argmax of the mean logits over the second half of its steps.

    logits: [T, classes], T >= 1. The first half is left out because the states are still settling; with odd T the
    middle step counts. Raises UsageError for any other shape.
    """
    if logits.ndim != 2 or 0 in logits.shape:
        raise UsageError(f"clip_decision takes logits [T, classes] with T >= 1, got shape {list(logits.shape)}")
    return int(logits[len(logits) // 2 :].mean(axis=0).argmax())
