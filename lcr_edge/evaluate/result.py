"""What an evaluation found."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Network:
    """Which checkpoint was evaluated: its config's name and the SHA-256 of its file."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Unreadable:
    """How many clips could not be read, and the first messages."""

    clips: int
    messages: list[str]


@dataclass(frozen=True)
class StreamStates:
    """The states over the stream, one entry after every fourth frame and at the end of each clip.

    frame: how many frames were seen. rms_h, rms_c, max_c: over all layers, tokens and channels; None where not finite.
    """

    frame: list[int] = dataclasses.field(default_factory=list)
    rms_h: list[float | None] = dataclasses.field(default_factory=list)
    rms_c: list[float | None] = dataclasses.field(default_factory=list)
    max_c: list[float | None] = dataclasses.field(default_factory=list)

    @property
    def largest_c(self) -> float | None:
        """The largest of ``max_c``, None where one is not finite."""
        finite = [value for value in self.max_c if value is not None]
        return max(finite) if len(finite) == len(self.max_c) else None


@dataclass(frozen=True)
class Result:
    """Clip and stream accuracy, in per cent, and the states over the stream. The fields are the keys of the JSON.

    - frames, fps, seed, device, fit: how it was measured, with clips of ``frames`` frames. seconds: how long it took
    - clip_top1, clip_top5, clips: decisions from a zero state over all clips. per_class: name -> top-1, None for a
      class without clips. confusion: counts [classes][classes], true class first, in the order of ``labels``
    - clip_frame_top1: top-1 of each single frame of the clips, ``frames`` values
    - stream_*: the same for clips in one stream that is never reset, of stream_frames frames in stream_clips clips.
      stream_clips_reset_top1: the same clips from a zero state. stream_quarters_top1: of each quarter of the stream,
      None for a quarter without clips
    - stream_max_c: the largest C in magnitude, None if one is not finite. stream_max_c_bound: fmax / (1 - fmax), None
      for the residual cell
    """

    checkpoint: Network
    data: str
    fingerprint: str
    fit: str
    frames: int
    fps: float
    seed: int
    device: str
    labels: list[str]
    clip_top1: float | None
    clip_top5: float | None
    clips: int
    unreadable: Unreadable
    per_class: dict[str, float | None]
    confusion: list[list[int]]
    clip_frame_top1: list[float]
    stream_top1: float | None
    stream_clips: int
    stream_clips_reset_top1: float | None
    stream_frames: int
    stream_frame_top1: list[float]
    stream_quarters_top1: list[float | None]
    stream_max_c: float | None
    stream_max_c_bound: float | None
    stream_states: StreamStates
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON can hold."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """A line for each key, so that long lists stay on one."""
        rows = (f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in self.to_dict().items())
        return "{\n" + ",\n".join(rows) + "\n}\n"
