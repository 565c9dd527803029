"""What a refusal advises: something else for each cause, and never what was just tried."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import pytest

from lcr_edge.export.verify.measure import measure_all
from lcr_edge.export.verify.remedy import AMPLIFIES, Made, remedy
from lcr_edge.export.verify.report import Report
from lcr_edge.runtimes import load
from lcr_edge.runtimes.tallies import Line
from tests.export import made
from tests.export.targets.rounded import rounded

TRAINED = Made("lcr_pico")


@functools.cache
def _int8() -> Report:
    """A miss: weights of 3 bits."""
    return measure_all(rounded("lcr_pico", 3), made.checkpoint("lcr_pico"), frames=8, decisions=False)


@functools.cache
def _fp32() -> Report:
    return measure_all(load(made.bundle("lcr_pico", "onnx"), threads=1), made.checkpoint("lcr_pico"), frames=8)


def _missed(report: Report, found: Made) -> Report:
    """The report with a check that was missed."""
    check = dataclasses.replace(report.checks[0], met=False, sentence="missed")
    return dataclasses.replace(report, made=found, checks=(check,))


def _times(lines: Mapping[str, Line], factor: float) -> dict[str, Line]:
    """Lines whose errors are ``factor`` times as large."""
    grown = {}
    for phase, line in lines.items():
        tensors = {}
        for name, tally in line.tensors.items():
            tensors[name] = dataclasses.replace(
                tally, max_abs=factor * tally.max_abs, squared_error=factor**2 * tally.squared_error
            )
        grown[phase] = dataclasses.replace(line, tensors=tensors)
    return grown


def test_a_bundle_knows_how_it_was_made() -> None:
    assert _fp32().made == Made("lcr_pico", random=True)
    static = Made.of({"config": {"name": "x"}, "random_seed": None, "quant": "static", "float_layers": ["a"]})
    assert static == Made("x", False, "static", ("a",))


def test_no_remedy_where_nothing_was_missed_or_none_would_help() -> None:
    assert remedy(_fp32()) == ""
    assert remedy(dataclasses.replace(_missed(_fp32(), TRAINED), broken=("state_h is not read",))) == ""


def test_a_float_step_that_is_off_is_no_fault_of_the_network() -> None:
    found = dataclasses.replace(_missed(_fp32(), TRAINED), one_step=_times(_fp32().one_step, 1e4))
    assert "the tested versions (" in remedy(found)
    assert "--calm-share" not in remedy(found)


def test_a_float_stream_that_leaves_while_steps_are_right_is_calmed() -> None:
    found = _missed(_fp32(), TRAINED)
    assert "Single steps are right to" in remedy(found)
    assert "--config lcr_pico --out DIR --steps 160" in remedy(found)
    assert "--calm-share 1" in remedy(found)
    assert "try another --seed" in remedy(_missed(_fp32(), Made("lcr_pico", random=True)))


@pytest.mark.parametrize(
    ("quant", "kept", "advice"),
    [
        ("static", (), "--quant dynamic"),
        ("dynamic", (), "--keep-float auto"),
        ("dynamic", ("classify",), "--quant weight-only"),
        ("weight-only", (), "--precision fp16"),
    ],
)
def test_int8_advises_what_was_not_tried(quant: str, kept: tuple[str, ...], advice: str) -> None:
    report = dataclasses.replace(_int8(), made=Made("lcr_pico", quant=quant, float_layers=kept))
    assert not report.passed
    assert advice in remedy(report)
    assert f"--quant {quant}" not in remedy(report)
    assert report.complaint.endswith(remedy(report))
    # Many times the error of a step in a stream: then no other int8 would help.
    wild = dataclasses.replace(report, stream=_times(_int8().one_step, 2 * AMPLIFIES))
    assert "--calm-share 1" in remedy(wild)
