"""The time of one step and of its parts, all bundles taking turns within one run.

A machine's speed drifts, so bundles are compared round by round: every round steps each bundle a few times, then its
floor as often, and ratios compare the smallest times. What is timed is the step of a stream (``Model.open_stream``),
host edges and checks included. Of a bundle that steps several streams in a call, whole calls are timed
(``Model.step_many``), and every figure is a call's share for one stream.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.config import CLIP_FRAMES
from lcr_edge.frames import Frame
from lcr_edge.runtimes.api import Array, Floats, Model, State
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.golden import Golden, read_golden
from lcr_edge.runtimes.provider import load_on
from lcr_edge.runtimes.rows import Rows
from lcr_edge.runtimes.speed.floor import open_floor

WARM_UP = 5
STEPS_PER_ROUND = 4
CAMERA = (480, 640, 3)
_WINDOWS_EVERY = 5  # rounds


@dataclass(frozen=True)
class Timing:
    """Milliseconds per step of one bundle. minimum, median, p95, p99: of the whole step, without fit. streams: so many
    are stepped in a call, whose times are divided by them.

    The smallest time of each part: fit_ms, a camera frame to the network's size; edges_ms, on the host, 0 where they
    are in the graph; engine_ms, the engine's own run; python_ms, what is left: checks, and copies to and from the
    engine. window_ms: CLIP_FRAMES steps from a zero state, which a model without a state takes for
    every frame: the smallest times of the first, the second and so on, added.
    ratio, engine_ratio: over the first bundle's. floor_ms: the products alone, None with floor_note, the reason.
    floor_ratio: engine_ms over floor_ms.
    """

    bundle: str
    engine: str
    streams: int
    edges: str
    model_bytes: int
    minimum_ms: float
    median_ms: float
    p95_ms: float
    p99_ms: float
    ratio: float
    fit_ms: float
    edges_ms: float
    engine_ms: float
    engine_ratio: float
    python_ms: float
    window_ms: float
    floor_ms: float | None
    floor_ratio: float | None
    floor_note: str


class Stepper:
    """All that one call of a bundle steps: a stream that stays with the engine, or as many as share the call.

    stream: the one; None if there are several.
    """

    def __init__(self, model: Model) -> None:
        self.stream = model.open_stream() if model.batch == 1 else None
        self._model = model
        self._states: list[State] = []
        self.reset()

    def step(self, frames: Sequence[Frame]) -> Sequence[Floats] | Floats:
        """One call: a frame for each stream. Returns the logits of each."""
        if self.stream is not None:
            return (self.stream.step(frames[0]),)
        logits, self._states = self._model.step_many(frames, self._states)
        return logits

    def reset(self) -> None:
        """Start all streams again from zero states."""
        self.restore([self._model.initial_state() for _ in range(self._model.batch)])

    def states(self) -> list[State]:
        """The states of all streams."""
        return [self.stream.state()] if self.stream is not None else self._states

    def restore(self, states: list[State]) -> None:
        """Go on from these states."""
        self._states = states
        if self.stream is not None:
            self.stream.restore(states[0])

    def watch(self, seconds: list[float]) -> None:
        """Append the seconds of the engine's own run of every call from now on."""
        engine = self._model.engine
        where: Any = engine.inner if isinstance(engine, Rows) else self.stream and self.stream.engine
        name = "run" if isinstance(engine, Rows) else "compute"
        compute = getattr(where, name)

        def timed(*arguments: Any) -> Any:
            begin = time.perf_counter()
            result = compute(*arguments)
            seconds.append(time.perf_counter() - begin)
            return result

        setattr(where, name, timed)


class TimedBundle:
    """A bundle stepped over the frames of its golden clip. Seconds of each call: times, engines, rests, floors; of each
    frame: fits, edges."""

    def __init__(self, model: Model, *, threads: int | None = 1, floor: bool = False, provider: str = "cpu") -> None:
        self.model = model
        self.golden: Golden = read_golden(model.bundle)
        self.times: list[float] = []
        self.fits: list[float] = []
        self.edges: list[float] = []
        self.engines: list[float] = []
        self.rests: list[float] = []
        self.windows: list[list[float]] = []
        self.floors: list[float] = []
        self.count = 0
        self._camera = np.random.default_rng(0).integers(0, 256, CAMERA, np.uint8)
        self.floor, self.floor_note = None, "not asked for"
        if floor and provider != "cpu":
            self.floor_note = "which is built for the CPU only"
        elif floor:
            self.floor, self.floor_note = open_floor(model.bundle, threads)
        self.stepper = Stepper(model)
        self._watch()

    def fit(self) -> None:
        """Fit a camera frame."""
        begin = time.perf_counter()
        self.model.fit(self._camera)
        self.fits.append(time.perf_counter() - begin)

    def step(self) -> None:
        """One step, and the parts it took."""
        frames = self._frames(self.count)
        self.count += 1
        known = len(self.edges)
        begin = time.perf_counter()
        self.stepper.step(frames)
        self.times.append(time.perf_counter() - begin)
        self.rests.append(self.times[-1] - self.engines[-1] - sum(self.edges[known:]))

    def window(self) -> None:
        """All frames of a window from a zero state, as a model without a state would take them for its next answer."""
        before = self.stepper.states()
        counts = len(self.edges), len(self.engines)
        seconds = []
        self.stepper.reset()
        for number in range(CLIP_FRAMES):
            frames = self._frames(number)
            begin = time.perf_counter()
            self.stepper.step(frames)
            seconds.append(time.perf_counter() - begin)
        self.windows.append(seconds)
        del self.edges[counts[0] :], self.engines[counts[1] :]
        self.stepper.restore(before)

    def _frames(self, first: int) -> list[Frame]:
        """The frames of a call: each stream is one frame ahead of the one before."""
        frames = self.golden.frames
        return [frames[(first + stream) % len(frames)] for stream in range(self.model.batch)]

    def products(self) -> None:
        """The products alone."""
        if self.floor is not None:
            begin = time.perf_counter()
            self.floor.compute()
            self.floors.append(time.perf_counter() - begin)

    def warm_up(self) -> None:
        """Some steps whose times are not kept."""
        for _ in range(WARM_UP):
            self.fit()
            self.step()
            self.products()
        for times in (self.times, self.fits, self.edges, self.engines, self.rests, self.floors):
            times.clear()

    def _watch(self) -> None:
        """Time the two parts of a step that others compute, where they are called."""
        find = self.model.host_edges
        if find is not None:
            within = find

            def edges(frame: Array) -> Array:
                begin = time.perf_counter()
                found = within(frame)
                self.edges.append(time.perf_counter() - begin)
                return found

            self.model.host_edges = edges
        self.stepper.watch(self.engines)


def bench(
    folders: Sequence[str | os.PathLike[str]],
    rounds: int = 50,
    threads: int | None = 1,
    *,
    floors: bool = False,
    provider: str = "cpu",
) -> list[Timing]:
    """Time the bundles on the frames of their golden clips, in the order given. Raises what ``load_on`` raises.

    floors: also time the products of each alone, in the same rounds; on the CPU only. provider: of ONNX bundles, see
    ``runtimes.provider``.
    """
    streams = [
        TimedBundle(load_on(folder, provider, threads), threads=threads, floor=floors, provider=provider)
        for folder in folders
    ]
    for stream in streams:
        stream.warm_up()
    for number in range(rounds):
        for stream in streams:
            # Each by itself: a camera frame between two steps would push the network out of the cache.
            for part in (stream.fit, stream.step, stream.products):
                for _ in range(STEPS_PER_ROUND):
                    part()
            if number % _WINDOWS_EVERY == 0:
                stream.window()
    return [_timing(stream, streams[0]) for stream in streams]


def model_bytes(bundle: Bundle) -> int:
    """Bytes that the engine loads: the bundle without its golden clip and manifest."""
    return sum(int(bundle.manifest["files"][name]["bytes"]) for name in bundle.model_files)


def _timing(stream: TimedBundle, first: TimedBundle) -> Timing:
    shares = stream.model.batch
    times: npt.NDArray[np.float64] = 1e3 * np.asarray(stream.times) / shares
    engine, floor = min(stream.engines) / shares, min(stream.floors, default=None)
    if floor is not None:
        floor /= shares
    median, p95, p99 = (float(np.percentile(times, share)) for share in (50, 95, 99))
    return Timing(
        bundle=stream.model.bundle.folder.name,
        engine=stream.model.engine.name,
        streams=shares,
        edges=stream.model.bundle.edges,
        model_bytes=model_bytes(stream.model.bundle),
        minimum_ms=float(times.min()),
        median_ms=median,
        p95_ms=p95,
        p99_ms=p99,
        ratio=min(stream.times) / shares / (min(first.times) / first.model.batch),
        fit_ms=1e3 * min(stream.fits),
        edges_ms=1e3 * min(stream.edges, default=0.0),
        engine_ms=1e3 * engine,
        engine_ratio=engine / (min(first.engines) / first.model.batch),
        python_ms=1e3 * min(stream.rests) / shares,
        window_ms=1e3 * sum(map(min, zip(*stream.windows))) / shares,
        floor_ms=None if floor is None else 1e3 * floor,
        floor_ratio=None if floor is None else engine / floor,
        floor_note=stream.floor_note,
    )
