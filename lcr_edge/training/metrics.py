"""The record of a training run: metrics.csv, TensorBoard events on request, and a picture of the curves.

metrics.csv has a column ``step`` and one for each value. Numbers are written so that they read back exactly; with
values that depend on nothing but the run's settings (no times) the files of two equal runs are equal byte for byte.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lcr_edge.errors import MissingExtraError, OutputError, UsageError, how_to_install
from lcr_edge.files import make_folder, write_atomically
from lcr_edge.plots import plot_curve, require_matplotlib

METRICS = "metrics.csv"
CURVE = "curve.png"
EVENTS = "tensorboard"


class MetricsLog:
    """The metrics of a run, written into ``folder``, which is made if it is missing.

    resume_step: None begins a new record (an older metrics.csv is replaced); s continues one after step s: rows of
    later steps, and a last row that was cut off, are removed first. So a run that was killed and resumed from its
    checkpoint of step s leaves the same file as one that was not. tensorboard: also write events to
    ``folder/tensorboard``; after a resume TensorBoard shows the new ones from step s + 1 on.

    Without tensorboardX there are no events, without matplotlib no picture; stderr says so once. Only one process may
    write into a folder: in distributed training that of rank 0.

    Raises OutputError when a file cannot be written, UsageError for a metrics.csv that is not ours.
    """

    def __init__(self, folder: Path, resume_step: int | None, tensorboard: bool) -> None:
        self.path = folder / METRICS
        self._columns: list[str] | None = None
        self._last = -1
        self._file: io.FileIO | None = None
        self._events: Any = None
        make_folder(folder)
        if resume_step is not None and self.path.is_file():
            self._keep_until(resume_step)
        else:
            write_atomically(self.path, b"")
        with _output(self.path):
            # No buffer: a row is one write of the system, so a kill leaves all of it or, on a full disk, its beginning.
            self._file = self.path.open("ab", buffering=0)
        if tensorboard:
            self._events = _event_writer(folder / EVENTS, 0 if resume_step is None else resume_step + 1)
        self._draw = _available("matplotlib", f"{CURVE} will not be drawn")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row. Steps increase; the names of the values are those of the first row, in any order."""
        if self._file is None:
            raise ValueError("the log is closed")
        if step <= self._last:
            raise ValueError(f"step {step} after step {self._last}")
        if self._columns is None:
            self._columns = list(values)
            self._append(["step", *self._columns])
        elif set(self._columns) != set(values):
            raise UsageError(
                f"{self.path} has the columns {', '.join(self._columns)}, this run writes {', '.join(values)}; resume "
                "with the version and the options that the run began with, or train into another --out"
            )
        # repr is the shortest text that reads back as the same float64.
        self._append([str(step), *(repr(float(values[name])) for name in self._columns)])
        self._last = step
        if self._events is not None:
            with _output(self.path.parent / EVENTS):
                # NaN stands for held-out clips that were not looked at; TensorBoard would complain about each.
                for name in (name for name in self._columns if not math.isnan(values[name])):
                    self._events.add_scalar(name, float(values[name]), step)

    def close(self) -> None:
        """End the record and draw ``folder/curve.png`` from the CSV. Calling it again does nothing."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if self._events is not None:
            with _output(self.path.parent / EVENTS):
                self._events.close()
        if self._draw and self._last >= 0:
            plot_curve(self.path, self.path.with_name(CURVE))

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. An error from closing does not hide one that is already on its way."""
        with contextlib.suppress(*(() if error is None else (OutputError, UsageError))):
            self.close()

    def _append(self, cells: list[str]) -> None:
        assert self._file is not None
        line = (",".join(cells) + "\n").encode()
        with _output(self.path):
            if self._file.write(line) != len(line):
                raise OSError(None, "the disk is full")

    def _keep_until(self, step: int) -> None:
        with _output(self.path):
            data = self.path.read_bytes()
        text = data[: data.rfind(b"\n") + 1].decode("utf-8", "replace")
        lines = text.splitlines(keepends=True)
        rows = list(csv.reader(lines))
        if rows and rows[0][:1] != ["step"]:
            raise UsageError(f"{self.path} is not a metrics file; move it away to resume")
        kept = 1
        for row in rows[1:]:
            if len(row) != len(rows[0]) or not row[0].isdecimal() or int(row[0]) <= self._last:
                raise UsageError(
                    f"{self.path}: line {kept + 1} is not the next row of a metrics file; move the file away to resume "
                    "without the older rows"
                )
            if int(row[0]) > step:
                break
            self._last = int(row[0])
            kept += 1
        if self._last >= 0:
            self._columns = rows[0][1:]
        # Without a row that stays, the header goes too: the next row writes it.
        remaining = "".join(lines[:kept]).encode() if self._columns is not None else b""
        if remaining != data:
            write_atomically(self.path, remaining)


def _event_writer(folder: Path, first_step: int) -> Any:
    if not _available("tensorboardX", f"{METRICS} is written, TensorBoard events are not"):
        return None
    from tensorboardX import SummaryWriter

    with _output(folder):
        # purge_step: TensorBoard leaves out what an earlier run wrote from this step on.
        purge = first_step if folder.is_dir() else None
        # Without the suffix a run that is resumed within the second would overwrite the file.
        return SummaryWriter(str(folder), purge_step=purge, filename_suffix=f".{first_step:09d}")


def _available(package: str, loss: str) -> bool:
    try:
        if package == "matplotlib":
            require_matplotlib()
        else:
            __import__(package)
    except (ImportError, MissingExtraError):
        print(f"{package} is not installed: {loss}. To have it: {how_to_install('train')}", file=sys.stderr)
        return False
    return True


@contextlib.contextmanager
def _output(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free space or check the permissions, then --resume"
        ) from error
