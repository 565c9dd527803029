"""Bundles are judged on the network's own clips; without them, nothing is judged on strangers."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.calibration.collect import collect
from lcr_edge.calibration.footage import pack_footage
from lcr_edge.checkpoint import Checkpoint, load, save
from lcr_edge.config import CLIP_FRAMES
from lcr_edge.data.pack import SUFFIX, Pack, PackFile, choose, write
from lcr_edge.data.sets import open_set
from lcr_edge.errors import CalibrationError
from lcr_edge.export.exporter import Exporter, Gate
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.clips import own_clips, own_stream
from lcr_edge.export.verify.measure import measure_all
from lcr_edge.runtimes import load as load_bundle
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.checks import ONE_STEP
from tests.data.made import make_folder
from tests.export import made

LENGTH = 8


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Random weights that say that they were trained on a folder of films, with its judge pack."""
    folder = tmp_path_factory.mktemp("judge")
    plain = made.checkpoint(made.SMALL)
    size = plain.config.height, plain.config.width
    root = make_folder(folder / "films", classes=3, clips=8)
    films = open_set(f"folder:{root}", split="heldout", size=size, fps=8.0, frames=LENGTH, cache=None)
    path = folder / f"lcr_pico{SUFFIX}"
    judge = PackFile(path, write(path, choose(films, size, 8.0, LENGTH)))
    training = {"data_name": f"folder:{root}", "frames": LENGTH}
    save(folder / "net.safetensors", plain.model, plain.labels, training, judge=judge)
    return load(folder / "net.safetensors")


def test_frames_and_classes_come_from_the_pack(network: Checkpoint) -> None:
    assert network.judge is not None
    pack = network.judge.read().judging()
    clips, classes = own_clips(network, 20, 1, False)
    np.testing.assert_array_equal(clips, pack.clips)
    np.testing.assert_array_equal(classes, pack.targets)
    count = len(clips) * LENGTH
    seen = np.stack(list(itertools.islice(own_stream(network), count + 1)))
    np.testing.assert_array_equal(seen[:-1].reshape(clips.shape), clips)
    np.testing.assert_array_equal(seen[-1], clips[0, 0])


def test_classes_of_rendered_gestures_are_those_of_the_labels() -> None:
    checkpoint = made.checkpoint(made.SMALL)
    backwards = dataclasses.replace(checkpoint, labels=checkpoint.labels[::-1])
    few = dataclasses.replace(checkpoint, labels=tuple(f"sign {i}" for i in range(len(checkpoint.labels))))
    (_, one), (_, two), (_, none) = (own_clips(found, 1, 1, False) for found in (checkpoint, backwards, few))
    np.testing.assert_array_equal(two, len(checkpoint.labels) - 1 - one)
    assert set(none.tolist()) == {-1}


@pytest.mark.slow
def test_an_export_is_judged_on_the_pack_or_not_at_all(network: Checkpoint, tmp_path: Path) -> None:
    request = Request(network.config, "onnx", "fp32")
    exported = Exporter(network, tmp_path).export(request, Gate(frames=6))
    assert exported.report.clip == "clips of folder:films"
    assert all(check.met for check in exported.report.every_check)
    with np.load(exported.folder / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["frames"][0], next(own_stream(network)))
    model = load_bundle(read_bundle(exported.folder).folder, threads=1)
    decided = measure_all(model, network, frames=6, decisions=True, streams=12)
    assert decided.streams is not None
    assert decided.clips is not None
    assert (decided.streams.data, decided.clips.data) == ("clips of folder:films",) * 2
    assert decided.clips.float_top1 is not None

    alone = dataclasses.replace(network, judge=None)
    unjudged = measure_all(model, alone, frames=6, decisions=True)
    assert (unjudged.streams, unjudged.clips) == (None, None)
    assert unjudged.passed
    for check in unjudged.every_check:
        assert (check.met is True) == check.name.startswith((ONE_STEP, "identity"))
        assert check.met or "keep the judge pack beside the checkpoint" in check.line()


def test_int8_is_calibrated_on_the_pack_and_on_no_stranger(network: Checkpoint) -> None:
    assert network.judge is not None
    found = collect(network, None, clips=8, samples=8)
    assert found.source == "judge pack: folder:films"
    pictures = {frame.tobytes() for frame in network.judge.read().clips.reshape(-1, *network.config.frame_shape)}
    assert all(frame.tobytes() in pictures for frame in found.frames)
    with pytest.raises(CalibrationError, match="--calibration-data"):
        collect(dataclasses.replace(network, judge=None), None, clips=8, samples=8)


@pytest.mark.parametrize(("length", "first", "last"), [(40, 0, 24), (CLIP_FRAMES, 0, 0), (5, 0, 0), (1, 0, 0)])
def test_windows_of_a_pack(length: int, first: int, last: int) -> None:
    clips = np.broadcast_to(np.arange(length, dtype=np.uint8)[None, :, None, None, None], (2, length, 1, 1, 1))
    shown = pack_footage(Pack(clips, np.zeros(2, np.int64), "x"), 6).frames[..., 0, 0, 0]
    assert shown.shape == (6, CLIP_FRAMES)
    assert shown[:, 0].tolist() == [first, first, last // 2, last // 2, last, last]
    assert np.abs(np.diff(shown.astype(int), axis=1)).max() <= 1
    assert shown.max() == min(length - 1, last + CLIP_FRAMES - 1)
