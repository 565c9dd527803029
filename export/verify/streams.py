"""Long streams without a reset, bundle and float network side by side: do they agree, and does the error grow?

    drift = rms logit error of all streams at the frames LATE / rms logit error of all streams at the frames EARLY

The squared errors of several streams are pooled, because an error depends on the content, and in one stream the ten
frames of EARLY show a single gesture or scene. On a video of 250 frames, eight streams with different starting points
gave ratios from 0.3 to 1.8 one by one, although the error grew in none of them. And where both errors are small, their
ratio shows the scenes, so growth counts only from a size on that is named in units of the one-step promise.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from lcr_edge.checkpoint import Checkpoint
from lcr_edge.contract import LOGITS
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import StateError
from lcr_edge.export.verify.clips import name_of, own_clips, rendered_streams, video_streams
from lcr_edge.export.verify.phases import Curve, Mode, table_of
from lcr_edge.progress import with_bar
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.checks import Check, drift, promised, same_class
from lcr_edge.runtimes.tallies import Line, Triple
from lcr_edge.tolerances import CLIPS_PER_CLASS, DRIFT_STREAMS, LATE, STREAM_FRAMES

if TYPE_CHECKING:
    from lcr_edge.model.network import LCR

U8 = npt.NDArray[np.uint8]
# First frame of each phase: those of parity, and one for frames that parity does not reach.
PHASES = (0, 1, 4, 50, 500)


@dataclass(frozen=True)
class Streams:
    """Streams in which the bundle feeds its own state back.

    streams: how many. frames: length of the longest; the others end with the window LATE. lines, curve: as in a
    Report, all streams together.
    """

    data: str
    streams: int
    frames: int
    lines: dict[str, Line]
    curve: Curve
    checks: tuple[Check, ...]
    broken: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, except for NaN and Inf. drift: rms logit error at frames LATE over that at EARLY, or None."""
        early, late = self.curve.drift()
        return {
            "data": self.data,
            "streams": self.streams,
            "frames": self.frames,
            "drift": late / early if late is not None and early else None,
            "lines": {phase: line.to_dict() for phase, line in self.lines.items()},
            "curve": self.curve.thinned(),
        }

    def table(self) -> str:
        """Lines for people."""
        title = f"{self.streams} streams of {self.data}, the longest of {self.frames} frames"
        return "\n".join([title, *table_of("streams", self.lines)])


def measure_streams(
    model: Model,
    checkpoint: Checkpoint,
    *,
    frames: int = STREAM_FRAMES,
    streams: int = DRIFT_STREAMS,
    per_class: int = CLIPS_PER_CLASS,
    workers: int = 1,
    progress: bool = False,
) -> Streams:
    """Play the network's own clips (``clips.own_clips``) one after the other: one stream of ``frames`` frames and,
    where that is long enough to judge the growth of the error, ``streams`` - 1 shorter ones with other clips.

    The streams start at different frames of their first clip, so that the few frames of EARLY meet every part of a clip
    about as often as those of LATE do: errors are larger at the end of a gesture than at its start.

    per_class, workers: see ``clips.rendered_clips``; when the clips run out, they come again in another order. Does not
    raise on a missed promise. Raises BundleError for a precision without a promise, MissingExtraError, UsageError.
    """
    clips, _ = own_clips(checkpoint, per_class, workers, progress)
    count = streams if frames >= LATE[1] else 1
    sources = rendered_streams(clips, [frames] + [LATE[1]] * (count - 1))
    return _play(model, checkpoint.model, sources, frames, name_of(checkpoint), progress)


def measure_video(
    model: Model, checkpoint: Checkpoint, video: str, *, streams: int = DRIFT_STREAMS, progress: bool = False
) -> Streams:
    """Play a video file ``streams`` times, from evenly spaced places; only the growth of the error is judged.

    Does not raise on a missed promise. Raises as :func:`measure_streams`, and VideoError.
    """
    sources = video_streams(video, checkpoint.config, checkpoint.fit, [LATE[1]] * streams)
    return _play(
        model, checkpoint.model, sources, LATE[1], Path(video).name, progress, title="video streams", classes=False
    )


def _play(
    model: Model,
    reference: LCR,
    sources: list[Iterator[U8]],
    frames: int,
    data: str,
    progress: bool,
    *,
    title: str = "streams",
    classes: bool = True,
) -> Streams:
    """title: names the streams in the promises. classes: whether the agreement of the classes is judged."""
    promise = promised(model)
    mode = Mode(PHASES, promise.settled)
    states = [model.initial_state() for _ in sources]
    alive = [True] * len(sources)
    broken = []
    shown = with_bar(_reference(reference, sources), title, "frame", frames, progress, line=True)
    for t, (seen, wanted) in enumerate(shown):
        now = [number for number in range(len(seen)) if alive[number]]
        logits, after = model.step_many([seen[number] for number in now], [states[number] for number in now])
        for row, number in enumerate(now):
            states[number] = after[row]
            try:
                found = (logits[row], *model.state_values(states[number]))
            except StateError as error:  # NaN or Inf, which no promise allows
                broken.append(f"{title}: the bundle's own state cannot be fed back from frame {t} on: {error}")
                alive[number] = False
                continue
            mode.add(t, found, wanted[number])
    judged, curve = mode.judged(), mode.curve()
    checks = [same_class(title, judged.agreed, judged.frames, promise)] if classes and judged.frames else []
    if promise.drift is not None:
        checks.append(drift(title, *curve.drift(), promise, len(sources), curve.deviation[LOGITS]))
    return Streams(
        data=data,
        streams=len(sources),
        frames=frames,
        lines=mode.lines(),
        curve=curve,
        checks=tuple(checks),
        broken=tuple(broken),
    )


def _reference(model: LCR, sources: list[Iterator[U8]]) -> Iterator[tuple[list[U8], list[Triple]]]:
    """Frame by frame, for each stream that has not ended: its frame, and the float cell's answer (logits, h, c).

    The longest streams must come first. Arithmetic as in ``export.verify.reference.steps``, all streams in one batch.
    """
    network = copy.deepcopy(model).eval().double()
    h = c = np.zeros((len(sources), *model.config.state_shape), np.float32)
    while frames := [frame for frame in (next(source, None) for source in sources) if frame is not None]:
        edges = np.stack([host_edges(frame) for frame in frames])
        h_in, c_in = (torch.from_numpy(part[: len(frames)]).double() for part in (h, c))
        with torch.no_grad():
            logits, after = network.step(torch.from_numpy(np.stack(frames)), (h_in, c_in), torch.from_numpy(edges))
        answers = [part.float().numpy() for part in (logits, *after)]
        _, h, c = answers
        yield frames, list(zip(*answers))
