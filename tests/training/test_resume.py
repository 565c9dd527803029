"""What a killed run leaves behind can be resumed exactly, or started again, or is refused: one test for each way."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from lcr_edge.checkpoint import write_tensors
from lcr_edge.cli import main
from lcr_edge.errors import CheckpointError, UsageError
from lcr_edge.files import written_atomically
from lcr_edge.training import metrics, run_state
from lcr_edge.training.holding import LOCK, holding
from lcr_edge.training.loop import Trainer
from lcr_edge.training.metrics import MetricsLog
from lcr_edge.training.stopping import resume_command
from tests.data.made import make_folder

SMALL = (
    "--config", "lcr_pico", "--batch", "2", "--clip-frames", "4", "--threads", "1", "--workers", "0",
    "--calm-share", "0", "--no-tensorboard", "--steps", "4", "--save-every", "2", "--look-every", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("resume"), clips=2)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert _train(out, data) == 0
    return out


def _train(out: Path, data: Path, *options: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), *SMALL, *options])


class _Killed(BaseException):
    """Ends a command as a kill does, at least for the files: nothing of ours catches it."""


def _kill_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> None:
    """Let call number ``call`` of a function, from 1, kill in place of doing its work."""
    real: Callable[..., object] = getattr(owner, name)
    calls = []

    def killed(*arguments: object, **named: object) -> object:
        calls.append(name)
        if len(calls) == call:
            raise _Killed
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, killed)


def _same(one: Path, other: Path) -> None:
    names = (
        "lcr_pico.safetensors",
        "lcr_pico-best.safetensors",
        "metrics.csv",
        "run.safetensors",
        "lcr_pico.judge.npz",
    )
    different = [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]
    assert not different


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (run_state, "write", 1),
        (run_state, "write", 2),
        (run_state, "write", 3),
        (Trainer, "save_network", 1),
        (Trainer, "save_network", 2),
        (Trainer, "save_network", 3),
        (MetricsLog, "write", 2),
        (metrics, "plot_curve", 1),
    ],
)
def test_a_kill_between_two_writes_loses_nothing(
    owner: object, name: str, call: int, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        _kill_at(patch, owner, name, call)
        with pytest.raises(_Killed):
            _train(out, data)
    begun = (out / run_state.NAME).is_file()
    assert _train(out, data, *(("--resume",) if begun else ())) == 0
    assert (out / "curve.png").is_file()
    _same(out, whole)


def test_the_first_step_is_saved(data: Path, tmp_path: Path) -> None:
    assert _train(tmp_path / "run", data, "--save-every", "100", "--stop-after", "1") == 0
    assert run_state.read(tmp_path / "run").step == 1


def test_a_complete_run_that_lacks_a_file_gets_it(data: Path, whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    for name in ("lcr_pico.safetensors", "curve.png"):
        (out / name).unlink()
    assert _train(out, data, "--resume") == 0
    assert (out / "curve.png").is_file()
    _same(out, whole)


def _drop(group: str) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        path = Path(os.environ["LCR_TEST_STATE"])
        with safe_open(str(path), framework="pt") as file:
            kept = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(group)}  # noqa: SIM118
        return to_bytes(kept, header["__metadata__"])

    return changed


def _flip(content: bytes) -> bytes:
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


def _other_progress(content: bytes) -> bytes:
    return content.replace(b'\\"seen\\": 0', b'\\"seen\\": 2')


@pytest.mark.parametrize(
    "change", [_drop("optimiser:"), _drop("streams:"), _drop("average:"), _flip, _other_progress],
    ids=["no optimiser", "no streams", "no average", "one bit", "another number"],
)  # fmt: skip
def test_a_damaged_state_is_refused(
    change: Callable[[bytes], bytes],
    data: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    path = out / run_state.NAME
    monkeypatch.setenv("LCR_TEST_STATE", str(path))
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    with pytest.raises(CheckpointError, match="digest"):
        run_state.read(out)
    assert _train(out, data, "--resume") == 2
    assert "start the run again in another --out" in capsys.readouterr().err


def test_temporary_files_of_a_killed_save_are_removed(data: Path, whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    before = sorted(path.name for path in out.iterdir())
    named = ["run.safetensors", "lcr_pico.safetensors", "lcr_pico-best.safetensors", "metrics.csv", "curve.png"]
    for name in [*named, "lcr_pico.judge.npz"]:
        keep = tmp_path / "keep"
        with written_atomically(out / name) as temporary:  # the writer itself says what its files are called
            temporary.write_bytes((out / name).read_bytes())
            shutil.copy(temporary, keep)
            left = temporary
        shutil.move(keep, left)
    own = out / ".notes.tmp"
    own.write_text("of somebody else")
    assert _train(out, data, "--resume") == 0
    assert sorted(path.name for path in out.iterdir()) == sorted([*before, own.name])


def test_a_resume_that_is_refused_changes_nothing(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The judge pack too: the networks in the folder hold its digest."""
    out = shutil.copytree(whole, tmp_path / "run")
    other = make_folder(tmp_path / "other", clips=3)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert _train(out, other, "--resume") == 2
    assert "data" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


_HOLDER = """
import pathlib, sys
from lcr_edge.training.holding import holding
with holding(pathlib.Path(sys.argv[1])):
    print(1, flush=True)
    input()
"""


@pytest.mark.slow
def test_two_processes_do_not_train_into_one_folder(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    with holding(out):
        assert _train(out, data, "--resume") == 2
        assert "another process is training into" in capsys.readouterr().err
    command = [sys.executable, "-c", _HOLDER, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert _train(out, data, "--resume") == 2
        process.kill()
    assert (out / LOCK).is_file()
    assert _train(out, data, "--resume") == 0
    assert not (out / LOCK).exists()


def test_a_folder_is_held_from_before_the_data_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing clips takes minutes, in which a second run must not begin."""
    out, seen = tmp_path / "run", []

    def look(*_: object, **__: object) -> None:
        with pytest.raises(UsageError, match="another process"), holding(out):
            pass
        seen.append(out.is_dir())
        raise UsageError("far enough")

    monkeypatch.setattr("lcr_edge.training.command.open_set", look)
    assert main(["train", "--out", str(out)]) == UsageError.exit_code
    assert seen == [True]
    assert not out.exists(), "an empty folder was left"


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = fcntl.flock, []

    def flock(handle: int, how: int) -> None:
        whole(handle, how)
        calls.append(handle)
        if len(calls) == 1:  # the one that held it ends just now
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with holding(tmp_path):
        assert len(calls) == 2
        with pytest.raises(UsageError, match="another process"), holding(tmp_path):
            pass
    assert not (tmp_path / LOCK).exists()


def test_equal_networks_are_equal_files(tmp_path: Path) -> None:
    """safetensors orders the metadata anew in every call."""
    tensors, metadata = {"a": torch.arange(3.0), "b": torch.ones(())}, {k: k for k in "abcdefgh"}
    found = set()
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        write_tensors(path, tensors, metadata)
        found.add(path.read_bytes())
        with safe_open(str(path), framework="pt") as file:
            assert file.metadata() == metadata
            assert all(torch.equal(file.get_tensor(name), value) for name, value in tensors.items())
    assert len(found) == 1


def test_the_printed_command_starts_as_many_processes() -> None:
    words = ["--data", "my clips", "--out", "run", "--resume"]
    assert resume_command("lcr-edge train", words) == "lcr-edge train --data 'my clips' --out run --resume"
    assert resume_command("lcr-edge train", words, 2).startswith("torchrun --nproc-per-node 2 -m lcr_edge train --data")
