"""Bundles for tests, exported by the real exporter, each once a run; so is each trace of a network."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import torch

from lcr_edge.arrays import read_npz
from lcr_edge.calibration import samples as caches
from lcr_edge.calibration.collect import collect
from lcr_edge.calibration.footage import CLIPS, SAMPLES
from lcr_edge.calibration.quant_plan import ACTIVATIONS
from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint, load, random_checkpoint
from lcr_edge.config import get_config
from lcr_edge.export import exporter as exporting
from lcr_edge.export.exporter import Exporter, Gate
from lcr_edge.export.int8 import trials
from lcr_edge.export.targets.job import Source
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import (
    DEFAULT_IO,
    DEFAULT_QUANT,
    DEFAULT_STATE_MODE,
    DEFAULT_STATE_PRECISION,
    TARGETS,
)
from lcr_edge.export.verify.clips import stream
from lcr_edge.export.verify.reference import roll
from lcr_edge.runtimes.golden import Golden
from tests import shared

SEED = 7
PACKAGED = "packaged"
# Edges inside a graph are followed for as many steps as the frame has pixels on a side: they convert in half the time.
SMALL = "lcr_pico of 32 x 32 pixels"
# The export's own check; tests measure for longer. A stream as long as the clip and a clip of each class.
GATE = Gate(frames=6, streams=6, per_class=1)
# Clips and samples: as an export takes them for the network whose decisions count, else a clip of each gesture.
_COUNTS = {PACKAGED: (CLIPS, SAMPLES)}
_FEW = (27, 48)


@functools.cache
def checkpoint(name: str) -> Checkpoint:
    """Random weights of a config or of :data:`SMALL`, or the packaged checkpoint."""
    if name == PACKAGED:
        return load()
    config = dataclasses.replace(get_config("lcr_pico"), height=32, width=32) if name == SMALL else get_config(name)
    return random_checkpoint(config, SEED)


@functools.cache
def samples(name: str) -> Samples:
    """Calibration samples of a checkpoint, of rendered gestures."""

    def make(folder: Path) -> None:
        clips, count = _COUNTS.get(name, _FEW)
        caches.save(folder / "samples.npz", collect(checkpoint(name), None, clips=clips, samples=count))

    return caches.load(shared.folder(f"samples/{name}", make) / "samples.npz", checkpoint(name))


@functools.lru_cache(maxsize=2)
def rollout(name: str, frames: int, clip: str | None = None) -> Golden:
    """The float network's answers to rendered gestures, or to a video file."""

    def make(folder: Path) -> None:
        network = checkpoint(name)
        shown = stream(clip, network, frames)
        (folder / "rollout.npz").write_bytes(roll(network.model, shown).to_bytes())

    source = "gestures" if clip is None else Path(clip).stem
    found: dict[str, Any] = read_npz(shared.folder(f"rollouts/{name}-{frames}-{source}", make) / "rollout.npz")
    return Golden(**found)


def folder() -> Path:
    """A temporary folder that lasts as long as the test process."""
    made = Path(tempfile.mkdtemp(prefix="lcr_edge_bundles_"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


class _Traced(Source):
    """A source whose results all test processes share, also those of other sources with an equal cell."""

    def once(self, what: str, request: Request, make: Callable[[], bytes]) -> bytes:
        def write(folder: Path) -> None:
            (folder / "made").write_bytes(super(_Traced, self).once(what, request, make))

        digest = hashlib.sha256(repr((what, request.edges, request.state_precision, request.batch)).encode())
        for part in _parts(self.cell):
            digest.update(part)
        return (shared.folder(f"traces/{digest.hexdigest()}", write) / "made").read_bytes()


def _parts(cell: torch.nn.Module) -> Iterator[bytes]:
    """All that a conversion can depend on: every tensor of a cell and every plain attribute of its modules."""
    for name, module in cell.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, (bool, int, float, str, tuple, torch.dtype))}
        yield repr((name, type(module), sorted(plain.items()))).encode()
        tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for key, tensor in tensors:
            yield repr((key, tensor.dtype, tensor.shape)).encode() + tensor.detach().numpy().tobytes()
    yield repr(getattr(cell, "config", None)).encode()


# Exporter and Trials take their sources from here: conversions are the longest part of many tests.
for _user in (exporting, trials):
    setattr(_user, "Source", _Traced)  # noqa: B010  (mypy forbids a plain assignment to a class)


@functools.cache
def _exporter(name: str) -> Exporter:
    return Exporter(checkpoint(name), folder())


def bundle(
    name: str,
    target: str,
    precision: str = "fp32",
    edges: str = "",
    state_mode: str = DEFAULT_STATE_MODE,
    *,
    quant: str | None = None,
    activations: str = ACTIVATIONS[0],
    state_precision: str = DEFAULT_STATE_PRECISION,
    io: str = DEFAULT_IO,
    batch: int = 1,
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
        batch=batch,
    )
    return shared.folder(f"bundles/{name}/{request.name}", functools.partial(_export, name, request)) / request.name


def _export(name: str, request: Request, out: Path) -> None:
    exporter = _exporter(name)
    if request.precision == "int8" and exporter.samples is None:
        exporter.samples = samples(name)
    exporter.out = out
    exporter.export(request, GATE)
