"""What export writes, and that it writes all of it or nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.contract import input_specs, output_specs
from lcr_edge.errors import OutputError
from lcr_edge.export.staging import staged
from lcr_edge.export.targets.table import TARGETS
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.golden import read_golden
from lcr_edge.runtimes.selftest import selftest
from tests.export import made

ROOT = Path(__file__).resolve().parents[2]
EXPORT = [sys.executable, "-m", "lcr_edge.export", "--target", "onnx", "--config", "lcr_pico", "--random-weights"]


@pytest.mark.parametrize("target", list(TARGETS))
def test_a_bundle_holds_what_the_design_says(target: str) -> None:
    folder = made.bundle("lcr_pico", target)
    assert folder.name == f"lcr_pico-{target}-fp32"
    files = {path.name for path in folder.iterdir()}
    own = {"golden.bin"} if TARGETS[target].golden else set()
    assert files == {*TARGETS[target].files, "manifest.json", "golden.npz", "parity.json", *own}
    bundle = read_bundle(folder)
    assert bundle.inputs == input_specs(bundle.config, bundle.edges)
    assert bundle.outputs == output_specs(bundle.config)
    assert bundle.manifest["required_ops"]
    assert bundle.producer("lcr_edge") != "unknown"
    golden = read_golden(bundle)
    assert len(golden.frames) == 16
    assert (golden.state_c[-1] != golden.state_c[-2]).any()
    assert json.loads((folder / "parity.json").read_text())["passed"] is True
    assert selftest(folder, threads=1).passed


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_no_path_of_this_machine_is_in_a_bundle(target: str) -> None:
    for path in made.bundle("lcr_pico", target).iterdir():
        content = path.read_bytes()
        assert str(ROOT).encode() not in content
        assert str(Path(sys.prefix)).encode() not in content


def test_a_staged_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with staged(tmp_path, "x") as folder:
            (folder / "file").write_text(text)
            if text == "second":
                assert (tmp_path / "x" / "file").read_text() == "first"
        assert (tmp_path / "x" / "file").read_text() == text
        assert _names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_raises_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    with staged(tmp_path, "x") as folder:
        (folder / "file").write_text("first")
    with pytest.raises(error):
        _stage_and_raise(tmp_path, error)
    assert (tmp_path / "x" / "file").read_text() == "first"
    assert _names(tmp_path) == ["x"]


def test_an_old_bundle_left_aside_by_a_killed_export_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / ".x.123.0123456789abcdef.old"
    aside.mkdir()
    (aside / "file").write_text("old")
    with pytest.raises(RuntimeError):
        _stage_and_raise(tmp_path, RuntimeError)
    assert _names(tmp_path) == ["x"]
    assert (tmp_path / "x" / "file").read_text() == "old"


def test_other_folders_are_let_alone(tmp_path: Path) -> None:
    others = {".x.notes.new", ".x-y.1.0123456789abcdef.new", "x-y"}
    for name in others:
        (tmp_path / name).mkdir()
    with staged(tmp_path, "x"):
        pass
    assert set(_names(tmp_path)) == {*others, "x"}


def test_two_exports_of_one_bundle_at_a_time_are_refused(tmp_path: Path) -> None:
    with staged(tmp_path, "x"), pytest.raises(OutputError, match="another export"), staged(tmp_path, "x"):
        pytest.fail("both were let in")
    assert _names(tmp_path) == ["x"]


def test_a_link_in_place_of_a_temporary_folder_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".x.1.0123456789abcdef.new").symlink_to(mine)
    with staged(out, "x"):
        pass
    assert _names(out) == ["x"]
    assert (mine / "file").read_text() == "mine"


STAGING = """
import sys
from pathlib import Path
from lcr_edge.errors import OutputError
from lcr_edge.export.staging import staged
written = 0
for number in range(100):
    try:
        with staged(Path(sys.argv[1]), "x") as folder:
            (folder / "file").write_text("whole")
        written += 1
    except OutputError as error:
        assert "another export" in str(error), error
print(written)
"""


def test_exports_that_start_together_write_or_are_refused(tmp_path: Path) -> None:
    """Each of three processes meets the temporary folders of the others in every state that these pass through."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STAGING, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    assert sum(int(out) for out, _ in ended) > 0
    assert _names(tmp_path) == ["x"]
    assert (tmp_path / "x" / "file").read_text() == "whole"


def test_a_folder_that_vanishes_meanwhile_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="--out"), staged(out, "x"):
        out.rename(tmp_path / "before the end")
    with pytest.raises(OutputError, match="--out"):
        _move_and_write(out, tmp_path / "before a file")


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="--out"), staged(tmp_path / "out", "x"):
        pytest.fail("it was let in")


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="free some space"), staged(tmp_path, "x"):
        Path("/dev/full").write_bytes(b"x")
    assert _names(tmp_path) == []


@pytest.mark.slow
def test_a_limit_on_file_sizes_stops_the_export_cleanly(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["bash", "-c", 'ulimit -f 200 && exec "$@"', "bash", *EXPORT, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 2
    assert os.strerror(errno.EFBIG) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert _names(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_export_cut_short_leaves_the_old_bundle_and_the_next_one_cleans_up(
    tmp_path: Path, signal_number: int, status: int
) -> None:
    old = tmp_path / "lcr_pico-onnx-fp32"
    old.mkdir()
    (old / "file").write_text("old")
    with subprocess.Popen(
        [*EXPORT, "--out", str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".*.new")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(signal_number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == status
    assert "Traceback" not in errors
    assert (old / "file").read_text() == "old"
    if signal_number == signal.SIGINT:
        assert _names(tmp_path) == [old.name]
    else:
        assert len(_names(tmp_path)) == 2
        with staged(tmp_path, old.name) as folder:
            (folder / "file").write_text("new")
        assert _names(tmp_path) == [old.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="permissions"), staged(tmp_path, "x"):
            pytest.fail("it was let in")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_nobody_may_write_is_named() -> None:
    # Not even root makes folders in /proc.
    with pytest.raises(OutputError, match="--out"), staged(Path("/proc/lcr_edge"), "x"):
        pytest.fail("it was let in")


def test_golden_states_are_those_of_the_reference() -> None:
    """Two bundles of one network hold the same golden clip: the engines had no part in it."""
    first, second = (read_golden(read_bundle(made.bundle("lcr_pico", target))) for target in ("onnx", "tflite"))
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.state_h, second.state_h)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _move_and_write(out: Path, elsewhere: Path) -> None:
    with staged(out, "x") as folder:
        out.rename(elsewhere)
        (folder / "file").write_text("too late")


def _stage_and_raise(out: Path, error: type[BaseException]) -> None:
    with staged(out, "x") as folder:
        (folder / "file").write_text("half")
        raise error
