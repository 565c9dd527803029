"""What quantising each layer costs, on a real engine; and the fewest layers in float that pass the gate."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from lcr_edge import checkpoint as checkpoints
from lcr_edge.calibration import samples as kept
from lcr_edge.calibration.collect import collect
from lcr_edge.calibration.footage import MIN_CLIPS
from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.contract import STATE_NAMES
from lcr_edge.errors import ParityError, UsageError
from lcr_edge.export.exporter import Exporter
from lcr_edge.export.int8 import costs as costs_module
from lcr_edge.export.int8.layers import kinds_of
from lcr_edge.export.int8.trials import relative
from lcr_edge.export.keep_float import export_keeping_float
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import FLOAT_BY_DEFAULT
from lcr_edge.export.verify.clips import stream
from lcr_edge.export.verify.reference import roll
from lcr_edge.model.step_cell import StepCell
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.tolerances import PROMISES
from tests.export import made

PICO, FRAMES = "lcr_pico", 12
GATE = dataclasses.replace(made.GATE, frames=FRAMES)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and the cache of its calibration samples."""
    folder = tmp_path_factory.mktemp("sensitivity")
    path, cache = folder / "pico.safetensors", folder / "samples.npz"
    small = _small()
    checkpoints.save(path, small.model, small.labels, {})
    kept.save(cache, _samples(checkpoints.load(path)))
    return path, cache


@pytest.fixture(scope="module")
def rows(files: tuple[Path, Path]) -> tuple[dict[str, dict[str, Any]], Path]:
    """Rows of the command by what they are of, in its order; its folder."""
    path, cache = files
    out = path.parent / "out"
    command = ["sensitivity", "--checkpoint", str(path), "--target", "openvino", "--frames", str(FRAMES), "--kinds"]
    result = path.parent / "result.json"
    assert main([*command, "--calibration-cache", str(cache), "--out", str(out), "--json", str(result)]) == 0
    assert result.read_text() == (out / "sensitivity.json").read_text()
    found = json.loads(result.read_text())["rows"]
    return {row["what"]: row for row in found}, out


@functools.cache
def _small() -> Checkpoint:
    """One layer: a conversion is quick."""
    return checkpoints.random_checkpoint(dataclasses.replace(get_config(PICO), layers=1), made.SEED)


def _samples(checkpoint: Checkpoint) -> Samples:
    return collect(checkpoint, None, clips=MIN_CLIPS, samples=16)


def _kinds() -> dict[str, tuple[str, ...]]:
    return kinds_of(StepCell(_small().model).linears())


@pytest.mark.slow
def test_every_kind_of_layer_and_each_state_has_its_cost(rows: tuple[dict[str, dict[str, Any]], Path]) -> None:
    found, out = rows
    states = {f"{state} as {precision}" for state in STATE_NAMES for precision in ("fp16", "int8")}
    recipes = {"all", f"all but {FLOAT_BY_DEFAULT}"}
    assert set(found) == {*_kinds(), *states, *recipes}
    costs = [row["cost"] for row in found.values()]
    assert costs == sorted(costs, reverse=True)
    assert min(costs) > 0
    # All at once cost more than the costliest alone, less in float costs less, and a state loses more in fewer bits.
    assert found["all"]["cost"] >= max(found[kind]["cost"] for kind in _kinds())
    assert found[f"all but {FLOAT_BY_DEFAULT}"]["cost"] < found["all"]["cost"]
    for state in STATE_NAMES:
        assert found[f"{state} as fp16"]["stream"][state] < found[f"{state} as int8"]["stream"][state]
    total = sum(found[kind]["weight_bytes"] for kind in _kinds())
    assert total == found["all"]["weight_bytes"]
    assert 0 < found["all"]["mac_share"] < 1
    assert (out / "sensitivity.png").stat().st_size > 0


@pytest.mark.slow
def test_the_page_of_verify_shows_the_costs_of_a_file(
    rows: tuple[dict[str, dict[str, Any]], Path],
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, out = rows
    checkpoint = checkpoints.load(files[0])
    folder = Exporter(checkpoint, tmp_path).export(Request(checkpoint.config, "openvino"), GATE).folder
    command = ["verify", str(folder), "--checkpoint", str(files[0]), "--frames", "4"]
    costs = ["--sensitivity", str(out / "sensitivity.json")]
    assert main([*command, *costs]) == UsageError.exit_code
    assert "--report" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text((out / "sensitivity.json").read_text().replace("openvino", "onnx"))
    for wrong, words in ((other, "another checkpoint or target"), (tmp_path / "none", "cannot be read")):
        assert main([*command, "--report", str(tmp_path), "--sensitivity", str(wrong)]) == UsageError.exit_code
        assert words in capsys.readouterr().err
    assert main([*command, "--report", str(tmp_path), *costs]) == 0
    page = (tmp_path / f"{folder.name}.html").read_text()
    for kind in _kinds():
        assert f"<td>{kind}</td><td>{found[kind]['cost']:.3g}</td>" in page
    assert "state_h as int8" not in page


@pytest.mark.slow
def test_auto_keeps_the_fewest_layers_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a promise between what no layer in float reaches and what the costliest kind in float does."""
    checkpoint = _small()
    monkeypatch.setattr(costs_module, "COST_FRAMES", 100)
    exporter = Exporter(checkpoint, tmp_path / "out", samples=_samples(checkpoint), pages=tmp_path / "pages")
    request = Request(checkpoint.config, "openvino", "int8")
    costs = exporter.costs.of(request)
    frames = stream(None, checkpoint, FRAMES)
    trials, reference = exporter.costs.trials(request), roll(checkpoint.model, frames)
    names = tuple(trials.cell.linears())
    costliest = kinds_of(names)[costs[0][0]]
    tries = [trials.cost(reference, "a try", names, float_layers) for float_layers in ((), costliest)]
    errors = [max(relative(found.one_step)) for found in tries]
    assert errors[1] < errors[0]
    between = dataclasses.replace(PROMISES["int8"], step_relative=sum(errors) / 2, top1=0.0)
    monkeypatch.setitem(PROMISES, "int8", between)
    exported = export_keeping_float(exporter, request, GATE)
    manifest = read_bundle(exported.folder).manifest
    assert set(manifest["float_layers"]) == set(costliest)
    assert exported.report.sensitivity == costs
    assert exported.page is not None
    assert all(kind in exported.page.read_text() for kind, _ in costs)

    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    monkeypatch.setitem(PROMISES, "int8", dataclasses.replace(between, step_relative=errors[1] / 100))
    with pytest.raises(ParityError, match="auto keeps at most half"):
        export_keeping_float(exporter, request, GATE)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert read_bundle(exported.folder).manifest == manifest
    with pytest.raises(ParityError, match=r"The report is .*html"):
        exporter.export(request, GATE)


def test_auto_is_for_layers_that_can_be_left_in_float(tmp_path: Path) -> None:
    config = made.checkpoint(PICO).config
    for request in (
        Request(config, "onnx", "int8", quant="weight-only"),
        Request(config, "onnx"),
        Request(config, "tflite", "int8", state_precision="int8", io="int8"),
    ):
        with pytest.raises(UsageError, match="--keep-float auto needs"):
            export_keeping_float(Exporter(made.checkpoint(PICO), tmp_path), request, GATE)
