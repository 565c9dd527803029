"""Line charts with a logarithmic height, as SVG text for a page."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 28, 40
_MOST_DECADES = 12  # below the largest value: zeros and what is next to them are left out
_SERIES = 3  # colours --s0, --s1, --s2 of the page


@dataclass(frozen=True)
class Series:
    """One line: x rising, y of the same length. Values that are not positive and finite leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def chart(series: Sequence[Series], *, x_title: str, y_title: str, limit: float | None = None) -> str:
    """An <svg> element with a legend. limit: a horizontal line. Colours come from the page's variables --s0 to --s2,
    --limit, --ink, --soft and --rule; a line further on takes the first colour again."""
    found = [value for line in series for value in line.y if _drawn(value)]
    if not found:
        return '<p class="soft">No error at all: nothing to draw.</p>\n'
    values = [*found, limit] if limit is not None and limit > 0 else found
    high = math.ceil(math.log10(max(values)) + 1e-9)
    low = max(math.floor(math.log10(min(values)) - 1e-9), high - _MOST_DECADES)
    high = max(high, low + 1)
    start = min(line.x[0] for line in series if len(line.x))
    end = max(max(line.x[-1] for line in series if len(line.x)), start + 1)

    def across(x: float) -> float:
        return _LEFT + (x - start) / (end - start) * (_WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _TOP + (high - math.log10(y)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    name = html.escape(f"{y_title} by {x_title}")
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">']
    for power in range(low, high + 1):
        y = down(10.0**power)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "var(--rule)"))
        parts.append(_label(_LEFT - 6, y + 4, f"1e{power}", "end"))
    for x in _ticks(start, end):
        parts.append(_label(across(x), _HEIGHT - _BOTTOM + 18, f"{x:g}", "middle"))
    parts.append(_label(_WIDTH - _RIGHT, _HEIGHT - 6, x_title, "end"))
    parts.append(_label(4, 14, y_title, "start"))
    if limit is not None and limit > 0:
        parts.append(_line(_LEFT, down(limit), _WIDTH - _RIGHT, down(limit), "var(--limit)", "6 4"))
    for index, line in enumerate(series):
        colour = f"var(--s{index % _SERIES})"
        legend = _LEFT + 110 + 110 * index
        parts.append(_line(legend, 10, legend + 18, 10, colour))
        parts.append(_label(legend + 24, 14, line.name, "start"))
        for run in _runs(line, 10.0**low):
            points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in run)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return "\n".join([*parts, "</svg>\n"])


def _drawn(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _runs(line: Series, least: float) -> Iterator[list[tuple[float, float]]]:
    """The stretches without a gap."""
    run: list[tuple[float, float]] = []
    for x, y in zip(line.x, line.y):
        if _drawn(y) and y >= least:
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _ticks(start: float, end: float) -> list[float]:
    """Round numbers, five to ten of them."""
    step = 10.0 ** math.floor(math.log10((end - start) / 5)) if end - start >= 5 else 1.0
    step = next(step * factor for factor in (1, 2, 5, 10) if (end - start) / (step * factor) <= 10)
    first = math.ceil(start / step)
    return [number * step for number in range(first, math.floor(end / step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--soft)">{html.escape(text)}</text>'
