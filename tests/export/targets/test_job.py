"""What conversions of one cell share, and that others do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lcr_edge.export.quiet import quiet
from lcr_edge.export.targets.job import Job, Source, convert
from lcr_edge.export.targets.request import Request
from lcr_edge.model.step_cell import StepCell
from tests.export import made

PICO = made.checkpoint("lcr_pico")


@pytest.mark.slow
def test_one_trace_serves_onnx_and_openvino_in_both_precisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, traced, export = Source(StepCell(PICO.model)), [], torch.onnx.export

    def counted(cell: torch.nn.Module, *rest: Any, **options: Any) -> Any:
        traced.append(cell)
        return export(cell, *rest, **options)

    monkeypatch.setattr(torch.onnx, "export", counted)
    with quiet():
        for target in ("onnx", "openvino"):
            for precision in ("fp32", "fp16"):
                folder = tmp_path / f"{target}-{precision}"
                folder.mkdir()
                assert convert(Job(source, Request(PICO.config, target, precision), folder)).operators
        assert len(traced) == 1
        # What was stored in half precision for one is not what the next one gets.
        assert (tmp_path / "onnx-fp16" / "model.onnx").stat().st_size < 0.75 * (
            (tmp_path / "onnx-fp32" / "model.onnx").stat().st_size
        )
        whole, half = ((tmp_path / f"openvino-{name}" / "model.bin").stat().st_size for name in ("fp32", "fp16"))
        assert half < 0.75 * whole


def test_what_was_made_is_kept_by_source_edges_and_state_precision() -> None:
    sources = [Source(StepCell(PICO.model)) for _ in range(2)]
    requests = [
        Request(PICO.config, "onnx", edges=edges, state_precision=precision)
        for edges in ("host", "graph")
        for precision in ("fp32", "fp16")
    ]
    made_now = [bytes([number]) for number in range(16)]
    wanted = iter(made_now)
    for _ in range(2):
        # The second time nothing is left to make.
        found = [
            source.once(what, request, lambda: next(wanted))
            for source in sources
            for what in ("a", "b")
            for request in requests
        ]
        assert found == made_now
