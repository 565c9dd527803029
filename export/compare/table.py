"""The rows of a comparison and their text: a Markdown table with what its columns mean."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from lcr_edge.runtimes.speed.timing import Timing


@dataclass(frozen=True)
class Row:
    """One bundle.

    reused: whether it was there before. size_ratio: model_bytes over those of the same target's fp32. clip_top1: in
    per cent. same_class: share of the frames, in [0, 1]. drift: a ratio, or "nan" or "inf". These three are None where
    they were not measured or mean nothing. failures: one sentence for each missed promise. timings: by number of CPU
    threads; their ratios are to the same target's fp32.
    """

    target: str
    precision: str
    bundle: str
    reused: bool
    model_bytes: int
    size_ratio: float
    clip_top1: float | None
    same_class: float | None
    drift: float | str | None
    failures: tuple[str, ...]
    timings: dict[int, Timing]


@dataclass(frozen=True)
class Comparison:
    """All rows. judged: whether decisions were compared, not sizes and speed alone. notes: what the columns mean and
    what was measured on."""

    rows: tuple[Row, ...]
    judged: bool
    notes: tuple[str, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """Each missed promise of each bundle."""
        return tuple(f"{row.bundle}: {sentence}" for row in self.rows for sentence in row.failures)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**dataclasses.asdict(self), "failures": list(self.failures)}

    def table(self) -> str:
        """Markdown: the table, what its columns are, and whether the promises were met."""
        head = ["target", "precision", "model MB", "of fp32"]
        head += ["clip top-1", "same class", "drift"] if self.judged else []
        for count in self.rows[0].timings:
            head += [f"{what}, {threads_text(count)}" for what in ("engine", "step")]
        lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *(self._cells(row) for row in self.rows)]
        verdict = ["all promises met"] if self.judged else ["promises were not judged (--speed-only)"]
        if self.failures:
            verdict = ["promises missed:\n", *(f"- {sentence}" for sentence in self.failures)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" + "\n".join([*self.notes, "", *verdict])

    def _cells(self, row: Row) -> list[str]:
        missed = " (MISSED)" if row.failures else ""
        cells = [row.target, row.precision + missed, f"{row.model_bytes / 1e6:.2f}", f"{row.size_ratio:.2f}"]
        if self.judged:
            cells += [_shown(row.clip_top1, "{:.2f} %"), _shown(row.same_class, "{:.2%}"), _shown(row.drift, "{:.2f}")]
        for timing in row.timings.values():
            pairs = ((timing.engine_ratio, timing.engine_ms), (timing.ratio, timing.minimum_ms))
            cells += [f"{1 / ratio:.2f} ({ms:.2f} ms)" for ratio, ms in pairs]
        return cells


def _shown(value: float | str | None, form: str) -> str:
    return "-" if value is None else value if isinstance(value, str) else form.format(value)


def threads_text(count: int) -> str:
    """A number of threads in words: 1 thread, 2 threads."""
    return f"{count} thread{'s' * (count > 1)}"
