"""Bundles for tests, exported by the real exporter, each once a run."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from lcr_edge.calibration import samples as caches
from lcr_edge.calibration.collect import collect
from lcr_edge.calibration.footage import CLIPS, SAMPLES
from lcr_edge.calibration.quant_plan import ACTIVATIONS
from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint, load, random_checkpoint
from lcr_edge.config import get_config
from lcr_edge.export.exporter import Exporter, Gate
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import (
    DEFAULT_EDGES,
    DEFAULT_IO,
    DEFAULT_QUANT,
    DEFAULT_STATE_MODE,
    DEFAULT_STATE_PRECISION,
    TARGETS,
)
from tests import shared

SEED = 7
PACKAGED = "packaged"
# The export's own check; tests measure for longer. A stream as long as the clip and a clip of each class.
GATE = Gate(frames=6, streams=6, per_class=1)
# Clips and samples: as an export takes them for the network whose decisions count, else a clip of each gesture.
_COUNTS = {PACKAGED: (CLIPS, SAMPLES)}
_FEW = (27, 48)


@functools.cache
def checkpoint(name: str) -> Checkpoint:
    """Random weights of a config, or the packaged checkpoint."""
    return load() if name == PACKAGED else random_checkpoint(get_config(name), SEED)


@functools.cache
def samples(name: str) -> Samples:
    """Calibration samples of a checkpoint, of rendered gestures."""

    def make(folder: Path) -> None:
        clips, count = _COUNTS.get(name, _FEW)
        caches.save(folder / "samples.npz", collect(checkpoint(name), None, clips=clips, samples=count))

    return caches.load(shared.folder(f"samples/{name}", make) / "samples.npz", checkpoint(name))


def folder() -> Path:
    """A temporary folder that lasts as long as the test process."""
    made = Path(tempfile.mkdtemp(prefix="lcr_edge_bundles_"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@functools.cache
def _exporter(name: str) -> Exporter:
    return Exporter(checkpoint(name), folder())


def bundle(
    name: str,
    target: str,
    precision: str = "fp32",
    edges: str = DEFAULT_EDGES,
    state_mode: str = DEFAULT_STATE_MODE,
    *,
    quant: str | None = None,
    activations: str = ACTIVATIONS[0],
    state_precision: str = DEFAULT_STATE_PRECISION,
    io: str = DEFAULT_IO,
) -> Path:
    """Folder of an exported bundle. Tests must not change it; they copy. quant: None for what the target does."""
    if precision != "int8":
        quant = DEFAULT_QUANT  # which means nothing then: the same bundle whatever was given
    request = Request(
        checkpoint(name).config,
        target,
        precision,
        edges,
        state_mode,
        quant=quant or TARGETS[target].default_quant,
        activations=activations,
        state_precision=state_precision,
        io=io,
    )
    return shared.folder(f"bundles/{name}/{request.name}", functools.partial(_export, name, request)) / request.name


def _export(name: str, request: Request, out: Path) -> None:
    exporter = _exporter(name)
    if request.precision == "int8" and exporter.samples is None:
        exporter.samples = samples(name)
    exporter.out = out
    exporter.export(request, GATE)
