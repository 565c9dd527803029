"""What a training run came to, as one HTML page that needs no other file: ``report.html`` in the folder of the run."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcr_edge import __version__
from lcr_edge.charts import Series, linear_chart
from lcr_edge.errors import LcrError
from lcr_edge.files import write_atomically
from lcr_edge.pages import command, document, paragraph, section, table, text
from lcr_edge.plots import read_metrics
from lcr_edge.tolerances import READY
from lcr_edge.training.heldout import HeldOut
from lcr_edge.training.loop import BEST, Outcome
from lcr_edge.training.metrics import METRICS
from lcr_edge.training.page_clips import class_parts, worst_part

NAME = "report.html"
MOST_POINTS = 400  # of a curve; more cannot be told apart
FEW_POINTS = 20  # these get a dot each
# Charts: title, the columns of metrics.csv in it with their names, and the largest value, None for the data's own.
_CHARTS: tuple[tuple[str, dict[str, str], float | None], ...] = (
    ("loss", {"loss": "training", "heldout_loss": "held out"}, None),
    ("accuracy", {"accuracy": "training", "heldout_accuracy": "held out"}, 1.0),
)


@dataclass(frozen=True)
class Run:
    """What a page tells about.

    outcome: how the run ended. network: its file, in the folder of the run. steps: those of the whole schedule.
    settings: everything that the run's file says about how it was made. labels: names of the classes. heldout: what the
    verdicts of the last look are taken from, None without held-out clips. resume: the command that goes on with a run
    that was stopped, else None.
    """

    outcome: Outcome
    network: Path
    steps: int
    settings: Mapping[str, Any]
    labels: Sequence[str]
    heldout: HeldOut | None
    resume: str | None = None


def write_page(network: Path, run: Callable[[], Run]) -> Path | None:
    """Write the page beside the network, whole or not at all; its path. Training has ended well by now, so nothing is
    raised: what cannot be written is said in one line on stderr, and None is returned. run: gathers what to tell."""
    path = network.with_name(NAME)
    try:
        write_atomically(path, page(run()).encode())
    except Exception as error:
        reason = str(error) if isinstance(error, LcrError) else f"{type(error).__name__}: {error}"
        print(f"no {NAME}: {' '.join(reason.split())}. Everything else is saved", file=sys.stderr)
        return None
    return path


def page(run: Run) -> str:
    """The page as text."""
    title = f"{run.network.stem} after step {run.outcome.step} of {run.steps}"
    parts = [f"<h1>{text(title)}</h1>", *_summary(run), _ready(run), _commands(run), _curves(run)]
    return document(title, [*parts, *_clips(run), _settings(run)])


def _summary(run: Run) -> list[str]:
    """How the run ended, and how good the network is."""
    outcome = run.outcome
    said = [f"Trained on {run.settings.get('data_name')}, {len(run.labels)} classes."]
    if outcome.stopped is not None:
        said.append("The run was stopped and saved; it can go on.")
    elif not outcome.patient:
        said.append("Learning ended early: looks at held-out clips were no better any more (--patience).")
    elif outcome.step < run.steps:
        said.append("It ended before the last step (--stop-after); --resume without that goes on.")
    parts = [paragraph(" ".join(said))]
    if outcome.look is not None and outcome.looked is not None:
        look, best = outcome.look, outcome.best
        right = f"Held-out clips after step {outcome.looked}: {look.accuracy:.1%} right, loss {look.loss:.3f}."
        if best is not None and best.step != outcome.looked:
            right += f" The best look was after step {best.step}: {best.look.accuracy:.1%} right."
        parts.append(paragraph(right, ""))
    return parts


def _ready(run: Run) -> str:
    outcome, ready = run.outcome, run.outcome.ready
    title = "Ready to export?"
    if ready is None:
        why = "there was no calming (--calm-share), or no clip to judge on"
        if outcome.stopped is not None or outcome.step < run.steps:
            why = "that is done after the last step"
        return section(title, paragraph(f"Not measured: {why}."))
    rows = (
        ("float32 from float64", f"{ready.drift:.1e}", f"at most {READY.drift:.0e}", ready.drift <= READY.drift),
        ("growth of small changes", f"{ready.growth:.1f} times", f"at most {READY.growth:g}",
         ready.growth <= READY.growth),
        ("int8 forecast, same decisions", f"{ready.agreement:.1%}", f"{READY.agreement:.0%} at least",
         ready.agreement >= READY.agreement),
    )  # fmt: skip
    cells = [[_met(met), text(name), text(found), text(wanted)] for name, found, wanted, met in rows]
    if ready.complaints:
        said = paragraph(f"Not ready to export: {'; '.join(ready.complaints)}.", "missed")
    else:
        said = paragraph(f"Ready to export: {ready.line()}.", "met")
    return section(title, said + table(["", "", "measured", "wanted"], cells, "words"))


def _met(met: bool) -> str:
    return '<span class="met">met</span>' if met else '<span class="missed">MISSED</span>'


def _commands(run: Run) -> str:
    """What to type next."""
    best = run.outcome.best
    parts = [paragraph("Export the network:"), command(_export(run.network))]
    if best is not None and best.since:
        kept = run.network.with_name(f"{run.network.stem}{BEST}{run.network.suffix}")
        said = f"The weights of step {best.step} were better on held-out clips ({best.look.accuracy:.1%} right):"
        parts += [paragraph(said), command(_export(kept))]
    if run.resume is not None:
        parts += [paragraph("Go on with the run:"), command(run.resume)]
    return section("What next", "".join(parts))


def _export(network: Path) -> str:
    return shlex.join(["lcr-edge", "export", "--checkpoint", str(network), "--target", "openvino"])


def _curves(run: Run) -> str:
    title = "Curves"
    try:
        steps, columns = read_metrics(run.network.with_name(METRICS))
    except LcrError as error:
        return section(title, paragraph(f"Nothing to draw yet: {error}"))
    drawn = []
    for name, wanted, top in _CHARTS:
        series = [_series(label, steps, columns[column]) for column, label in wanted.items() if column in columns]
        drawn.append(linear_chart([line for line in series if line.x], x_title="step", y_title=name, top=top))
    return section(title, "".join(drawn))


def _series(name: str, steps: NDArray[np.float64], values: NDArray[np.float64]) -> Series:
    """A curve of at most MOST_POINTS: means of neighbours. Looks at held-out clips are in few rows: they get marks."""
    there = np.isfinite(values)
    steps, values = steps[there], values[there]
    if len(steps) > MOST_POINTS:
        parts = [np.array_split(column, MOST_POINTS) for column in (steps, values)]
        steps, values = (np.array([float(part.mean()) for part in column]) for column in parts)
    few = len(steps) <= FEW_POINTS or there.sum() < len(there) / 2
    return Series(name, steps.tolist(), values.tolist(), marks=bool(few))


def _clips(run: Run) -> list[str]:
    """Classes, confusions and the worst clips, where there was a look."""
    if run.heldout is None:
        return [section("Held-out clips", paragraph("There were none to look at."))]
    if run.heldout.verdicts is None:
        return [section("Held-out clips", paragraph("There was no look at them yet, or none can be read."))]
    verdicts, data = run.heldout.verdicts, run.heldout.data
    said = f"{len(verdicts.true)} held-out clips, as they were decided after step {run.outcome.looked}."
    shown = worst_part(verdicts, run.labels, data.ids, run.heldout.frames_of)
    return [section("Held-out clips", paragraph(said)), *class_parts(verdicts, run.labels), shown]


def _settings(run: Run) -> str:
    rows = []
    for name, value in sorted(run.settings.items()):
        inner = sorted(value.items()) if isinstance(value, dict) else [("", value)]
        rows += [[text(f"{name}.{key}" if key else name), text(_shown(found))] for key, found in inner]
    body = table(["setting", "value"], [*rows, ["lcr_edge", text(__version__)]], "words")
    return section("Settings", f"<details><summary>All settings of the run</summary>\n{body}</details>\n")


def _shown(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
