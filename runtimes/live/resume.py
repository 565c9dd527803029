"""``--state-file FILE``: the state of every camera on the disk, and back after a restart or a power cut.

The file is an .npz file: two arrays for each source, and JSON that says of which bundle and source they are and when
the last step was. It is written beside its place, synced and renamed, so that there is always a whole one.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import stat
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcr_edge import options
from lcr_edge.arrays import npz_of
from lcr_edge.contract import CONTRACT_VERSION
from lcr_edge.errors import LcrError, OutputError, UsageError
from lcr_edge.files import check_file, mode_of, remove_leftovers, sync_folder, write_atomically
from lcr_edge.runtimes.api import Model, State
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.locks import Lock
from lcr_edge.runtimes.live.stream import Step, Stream
from lcr_edge.runtimes.video import Tick
from lcr_edge.video import name_of

_NUMBERS = (
    options.Number(
        "state-seconds",
        "how often --state-file is written; a flash card wears out by it",
        kind=float, low=0.1, high=86_400, default=10.0, metavar="SECONDS",
    ),
    options.Number(
        "state-max-age",
        "a state whose last step is longer ago is not taken up",
        kind=float, low=0, high=86_400, default=60.0, metavar="SECONDS",
    ),
)  # fmt: skip
_MOST_SOURCES = 64
_OVERHEAD = 100_000  # bytes of a file beside the arrays
_JOIN_S = 10.0
_STEP_S = 1.0


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """``--state-file`` and its numbers."""
    parser.add_argument(
        "--state-file",
        metavar="FILE",
        help="keep the states of cameras and streams in a file, and go on from it after a restart or a power cut",
    )
    for row in _NUMBERS:
        row.add(parser)


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for numbers out of range, and for a state file of films."""
    options.check_numbers(_NUMBERS, args)


def keeper(args: argparse.Namespace, model: Model) -> Keeper | None:
    """What keeps the states of this run, None without ``--state-file``. Raises UsageError and OutputError."""
    if args.state_file is None:
        return None
    return Keeper(Path(args.state_file), model, args.state_seconds, args.state_max_age)


@dataclass
class _Kept:
    """The newest of a source: its stream, the wall clock at its last step, and what is to be written next."""

    stream: Stream
    stepped_at: float = 0.0
    due: bool = True
    snapshot: tuple[State, float] | None = None


class Keeper:
    """Writes the states every ``seconds`` and at the end, in a thread of its own; an observer of the run.

    max_age_s: by the wall clock, since the last step. Holds ``FILE.lock`` until :meth:`close`. Raises UsageError where
    another process keeps its states in this file, OutputError where it cannot be written.
    """

    def __init__(self, path: Path, model: Model, seconds: float, max_age_s: float) -> None:
        mode = mode_of(path)
        if mode is not None and not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no file"
            raise UsageError(f"--state-file {path} is {what}; give a file's name")
        check_file(path, "--state-file")
        self._path, self._model, self._seconds = path, model, seconds
        place = Path(os.path.realpath(path))
        self._lock = Lock(place.with_name(place.name + ".lock"), f"the state file {path}", "--state-file")
        remove_leftovers(path)
        self._max_age_s = max_age_s
        self._kept: dict[str, _Kept] = {}
        self._changed = threading.Lock()  # around _kept's snapshots
        self._over = threading.Event()
        self._failing = False
        self._found, self._why_not = self._read()
        self._thread = threading.Thread(target=self._write_often, daemon=True)

    def begin(self, name: str, stream: Stream) -> None:
        """Take up what was kept of a source, before its first step, and say so, or why not.

        Films begin at their beginning: nothing of them is kept.
        """
        if stream.live is None or stream.live.from_file:
            print(f"{name}: a file begins at its beginning; its state is not kept", file=sys.stderr, flush=True)
            return
        self._kept[name] = _Kept(stream)
        what = self._taken_up(name, stream)
        print(f"{name}: {what}", file=sys.stderr, flush=True)
        if not self._thread.is_alive():
            self._thread.start()

    def step(self, name: str, _step: Step) -> None:
        """Note the state where it is time; nothing is written here."""
        self._is_new(name)

    def left_out(self, name: str, _tick: Tick) -> None:
        """The state is what it was, and as good as new: nothing has moved since."""
        self._is_new(name)

    def state(self, _name: str, _state: str, _reason: str) -> None:
        """Nothing: a camera that comes back begins anew, and until then its last state only gets older."""

    def failed(self, _name: str, _error: LcrError) -> None:
        """Nothing, as with a camera that was lost."""

    def events(self, _name: str, _events: Sequence[Event]) -> None:
        """Nothing."""

    def ended(self, name: str, _stream: Stream) -> None:
        """Note the last state."""
        kept = self._kept.get(name)
        if kept is not None and kept.stepped_at:
            self._note(kept)

    def close(self) -> None:
        """Write the last states and let the file go."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        self._lock.close()

    def _is_new(self, name: str) -> None:
        kept = self._kept.get(name)
        if kept is None:
            return
        kept.stepped_at = time.time()
        if kept.due:
            kept.due = False
            self._note(kept)

    def _note(self, kept: _Kept) -> None:
        state = kept.stream.state
        with self._changed:
            kept.snapshot = state, kept.stepped_at

    def _write_often(self) -> None:
        written: dict[str, tuple[State, float]] = {}
        over = False
        while not over:
            over = self._over.wait(self._seconds)
            for kept in self._kept.values():
                kept.due = True
            # In which each camera that gives frames is stepped.
            over = over or self._over.wait(min(_STEP_S, self._seconds))
            with self._changed:
                now = {name: kept.snapshot for name, kept in self._kept.items() if kept.snapshot is not None}
            if any(written.get(name) is not snapshot for name, snapshot in now.items()) and self._write(now):
                written = now

    def _write(self, states: dict[str, tuple[State, float]]) -> bool:
        entries = [
            {"name": name, "address": self._address(name), "stepped_at": stepped_at}
            for name, (_, stepped_at) in states.items()
        ]
        text = json.dumps({"contract_version": CONTRACT_VERSION, "model": self._digests(), "sources": entries})
        arrays: dict[str, Any] = {"about": np.frombuffer(text.encode(), np.uint8)}
        for number, (state, _) in enumerate(states.values()):
            arrays[f"h{number}"], arrays[f"c{number}"] = state.h, state.c
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        try:
            write_atomically(self._path, buffer.getvalue())
        except OutputError as error:
            if not self._failing:
                print(f"warning: states are not kept: {error}", file=sys.stderr, flush=True)
            self._failing = True
            return False
        sync_folder(Path(os.path.realpath(self._path)).parent)
        if self._failing:
            print(f"states are kept again in {self._path}", file=sys.stderr, flush=True)
        self._failing = False
        return True

    def _read(self) -> tuple[dict[str, tuple[State, str, float]], str]:
        """The states in the file by source, with address and time; none, and why, if it cannot be used."""
        try:
            data = self._bytes()
            if data is None:
                return {}, "there is no state file yet"
            arrays = npz_of(data)
            about = json.loads(arrays["about"].astype(np.uint8, casting="no").tobytes().decode())
            if about["contract_version"] != CONTRACT_VERSION or about["model"] != self._digests():
                return {}, "the state file is of another bundle"
            found = {}
            for number, entry in enumerate(about["sources"]):
                state = State(arrays[f"h{number}"], arrays[f"c{number}"])
                self._model.state_values(state)
                found[str(entry["name"])] = (state, str(entry["address"]), float(entry["stepped_at"]))
            return found, "it is not in the state file"
        except OSError as error:
            return {}, f"the state file cannot be read ({error.strerror})"
        # Whatever a damaged file holds, it is no reason not to begin.
        except (LcrError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return {}, "the state file is damaged, or is none"

    def _bytes(self) -> bytes | None:
        """What the file holds; None where there is none. Raises ValueError for one that is too large."""
        zero = self._model.initial_state()
        most = _MOST_SOURCES * (zero.h.nbytes + zero.c.nbytes) + _OVERHEAD
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_size > most:
                raise ValueError("too large")
            return file.read(most)

    def _taken_up(self, name: str, stream: Stream) -> str:
        """Let the stream go on from what was kept, and say so, or why it does not."""
        state, address, stepped_at = self._found.get(name, (None, "", math.nan))
        if state is None:
            return f"starts afresh: {self._why_not}"
        if address != self._address(name):
            return "starts afresh: the state file is about another source of this name"
        age = time.time() - stepped_at
        if not 0 <= age <= self._max_age_s:
            if age > 0:
                return f"starts afresh: its state is {age:.0f} s old, --state-max-age is {self._max_age_s:g}"
            return "starts afresh: its state is from the future; the clock was set, or is not yet"
        stream.resume(state, self._max_age_s - age)
        self._kept[name].snapshot = state, stepped_at  # for the next write, should it not be stepped until then
        return f"goes on from its state of {age:.1f} s ago"

    def _address(self, name: str) -> str:
        live = self._kept[name].stream.live
        return "" if live is None else name_of(live.address)

    def _digests(self) -> dict[str, str]:
        files = self._model.manifest["files"]
        return {name: str(files[name]["sha256"]) for name in self._model.bundle.model_files}
