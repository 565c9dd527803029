"""What ``lcr-edge tune-events`` prints: figures before and after, overall and of each class, and what to doubt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lcr_edge.runtimes.live.events import EventRules

# With fewer, the intervals are wide, and what was found may be an accident.
LEAST_TRUTHS = 50
LEAST_OF_A_CLASS = 5
_NAMED = 3


def table(document: dict[str, Any]) -> str:
    """The result as lines for a reader. document: as ``--json`` writes it."""
    before, after = document["before"], document["after"]
    lines = [
        f"chosen on {_streams(document, 'chosen_on', after['chosen_on'])}",
        f"reported on {_streams(document, 'reported_on', after['reported'])}, not used for choosing",
        "",
        f"{'':8}{'precision':24}{'recall':24}{'F1':8}{'delay':9}false alarms an hour",
    ]
    for name, part in (("before", before), ("after", after)):
        row = part["reported"]
        alarms = row["false_alarms_per_hour"]
        lines.append(
            f"{name:8}{_share(row, 'precision'):24}{_share(row, 'recall'):24}{_number(row['f1']):8}"
            f"{_number(row['delay_s'], ' s'):9}{0 if alarms is None else alarms:.1f}"
        )
    lines += ["", f"{'':32}truths  before: P     R     F1     after: P     R     F1    delay"]
    for label in sorted({*before["per_class"], *after["per_class"]}):
        rows = [part["per_class"].get(label, {}) for part in (before, after)]
        cells = ["  ".join(f"{_number(row.get(key)):4}" for key in ("precision", "recall", "f1")) for row in rows]
        truths = max(row.get("truths", 0) for row in rows)
        lines.append(
            f"{label:32}{truths:6}  {'':7}{cells[0]}  {'':7}{cells[1]}  {_number(rows[1].get('delay_s'), ' s')}"
        )
    return "\n".join([*lines, "", *(f"{name}: {EventRules(**part['rules'])}" for name, part in _parts(document))])


def warnings(document: dict[str, Any], most_per_hour: float | None) -> Iterator[str]:
    """Sentences on what the figures do not show."""
    before, after = document["before"]["reported"], document["after"]["reported"]
    truths = after["truths"]
    if truths < LEAST_TRUTHS:
        reported = f"{_many(truths, 'event')} to report on"
        yield f"{reported}: that is little. Look at the intervals, and label {LEAST_TRUTHS} or more"
    rare = [label for label, row in document["after"]["per_class"].items() if 0 < row["truths"] < LEAST_OF_A_CLASS]
    if rare:
        names = ", ".join(rare[:_NAMED]) + (f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else "")
        yield f"fewer than {LEAST_OF_A_CLASS} events of {names}: their rows say little"
    if (after["f1"] or 0.0) < (before["f1"] or 0.0):
        yield "on the streams that were not used for choosing, the chosen thresholds are worse: keep the ones before"
    allowed = most_per_hour is not None
    if allowed and (document["after"]["chosen_on"]["false_alarms_per_hour"] or 0.0) > (most_per_hour or 0.0):
        yield f"no thresholds keep to {most_per_hour:g} false alarms an hour on these streams"


def _parts(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, document[name]) for name in ("before", "after")]


def _streams(document: dict[str, Any], key: str, row: dict[str, Any]) -> str:
    streams, events = _many(len(document[key]), "stream"), _many(row["truths"], "event")
    return f"{streams} or parts of them, {row['seconds'] / 60:.1f} minutes with {events}"


def _many(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _share(row: dict[str, Any], key: str) -> str:
    low, high = row[f"{key}_95"]
    return f"{_number(row[key])} ({low:.3f} to {high:.3f})"


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.2f}{unit}" if unit else f"{value:.3f}"
