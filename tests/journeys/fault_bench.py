"""Healthy bundles to plant faults in, made once, and the two that are asked: verify and selftest."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint
from lcr_edge.errors import LcrError
from lcr_edge.export.exporter import Exporter, Gate
from lcr_edge.export.targets.job import Source
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import TARGETS
from lcr_edge.export.verify.clips import stream
from lcr_edge.export.verify.measure import measure_all, reference_checkpoint
from lcr_edge.export.verify.reference import roll
from lcr_edge.export.verify.report import Report
from lcr_edge.model.step_cell import StepCell
from lcr_edge.runtimes import load
from lcr_edge.runtimes.golden import GOLDEN
from lcr_edge.runtimes.selftest import selftest
from tests.journeys.fault_files import reseal

# A bundle with a fault is written, whatever it measures, so that verify and selftest can be asked.
GATE = Gate(frames=6, decisions=False, enforced=False)
Change = Callable[[StepCell, "Plan | None"], "tuple[StepCell, Plan | None]"]


@dataclass(frozen=True)
class Answer:
    """caught: by which checks; none: it passed. worst: the largest rms error / std of one step, NaN if not measured."""

    caught: tuple[str, ...]
    worst: float = float("nan")

    @property
    def short(self) -> str:
        """The checks' kinds, and what differs."""
        return ", ".join(dict.fromkeys(_kind(name) for name in self.caught))


def _kind(name: str) -> str:
    """A check's name, or the sentence of a failure, in a few words."""
    if name.startswith(("feeding", "state_")):
        return "a state is not used"
    if name.startswith("identity: "):
        return name.removeprefix("identity: ").partition(":")[0]
    return name.partition(":")[0]


class _Changed(Exporter):
    """An exporter whose cell and plan are changed after they were prepared and before they are converted."""

    change: Change

    def _source(self, request: Request, float_layers: Any) -> tuple[Source, Plan | None]:
        source, plan = super()._source(request, float_layers)
        key = id(source)
        if key in self.__dict__.setdefault("kept", {}):
            found: tuple[Source, Plan | None] = self.__dict__["kept"][key]
            return found
        with torch.no_grad():
            cell, plan = self.change(copy.deepcopy(source.cell), plan)
        # Where only the plan was changed, the trace can be used again.
        one, other = cell.state_dict(), source.cell.state_dict()
        same = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        self.__dict__["kept"][key] = (source if same else Source(cell)), plan
        return self._source(request, float_layers)


class Bench:
    """checkpoint: the network. samples: for int8. frames: that verify steps. folder: for bundles."""

    def __init__(self, checkpoint: Checkpoint, samples: Samples, folder: Path, frames: int) -> None:
        self.checkpoint, self.samples, self.folder, self.frames = checkpoint, samples, folder, frames
        self.exporter = Exporter(checkpoint, folder / "healthy", samples=samples)
        self._made: dict[str, Path] = {}
        self._changed: dict[str, _Changed] = {}
        # The reference's answers are the same for all: made once, where the command makes them for each bundle.
        self._rollout = roll(checkpoint.model, stream(None, checkpoint, frames))

    def request(self, target: str, precision: str, **options: Any) -> Request:
        quant = options.pop("quant", TARGETS[target].default_quant if precision == "int8" else "static")
        return Request(self.checkpoint.config, target, precision, quant=quant, **options)

    def healthy(self, target: str, precision: str, **options: Any) -> Path:
        """Folder of a bundle as the exporter makes it; not to be changed."""
        request = self.request(target, precision, **options)
        if request.name not in self._made:
            place = self.folder / "healthy" / request.name
            if request.io == "int8":  # its quantiser takes long over each sample
                self.exporter.samples = few(self.samples, 64)
            self._made[request.name] = place if place.is_dir() else self.exporter.export(request, GATE).folder
            self.exporter.samples = self.samples
        return self._made[request.name]

    def use(self, folder: Path) -> None:
        """A healthy bundle that was made elsewhere."""
        self._made[folder.name] = folder

    @contextlib.contextmanager
    def copied(self, target: str, precision: str, **options: Any) -> Iterator[Path]:
        """A copy to change."""
        source = self.healthy(target, precision, **options)
        place = self.folder / "faulty" / source.name
        shutil.rmtree(place, ignore_errors=True)
        yield shutil.copytree(source, place)
        shutil.rmtree(place)

    def cell(self, precision: str, target: str) -> StepCell:
        """What was converted: prepared for int8."""
        source, _ = self.exporter._source(self.request(target, precision), None)
        return source.cell

    @contextlib.contextmanager
    def converted(
        self, kind: str, target: str, precision: str, change: Change, samples: Samples | None = None
    ) -> Iterator[Path]:
        """A bundle of a changed cell: all that the export records of it is of the changed one. kind: names the change,
        so that engines share what they can. Raises what the export raises."""
        if kind not in self._changed:
            exporter = _Changed(self.checkpoint, self.folder / "converted", samples=samples or self.samples)
            exporter.change = change
            if samples is None:
                exporter._float, exporter._prepared = self.exporter._float, self.exporter._prepared
            self._changed[kind] = exporter
        exporter = self._changed[kind]
        yield exporter.export(self.request(target, precision), GATE).folder

    def golden(self, folder: Path, **arrays: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
        """Change arrays of the golden clip."""
        found = dict(np.load(folder / GOLDEN))
        np.savez_compressed(
            folder / GOLDEN, **{**found, **{name: change(found[name]) for name, change in arrays.items()}}
        )
        reseal(folder)

    def ask_verify(self, folder: Path) -> Answer:
        """What ``verify.measure.verify`` does, over few frames, without the decisions that int8 is also judged by."""
        try:
            model = load(folder, threads=1)
            reference_checkpoint(model.bundle)
            report = measure_all(model, self.checkpoint, frames=self.frames, decisions=False, rollout=self._rollout)
        except LcrError as error:
            print(error, file=sys.stderr)
            return Answer(("refused by the loader",))
        return Answer(_caught(report), _worst(report))

    def ask_selftest(self, folder: Path) -> Answer:
        try:
            report = selftest(folder, threads=1)
        except LcrError as error:
            print(error, file=sys.stderr)
            return Answer(("refused by the loader",))
        missed = [check.name for check in report.checks if check.met is False]
        other = [
            sentence[:40] for sentence in report.failures if not any(sentence == c.sentence for c in report.checks)
        ]
        return Answer((*other, *missed))


def _caught(report: Report) -> tuple[str, ...]:
    missed = (check.name for check in report.every_check if check.met is False)
    return (*(sentence[:60] for sentence in report.broken), *missed)


def _worst(report: Report) -> float:
    name = f"from {report.promise.settled}" if report.promise.settled else "all"
    line = report.one_step.get(name)
    return float("nan") if line is None else max(tally.relative for tally in line.tensors.values())


def few(samples: Samples, count: int) -> Samples:
    """The first samples; they are in random order."""
    arrays = {name: getattr(samples, name)[:count] for name in ("frames", "edges", "state_h", "state_c", "position")}
    return dataclasses.replace(samples, **arrays)
