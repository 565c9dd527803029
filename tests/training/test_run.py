"""``lcr-edge train`` on tiny data sets in every layout: it learns, it can be killed and resumed, bad input is named."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lcr_edge.checkpoint import load, random_checkpoint, save
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.errors import CheckpointError, UsageError
from lcr_edge.training import run_state
from lcr_edge.training.loss import Learner
from lcr_edge.training.processes import choose_device
from lcr_edge.training.stopping import StopRequest
from tests.data.made import LABELS, make_folder, make_jester, make_kinetics, make_ssv2

SMALL = (
    "--config",
    "lcr_pico",
    "--batch",
    "4",
    "--clip-frames",
    "8",
    "--threads",
    "1",
    "--workers",
    "0",
    "--no-tensorboard",
    "--calm-share",  # has its own tests, in test_calming.py
    "0",
)
LAYOUTS: dict[str, Callable[..., Path]] = {
    "jester": make_jester,
    "ssv2": make_ssv2,
    "kinetics": make_kinetics,
    "folder": make_folder,
}


def _command(out: Path, data: str, *options: str) -> list[str]:
    return ["train", "--data", data, "--out", str(out), *SMALL, *options]


def _train(out: Path, data: str, *options: str) -> int:
    return main(_command(out, data, *options))


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def _spawn(out: Path, data: str, *options: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-m", "lcr_edge", *_command(out, data, *options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"folder:{make_folder(tmp_path_factory.mktemp('folder'))}"


@pytest.mark.slow
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_loss_falls_on_every_layout(layout: str, tmp_path: Path) -> None:
    data = f"{layout}:{LAYOUTS[layout](tmp_path / 'data')}"
    out = tmp_path / "run"
    # Not augmented and from zero states: so few clips must be learned by heart quickly.
    options = ("--steps", "40", "--lr", "4e-3", "--no-augment", "--carry-state", "0", "--ema", "0")
    assert _train(out, data, *options) == 0
    losses = [float(row["loss"]) for row in _rows(out)]
    assert losses[-1] < 0.8 * losses[0], losses
    checkpoint = load(out / "lcr_pico.safetensors")
    assert checkpoint.config == get_config("lcr_pico", classes=2)
    assert sorted(checkpoint.labels) == sorted(LABELS[:2])
    assert checkpoint.training["steps"] == 40
    assert (out / "curve.png").stat().st_size > 1000


OPTIONS = ("--steps", "30", "--save-every", "4", "--tube-mask", "0.25", "--optimiser", "muon")


def _step_of(folder: Path) -> int:
    """The step of a state that a process may replace while it is read, which opens the file twice; 0 where it was."""
    try:
        return run_state.read(folder).step
    except CheckpointError:
        return 0


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_is_the_same_run(folder: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _train(whole, folder, *OPTIONS) == 0
    kills = 0
    while True:
        resume = ("--resume",) if (killed / run_state.NAME).is_file() else ()
        process = _spawn(killed, folder, *OPTIONS, *resume)
        before = run_state.read(killed).step if resume else 0
        while kills < 2 and process.poll() is None:
            # Not at a fixed step: anywhere after the first checkpoint of this process, writing one perhaps.
            if (killed / run_state.NAME).is_file() and _step_of(killed) > before:
                time.sleep(0.05 * kills)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
    assert kills == 2
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    one, two = (run_state.read(out) for out in (whole, killed))
    assert one.step == two.step == 30
    for group in one.tensors:
        assert one.tensors[group].keys() == two.tensors[group].keys()
        for name, value in one.tensors[group].items():
            assert torch.equal(value, two.tensors[group][name]), f"{group}: {name}"
    assert {"learner", "average", "optimiser", "streams"} <= one.tensors.keys()
    first, second = (load(out / "lcr_pico.safetensors").model.state_dict() for out in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_run_can_be_stopped_and_is_the_same_with_other_workers(folder: str, tmp_path: Path) -> None:
    options = ("--steps", "24", "--save-every", "24")
    assert _train(tmp_path / "whole", folder, *options) == 0
    assert _train(tmp_path / "parts", folder, *options, "--stop-after", "7") == 0
    assert _train(tmp_path / "parts", folder, *options, "--resume", "--workers", "1") == 0
    assert _rows(tmp_path / "whole") == _rows(tmp_path / "parts")
    assert _train(tmp_path / "parts", folder, *options, "--resume") == 0  # nothing left to do
    assert [row["step"] for row in _rows(tmp_path / "parts")] == ["20", "24"]


def test_another_run_is_not_resumed(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--steps", "4", "--stop-after", "2")
    out = tmp_path / "run"
    assert _train(out, folder, *options, "--resume") == 2
    assert "leave out --resume" in capsys.readouterr().err
    assert _train(out, folder, *options) == 0
    whole = (out / run_state.NAME).read_bytes()
    assert _train(out, folder, *options) == 2
    assert "add --resume" in capsys.readouterr().err
    assert _train(out, folder, *options, "--resume", "--lr", "1") == 2
    assert "lr: 0.002 then, 1.0 now" in capsys.readouterr().err
    assert _train(out, folder, *options, "--resume", "--variant", "paper") == 2
    assert "config" in capsys.readouterr().err
    other = make_folder(tmp_path / "other", classes=3, clips=2)
    assert _train(out, f"folder:{other}", *options, "--resume") == 2
    assert "data" in capsys.readouterr().err
    assert (out / run_state.NAME).read_bytes() == whole
    (out / run_state.NAME).write_bytes(whole[:1000])
    assert _train(out, folder, *options, "--resume") == 2
    assert "start the run again" in capsys.readouterr().err


def test_weights_to_start_from(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = random_checkpoint(get_config("lcr_pico"), 0)
    path = tmp_path / "start.safetensors"
    save(path, source.model, source.labels, {})
    options = ("--init", str(path), "--steps", "1", "--lr", "0", "--ema", "0")
    assert _train(tmp_path / "a", folder, *options) == 2
    assert "--new-head" in capsys.readouterr().err
    assert _train(tmp_path / "a", folder, *options, "--new-head") == 0
    trained = load(tmp_path / "a" / "lcr_pico.safetensors")
    assert trained.training["init"] == str(path)
    for name, value in source.model.state_dict().items():
        if not name.startswith("classify.") and not name.endswith("typical"):
            assert torch.equal(trained.model.state_dict()[name], value), name
    assert _train(tmp_path / "b", folder, *options, "--config", "lcr_nano") == 2
    assert "use --config lcr_pico" in capsys.readouterr().err
    assert _train(tmp_path / "a", folder, *options, "--new-head", "--resume") == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert _train(tmp_path / "a", folder, "--init", "other.safetensors", *options[2:], "--resume") == 2
    assert f"started from {path}, not from other.safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_frames_are_fitted_as_those_that_the_weights_have_seen(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random_checkpoint(get_config("lcr_pico"), 0)
    path = tmp_path / "start.safetensors"
    save(path, source.model, source.labels, {}, fit="crop")
    one, begin = ("--steps", "2", "--lr", "0"), ("--init", str(path), "--new-head")
    assert _train(tmp_path / "kept", folder, *one, *begin, "--stop-after", "1") == 0
    assert load(tmp_path / "kept" / "lcr_pico.safetensors").fit == "crop"
    assert "--fit" not in capsys.readouterr().out
    assert _train(tmp_path / "kept", folder, *one, "--resume", "--fit", "letterbox") == 2
    assert "fit: 'crop' then, 'letterbox' now" in capsys.readouterr().err
    assert _train(tmp_path / "kept", folder, *one, "--resume") == 0
    assert load(tmp_path / "kept" / "lcr_pico.safetensors").fit == "crop"
    capsys.readouterr()
    assert _train(tmp_path / "other", folder, *one, *begin, "--fit", "letterbox") == 0
    assert load(tmp_path / "other" / "lcr_pico.safetensors").fit == "letterbox"
    assert f"{path} was trained with --fit crop; this run uses letterbox" in capsys.readouterr().out
    assert _train(tmp_path / "plain", folder, *one) == 0
    assert load(tmp_path / "plain" / "lcr_pico.safetensors").fit == "letterbox"


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_batch(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert _train(out, folder, "--steps", "40", "--save-every", "1", "--lr", "1e30", "--weight-decay", "0") == 2
    message = capsys.readouterr().err
    assert "the gradient's norm" in message
    assert "lower --lr" in message
    (kept,) = out.glob("nan-step*.safetensors")
    with safe_open(str(kept), framework="pt") as file:
        assert file.get_tensor("frames").shape[2:] == (64, 64, 3)
        assert file.metadata()["step"] in kept.name
    assert run_state.read(out).step == int(kept.name[len("nan-step") :].split("-")[0])


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before_it(folder: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--steps", "6", "--save-every", "2")
    assert _train(out, folder, *options, "--stop-after", "2") == 0
    kept = {name: (out / name).read_bytes() for name in (run_state.NAME, "lcr_pico.safetensors")}
    # Bytes a file may have: enough for metrics.csv, not for a network. The process sets it itself: to fork this one,
    # which may have loaded libraries with threads, is not safe.
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "sys.argv[0] = 'lcr-edge'; runpy.run_module('lcr_edge', run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, *_command(out, folder, *options, "--resume")]
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 2, result.stderr
    assert "unchanged" in result.stderr
    assert "Traceback" not in result.stderr
    assert {name: (out / name).read_bytes() for name in kept} == kept
    assert _train(out, folder, *options, "--resume") == 0
    assert run_state.read(out).step == 6


@pytest.mark.slow
def test_unreadable_clips_are_reported_and_too_many_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "data", clips=8)
    bad = sorted((root / "train").rglob("*.mp4"))
    bad[3].write_bytes(b"not a video")
    assert _train(tmp_path / "one", f"folder:{root}", "--steps", "8") == 0
    assert bad[3].name in capsys.readouterr().err
    for path in bad[:8]:
        path.write_bytes(b"not a video")
    assert _train(tmp_path / "many", f"folder:{root}", "--steps", "8") == 2
    assert "--max-corrupt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "0"), "--steps must be at least 1, got 0"),
        (("--clip-frames", "1"), "--clip-frames must be from 2 to 10000, got 1"),
        (("--clip-gradient", "0"), "--clip-gradient must be above 0, got 0.0"),
        (("--full-rate", "0", "1.5"), "--full-rate must be from 0 to 1, got 0.0 1.5"),
        (("--weight-decay", "inf"), "--weight-decay must be at least 0, got inf"),
        (("--workers", "-1"), "--workers must be at least 0"),
        (("--threads", "0"), "--threads must be at least 1"),
        (("--max-corrupt", "-0.1"), "--max-corrupt must be from 0 to 1"),
        (("--stop-after", "0"), "--stop-after must be at least 1"),
        (("--tube-mask", "1"), "--tube-mask must be at least 0 and below 1"),
        (("--carry-state", "1.5"), "--carry-state must be from 0 to 1"),
        (("--lr", "nan"), "--lr must be at least 0, got nan"),
        (("--seed", "100000000000000"), "--seed must be from 0 to 4294967295"),
        (("--calm-share", "2"), "--calm-share must be from 0 to 1"),
        (("--backgrounds", "none.mp4"), "--backgrounds stand behind rendered people only"),
        (("--new-head",), "--new-head replaces the classifier of --init"),
        (("--carry-state", "1", "--tube-mask", "0.5"), "no clip ever gets a new tube mask"),
        (("--init", "vrwkv:none.pth"), "none.pth does not exist"),
        (("--config", "lcr_giant"), "lcr_nano"),
        (("--variant", "other"), "paper"),
        (("--data", "videos:here"), "jester"),
        (("--data", "folder:/nowhere/at/all"), "/nowhere/at/all"),
        (("--init", "none.safetensors"), "does not exist"),
    ],
)
def test_bad_arguments_are_named(
    options: tuple[str, ...], message: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(tmp_path / "run", folder, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / run_state.NAME).exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(tmp_path / "run", folder, "--device", "cuda") == 2
    assert "--device cpu" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_named(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert _train(tmp_path / "file" / "run", folder, "--steps", "1") == 2
    assert "another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_residual_cell_can_be_trained_with_carried_states(tmp_path: Path) -> None:
    # Its C grows by about three orders of magnitude a clip; a row that has gone too far starts afresh.
    options = ("--variant", "paper", "--steps", "20", "--full-rate", "1", "1", "--carry-state", "0.9")
    data = f"folder:{make_folder(tmp_path / 'data')}"
    assert _train(tmp_path / "run", data, *options) == 0
    streams = run_state.read(tmp_path / "run").tensors["streams"]
    assert torch.isfinite(streams["c"]).all()
    assert _rows(tmp_path / "run")[-1]["step"] == "20"


def test_a_gradient_that_is_not_a_number_is_never_applied(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def spoil(parameters: object, _limit: float) -> torch.Tensor:
        calls.append(parameters)
        return torch.tensor(float("inf") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoil)
    out = tmp_path / "run"
    assert _train(out, folder, "--steps", "5", "--save-every", "1") == 2
    assert "the gradient's norm inf" in capsys.readouterr().err
    assert run_state.read(out).step == 2
    load(out / "lcr_pico.safetensors")  # refuses NaN


def test_memory_that_runs_out_says_what_to_lower(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Learner, "forward", out_of_memory)
    assert _train(tmp_path / "run", folder, "--steps", "2") == 2
    assert "lower --batch or --clip-frames, raise --tube-mask" in capsys.readouterr().err


def test_a_gpu_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("is_available", True),
        ("device_count", 1),
        ("get_device_capability", (5, 2)),
        ("get_device_name", "an old card"),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    with pytest.raises(UsageError, match=r"an old card has compute capability 5.2.* --device cpu"):
        choose_device("auto")
    with pytest.raises(UsageError, match="lower torchrun's --nproc-per-node"):
        choose_device("auto", local_rank=1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_the_command_that_is_printed_goes_on(
    number: signal.Signals, folder: str, tmp_path: Path
) -> None:
    options = ("--steps", "30", "--save-every", "30", "--workers", "1")
    assert _train(tmp_path / "whole", folder, *options) == 0
    out = tmp_path / "run"
    process = _spawn(out, folder, *options)
    while process.poll() is None and not (out / "metrics.csv").is_file():
        time.sleep(0.01)
    time.sleep(0.3)  # somewhere in the run: before its first step, if the machine is slow
    process.send_signal(number)
    printed, errors = process.communicate()
    assert process.returncode == 128 + number, errors
    assert "stopping after this step" in errors
    step = run_state.read(out).step
    assert step < 30
    assert f"stopped after step {step} of 30" in printed
    command = shlex.split(printed.splitlines()[-2])
    assert printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert "was stopped and saved" in (out / "report.html").read_text()
    assert command[:2] == ["lcr-edge", "train"]
    assert main(command[1:]) == 0
    assert (out / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_a_second_signal_ends_the_run_at_once() -> None:
    with StopRequest() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.signal == signal.SIGINT
        signal.raise_signal(signal.SIGTERM)  # as quick as from a program that passes it on: the same request
        time.sleep(0.6)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            signal.raise_signal(signal.SIGINT)
            assert request.signal is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
