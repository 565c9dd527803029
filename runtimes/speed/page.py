"""A page with the figures of ``lcr-edge bench``: bars, drawn without matplotlib, which devices seldom have."""

from __future__ import annotations

from collections.abc import Sequence

from lcr_edge import pages
from lcr_edge.runtimes.speed.timing import Timing

_LEFT, _WIDTH, _ROW = 190, 640, 26
_PARTS = (("edges on the host", "edges_ms", "--s2"), ("engine", "engine_ms", "--s0"), ("Python", "python_ms", "--s1"))


def page(timings: Sequence[Timing], lines: Sequence[str]) -> str:
    """The HTML. timings: at least one. lines: about the machine and the run, plain text."""
    rows = [
        (
            pages.text(row.bundle),
            *(f"{value:.3f}" for value in (row.minimum_ms, row.median_ms, row.p95_ms, row.p99_ms)),
            *(f"{value:.3f}" for value in (row.fit_ms, row.edges_ms, row.engine_ms, row.python_ms)),
            "-" if row.floor_ms is None else f"{row.floor_ms:.3f}",
            "-" if row.floor_ratio is None else f"{row.floor_ratio:.2f}",
            f"{row.window_ms:.1f}",
        )
        for row in timings
    ]
    head = ("bundle", "min", "p50", "p95", "p99", "fit", "edges", "engine", "Python", "floor", "/floor", "16 steps")
    about = "".join(pages.paragraph(line) for line in lines)
    return pages.document(
        "lcr-edge bench",
        [
            "<h1>lcr-edge bench</h1>",
            pages.section("Where the time of a step goes", _bars(timings)),
            pages.section("Milliseconds", pages.table(head, rows)),
            pages.section("The machine and the run", about),
        ],
    )


def _bars(timings: Sequence[Timing]) -> str:
    longest = max(sum(float(getattr(row, part)) for _, part, _ in _PARTS) for row in timings)
    scale = (_WIDTH - _LEFT - 70) / longest
    height = 40 + _ROW * len(timings)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Smallest times of the parts of a step">']
    place = float(_LEFT)
    for name, _, colour in _PARTS:
        parts.append(f'<rect x="{place:.1f}" y="4" width="12" height="12" fill="var({colour})"/>')
        parts.append(_label(place + 17, 14, name))
        place += 40 + 7 * len(name)
    if any(row.floor_ms is not None for row in timings):
        parts.append(f'<rect x="{place:.1f}" y="2" width="2" height="16" fill="var(--limit)"/>')
        parts.append(_label(place + 7, 14, "floor of the engine"))
    for number, row in enumerate(timings):
        top, across = 30 + _ROW * number, float(_LEFT)
        parts.append(_label(_LEFT - 6, top + 13, row.bundle[-28:], "end"))
        floor = ""
        for _, part, colour in _PARTS:
            width = float(getattr(row, part)) * scale
            if part == "engine_ms" and row.floor_ms is not None:
                mark = across + row.floor_ms * scale
                floor = f'<rect x="{mark:.1f}" y="{top - 2}" width="2" height="22" fill="var(--limit)"/>'
            parts.append(f'<rect x="{across:.1f}" y="{top}" width="{width:.1f}" height="18" fill="var({colour})"/>')
            across += width
        parts += [floor, _label(across + 6, top + 13, f"{row.minimum_ms:.2f} ms")]
    return "\n".join([*filter(None, parts), "</svg>\n"])


def _label(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--ink)">{pages.text(words)}</text>'
