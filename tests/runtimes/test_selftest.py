"""The selftest passes what is right and names what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.errors import BundleError, ParityError
from lcr_edge.runtimes import Model, State, load
from lcr_edge.runtimes.feedback import TwoStates
from lcr_edge.runtimes.golden import GOLDEN
from lcr_edge.runtimes.selftest import SelftestReport, selftest
from lcr_edge.tolerances import COARSE_ACTIVATIONS, PROMISES
from tests.runtimes.toy import KINDS, make_bundle, onnx_bytes, reseal

STEP, STREAM = PROMISES["fp32"].step_abs or 0.0, PROMISES["fp32"].stream_abs or 0.0
COARSE = COARSE_ACTIVATIONS.step_abs or 0.0
INT8 = PROMISES["int8"]

STEP_ABS, STREAM_ABS = PROMISES["fp32"].step_abs or 0.0, PROMISES["fp32"].stream_abs or 0.0


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", "onnx")


def change_golden(folder: Path, **changes: Any) -> None:
    arrays = {**np.load(folder / GOLDEN), **changes}
    np.savez(folder / GOLDEN, **arrays)
    reseal(folder)


def failed(report: SelftestReport, *hints: str) -> None:
    assert not report.passed
    for hint in hints:
        assert any(hint in failure for failure in report.failures), (hint, report.failures)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_every_kind_of_bundle_passes(tmp_path: Path, kind: tuple[str, str, str]) -> None:
    report = selftest(load(make_bundle(tmp_path / "bundle", *kind), threads=1))
    assert report.passed, report.failures
    assert report.frames == 6
    assert report.top1 == 1.0
    for name in ("logits", "state_h", "state_c"):
        assert 0 <= report.step_error[name] <= STEP_ABS
        assert 0 <= report.stream_error[name] <= STREAM_ABS
    assert 0 < report.latency_ms < report.seconds * 1e3


@pytest.mark.parametrize("name", ["logits", "state_h", "state_c"])
def test_an_error_just_above_the_promise_is_a_miss(bundle: Path, name: str) -> None:
    golden = np.load(bundle / GOLDEN)[name]
    off = golden.copy()
    off[-1].flat[0] += STEP_ABS * 3  # the last frame's: no later step starts from it
    change_golden(bundle, **{name: off})
    report = selftest(bundle)
    failed(report, f"one step: {name}")
    assert not any("stream" in failure for failure in report.failures)
    off[-1].flat[0] += STREAM_ABS * 3
    change_golden(bundle, **{name: off})
    failed(selftest(bundle), f"one step: {name}", f"stream: {name}")


def test_an_engine_with_coarse_activations_promises_less(bundle: Path) -> None:
    model = load(bundle, threads=1)
    off = np.load(bundle / GOLDEN)["state_c"]
    off[-1].flat[0] += STEP_ABS * 3
    change_golden(bundle, state_c=off)
    failed(selftest(model), "one step: state_c")
    model.engine.coarse_activations = True  # type: ignore[attr-defined]
    assert selftest(model).passed
    off[-1].flat[0] += COARSE
    change_golden(bundle, state_c=off)
    failed(selftest(model), f"promised {COARSE:.0e}")


def test_nan_is_a_miss(bundle: Path) -> None:
    golden = np.load(bundle / GOLDEN)["logits"]
    golden[2, 1] = np.nan
    change_golden(bundle, logits=golden)
    report = selftest(bundle)
    failed(report, "one step: logits is off by nan", "stream: logits is off by nan")
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["step_error"]["logits"] == "nan"


def test_another_class_is_a_miss(bundle: Path) -> None:
    golden = np.load(bundle / GOLDEN)["logits"]
    golden[3] = -golden[3]
    change_golden(bundle, logits=golden)
    failed(selftest(bundle), "the class matches the reference in 83.33% of the frames")


@pytest.mark.parametrize("name", ["logits", "state_h", "state_c"])
def test_int8_is_judged_by_averages(bundle: Path, name: str) -> None:
    """Shifts of the expected values by a share of their spread; a shift of all logits changes no class."""
    reseal(bundle, precision="int8")
    golden = np.load(bundle / GOLDEN)[name]
    spread = golden[INT8.settled :].std() * (INT8.step_relative or 0)
    for times, frames, missed in (
        (0.5, slice(-1, None), False),
        (2.0, slice(-1, None), True),
        (20.0, slice(0, INT8.settled - 1), False),
    ):
        off = golden.copy()
        off[frames] += np.float32(times * spread)
        if name != "logits":  # what comes after starts from it, so only the last frame's can be shifted alone
            off[:-1] = golden[:-1]
        change_golden(bundle, **{name: off})
        report = selftest(bundle)
        assert report.step_error[name] > STEP or frames.start == 0
        assert any(f"one step: {name} is off by" in failure for failure in report.failures) is missed, report.failures
        assert report.passed is not missed


def test_int8_may_differ_in_one_frame_of_a_short_clip(bundle: Path) -> None:
    reseal(bundle, precision="int8")
    golden = np.load(bundle / GOLDEN)["logits"]
    golden[:5] = -golden[:5]
    change_golden(bundle, logits=golden)
    report = selftest(bundle)
    assert INT8.settled == 4
    assert report.top1 == 0.5
    assert not any("the class matches" in failure for failure in report.failures)
    (check,) = (check for check in report.checks if check.kind == "share")
    assert check.line().split(None, 1)[0] == "met"
    assert check.line().endswith("50.00%  (promised 98.00%, or one frame of 2; 1 of 2 frames differ)")
    assert check.to_dict()["allowed"] == "one frame of 2"
    golden[5] = -golden[5]
    change_golden(bundle, logits=golden)
    failed(selftest(bundle), "the class matches the reference in 0.00% of the frames from frame 4 on")


def _with_rounding(bundle: Path, times: float = 0.0, frames: int = 2, **changes: Any) -> None:
    """Planned answers beside the golden ones; the engine of these bundles does not round, and is ``times`` as far from
    float as the rounding is."""
    arrays = np.load(bundle / GOLDEN)
    sign = np.random.default_rng(1)
    for name in ("logits", "state_h", "state_c"):
        size = 0.02 * arrays[name].std()
        signs = sign.choice([-1.0, 1.0], size=arrays[name][-frames:].shape)
        changes.setdefault(f"rounding_{name}", (size * signs).astype(np.float16))
        if name == "logits":
            changes[name] = arrays[name] - np.float32(times * size)
    change_golden(bundle, **changes)


def test_int8_must_round_as_planned(bundle: Path) -> None:
    """sqrt(1 + times^2) is the distance from the planned answers, in units of the rounding."""
    reseal(bundle, precision="int8")
    for times, missed in ((0.0, False), (1.0, False), (1.3, True)):
        golden = np.load(bundle / GOLDEN)["logits"]
        _with_rounding(bundle, times)
        report = selftest(bundle)
        (check,) = (check for check in report.checks if check.name.startswith("int8 rounding"))
        assert check.measured == pytest.approx(np.hypot(1, times), rel=2e-3)
        assert any("logits is 1.64 times as far" in failure for failure in report.failures) is missed
        assert report.passed is not missed, report.failures
        change_golden(bundle, logits=golden)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounding_logits": np.zeros((6, 27), np.float16)}, "float16 of fewer than 6 frames"),
        ({"rounding_logits": np.zeros((0, 27), np.float16)}, "rounding_logits"),
        ({"rounding_state_h": np.zeros((2, 1), np.float16)}, "rounding_state_h"),
        ({"rounding_state_c": np.float16(0)}, "rounding_state_c"),
        ({"rounding_logits": np.zeros((2, 27), np.float32)}, "rounding_logits is float32"),
    ],
)
def test_planned_answers_that_cannot_be_used(bundle: Path, changes: dict[str, Any], message: str) -> None:
    reseal(bundle, precision="int8")
    _with_rounding(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        selftest(bundle)


def test_planned_answers_of_which_one_is_missing(bundle: Path) -> None:
    reseal(bundle, precision="int8")
    change_golden(bundle, rounding_logits=np.zeros((2, 27), np.float16))
    with pytest.raises(BundleError, match="cannot be read"):
        selftest(bundle)


def test_a_golden_clip_too_short_for_int8(bundle: Path) -> None:
    change_golden(bundle, **{name: array[: INT8.settled] for name, array in np.load(bundle / GOLDEN).items()})
    reseal(bundle, precision="int8")
    with pytest.raises(BundleError, match="judged from frame 4 on"):
        selftest(bundle)


class _Failing(Model):
    """A real model that forgets its state and leaves NaN."""

    def step(self, frame: Any, state: State) -> tuple[Any, State]:
        logits, after = super().step(frame, state)
        return logits, State(after.h * np.float32(np.nan), after.c)


def test_a_state_with_nan_is_no_pass(bundle: Path) -> None:
    right = load(bundle, threads=1)
    with pytest.raises(ParityError, match="state h contains NaN or Inf"):
        selftest(_Failing(right.bundle, right.engine))


def _rewired(change: dict[str, str]) -> bytes:
    """The toy's ONNX model with some node inputs taken from elsewhere."""
    onnx: Any = pytest.importorskip("onnx")
    model = onnx.load_from_string(onnx_bytes("graph"))
    for node in model.graph.node:
        node.input[:] = [change.get(name, name) for name in node.input]
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"state_h_in": "state_c_in"}, "feeding state_h to a step makes no difference"),
        ({"state_c_in": "state_h_in"}, "feeding state_c to a step makes no difference"),
    ],
)
def test_a_state_that_the_model_does_not_read(bundle: Path, change: dict[str, str], hint: str) -> None:
    (bundle / "model.onnx").write_bytes(_rewired(change))
    reseal(bundle)
    failed(selftest(bundle), hint, "one step")


def test_a_state_that_the_model_passes_through(bundle: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    model = onnx.load_from_string(onnx_bytes("graph", {"state_h_out": "h_new"}))
    next(item for item in model.graph.output if item.name == "h_new").name = "state_h_out"
    model.graph.node.append(onnx.helper.make_node("Identity", ["state_h_in"], ["state_h_out"]))
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)
    failed(selftest(bundle), "state_h did not change", "stream: state_h")


def test_host_edges_must_equal_the_reference(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "onnx", "host")
    edges = np.load(bundle / GOLDEN)["edges"]
    edges[4, 7, 9] ^= 1
    change_golden(bundle, edges=edges)
    failed(selftest(bundle), "1 pixels of frame 4")


def test_a_precision_without_a_promise(bundle: Path) -> None:
    reseal(bundle, precision="int3")
    with pytest.raises(BundleError, match="no promise for precision 'int3'"):
        selftest(bundle)


def test_the_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert main(["selftest", str(bundle), "--threads", "1", "--json", str(report)]) == 0
    out = capsys.readouterr().out
    assert "6 golden frames" in out
    assert "passed in" in out
    written = json.loads(report.read_text())
    assert written["passed"] is True
    assert written["precision"] == "fp32"
    assert [check["met"] for check in written["checks"]] == [True] * 7
    assert main(["selftest", str(bundle), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["frames"] == 6
    assert "passed in" in captured.err
    golden = np.load(bundle / GOLDEN)["logits"]
    change_golden(bundle, logits=golden + np.float32(1))
    assert main(["selftest", str(bundle), "--json", str(report)]) == ParityError.exit_code == 1
    assert "error: selftest failed: one step: logits" in capsys.readouterr().err
    assert json.loads(report.read_text())["passed"] is False
    other = tmp_path / "longer.npz"
    other.write_bytes((bundle / GOLDEN).read_bytes())
    change_golden(bundle, logits=golden)
    assert main(["selftest", str(bundle), "--golden", str(other)]) == 1
    assert main(["selftest", str(bundle)]) == 0
    assert main(["selftest", str(bundle), "--golden", str(tmp_path / "none.npz")]) == 2
    assert main(["selftest", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["selftest", str(bundle), "--json", str(tmp_path / "missing" / "x.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_without_torch_every_kind_steps(tmp_path: Path) -> None:
    kinds = [kind for kind in KINDS if kind[1] == "graph"]
    folders = [str(make_bundle(tmp_path / "-".join(kind), *kind)) for kind in kinds]
    script = (
        "import sys\n"
        "for name in ('torch', 'safetensors', 'lcr_edge.export', 'lcr_edge.model', 'lcr_edge.calibration'):\n"
        "    sys.modules[name] = None\n"
        "import lcr_edge.runtimes\n"
        "heavy = {'onnxruntime', 'openvino', 'ai_edge_litert', 'cv2', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from lcr_edge.runtimes.selftest import selftest\n"
        "for folder in sys.argv[1:]:\n"
        "    report = selftest(folder, threads=1)\n"
        "    assert report.passed, report\n"
        "    print(report.engine)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, *folders], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split("\n")) == len(kinds) + 1


def test_a_stream_that_does_not_go_on_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TwoStates, "take", lambda self: self._logits.copy())  # each step starts from the first state
    report = selftest(make_bundle(tmp_path / "bundle", "onnx"), threads=1)
    assert any("step_stream gives other logits than step" in sentence for sentence in report.failures)
