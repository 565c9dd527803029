"""How frames are fitted is decided in training, and everything that reads frames for the network obeys it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge.calibration.collect import collect
from lcr_edge.calibration.footage import MIN_CLIPS
from lcr_edge.checkpoint import load, random_checkpoint
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.data.sampling import Sample
from lcr_edge.data.sets import open_set
from lcr_edge.errors import UsageError
from lcr_edge.evaluate import command as evaluate_command
from lcr_edge.export.exporter import Exporter, Gate
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.clips import rendered_stream
from lcr_edge.export.verify.measure import measure_all
from lcr_edge.frames import FITS
from lcr_edge.runtimes import Model, State
from lcr_edge.runtimes import load as load_bundle
from lcr_edge.runtimes.video import VideoSource
from tests.data.made import LABELS, make_folder, write_video

CONFIG = get_config("lcr_pico")
SIZE = CONFIG.frame_shape[:2]
U8 = npt.NDArray[np.uint8]


def wide_clip(seed: int = 0) -> U8:
    """24 frames of 64 x 160 pixels without a black one, whose sides differ from the middle."""
    clip = np.random.default_rng(seed).integers(60, 120, (24, 8, 20, 3), np.uint8)
    clip[:, :, :6], clip[:, :, 14:] = 250, 200
    return clip.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module")
def crop_run(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The command of a run of two steps on cropped frames, which was made."""
    root = tmp_path_factory.mktemp("crop")
    data = f"folder:{make_folder(root / 'data')}"
    command = ["train", "--data", data, "--config", CONFIG.name, "--out", str(root / "run"), "--batch", "2"]
    command += ["--steps", "2", "--calm-share", "0", "--threads", "1", "--workers", "0", "--no-tensorboard"]
    assert main([*command, "--fit", "crop"]) == 0
    return command


@pytest.fixture(scope="module")
def checkpoint_file(crop_run: Sequence[str]) -> Path:
    return Path(crop_run[crop_run.index("--out") + 1]) / f"{CONFIG.name}.safetensors"


def test_a_run_keeps_to_its_fit(
    crop_run: Sequence[str], checkpoint_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(checkpoint_file).fit == "crop"
    assert main([*crop_run, "--resume", "--fit", "letterbox"]) == UsageError.exit_code
    assert "fit: 'crop' then, 'letterbox' now" in capsys.readouterr().err
    assert main([*crop_run, "--resume"]) == 0


class _Watched(Model):
    """A real model that keeps the frames it is given."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.bundle, model.engine)
        self.seen: list[U8] = []

    def step(self, frame: U8, state: State) -> tuple[npt.NDArray[np.float32], State]:
        self.seen.append(frame)
        return super().step(frame, state)


@pytest.mark.slow
def test_from_the_checkpoint_to_the_camera(
    checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export, verify on a video, run: all see the pixels of Model.fit, and those are cropped."""
    checkpoint = load(checkpoint_file)
    request = Request(checkpoint.config, "onnx", edges="host")
    folder = Exporter(checkpoint, tmp_path).export(request, Gate(frames=4)).folder
    assert json.loads((folder / "manifest.json").read_text())["frame"]["fit"] == "crop"
    model = _Watched(load_bundle(folder, threads=1))
    video = write_video(tmp_path / "wide.avi", wide_clip(), fps=CONFIG.train_fps)
    with VideoSource(str(video)) as source:
        camera = [timed.frame for timed in source]
    fitted = [model.fit(frame) for frame in camera]
    np.testing.assert_array_equal(fitted[5], FITS["crop"](camera[5], *SIZE))
    assert fitted[5].max() < 200 < camera[5].max()

    assert measure_all(model, checkpoint, clip=str(video), frames=4).passed
    seen = {frame.tobytes() for frame in model.seen}
    assert seen >= {frame.tobytes() for frame in fitted[:4]}
    assert not seen & {FITS["letterbox"](frame, *SIZE).tobytes() for frame in camera}

    capsys.readouterr()
    assert main(["run", str(folder), "--source", str(video), "--threads", "1", "--json", "-", "--top", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()[:-1]]
    assert [line["frame"] for line in lines] == list(range(len(camera)))
    state = model.initial_state()
    for line, frame in zip(lines, fitted):
        logits, state = model.step(frame, state)
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        found = {entry["label"]: entry["probability"] for entry in line["top"]}
        assert [found[label] for label in model.labels] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("fit", FITS)
def test_clips_are_read_with_it(fit: str, tmp_path: Path) -> None:
    """Clips of a data set and calibration's: the first row of a wide picture is black where it is letterboxed."""
    for label in LABELS[:2]:
        for number in range(MIN_CLIPS // 2):
            write_video(tmp_path / "train" / label / f"{number}.avi", wide_clip(number))
    data = open_set(f"folder:{tmp_path}", size=SIZE, fps=8.0, frames=4, cache=None, fit=fit)
    clip, _ = data.read(0, Sample(4, 8.0, 0.0), SIZE)
    checkpoint = dataclasses.replace(random_checkpoint(CONFIG, 0), fit=fit)
    samples = collect(checkpoint, str(tmp_path), clips=MIN_CLIPS, samples=4)
    for frames in (clip, samples.frames):
        assert bool(frames[:, 0].any()) == (fit == "crop")
    with pytest.raises(UsageError, match="choose one of letterbox, crop"):
        open_set(f"folder:{tmp_path}", size=SIZE, fps=8.0, frames=4, cache=None, fit="stretch")


@pytest.mark.slow
def test_evaluation_reads_as_the_checkpoint_says(checkpoint_file: Path, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    evaluate_command.add_arguments(parser)
    result = tmp_path / "result.json"
    data = f"folder:{make_folder(tmp_path / 'data')}"
    args = parser.parse_args(["--data", data, "--stream-frames", "16", "--workers", "1", "--json", str(result)])
    args.checkpoint = str(checkpoint_file)
    assert evaluate_command.run(args) == 0
    assert json.loads(result.read_text())["fit"] == "crop"


def test_rendered_frames_of_the_networks_size_are_as_they_are() -> None:
    """Golden clips do not depend on the fit, as long as frames are square."""
    ours, theirs = (rendered_stream(CONFIG, fit) for fit in FITS)
    for _ in range(3):
        np.testing.assert_array_equal(next(ours), next(theirs))
