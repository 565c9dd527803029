"""The record of a run: exact numbers, the same file after a kill and a resume, readable events and picture."""

from __future__ import annotations

import contextlib
import csv
import math
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

from lcr_edge.errors import OutputError, UsageError
from lcr_edge.plots import plot_curve
from lcr_edge.training import metrics
from lcr_edge.training.metrics import MetricsLog

# Written in a process of its own, which can be killed or given little room.
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from tests.training.test_metrics import values
from lcr_edge.training.metrics import MetricsLog
log = MetricsLog(Path({folder!r}), None, tensorboard=False)
{limit}
for step in range(1, 10 ** 6):
    log.write(step, values(step))
    if step == 200:
        print("written", flush=True)
"""


def values(step: int) -> dict[str, float]:
    return {"loss": math.exp(-step / 70) / 3, "accuracy": step / (step + 100), "learning_rate": 1e-3 / step}


def _write(
    folder: Path, first: int, last: int, resume: int | None, tensorboard: bool = False, draw: bool = False
) -> bytes:
    """metrics.csv with these steps. draw: the picture too, which takes longer than all the rest."""
    log = MetricsLog(folder, resume, tensorboard)
    with log, contextlib.nullcontext() if draw else mock.patch.object(metrics, "plot_curve"):
        for step in range(first, last + 1):
            log.write(step, values(step))
        log.close()
    return (folder / "metrics.csv").read_bytes()


def _writer(folder: Path, limit: str = "") -> subprocess.Popen[str]:
    here = str(Path(__file__).resolve().parents[2])
    code = WRITER.format(here=here, folder=str(folder), limit=limit)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_numbers_read_back_exactly(tmp_path: Path) -> None:
    _write(tmp_path, 1, 30, None)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 31))
    for row in rows:
        assert {name: float(row[name]) for name in values(1)} == values(int(row["step"]))


@pytest.mark.parametrize("resume", [7, *(pytest.param(step, marks=pytest.mark.slow) for step in (0, 1, 20))])
def test_a_resumed_record_equals_an_uninterrupted_one(tmp_path: Path, resume: int) -> None:
    whole = _write(tmp_path / "whole", 1, 25, None)
    _write(tmp_path / "parts", 1, 20, None)
    assert _write(tmp_path / "parts", resume + 1, 25, resume) == whole


def test_a_new_record_replaces_an_old_one(tmp_path: Path) -> None:
    _write(tmp_path, 1, 9, None)
    assert _write(tmp_path, 1, 3, None).count(b"\n") == 4


def test_a_row_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    whole = _write(tmp_path, 1, 12, None)
    row = len(whole.splitlines(keepends=True)[-1])
    for cut in (1, row // 2, row - 1, row):
        (tmp_path / "metrics.csv").write_bytes(whole[:-cut])
        assert _write(tmp_path, 12, 12, 11) == whole


def test_a_killed_process_leaves_a_record_that_can_be_resumed(tmp_path: Path) -> None:
    process = _writer(tmp_path / "killed")
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    time.sleep(0.05)  # so that it is in the middle of its rows
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "metrics.csv").read_bytes().count(b"\n") > 200
    assert _write(tmp_path / "killed", 151, 160, 150) == _write(tmp_path / "whole", 1, 160, None)


def test_a_file_that_cannot_grow_is_an_error_and_can_be_resumed(tmp_path: Path) -> None:
    # As on a full disk: the system writes what fits of a row and then nothing.
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (2001, resource.RLIM_INFINITY))"
    _, error = _writer(tmp_path / "full", limit).communicate(timeout=60)
    assert "OutputError" in error
    assert "free space" in error
    found = (tmp_path / "full" / "metrics.csv").read_bytes()
    assert len(found) == 2001
    assert not found.endswith(b"\n")
    assert _write(tmp_path / "full", 9, 12, 8) == _write(tmp_path / "whole", 1, 12, None)


def test_other_columns_and_other_files_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, 1, 3, None)
    with MetricsLog(tmp_path, 3, tensorboard=False) as log:
        with pytest.raises(UsageError, match="has the columns loss, accuracy, learning_rate"):
            log.write(4, {"loss": 1.0})
        log.write(4, dict(reversed(values(4).items())))  # the order does not matter
    assert _write(tmp_path, 5, 6, 4) == _write(tmp_path / "whole", 1, 6, None)
    for text in ("name,loss\na,1\n", "step,loss\n1,2\n1,3\n", "step,loss\n1,2,3\n", "step,loss\nx,2\n"):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(UsageError, match="move"):
            MetricsLog(tmp_path, 3, tensorboard=False)
        assert (tmp_path / "metrics.csv").read_text() == text


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another --out"):
        MetricsLog(tmp_path / "file" / "run", None, tensorboard=False)


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    _write(tmp_path, 1, 300, None, draw=True)
    picture = cv2.imread(str(tmp_path / "curve.png"))
    assert picture is not None
    assert picture.shape == (840, 800, 3)
    blue = (picture == (180, 119, 31)).all(axis=-1)  # the first colour of matplotlib's cycle, BGR
    assert all(int(panel.sum()) > 100 for panel in np.array_split(blue, 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "metrics.csv"]


def test_a_curve_with_gaps_and_without_known_columns(tmp_path: Path) -> None:
    source, png = tmp_path / "metrics.csv", tmp_path / "curve.png"
    source.write_text("step,loss\n1,nan\n2,inf\n3,0.5\n4,0.25\n")
    plot_curve(source, png)
    picture = cv2.imread(str(png))
    assert picture is not None
    assert picture.shape == (320, 800, 3)
    source.write_text("step,speed\n1,2\n")
    plot_curve(source, png)
    for text in ("", "step,loss\n1\n", "step,loss\n1,x\n"):
        source.write_text(text)
        with pytest.raises(UsageError, match=r"metrics\.csv of a training run"):
            plot_curve(source, png)


def test_events_hold_the_same_numbers_and_a_resume_says_from_where(tmp_path: Path) -> None:
    _write(tmp_path, 1, 20, None, tensorboard=True)
    (first,) = (tmp_path / "tensorboard").iterdir()
    assert _scalars(first) == {
        (name, step): np.float32(value) for step in range(1, 21) for name, value in values(step).items()
    }
    _write(tmp_path, 11, 22, 10, tensorboard=True)
    (second,) = set((tmp_path / "tensorboard").iterdir()) - {first}
    assert {step for _, step in _scalars(second)} == set(range(11, 23))
    assert _starts(second) == [11]
    assert _starts(first) == []


def test_without_optional_packages_the_csv_is_written_and_the_loss_is_said_once(tmp_path: Path) -> None:
    code = (
        "import sys\nfor name in ('tensorboardX', 'matplotlib'): sys.modules[name] = None\n"
        "from pathlib import Path\nfrom lcr_edge.training.metrics import MetricsLog\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with MetricsLog(folder, None, tensorboard=True) as log:\n"
        "    for step in range(3): log.write(step, {'loss': 1.0})\n"
        "assert 'torch' not in sys.modules\n"
        "from lcr_edge.plots import plot_curve\nfrom lcr_edge.errors import MissingExtraError\n"
        "try: plot_curve(folder / 'metrics.csv', folder / 'x.png')\n"
        "except MissingExtraError: pass\nelse: raise SystemExit('drew without matplotlib')\n"
    )
    here = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tensorboardX is not installed") == 1
    assert done.stderr.count("matplotlib is not installed") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,1.0\n1,1.0\n2,1.0\n"


def _events(path: Path) -> list[bytes]:
    """The records of an events file: length, its checksum, content, checksum of that."""
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        found.append(data[place + 12 : place + 12 + length])
        place += 16 + length
    return found


def _scalars(path: Path) -> dict[tuple[str, int], float]:
    from tensorboardX.proto.event_pb2 import Event

    events = [Event.FromString(record) for record in _events(path)]
    return {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}


def _starts(path: Path) -> list[int]:
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    events = [Event.FromString(record) for record in _events(path)]
    return [event.step for event in events if event.session_log.status == SessionLog.START]
