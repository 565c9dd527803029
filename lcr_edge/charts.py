"""Line charts as SVG text for a page (``lcr_edge.pages``)."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 24, 28, 40
_MOST_DECADES = 12  # below the largest value: zeros and what is next to them are left out
_SERIES = 3  # colours --s0, --s1, --s2 of the page


@dataclass(frozen=True)
class Series:
    """One line: x rising, y of the same length. Values that cannot be drawn leave a gap. marks: a dot on each value."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marks: bool = False


@dataclass(frozen=True)
class _Scale:
    """Heights from ``low`` to ``high``: logarithms of the values, or the values themselves."""

    low: float
    high: float
    logarithmic: bool

    def down(self, y: float) -> float:
        height = math.log10(y) if self.logarithmic else y
        return _TOP + (self.high - height) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM)

    def shows(self, y: float) -> bool:
        return math.isfinite(y) and (not self.logarithmic or y >= 10.0**self.low)

    def ticks(self) -> list[tuple[float, str]]:
        if self.logarithmic:
            return [(10.0**power, f"1e{power}") for power in range(int(self.low), int(self.high) + 1)]
        return [(y, f"{y:g}") for y in _ticks(self.low, self.high, most=6)]


def chart(series: Sequence[Series], *, x_title: str, y_title: str, limit: float | None = None) -> str:
    """An <svg> element with a legend; heights are logarithms, so values that are not positive and finite leave a gap.

    limit: a horizontal line. Colours come from the page's variables --s0 to --s2, --limit, --ink, --soft and --rule; a
    line further on takes the first colour again.
    """
    found = [value for line in series for value in line.y if math.isfinite(value) and value > 0]
    if not found:
        return '<p class="soft">No error at all: nothing to draw.</p>\n'
    values = [*found, limit] if limit is not None and limit > 0 else found
    high = math.ceil(math.log10(max(values)) + 1e-9)
    low = max(math.floor(math.log10(min(values)) - 1e-9), high - _MOST_DECADES)
    return _svg(series, _Scale(low, max(high, low + 1), True), x_title, y_title, limit if limit and limit > 0 else None)


def linear_chart(series: Sequence[Series], *, x_title: str, y_title: str, top: float | None = None) -> str:
    """The same with heights from 0 to ``top``, by default a round number above all values; none may be below 0."""
    found = [value for line in series for value in line.y if math.isfinite(value)]
    if not found:
        return '<p class="soft">Nothing to draw.</p>\n'
    if top is None:
        top = max(found) or 1.0
        marks = _ticks(0.0, top, most=6)
        top = marks[-1] if marks[-1] >= top - 1e-9 else marks[-1] + marks[1]
    return _svg(series, _Scale(0.0, top, False), x_title, y_title, None)


def _svg(series: Sequence[Series], scale: _Scale, x_title: str, y_title: str, limit: float | None) -> str:
    start = min(line.x[0] for line in series if len(line.x))
    end = max(max(line.x[-1] for line in series if len(line.x)), start + 1)

    def across(x: float) -> float:
        return _LEFT + (x - start) / (end - start) * (_WIDTH - _LEFT - _RIGHT)

    name = html.escape(f"{y_title} by {x_title}")
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">']
    for value, text in scale.ticks():
        y = scale.down(value)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "var(--rule)"))
        parts.append(_label(_LEFT - 6, y + 4, text, "end"))
    for x in _ticks(start, end, whole=True):
        parts.append(_label(across(x), _HEIGHT - _BOTTOM + 18, f"{x:g}", "middle"))
    parts.append(_label(_WIDTH - _RIGHT, _HEIGHT - 6, x_title, "end"))
    parts.append(_label(4, 14, y_title, "start"))
    if limit is not None:
        parts.append(_line(_LEFT, scale.down(limit), _WIDTH - _RIGHT, scale.down(limit), "var(--limit)", "6 4"))
    for index, line in enumerate(series):
        colour = f"var(--s{index % _SERIES})"
        legend = _LEFT + 110 + 110 * index
        parts.append(_line(legend, 10, legend + 18, 10, colour))
        parts.append(_label(legend + 24, 14, line.name, "start"))
        for run in _runs(line, scale):
            places = [(across(x), scale.down(y)) for x, y in run]
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            if line.marks:
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    return "\n".join([*parts, "</svg>\n"])


def _runs(line: Series, scale: _Scale) -> Iterator[list[tuple[float, float]]]:
    """The stretches without a gap."""
    run: list[tuple[float, float]] = []
    for x, y in zip(line.x, line.y):
        if scale.shows(y):
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _ticks(start: float, end: float, *, most: int = 10, whole: bool = False) -> list[float]:
    """Round numbers that are evenly spaced, with at most ``most`` spaces. whole: none between two whole numbers."""
    span = end - start
    step = 1.0 if whole and span < most / 2 else 10.0 ** math.floor(math.log10(2 * span / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most + 1e-9)
    first = math.ceil(start / step - 1e-9)
    return [number * step for number in range(first, math.floor(end / step + 1e-9) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--soft)">{html.escape(text)}</text>'
