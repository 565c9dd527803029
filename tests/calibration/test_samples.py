"""Calibration samples: what is kept is what comes back, and a file that is not right is refused with the way out."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.calibration.samples import Samples, load, save
from lcr_edge.checkpoint import Checkpoint, random_checkpoint
from lcr_edge.config import get_config
from lcr_edge.contract import input_specs
from lcr_edge.errors import CalibrationError, OutputError

COUNT = 3
CONFIG = dataclasses.replace(get_config("lcr_pico"), height=32, width=32, dim=32, layers=2)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(CONFIG, seed=1)


def made(checkpoint: Checkpoint, **changes: Any) -> Samples:
    rng = np.random.default_rng(0)
    states = rng.standard_normal((2, COUNT, *CONFIG.state_shape)).astype(np.float32)
    samples = Samples(
        frames=rng.integers(0, 256, (COUNT, *CONFIG.frame_shape), np.uint8),
        edges=rng.integers(0, 2, (COUNT, *CONFIG.frame_shape[:2]), np.uint8),
        state_h=states[0],
        state_c=states[1],
        position=np.array([1, 5, 40], np.int64),
        checkpoint_sha256=checkpoint.sha256,
        config_name=CONFIG.name,
        source="rendered:1",
        seed=2,
        clips=27,
    )
    return dataclasses.replace(samples, **changes)


def rewritten(path: Path, **entries: bytes) -> Path:
    """The file with other bytes for some of its entries, its checksums right again."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    content.update({f"{name}.npy": value for name, value in entries.items()})
    with zipfile.ZipFile(path, "w") as file:
        for name, value in content.items():
            file.writestr(name, value)
    return path


def test_what_is_saved_comes_back_and_the_file_is_the_same_each_time(checkpoint: Checkpoint, tmp_path: Path) -> None:
    samples = made(checkpoint)
    for name in ("one.npz", "two.npz"):
        save(tmp_path / name, samples)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    found = load(tmp_path / "one.npz", checkpoint)
    assert len(found) == COUNT
    assert found.digest == samples.digest
    for field in dataclasses.fields(Samples):
        have, want = getattr(found, field.name), getattr(samples, field.name)
        assert type(have) is type(want)
        assert np.array_equal(have, want)
        assert not isinstance(want, np.ndarray) or have.dtype == want.dtype
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_the_digest_depends_on_everything_but_memory_layout(checkpoint: Checkpoint) -> None:
    samples = made(checkpoint)
    digests = {samples.digest}
    for field in dataclasses.fields(Samples):
        value: Any = getattr(samples, field.name)
        if isinstance(value, np.ndarray):
            value = value.copy()
            value.reshape(-1)[-1:] += np.ones(1, value.dtype)
        else:
            value += type(value)("1")
        digests.add(made(checkpoint, **{field.name: value}).digest)
    assert len(digests) == 1 + len(dataclasses.fields(Samples))
    assert made(checkpoint, state_h=np.asfortranarray(samples.state_h)).digest == samples.digest


def test_feeds_are_the_steps_inputs(checkpoint: Checkpoint) -> None:
    samples = made(checkpoint)
    feeds = samples.feeds(1)
    specs = input_specs(CONFIG, "host")
    assert [(name, feed.dtype.name, feed.shape) for name, feed in feeds.items()] == [
        (spec.name, spec.dtype, spec.shape) for spec in specs
    ]
    for feed, name in zip(feeds.values(), ("frames", "edges", "state_h", "state_c")):
        assert np.array_equal(feed.reshape(-1), getattr(samples, name)[1].reshape(-1))
    with pytest.raises(IndexError):
        samples.feeds(COUNT)


def test_zero_states_keep_the_frames(checkpoint: Checkpoint) -> None:
    samples = made(checkpoint)
    zero = samples.with_zero_states()
    assert not zero.state_h.any()
    assert not zero.state_c.any()
    assert not zero.position.any()
    assert np.array_equal(zero.frames, samples.frames)
    assert zero.digest != samples.digest
    assert samples.state_h.all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_never_kept(value: float, checkpoint: Checkpoint, tmp_path: Path) -> None:
    samples, path = made(checkpoint), tmp_path / "samples.npz"
    samples.state_c[1, 0, 1, 2] = value
    with pytest.raises(CalibrationError, match="state_c contains NaN or Inf"):
        save(path, samples)
    assert not list(tmp_path.iterdir())
    good = made(checkpoint)
    save(path, good)
    buffer = tmp_path / "state.npy"
    np.save(buffer, samples.state_c)
    with pytest.raises(CalibrationError, match=r"state_c contains NaN or Inf.*delete the file"):
        load(rewritten(path, state_c=buffer.read_bytes()), checkpoint)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("frames", lambda a: a[..., :2]),
        ("edges", lambda a: a * 255),
        ("state_h", lambda a: a.astype(np.float64)),
        ("state_c", lambda a: a[:-1]),
        ("position", lambda a: -a),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, change: Any, checkpoint: Checkpoint, tmp_path: Path) -> None:
    samples = made(checkpoint)
    changed = change(getattr(samples, name))
    with pytest.raises(CalibrationError, match=name):
        save(tmp_path / "a.npz", dataclasses.replace(samples, **{name: changed}))
    save(tmp_path / "a.npz", samples)
    np.save(tmp_path / "b.npy", changed)
    with pytest.raises(CalibrationError, match=name):
        load(rewritten(tmp_path / "a.npz", **{name: (tmp_path / "b.npy").read_bytes()}), checkpoint)


def test_samples_of_another_network_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    save(path, made(checkpoint))
    other = dataclasses.replace(checkpoint, sha256="f" * 64)
    with pytest.raises(CalibrationError, match=r"another checkpoint.*delete the file.*--calibration-cache") as caught:
        load(path, other)
    assert checkpoint.sha256[:12] in str(caught.value)
    assert other.sha256[:12] in str(caught.value)
    renamed = dataclasses.replace(checkpoint, config=dataclasses.replace(CONFIG, name="lcr_other"))
    with pytest.raises(CalibrationError, match=r"config lcr_pico.*lcr_other"):
        load(path, renamed)


def test_altered_values_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    samples, path = made(checkpoint), tmp_path / "samples.npz"
    save(path, samples)
    np.save(tmp_path / "position.npy", samples.position + 1)
    with pytest.raises(CalibrationError, match="digest differs"):
        load(rewritten(path, position=(tmp_path / "position.npy").read_bytes()), checkpoint)
    save(path, samples)
    with np.load(path) as file:
        about = json.loads(file["about"].tobytes())
    for change in ({"seed": "2"}, {"clips": True}, {"source": None}, {"format": "another"}):
        np.save(tmp_path / "about.npy", np.frombuffer(json.dumps({**about, **change}).encode(), np.uint8))
        with pytest.raises(CalibrationError, match="delete the file"):
            load(rewritten(path, about=(tmp_path / "about.npy").read_bytes()), checkpoint)


def test_files_of_another_kind_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    with pytest.raises(CalibrationError, match="do not exist"):
        load(path, checkpoint)
    with pytest.raises(CalibrationError, match="cannot read"):
        load(tmp_path, checkpoint)
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(CalibrationError, match=r"not a complete \.npz file"):
        load(path, checkpoint)
    np.savez(path, golden=np.arange(3))
    with pytest.raises(CalibrationError, match="has no calibration samples"):
        load(path, checkpoint)
    np.savez(path, about=np.array([{"format": 1}], dtype=object))
    with pytest.raises(CalibrationError, match="damaged"):
        load(path, checkpoint)
    with pytest.raises(OutputError):
        save(tmp_path / "missing" / "samples.npz", made(checkpoint))


def test_damaged_files_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    samples, path = made(checkpoint), tmp_path / "samples.npz"
    save(path, samples)
    data = path.read_bytes()
    for share in (0.0, 0.3, 0.999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(CalibrationError, match=r"not a complete \.npz file.*delete the file"):
            load(path, checkpoint)
    refused, rng = 0, np.random.default_rng(0)
    # All of the zip's directory at the end, which is what breaks in most ways, and some of the rest.
    directory = data.index(b"PK\x01\x02")
    places = [*range(directory, len(data)), *rng.integers(0, directory, 200).tolist()]
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            found = load(path, checkpoint)
        except CalibrationError:
            refused += 1
        else:  # a date, say, that means nothing
            assert found.digest == samples.digest
    assert refused > len(places) // 2
