"""Which tracks thresholds are chosen on, and which they are reported on: never the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lcr_edge.errors import UsageError
from lcr_edge.runtimes.tuning.scoring import SLACK_S, Truth
from lcr_edge.runtimes.tuning.tracks import Track

_PIECES = 8  # of one film, at most
_TRUTHS_A_PIECE = 2


def halves(tracks: Sequence[Track], films: Sequence[Track]) -> tuple[list[Track], list[Track]]:
    """(tracks to choose on, others to report on): the streams in turn, and the pieces of the films in turn.

    tracks: streams that have nothing in common. films: each is cut into pieces where nothing happens. Raises UsageError
    where one of the halves has no truth.
    """
    groups = [list(tracks), [piece for track in films for piece in pieces(track)]]
    choose = [track for group in groups for track in group[::2]]
    report = [track for group in groups for track in group[1::2]]
    if not all(any(track.truths for track in half) for half in (choose, report)):
        raise UsageError(
            "there are too few labelled events: thresholds are chosen on one half of the streams and reported on the "
            "other, and both need some; give more, or longer films"
        )
    return choose, report


def pieces(track: Track) -> list[Track]:
    """A track cut where nothing happens: at least two pieces where it can be cut, with a few truths in each."""
    wanted = min(_PIECES, max(2, len(track.truths) // _TRUTHS_A_PIECE))
    if track.cuts:  # times may have begun anew: the labels say nothing about where it is quiet
        return [track]
    times = track.times
    # Before a piece begins, what happened before it must be over for good.
    quiet = np.ones(len(times), bool)
    for truth in track.truths:
        quiet &= (times <= truth.start_s) | (times > truth.end_s + 2 * SLACK_S)
    places = np.flatnonzero(quiet)
    ideal = [_middle(track.truths, len(times), times.tolist(), part / wanted) for part in range(1, wanted)]
    cuts = sorted({int(places[np.abs(places - place).argmin()]) for place in ideal if len(places)} - {0})
    bounds = [0, *cuts, len(times)]
    period = track.seconds / len(times)
    found = []
    for number, (first, last) in enumerate(zip(bounds, bounds[1:]), 1):
        begin, end = times[first], times[last - 1]
        truths = tuple(truth for truth in track.truths if begin <= truth.start_s <= end)
        if number == 1:
            truths = tuple(truth for truth in track.truths if truth.start_s <= end)
        found.append(
            replace(
                track,
                name=f"{track.name}, part {number}",
                times=times[first:last],
                probabilities=track.probabilities[first:last],
                truths=truths,
                seconds=(last - first) * period,
            )
        )
    return found


def _middle(truths: Sequence[Truth], steps: int, times: list[float], share: float) -> float:
    """The step at which this share of the truths is over; of the steps, without truths."""
    if not truths:
        return share * steps
    after = truths[min(len(truths) - 1, max(1, round(share * len(truths))))]
    return float(np.searchsorted(times, after.start_s))
