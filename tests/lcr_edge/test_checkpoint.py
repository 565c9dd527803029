"""Checkpoints: a round trip, and every kind of file that must be refused with the fix named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lcr_edge
from lcr_edge.checkpoint import FORMAT, load, random_checkpoint, save, write_tensors
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.errors import CheckpointError, OutputError, UsageError

Parts = tuple[dict[str, torch.Tensor], dict[str, str]]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    checkpoint = random_checkpoint(get_config("lcr_pico"), 0)
    path = tmp_path / "good.safetensors"
    save(path, checkpoint.model, checkpoint.labels, {"note": "random"})
    return path


def _parts(path: Path) -> Parts:
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


def test_round_trip(good: Path) -> None:
    checkpoint = load(good)
    original = random_checkpoint(get_config("lcr_pico"), 0)
    assert checkpoint.config == original.config
    assert checkpoint.labels == original.labels
    assert checkpoint.training == {"note": "random"}
    assert not checkpoint.model.training
    for name, value in original.model.state_dict().items():
        assert torch.equal(checkpoint.model.state_dict()[name], value)
    assert isinstance(lcr_edge.load_checkpoint(good), type(original.model))


def test_how_frames_are_fitted_is_kept(good: Path, tmp_path: Path) -> None:
    original = load(good)
    assert original.fit == "letterbox"
    cropped = tmp_path / "cropped.safetensors"
    save(cropped, original.model, original.labels, {}, fit="crop")
    assert load(cropped).fit == "crop"
    assert load(cropped).config == original.config
    tensors, metadata = _parts(cropped)
    del metadata["fit"]  # as files were before the entry existed
    save_file(tensors, cropped, metadata)
    assert load(cropped).fit == "letterbox"
    with pytest.raises(UsageError, match="choose one of letterbox, crop"):
        save(cropped, original.model, original.labels, {}, fit="stretch")
    assert load().fit == "letterbox"


def test_random_weights_are_deterministic_and_nowhere_zero() -> None:
    one, two, other = (random_checkpoint(get_config("lcr_pico"), seed).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(bool(value.any()) for value in one.values())
    assert all(not torch.equal(one[name], other[name]) for name in one if not name.endswith("typical"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "does not exist"),
        ("truncated", "not a whole safetensors file"),
        ("text", "not a whole safetensors file"),
        ("folder", "does not exist"),
        ("foreign", "not a checkpoint of this lcr_edge"),
        ("nan", "NaN or Inf in norm_head.weight"),
        ("config", "do not fit config lcr_pico"),
        ("lost tensor", "do not fit config lcr_pico: norm_head.bias"),
        ("metadata", "metadata cannot be read"),
        ("labels", "3 labels for 27 classes"),
        ("fit", "fitted by 'stretch', this lcr_edge knows letterbox, crop: upgrade"),
    ],
)
def test_bad_files_are_refused(good: Path, tmp_path: Path, damage: str, message: str) -> None:
    bad = tmp_path / "bad.safetensors"
    tensors, metadata = _parts(good)
    if damage == "truncated":
        bad.write_bytes(good.read_bytes()[:-100])
    elif damage == "text":
        bad.write_text("PK this is not safetensors")
    elif damage == "folder":
        bad.mkdir()
    elif damage != "missing":
        if damage == "foreign":
            metadata = {}
        elif damage == "nan":
            tensors["norm_head.weight"][3] = float("nan")
        elif damage == "config":
            metadata["config"] = json.dumps({**json.loads(metadata["config"]), "dim": 96})
        elif damage == "lost tensor":
            del tensors["norm_head.bias"]
        elif damage == "metadata":
            metadata["config"] = "{"
        elif damage == "labels":
            metadata["labels"] = json.dumps(["a", "b", "c"])
        elif damage == "fit":
            metadata["fit"] = "stretch"
        save_file(tensors, bad, metadata)
    with pytest.raises(CheckpointError, match=message):
        load(bad)


def _doctored(good: Path, path: Path, field: str, change: object) -> Path:
    """The good checkpoint with another name, or with other labels or training."""
    tensors, metadata = _parts(good)
    if field == "name":
        change = {**json.loads(metadata["config"]), "name": change}
        field = "config"
    metadata[field] = json.dumps(change)
    save_file(tensors, path, metadata)
    return path


NAMES = ("../x", "a/b", "", ".hidden", "..", "x" * 300, "a\nb", "a\0b", "é", "a b", None, 7)
OTHER_LABELS = [f"class {i}" for i in range(26)]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_file_name_is_refused(good: Path, tmp_path: Path, name: object) -> None:
    with pytest.raises(CheckpointError, match="cannot be the name of a file") as raised:
        load(_doctored(good, tmp_path / "bad.safetensors", "name", name))
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 500 + len(str(tmp_path))
    with pytest.raises(UsageError, match="cannot be the name of a file"):
        dataclasses.replace(get_config("lcr_pico"), name=cast("str", name))


@pytest.mark.parametrize("name", ["lcr_pico", "lcr-2.1", "_", "X" * 64, "3"])
def test_usual_names_are_taken(good: Path, tmp_path: Path, name: str) -> None:
    assert load(_doctored(good, tmp_path / "other.safetensors", "name", name)).config.name == name


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("labels", [*OTHER_LABELS, "a\x1b[2Jb"], "class 26.*control character"),
        ("labels", [*OTHER_LABELS, "a\nb"], "control character"),
        ("labels", [*OTHER_LABELS, "\ud800"], "not UTF-8"),
        ("labels", [*OTHER_LABELS, ""], "1 to 255 characters"),
        ("labels", [*OTHER_LABELS, "x" * 256], "1 to 255 characters"),
        ("labels", [*OTHER_LABELS, 7], "found 7"),
        ("labels", 7, "cannot be read"),
        ("training", [1], "cannot be read"),
        ("training", {"frames": "16"}, "training frames must be a number"),
        ("training", {"frames": 1}, "from 2 to"),
        ("training", {"frames": 10**9}, "from 2 to"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(
    good: Path, tmp_path: Path, field: str, change: object, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(_doctored(good, tmp_path / "bad.safetensors", field, change))


def test_long_and_foreign_labels_are_taken(good: Path, tmp_path: Path) -> None:
    labels = [*OTHER_LABELS[:24], "x" * 255, "手を振る", "Holding something, next to something"]
    assert list(load(_doctored(good, tmp_path / "other.safetensors", "labels", labels)).labels) == labels[:27]


@pytest.mark.parametrize("name", ["../precious", "a/b", ".hidden", ""])
def test_a_name_with_a_path_writes_nothing(
    good: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export would name a folder after it, and replace one that is there."""
    out = tmp_path / "work" / "out"
    precious = tmp_path / "work" / "precious-onnx-fp32"
    precious.mkdir(parents=True)
    (precious / "manifest.json").write_text("{}")
    bad = _doctored(good, tmp_path / "bad.safetensors", "name", name)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert main(["export", "--checkpoint", str(bad), "--target", "onnx", "--out", str(out)]) == 2
    assert "cannot be the name of a file" in capsys.readouterr().err
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert (precious / "manifest.json").read_text() == "{}"


def test_only_what_the_system_refuses_becomes_an_output_error(good: Path, tmp_path: Path) -> None:
    """A mistake in the tensors is not put down to the disk."""
    model = load(good).model
    with pytest.raises(Exception, match="str") as raised:
        write_tensors(tmp_path / "x.safetensors", model.state_dict(), {"a": cast("str", 7)})
    assert not isinstance(raised.value, OutputError)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.slow
def test_a_failed_write_keeps_the_old_file(good: Path) -> None:
    """A file size limit stands in for a full disk."""
    before = good.read_bytes()
    code = (
        "import resource, signal, sys\n"
        "from lcr_edge.checkpoint import random_checkpoint, save\n"
        "from lcr_edge.config import get_config\n"
        "from lcr_edge.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "c = random_checkpoint(get_config('lcr_pico'), 1)\n"
        "try:\n"
        "    save(sys.argv[1], c.model, c.labels, {})\n"
        "except OutputError as error:\n"
        "    sys.exit(0 if 'free some space' in str(error) else 3)\n"
        "sys.exit(4)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(good)], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0
    assert good.read_bytes() == before
    assert [path.name for path in good.parent.iterdir()] == [good.name]


def test_an_unwritable_folder_is_named(good: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    model = load(good).model
    with pytest.raises(OutputError, match="choose another folder"):
        save(blocked / "x.safetensors", model, (), {})


def test_the_format_is_in_the_file(good: Path) -> None:
    assert _parts(good)[1]["format"] == FORMAT
