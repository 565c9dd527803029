"""Looks for the event rules that are worth most on labelled tracks:

    worth = F1 - DELAY_COST * mean delay in seconds

First the values that all classes share, each in turn on a grid until none helps any more; then ``enter`` of single
classes, where that saves more than one mistake. Every set of rules is tried with the event finder of ``lcr-edge run``,
so what is found here is what will happen there. Nothing is random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lcr_edge.runtimes.live.events import EventRules
from lcr_edge.runtimes.tuning.scoring import Counts
from lcr_edge.runtimes.tuning.tracks import Track, score

ENTERS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98)
SHARES = (0.3, 0.5, 2 / 3, 0.85, 1.0)  # of enter: leave
MIN_S = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
PAUSE_S = (0.0, 0.5, 1.0, 1.5, 2.0)
# Without it a hundredth of F1 more would be bought with any delay.
DELAY_COST = 0.03
# Of a class with fewer truths, what helps says too little about other streams.
LEAST_OF_A_CLASS = 8
_LEAST_GAIN = 2  # mistakes that an ``enter`` of its own has to save
_MOST_ROUNDS = 4


def tune(
    tracks: Sequence[Track], labels: Sequence[str], start: EventRules, *, most_per_hour: float | None = None
) -> EventRules:
    """The best rules for these tracks; ``start``'s ``ignore`` is kept. labels: the network's classes.

    Of rules that are worth the same, those with fewer false alarms are better. most_per_hour: so many false alarms an
    hour are allowed: rules that keep to that are better than any that do not.
    """

    def worth(rules: EventRules) -> tuple[float, ...]:
        counts, _ = score(tracks, labels, rules)
        too_many = 0.0 if most_per_hour is None else max(0.0, (counts.false_alarms_per_hour or 0.0) - most_per_hour)
        delay_s = sum(counts.delays) / max(1, counts.hits)
        return (-too_many, (counts.f1 or 0.0) - DELAY_COST * delay_s, -counts.false_alarms)

    best = replace(start, enters={})
    found = worth(best)

    def try_all(candidates: Sequence[EventRules]) -> bool:
        nonlocal best, found
        before = found
        for rules in candidates:
            worthy = worth(rules)
            if worthy > found:
                best, found = rules, worthy
        return found > before

    def with_enter(enter: float, share: float, min_s: float) -> EventRules:
        return replace(best, enter=enter, leave=round(enter * share, 4), min_s=min_s)

    # The two that depend on each other most are looked at together, and first.
    try_all([with_enter(enter, best.leave / best.enter, min_s) for enter in ENTERS for min_s in MIN_S])
    for _ in range(_MOST_ROUNDS):
        share = best.leave / best.enter
        helped = try_all([with_enter(enter, share, best.min_s) for enter in ENTERS])
        helped |= try_all([with_enter(best.enter, share, best.min_s) for share in SHARES])
        helped |= try_all([replace(best, min_s=min_s) for min_s in MIN_S])
        helped |= try_all([replace(best, pause_s=pause_s) for pause_s in PAUSE_S])
        if not helped:
            break
    for label in _frequent(tracks, start):
        counts, _ = score(tracks, labels, best)
        wanted = mistakes(counts) - _LEAST_GAIN
        own = [replace(best, enters={**best.enters, label: enter}) for enter in ENTERS]
        try_all([rules for rules in own if mistakes(score(tracks, labels, rules)[0]) <= wanted])
    return best


def mistakes(counts: Counts) -> int:
    """False alarms and misses."""
    return counts.false_alarms + counts.misses


def _frequent(tracks: Sequence[Track], rules: EventRules) -> list[str]:
    """The labels with truths enough for an ``enter`` of their own, by name."""
    times = Counter(truth.label for track in tracks for truth in track.truths)
    return sorted(label for label, number in times.items() if number >= LEAST_OF_A_CLASS and label not in rules.ignore)
