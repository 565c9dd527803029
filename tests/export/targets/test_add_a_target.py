"""A fourth target, added as CONTRIBUTING.md says ("Add a target"): one engine, one converter, a row for each.

The target is a program of torch: the step as ``torch.export`` writes it, run by torch. This module is both sides of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import torch

from lcr_edge.cli import main
from lcr_edge.contract import TensorSpec
from lcr_edge.errors import BundleError, MissingExtraError, ParityError, UsageError
from lcr_edge.export.exporter import Exporter
from lcr_edge.export.targets.job import Converted, Job
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import TARGETS, Target, require
from lcr_edge.export.targets.table import table as listed
from lcr_edge.export.verify.measure import verify
from lcr_edge.model.step_cell import HostEdgeCell
from lcr_edge.runtimes import load
from lcr_edge.runtimes.api import EngineOptions
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from lcr_edge.runtimes.engines import ENGINES, EngineRow
from lcr_edge.runtimes.selftest import selftest
from lcr_edge.tolerances import PROMISES
from tests.export import made

PICO, NAME = "lcr_pico", "torchprogram"


# The converter: export/targets/..._convert.py of a real target.


def convert(job: Job) -> Converted:
    """Write step.pt2."""
    return _write(job, job.step())


def _write(job: Job, step: torch.nn.Module) -> Converted:
    program = torch.export.export(step, (), kwargs=dict(job.example_inputs()))
    torch.export.save(program, job.path)
    return Converted(sorted({str(node.target) for node in program.graph.nodes if node.op == "call_function"}))


# The engine: runtimes/..._engine.py of a real target.


class TorchEngine:
    """Runs step.pt2."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self.name = f"torch {torch.__version__}"
        torch.set_num_threads(options.threads or 1)
        program = torch.export.load(bundle.folder / bundle.model_files[0])
        signature = program.graph_signature
        values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
        self.inputs = _specs(signature.user_inputs, [values[str(name)] for name in signature.user_inputs])
        names = [spec.name for spec in bundle.outputs]
        self.outputs = _specs(names, [values[str(name)] for name in signature.user_outputs])
        self._step = program.module()

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """One step."""
        with torch.no_grad():
            results = self._step(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        return {spec.name: result.numpy() for spec, result in zip(self.outputs, results)}


def _specs(names: Iterable[Any], values: Iterable[torch.Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(str(name), str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for name, value in zip(names, values)
    )


# The rows.

ENGINE = EngineRow(NAME, __name__, "TorchEngine", "torch", "train")
TARGET = Target(
    ENGINE,
    __name__,
    ("step.pt2",),
    (("torch", "torch"),),
    "train",
    precisions=("fp32",),
    hints={"threads": 1},
)


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Target:
    """The rows in their tables."""
    monkeypatch.setitem(ENGINES, NAME, ENGINE)
    monkeypatch.setitem(TARGETS, NAME, TARGET)
    return TARGET


@pytest.mark.slow
def test_a_converter_an_engine_and_their_rows_make_a_target(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(made.checkpoint(PICO).config, NAME)
    exported = Exporter(made.checkpoint(PICO), tmp_path).export(request, made.GATE)
    assert exported.report.passed
    assert set(exported.sizes) == {*target.files, "manifest.json", "golden.npz", "parity.json"}
    bundle = read_bundle(exported.folder)
    assert bundle.model_files == target.files
    assert bundle.manifest["runtime_hints"] == {"threads": 1}
    assert bundle.producer("torch") == torch.__version__
    assert any("linear" in name for name in bundle.manifest["required_ops"])
    assert selftest(exported.folder, threads=1).passed
    report = verify(exported.folder, frames=20)
    assert report.passed
    assert report.engine == f"torch {torch.__version__}"
    # It is the engine that was measured: float32 leaves some error against the reference, which is float64.
    assert all(tally.max_abs > 0 for tally in report.stream["all"].tensors.values())

    monkeypatch.delitem(ENGINES, NAME)
    with pytest.raises(BundleError, match=f"target must be one of onnx, .*, found '{NAME}'"):
        load(exported.folder)


def test_the_commands_know_the_target(target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--list"]) == 0
    assert NAME in capsys.readouterr().out
    assert f"{NAME:10}" in listed()
    assert main(["export", "--target", NAME, "--precision", "fp16", "--out", str(tmp_path)]) == UsageError.exit_code
    assert f"precision for {NAME}" in capsys.readouterr().err
    with pytest.raises(BundleError, match=NAME):
        read_bundle(tmp_path / "none")
    refused: tuple[dict[str, Any], ...] = ({"state_mode": "internal"}, {"precision": "int8"}, {"io": "int8"})
    for changes in refused:
        with pytest.raises(UsageError, match=NAME):
            Request(made.checkpoint(PICO).config, NAME, **changes)
    require(target)


def test_what_is_not_installed_is_named_with_its_extra() -> None:
    row = Target(ENGINE, __name__, ("step.pt2",), (("no_such_module", "no-such-package"),), "some-extra")
    with pytest.raises(MissingExtraError, match=r"Exporting to torchprogram needs .*no-such-package.*some-extra"):
        require(row)
    assert str(ENGINE.missing()).startswith("Running a bundle for torchprogram needs the package 'torch'")


class _Wrong(torch.nn.Module):
    """The step with one mistake."""

    def __init__(self, cell: HostEdgeCell, mistake: str) -> None:
        super().__init__()
        self.cell, self.mistake = cell, mistake

    def forward(
        self, frame: torch.Tensor, edge: torch.Tensor, state_h_in: torch.Tensor, state_c_in: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        if self.mistake == "swapped states":
            state_h_in, state_c_in = state_c_in, state_h_in
        logits, h, c = self.cell(frame, edge, state_h_in, state_c_in)
        if self.mistake == "logits beyond the promise":
            logits = logits + 2 * (PROMISES["fp32"].step_abs or 0.0)
        return (logits.double() if self.mistake == "another dtype" else logits), h, c


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        ("swapped states", ParityError),
        ("logits beyond the promise", ParityError),
        ("another dtype", BundleError),
    ],
)
def test_a_wrong_converter_is_refused(
    target: Target, mistake: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(job: Job) -> Converted:
        step = job.step()
        assert isinstance(step, HostEdgeCell)
        return _write(job, _Wrong(step, mistake).eval())

    monkeypatch.setitem(globals(), "convert", wrong)
    request = Request(made.checkpoint(PICO).config, target.name)
    with pytest.raises(error):
        Exporter(made.checkpoint(PICO), tmp_path).export(request, made.GATE)
    assert list(tmp_path.iterdir()) == []
