"""A few of the faults of tests/journeys/planted_faults, in bundles of a small network: the gates have to see them."""

from __future__ import annotations

import pytest

from tests.export import made
from tests.journeys.fault_bench import Bench
from tests.journeys.fault_table import FAULTS, HEALTHY, unused

PICO = "lcr_pico"
_PLANNED = "int8 rounding"
# (fault, engine, precision, the check that must see it, what selftest must see: None where it cannot)
PLANTED = [
    ("h and c swapped", "openvino", "fp32", "one step: state_c", "one step: state_c"),
    ("two streams share a state", "onnx", "fp32", "identity: two streams beside each other", ""),
    ("output buffer reused between calls", "tflite", "fp32", "identity: results overwritten", "feeding"),
    ("edges of the previous frame", "onnx", "fp32", "identity: edges at the engine", "edges: "),
    ("crop for letterbox", "onnx", "fp32", "identity: pixels of fitted frames", None),
    ("bias dropped in one product", "onnx", "fp32", "one step: state_h", "one step: state_h"),
    ("fmax changed", "tflite", "fp32", "one step: state_c", "one step: state_c"),
    ("one weight one step off", "tflite", "int8", "identity: int8 products", None),
    ("zero point of one product off by one", "onnx", "int8", "identity: int8 products", None),
    ("range of one product halved", "openvino", "int8", "identity: int8 products", _PLANNED),
    ("fmax changed", "openvino", "int8", _PLANNED, _PLANNED),
    ("norm epsilon wrong", "onnx", "int8", _PLANNED, _PLANNED),
    ("decay of two channels swapped", "tflite", "int8", _PLANNED, _PLANNED),
    ("golden of another checkpoint", "onnx", "fp32", "identity: golden answers", "one step: state_h"),
    ("rate changed in the manifest", "onnx", "fp32", "identity: manifest's config and frame", None),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(made.checkpoint(PICO), made.samples(PICO), tmp_path_factory.mktemp("faults"), 12)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "target", "precision", "verify", "selftest"), PLANTED)
def test_a_planted_fault_is_seen(
    bench: Bench, kind: str, target: str, precision: str, verify: str, selftest: str | None
) -> None:
    (fault,) = (fault for fault in FAULTS if fault.kind == kind)
    bench.use(made.bundle(PICO, target, precision))
    with fault.plant(bench, target, precision) as folder:
        assert any(name.startswith(verify) for name in bench.ask_verify(folder).caught)
        found = bench.ask_selftest(folder).caught
    assert found == () if selftest is None else any(name.startswith(selftest) for name in found)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "openvino", "tflite"])
def test_a_bundle_without_a_fault_is_not_accused(bench: Bench, target: str) -> None:
    for precision in ("fp32", "int8"):
        bench.use(made.bundle(PICO, target, precision))
        with HEALTHY.plant(bench, target, precision) as folder:
            assert bench.ask_verify(folder).caught == ()
            assert bench.ask_selftest(folder).caught == ()


def test_every_fault_is_in_the_table() -> None:
    assert unused() == set()
    assert len({fault.kind for fault in FAULTS}) >= 25
