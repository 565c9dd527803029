"""From a checkpoint to a verified bundle: convert, record golden answers, measure, and only then put it in place."""

from __future__ import annotations

import importlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lcr_edge.calibration.rollout import roll
from lcr_edge.checkpoint import Checkpoint
from lcr_edge.errors import ParityError
from lcr_edge.export import parity
from lcr_edge.export.bundle import golden_bytes, write_manifest
from lcr_edge.export.cell import HostEdgeCell, StepCell
from lcr_edge.export.clips import rendered_stream
from lcr_edge.export.quiet import quiet, step
from lcr_edge.export.staging import staged
from lcr_edge.export.targets import Request, require
from lcr_edge.runtimes import load
from lcr_edge.runtimes.bundle import GOLDEN

PARITY = "parity.json"
VERIFY_FRAMES = 50
# The golden clip: long enough to fill the state, short enough for a device's disk and a check within a second.
GOLDEN_FRAMES = 16
GOLDEN_BYTES = 8_000_000
_GOLDEN_LEAST = 4


@dataclass(frozen=True)
class Exported:
    """A bundle in its place, the size of each of its files in bytes, and what was measured."""

    folder: Path
    sizes: dict[str, int]
    report: parity.Report


class Exporter:
    """Exports one checkpoint to any number of bundles; the rewritten cell of each edge mode is made once.

    threads: CPU threads of the engine that verifies.
    """

    def __init__(self, checkpoint: Checkpoint, out: Path, *, threads: int = 1) -> None:
        self.checkpoint = checkpoint
        self.out = out
        self.threads = threads
        self._cells: dict[str, torch.nn.Module] = {}

    def export(self, request: Request, frames: int = VERIFY_FRAMES) -> Exported:
        """Write one bundle, verified over ``frames`` frames.

        Raises MissingExtraError, UnsafeDecayError, OutputError, and ParityError where the bundle misses its promise:
        then nothing is written. Progress goes to stderr.
        """
        require(request.row)
        with staged(self.out, request.name) as folder:
            with step(f"{request.name}: converting"), quiet():
                converter = importlib.import_module(request.row.module)
                operators: list[str] = converter.convert(self._cell(request.edges), request, folder)
            with step(f"{request.name}: verifying over {frames} frames"):
                golden = roll(
                    self.checkpoint.model, itertools.islice(rendered_stream(request.config), _golden(request))
                )
                (folder / GOLDEN).write_bytes(golden_bytes(golden))
                write_manifest(folder, request, self.checkpoint, operators)
                report = self._measure(folder, request, frames)
            if not report.passed:
                raise ParityError(
                    f"{request.name} was not written, it breaks its promise: {'; '.join(report.failures)}"
                )
            (folder / PARITY).write_text(json.dumps(report.to_dict(), indent=2) + "\n")
            write_manifest(folder, request, self.checkpoint, operators)
            sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        return Exported(self.out / request.name, sizes, report)

    def _cell(self, edges: str) -> torch.nn.Module:
        if edges not in self._cells:
            cell = StepCell(self.checkpoint.model)
            self._cells[edges] = (HostEdgeCell(cell) if edges == "host" else cell).eval()
        return self._cells[edges]

    def _measure(self, folder: Path, request: Request, frames: int) -> parity.Report:
        with quiet():
            model = load(folder, threads=self.threads)
            # Engines that prepare and chat at their first step do it here.
            model.step(np.zeros(model.frame_shape, np.uint8), model.initial_state())
        stream = itertools.islice(rendered_stream(request.config), frames)
        return parity.measure(model, self.checkpoint.model, stream, "rendered gestures")


def _golden(request: Request) -> int:
    """Frames of the golden clip: fewer for a network whose states would make it large."""
    per_frame = 2 * 4 * int(torch.Size(request.config.state_shape).numel())
    return max(_GOLDEN_LEAST, min(GOLDEN_FRAMES, GOLDEN_BYTES // per_frame))
