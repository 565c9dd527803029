"""The judge pack: what is chosen, that it is found again as it was written, and that no other pack is taken for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.checkpoint import load, random_checkpoint, save
from lcr_edge.config import get_config
from lcr_edge.data import pack as module
from lcr_edge.data.pack import MOST_BYTES, SUFFIX, Pack, PackFile, choose, read_any, write
from lcr_edge.data.sets import open_set
from lcr_edge.errors import CheckpointError
from lcr_edge.tolerances import DECODED
from tests.data.made import make_folder

CONFIG = get_config("lcr_pico", classes=3)
SIZE = CONFIG.height, CONFIG.width


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    root = make_folder(tmp_path_factory.mktemp("data"), classes=3, clips=12)
    data = open_set(f"folder:{root}", split="heldout", size=SIZE, fps=8.0, frames=8, cache=None)
    return choose(data, SIZE, 8.0, 8)


def test_classes_come_in_turn_and_the_file_holds_the_clips(chosen: Pack, tmp_path: Path) -> None:
    count = len(chosen.targets)
    assert chosen.clips.shape == (count, 8, *SIZE, 3)
    assert len(set(chosen.targets[:3].tolist())) == 3
    path = tmp_path / f"lcr_pico{SUFFIX}"
    found = PackFile(path, write(path, chosen)).read()
    np.testing.assert_array_equal(found.targets, chosen.targets)
    assert np.abs(found.clips.astype(int) - chosen.clips).mean() < DECODED
    assert found.name == chosen.name
    assert write(tmp_path / f"again{SUFFIX}", chosen) == PackFile(path, write(path, chosen)).sha256


def test_it_stays_below_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = make_folder(tmp_path_factory.mktemp("more"), classes=2, clips=12)
    data = open_set(f"folder:{root}", split="train", size=SIZE, fps=8.0, frames=8, cache=None)
    every = choose(data, SIZE, 8.0, 8)
    monkeypatch.setattr(module, "MOST_BYTES", 60_000)
    few = choose(data, SIZE, 8.0, 8)
    assert 0 < len(few.clips) < len(every.clips) == len(data)
    write(tmp_path / f"few{SUFFIX}", few)
    assert (tmp_path / f"few{SUFFIX}").stat().st_size <= 60_000 < MOST_BYTES


def test_many_clips_are_shared_between_judging_and_calibration() -> None:
    clips = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1, 1)
    many, few = (Pack(clips[:count], np.zeros(count, np.int64), "x") for count in (17, 6))
    assert many.judging().clips.ravel().tolist() == list(range(9))
    assert many.calibrating().clips.ravel().tolist() == list(range(9, 17))
    assert few.judging().clips.ravel().tolist() == few.calibrating().clips.ravel().tolist() == list(range(6))


def test_a_checkpoint_finds_its_pack_and_refuses_another(chosen: Pack, tmp_path: Path) -> None:
    made = random_checkpoint(CONFIG, 0)
    path = tmp_path / f"lcr_pico{SUFFIX}"
    judge = PackFile(path, write(path, chosen))
    save(tmp_path / "net.safetensors", made.model, made.labels, {"data_name": "folder:films"}, judge=judge)
    found = load(tmp_path / "net.safetensors")
    assert found.judge == judge
    assert found.judge is not None
    assert len(found.judge.read().targets) == len(chosen.targets)
    write(path, dataclasses.replace(chosen, name="other"))
    with pytest.raises(CheckpointError, match="judge pack of another network"):
        PackFile(path, judge.sha256).read()
    path.unlink()
    assert load(tmp_path / "net.safetensors").judge is None
    assert load(tmp_path / "net.safetensors").strange_to_gestures
    assert not load().strange_to_gestures


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"shape": [1, 1, 10**6, 10**6, 3]}, "would take"),
        ({"shape": [2, 1, 32, 32, 3]}, "do not fit together"),
        ({"shape": [1, 1, 32, 32, 3], "labels": ["a"]}, "no class"),
        ({"shape": [1, 1, 32, 32, 3], "labels": 5}, "not iterable"),
        ({"shape": [1, 1, 16, 16, 3], "labels": ["a", "b"]}, "could not broadcast"),
        ({}, "shape"),
    ],
)
def test_a_pack_from_elsewhere_is_not_trusted(about: dict[str, object], said: str, tmp_path: Path) -> None:
    path = tmp_path / f"hostile{SUFFIX}"
    picture = np.frombuffer(module._encoded(np.zeros((1, 32, 32, 3), np.uint8))[0], np.uint8)
    written = np.frombuffer(json.dumps({"name": "x", **about}).encode(), np.uint8)
    np.savez(path, jpeg=picture, sizes=np.array([len(picture)]), targets=np.array([1]), about=written)
    with pytest.raises(CheckpointError, match=said):
        read_any(path)


@pytest.mark.parametrize("damage", ["cut", "text", "large"])
def test_a_damaged_pack_is_named(damage: str, chosen: Pack, tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / f"lcr_pico{SUFFIX}"
    write(path, chosen)
    whole = path.read_bytes()
    data = {"cut": whole[: len(whole) // 2], "text": b"no pack", "large": whole + bytes(3 * MOST_BYTES)}[damage]
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot be read"):
        PackFile(path, hashlib.sha256(data).hexdigest()).read()
