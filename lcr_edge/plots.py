"""Pictures of measurements, as PNG: the course of a training run, and an evaluation.

matplotlib is used nowhere else. Figures are drawn by its Agg backend without pyplot, so nothing needs a display and no
global state changes.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcr_edge.errors import MissingExtraError, UsageError
from lcr_edge.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lcr_edge.evaluate.result import Result

_DPI = 100
_NAMED_CLASSES = 60  # with more, names would overlap
# Panels of a training curve: title, and what the names of its columns contain.
_PANELS = (("loss", ("loss",)), ("accuracy", ("accuracy", "top1")), ("learning rate", ("learning_rate", "lr")))


def require_matplotlib() -> None:
    """MissingExtraError without matplotlib. Call it before work whose result is to be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train", "Drawing") from error


def plot_curve(source: Path, png: Path) -> None:
    """Draw a metrics CSV (``lcr_edge.training.metrics``): loss, accuracy and learning rate over the optimiser steps.

    A panel holds every column whose name contains its word; columns that fit no panel are left out. Values that are not
    finite leave a gap. Raises UsageError for any other CSV file, OutputError and MissingExtraError.
    """
    steps, columns = read_metrics(source)
    panels = [(title, {n: v for n, v in columns.items() if any(w in n for w in words)}) for title, words in _PANELS]
    panels = [(title, lines) for title, lines in panels if lines]
    figure = _figure(8.0, 0.6 + 2.6 * max(1, len(panels)))
    axes = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, lines) in zip(axes, panels):
        for name, values in lines.items():
            _noisy_line(axis, steps, values, name)
        axis.set_ylabel(title)
        axis.legend(loc="best", fontsize="small")
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    _save(figure, png)


def plot_evaluation(result: Result, png: Path) -> None:
    """Draw an evaluation: accuracy by frame position, size of the states, classes, confusion.

    Raises OutputError and MissingExtraError.
    """
    labels = result.labels
    height = 3.4 + min(12.0, max(4.0, 0.2 * len(labels)))
    figure = _figure(14.0, height)
    grid = figure.add_gridspec(2, 1, height_ratios=[3.0, height - 3.0])
    left, right = grid[0].subgridspec(1, 2).subplots(squeeze=False)[0]
    _by_position(left, result)
    _state_norms(right, result)
    bars, matrix = grid[1].subgridspec(1, 2, width_ratios=[1.0, 1.6]).subplots(squeeze=False)[0]
    _classes(bars, labels, [result.per_class.get(name) for name in labels])
    _confusion(matrix, labels, np.asarray(result.confusion, np.float64))
    title = f"{result.data}: {result.clips} clips, top-1 {result.clip_top1:.1f} %"
    figure.suptitle(title, fontsize="large", parse_math=False)
    _save(figure, png)


def plot_sensitivity(result: Mapping[str, Any], png: Path) -> None:
    """Draw the rows of ``lcr-edge sensitivity`` (its JSON) as bars, rms error / std in the stream by tensor.

    An error that is not finite leaves a gap. Raises OutputError and MissingExtraError.
    """
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    figure = _figure(9.0, 1.4 + 0.34 * len(rows))
    axis = figure.subplots()
    places = np.arange(len(rows), dtype=np.float64)
    names = tuple(rows[0]["stream"])
    for index, name in enumerate(names):
        values = _numbers([row["stream"][name] for row in rows])
        # Zero has no place on a logarithmic axis.
        axis.barh(places + 0.26 * (index - 1), np.where(values > 0, values, math.nan), height=0.26, label=name)
    axis.set_yticks(places, [row["what"] for row in rows], fontsize="small")
    axis.set(xscale="log", ylim=(len(rows) - 0.5, -0.5), xlabel="rms error / std in the stream")
    axis.set_title(f"{result['config']} {result['target']}, {result['quant']}: {result['frames']} frames without reset")
    axis.legend(loc="lower right", fontsize="small")
    axis.grid(axis="x", alpha=0.3)
    _save(figure, png)


def _by_position(axis: Axes, result: Result) -> None:
    places = np.arange(1, result.frames + 1)
    for shares, name in (
        (result.clip_frame_top1, "zero state before each clip"),
        (result.stream_frame_top1, "one stream, no reset"),
    ):
        axis.plot(places, shares, marker="o", markersize=3, label=name)
    axis.set(xlabel="frame of the clip", ylabel="top-1 of that frame, %", ylim=(0, 102), title="accuracy by position")
    axis.legend(loc="lower right", fontsize="small")
    axis.grid(alpha=0.3)


def _state_norms(axis: Axes, result: Result) -> None:
    states = result.stream_states
    for values, name in ((states.rms_h, "rms of H"), (states.rms_c, "rms of C"), (states.max_c, "max |C|")):
        axis.plot(states.frame, _numbers(values), linewidth=0.9, label=name)
    bound = result.stream_max_c_bound
    if bound is not None:
        axis.axhline(bound, color="0.4", linestyle="--", linewidth=0.9, label=f"bound of |C|: {bound:.3g}")
    axis.set(xlabel="frame of the stream", ylabel="state", yscale="log", title="states over the stream")
    axis.margins(y=0.25)  # leaves room for the legend below the lines
    axis.legend(loc="lower center", ncols=4, fontsize="small")
    axis.grid(alpha=0.3)


def _classes(axis: Axes, labels: Sequence[str], shares: Sequence[float | None]) -> None:
    rows = np.arange(len(labels))
    axis.barh(rows, _numbers(shares), height=0.75)
    axis.set(xlim=(0, 100), ylim=(len(labels) - 0.5, -0.5), xlabel="%", title="top-1 by class")
    _name_classes(axis, rows, labels, vertical=True)
    axis.grid(axis="x", alpha=0.3)


def _confusion(axis: Axes, labels: Sequence[str], counts: NDArray[np.float64]) -> None:
    shares = 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    image = axis.imshow(shares, vmin=0, vmax=100, cmap="Blues", aspect="auto", interpolation="nearest")
    axis.figure.colorbar(image, ax=axis, label="% of the true class")
    axis.set(title="decisions (across) by true class (down)", yticks=[])
    _name_classes(axis, np.arange(len(labels)), labels, vertical=False)


def _name_classes(axis: Axes, places: NDArray[Any], labels: Sequence[str], *, vertical: bool) -> None:
    if len(labels) > _NAMED_CLASSES:
        return
    if vertical:
        axis.set_yticks(places, labels, fontsize="x-small", parse_math=False)
    else:
        axis.set_xticks(places, labels, fontsize="x-small", rotation=90, parse_math=False)


def _noisy_line(axis: Axes, x: NDArray[np.float64], y: NDArray[np.float64], name: str) -> None:
    """The values, pale, under their running mean over a fiftieth of the run; a short run is drawn as it is.

    Values that are there in few rows, such as those of held-out clips, are joined, with a mark on each.
    """
    window, there = len(x) // 50, np.isfinite(y)
    if there.sum() < len(y) / 2:
        axis.plot(x[there], y[there], linewidth=1.4, marker="o", markersize=3.0, label=name)
        return
    if window < 2:
        axis.plot(x, y, linewidth=1.2, label=name)
        return
    (pale,) = axis.plot(x, y, linewidth=0.6, alpha=0.3)
    means = np.convolve(y, np.full(window, 1.0 / window), mode="valid")
    axis.plot(x[window - 1 :], means, linewidth=1.4, color=pale.get_color(), label=name)


def read_metrics(source: Path) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Steps [n] and the other columns of a metrics CSV, by name; NaN for what is not finite. Raises UsageError."""
    try:
        with source.open(newline="") as file:
            header, *rows = list(csv.reader(file))
        if header[:1] != ["step"] or any(len(row) != len(header) for row in rows):
            raise ValueError("it must have a column 'step' and rows of one length")
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(header))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot draw {source}: {error}; give the metrics.csv of a training run") from error
    table[~np.isfinite(table)] = math.nan
    return table[:, 0], {name: table[:, i] for i, name in enumerate(header) if i}


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, png: Path) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names of classes may be written in scripts that the font lacks: boxes stand for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png")
    write_atomically(png, buffer.getvalue())
