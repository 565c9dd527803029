"""Checkpoints and calibration caches that are damaged: the loader gives what was saved, or its own error."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lcr_edge import checkpoint as checkpoints
from lcr_edge.calibration import samples as caches
from lcr_edge.calibration.samples import ARRAYS, Samples
from lcr_edge.checkpoint import Checkpoint, random_checkpoint
from lcr_edge.config import Config
from lcr_edge.errors import CalibrationError, CheckpointError
from tests.fuzz.damage import bounded, changed_arrays, changed_bytes, changed_json, npz

CONFIG = Config("tiny", height=32, width=32, dim=32, layers=1, classes=3)


@functools.cache
def _checkpoint() -> Checkpoint:
    return random_checkpoint(CONFIG, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def saved(folder: Path) -> bytes:
    """The bytes of a checkpoint."""
    found = _checkpoint()
    checkpoints.save(folder / "whole.safetensors", found.model, found.labels, {"steps": 1})
    return (folder / "whole.safetensors").read_bytes()


def _load(folder: Path, content: bytes) -> Checkpoint | None:
    path = folder / "changed.safetensors"
    path.write_bytes(content)
    try:
        found = checkpoints.load(path)
    except CheckpointError:
        return None
    assert len(found.labels) == found.config.classes
    assert all(bool(value.isfinite().all()) for value in found.model.state_dict().values())
    return found


def _in_parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, which is JSON behind eight bytes that hold its length; the tensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _joined(header: Any, tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tensors


@bounded
@given(data=st.data())
def test_a_damaged_checkpoint(data: st.DataObject, folder: Path, saved: bytes) -> None:
    # A changed weight is a weight: nothing but the bundle made from it knows which file is meant.
    found = _load(folder, data.draw(changed_bytes(saved)))
    assert found is None or found.config.state_shape == CONFIG.state_shape


@bounded
@given(data=st.data())
def test_a_checkpoint_with_another_header(data: st.DataObject, folder: Path, saved: bytes) -> None:
    header, tensors = _in_parts(saved)
    _load(folder, _joined(data.draw(changed_json(header)), tensors))


@bounded
@given(data=st.data())
def test_a_checkpoint_with_other_metadata(data: st.DataObject, folder: Path, saved: bytes) -> None:
    header, tensors = _in_parts(saved)
    metadata = header["__metadata__"]
    name = data.draw(st.sampled_from(["config", "labels", "training"]))
    parts = json.loads(metadata[name])
    changed = data.draw(st.one_of(changed_json(parts), changed_json([parts])))
    _load(folder, _joined({**header, "__metadata__": {**metadata, name: json.dumps(changed)}}, tensors))


def test_undamaged_ones_are_loaded(folder: Path, saved: bytes) -> None:
    found = _load(folder, saved)
    assert found is not None
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, _checkpoint().model.state_dict()[name])
    assert _cached(folder, _cache(folder)) is not None


def _samples() -> Samples:
    draw = np.random.default_rng(3)
    height, width, _ = CONFIG.frame_shape
    return Samples(
        frames=draw.integers(0, 256, (4, height, width, 3), np.uint8),
        edges=draw.integers(0, 2, (4, height, width), np.uint8),
        state_h=draw.standard_normal((4, *CONFIG.state_shape)).astype(np.float32),
        state_c=draw.standard_normal((4, *CONFIG.state_shape)).astype(np.float32),
        position=np.arange(4),
        checkpoint_sha256=_checkpoint().sha256,
        config_name=CONFIG.name,
        source="noise",
        seed=0,
    )


def _cache(folder: Path) -> bytes:
    caches.save(folder / "whole.npz", _samples())
    return (folder / "whole.npz").read_bytes()


def _cached(folder: Path, content: bytes) -> Samples | None:
    """The samples, which are those that were saved or none: a digest guards them."""
    path = folder / "changed.npz"
    path.write_bytes(content)
    try:
        found = caches.load(path, _checkpoint())
    except CalibrationError:
        return None
    assert found.digest == _samples().digest
    return found


@bounded
@given(data=st.data())
def test_a_damaged_cache(data: st.DataObject, folder: Path) -> None:
    _cached(folder, data.draw(changed_bytes(_cache(folder))))


@bounded
@given(data=st.data())
def test_a_cache_of_other_arrays(data: st.DataObject, folder: Path) -> None:
    whole = {name: getattr(_samples(), name) for name in ARRAYS} | _about(folder)
    _cached(folder, npz(data.draw(changed_arrays(whole))))


@bounded
@given(data=st.data())
def test_a_cache_with_other_metadata(data: st.DataObject, folder: Path) -> None:
    whole: dict[str, Any] = {name: getattr(_samples(), name) for name in ARRAYS}
    about = json.loads(_about(folder)["about"].tobytes())
    changed = data.draw(st.one_of(changed_json(about), changed_json([about])))
    whole["about"] = np.frombuffer(json.dumps(changed).encode(), np.uint8)
    _cached(folder, npz(whole))


def _about(folder: Path) -> dict[str, Any]:
    _cache(folder)
    with np.load(folder / "whole.npz") as archive:
        return {"about": archive["about"]}
