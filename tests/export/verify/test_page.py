"""The page stands alone, says what was measured, escapes what it is given, and appears whole or not at all."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from pathlib import Path

import pytest

from lcr_edge.charts import Series, chart
from lcr_edge.contract import LOGITS
from lcr_edge.errors import OutputError
from lcr_edge.export.verify.measure import measure_all
from lcr_edge.export.verify.page import page, write_page
from lcr_edge.export.verify.report import Report
from lcr_edge.runtimes.bundle import read_bundle
from tests.export import made
from tests.export.targets.rounded import bundle, rounded
from tests.pages import Reader


@functools.cache
def _measured() -> Report:
    """Three bits: promises are missed."""
    return measure_all(rounded("lcr_pico", 3), made.checkpoint("lcr_pico"), frames=12, streams=20, per_class=1)


def test_the_page_stands_alone_and_says_it_all(tmp_path: Path) -> None:
    report = _measured()
    assert not report.passed
    report = dataclasses.replace(report, sensitivity=(("layers.0.rg", 0.5), ("classify", 0.1)))
    manifest = read_bundle(bundle("lcr_pico", 3)).manifest
    path = write_page(report, tmp_path / "pages" / "page.html", manifest)
    assert path == tmp_path / "pages" / "page.html"
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    text = path.read_text()
    found = Reader(text)
    assert found.open == []
    assert found.links == []
    assert not re.search(r"https?:|@import|url\(|<script", text)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert found.tags.count("polyline") >= 3 * 3
    for sentence in report.failures:
        assert sentence in found.text
    for check in report.every_check:
        assert check.name in found.text
    for word in ("promises MISSED", "layers.0.rg", "model.onnx", "golden.npz", "1 stream", "the weights are random"):
        assert word in found.text, word
    assert found.text.index("layers.0.rg") < found.text.index("classify")
    missed = sum(check.met is False for check in report.every_check)
    assert sum(check.met is None for check in report.every_check) == 2  # drift, and products without digests
    assert found.text.count("MISSED") == missed + 2  # title, headline


def test_a_page_of_two_modes_alone() -> None:
    report = dataclasses.replace(_measured(), streams=None, clips=None)
    found = Reader(page(report, {}))
    assert found.open == []
    assert "Decisions" not in found.text
    assert "Not measured" in found.text


def test_texts_are_escaped() -> None:
    evil = '<img src="x">&'
    found = _measured()
    assert found.clips is not None
    clips = dataclasses.replace(found.clips, labels=(evil, *found.clips.labels[1:]), note=evil)
    report = dataclasses.replace(found, bundle=evil, engine=evil, clip=evil, broken=(evil,), clips=clips)
    manifest = {"files": {evil: {"bytes": 1}}, "checkpoint_sha256": evil, "created": evil}
    report = dataclasses.replace(report, sensitivity=((evil, 1.0), ("nan", math.nan)))
    text = page(report, manifest)
    assert "<img" not in text
    assert Reader(text).text.count(evil) >= 8


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot make the folder"):
        write_page(_measured(), tmp_path / "file" / "page.html", {})


def _points(svg: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in lines]


def test_heights_are_logarithms() -> None:
    ((a, b, c),) = _points(chart([Series(LOGITS, [0, 5, 10], [1e-3, 1e-2, 1e-1])], x_title="frame", y_title="error"))
    assert a[1] > b[1] > c[1]
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.2)
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2)


def test_what_cannot_be_drawn_leaves_a_gap() -> None:
    values = [1e-3, 0.0, 1e-3, 1e-2, math.nan, math.inf, 1e-3]
    lines = _points(chart([Series("h", list(range(7)), values)], x_title="frame", y_title="error"))
    assert [len(line) for line in lines] == [1, 2, 1]
    assert "nothing to draw" in chart([Series("h", [0, 1], [0.0, 0.0])], x_title="frame", y_title="error")
    assert _points(chart([Series("h", [7], [1e-30]), Series("c", [7], [1.0])], x_title="frame", y_title="error"))


def test_the_limit_is_a_line_at_its_height() -> None:
    svg = chart([Series("h", [0, 1], [1e-2, 1e-1])], x_title="frame", y_title="error", limit=1e-1)
    (limit,) = re.findall(r'<line [^>]*y1="([\d.]+)"[^>]*stroke-dasharray', svg)
    assert float(limit) == pytest.approx(_points(svg)[0][1][1], abs=0.2)
