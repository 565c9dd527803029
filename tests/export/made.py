"""Bundles for tests, exported by the real exporter from random weights, each once per test process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from lcr_edge.checkpoint import Checkpoint, load, random_checkpoint
from lcr_edge.config import get_config
from lcr_edge.export.pipeline import Exporter
from lcr_edge.export.targets import DEFAULT_EDGES, DEFAULT_STATE_MODE, Request

SEED = 7
PACKAGED = "packaged"
_FRAMES = 6  # the export's own check; tests measure for longer


@functools.cache
def checkpoint(name: str) -> Checkpoint:
    """Random weights of a config, or the packaged checkpoint."""
    return load() if name == PACKAGED else random_checkpoint(get_config(name), SEED)


@functools.cache
def _exporter(name: str) -> Exporter:
    folder = Path(tempfile.mkdtemp(prefix="lcr_edge_bundles_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Exporter(checkpoint(name), folder)


@functools.cache
def bundle(
    name: str,
    target: str,
    precision: str = "fp32",
    edges: str = DEFAULT_EDGES,
    state_mode: str = DEFAULT_STATE_MODE,
) -> Path:
    """Folder of an exported bundle. Tests must not change it; they copy."""
    request = Request(checkpoint(name).config, target, precision, edges, state_mode)
    return _exporter(name).export(request, frames=_FRAMES).folder
