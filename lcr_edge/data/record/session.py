"""One recording: clip after clip, until all are there, the source ends or somebody stops it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from lcr_edge.data.encode import write_video
from lcr_edge.data.record.footage import WARM_UP_S, Camera, Clip, Film
from lcr_edge.data.record.plan import Plan, Slot
from lcr_edge.data.record.review import KEEP, LEAVE_OUT, PLAY, QUIT, REDO, ask
from lcr_edge.data.record.window import Window
from lcr_edge.files import make_folder
from lcr_edge.frames import Frame
from lcr_edge.training.stopping import StopRequest

_LONG_GAP_S = 0.5
_SLOW_FPS = 8.0  # the rate of the packaged configs


class Stopped(Exception):
    """Somebody wants to stop. signal: its number, None when it was answered to a question."""

    def __init__(self, signal: int | None) -> None:
        super().__init__(signal)
        self.signal = signal


@dataclass
class Session:
    """What records. seconds: of a clip. countdown: seconds before each clip of a camera. start_s: where in a file the
    first missing clip begins; None for the place that the clip has when all are cut from this file, one after another.

    written, left_out: the clips that became files, and those of a file that somebody did not want.
    """

    plan: Plan
    source: Camera | Film
    request: StopRequest
    seconds: float
    countdown: int
    start_s: float | None
    review: bool
    window: Window | None
    written: list[Slot] = field(default_factory=list)
    left_out: list[Slot] = field(default_factory=list)
    _caption: str = ""

    def run(self) -> None:
        """Record all missing clips. Raises Stopped, EndOfFileError, and VideoError or OutputError; what was written
        before stays."""
        if isinstance(self.source, Camera):
            self.source.wait(WARM_UP_S, self._tick)
        for slot in self.plan.missing:
            clip = self._accepted(slot)
            if clip is None:
                self.left_out.append(slot)
                continue
            make_folder(slot.path.parent)
            write_video(slot.path, clip.frames, clip.fps, new=True)
            self.written.append(slot)
            report = f"{self._title(slot)}: {len(clip.frames)} frames, {clip.fps:.1f} fps"
            print(f"{report} -> {slot.path}", flush=True)

    @property
    def missing(self) -> list[Slot]:
        """The clips that are still to be recorded."""
        return [slot for slot in self.plan.missing if slot not in self.written]

    @property
    def next_start_s(self) -> float:
        """Where in a file the next clip begins, in seconds."""
        done = len(self.written) + len(self.left_out)
        return self._start_s(self.plan.missing[done], done) if done < len(self.plan.missing) else 0.0

    def _accepted(self, slot: Slot) -> Clip | None:
        """The clip that shall be written; None for one that shall be left out."""
        while True:
            clip = self._recorded(slot)
            self._warn(slot, clip)
            answer = self._answer(slot, clip) if self.review else KEEP
            if answer == KEEP:
                return clip
            if answer == LEAVE_OUT:
                return None

    def _recorded(self, slot: Slot) -> Clip:
        if isinstance(self.source, Film):
            self._caption = self._title(slot)
            place = len(self.written) + len(self.left_out)
            return self.source.clip(self._start_s(slot, place), self.seconds, self._tick)
        print(f"{self._title(slot)}:", end="", file=sys.stderr, flush=True)
        try:
            for left in range(self.countdown, 0, -1):
                self._caption = f"{self._title(slot)}: {left}"
                print(f" {left}", end="", file=sys.stderr, flush=True)
                self.source.wait(1.0, self._tick)
            self.source.wait(0.0, self._tick)
            self._caption = f"{self._title(slot)}: recording"
            print(" recording", end="", file=sys.stderr, flush=True)
            return self.source.clip(self.seconds, self._tick)
        finally:
            print(file=sys.stderr, flush=True)

    def _start_s(self, slot: Slot, place: int) -> float:
        return slot.place * self.seconds if self.start_s is None else self.start_s + place * self.seconds

    def _answer(self, slot: Slot, clip: Clip) -> str:
        # The same stretch of a file cannot be recorded anew.
        again = LEAVE_OUT if isinstance(self.source, Film) else REDO
        while True:
            answer = ask(f"{self._title(slot)}, {len(clip.frames)} frames:", (KEEP, again, PLAY, QUIT), self._idle)
            if answer == QUIT:
                raise Stopped(None)
            if answer != PLAY:
                return answer
            if self.window is None:
                print("there is no window to play it in: start with --preview", file=sys.stderr)
            else:
                self.window.play(clip)

    def _warn(self, slot: Slot, clip: Clip) -> None:
        if clip.fps < _SLOW_FPS:
            what = f"only {clip.fps:.1f} frames a second; more light or a smaller picture makes many cameras faster"
        elif clip.gap_s > _LONG_GAP_S:
            what = f"{clip.gap_s:.1f} s without a frame; delete the clip and call again if it shows"
        else:
            return
        print(f"warning: {self._title(slot)}: {what}", file=sys.stderr)

    def _title(self, slot: Slot) -> str:
        return f"{slot.label} {slot.number} of {self.plan.clips}"

    def _idle(self) -> None:
        self._tick(None)

    def _tick(self, frame: Frame | None) -> None:
        if self.request.signal is not None:
            raise Stopped(self.request.signal)
        if self.window is not None and frame is not None:
            self.window.show(frame, self._caption)
        elif self.window is not None:
            self.window.pump()
