"""The int8 step in C: to the bit what the NumPy reference computes, with every instruction set that is there."""

from __future__ import annotations

import ctypes
import platform
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.calibration.prepare import Prepared, prepare
from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.checkpoint import Checkpoint, random_checkpoint
from lcr_edge.config import Config
from lcr_edge.export.int8.layers import in_float
from lcr_edge.export.targets.c_convert import PRODUCT, packed_steps, rounding, weights_of
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.export.targets.stored import differing, prepared_digests
from lcr_edge.export.verify.clips import stream
from lcr_edge.model.step_cell import StepCell
from lcr_edge.runtimes.c_library import SOURCES
from tests.c.int8_reference import Int8Reference
from tests.c.step_library import COMPILERS, FORMAT, OK, Options, opened_as, step
from tests.c.tiny import signed
from tests.export import made

CASES = (("static", "u8"), ("static", "s8"), ("dynamic", "u8"), ("weight-only", "u8"))


def _prepared(name: str, quant: str, activations: str) -> Prepared:
    cell = StepCell(made.checkpoint(name).model)
    return prepare(cell, made.samples(name), quant, activations, in_float(tuple(cell.linears()), quant))


def _compare(
    c: Any, cell: StepCell, plan: Plan, network: Checkpoint, frames: Any, folder: Path, plain: int = 0
) -> None:
    """C and the reference along a stream."""
    path, model = folder / "weights", ctypes.c_void_p()
    path.write_bytes(weights_of(cell, network.labels, network.fit, plan))
    assert c.lcr_open(str(path).encode(), ctypes.byref(Options(1, plain)), ctypes.byref(model)) == OK
    reference = Int8Reference(cell, plan)
    state = np.zeros((2, *network.config.state_shape), np.float32)
    for frame in frames:
        after, logits = np.empty_like(state), np.empty(network.config.classes, np.float32)
        assert step(c, model, frame, state, after, logits) == OK
        wanted, h, c_state = reference.step(frame, *state)
        assert np.array_equal(after[0], h)
        assert np.array_equal(after[1], c_state)
        assert np.array_equal(logits, wanted)
        state = after
    c.lcr_close(model)


@pytest.fixture(scope="module")
def few() -> Any:
    return list(stream(None, made.checkpoint("lcr_pico"), 4))


@pytest.mark.slow
@pytest.mark.parametrize(("quant", "activations"), CASES)
@pytest.mark.parametrize("plain", [0, 1])
def test_equal_to_the_reference(c: Any, few: Any, quant: str, activations: str, plain: int, tmp_path: Path) -> None:
    found = _prepared("lcr_pico", quant, activations)
    network = made.checkpoint("lcr_pico")
    _compare(c, found.cell, found.plan, network, few, tmp_path, plain)


def _products(folder: Path, *flags: str) -> list[str]:
    """The kernels that products.c compared with plain C and found the same."""
    if not COMPILERS:
        pytest.skip("there is no C compiler")
    source = Path(__file__).parent / "products.c"
    call = [COMPILERS[0], "-std=gnu99", "-O2", "-ffp-contract=off", *flags, "-I", str(SOURCES), str(source), "-lm"]
    subprocess.run([*call, "-o", str(folder / "products")], check=True)
    done = subprocess.run([str(folder / "products")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


@pytest.mark.slow
def test_all_products_are_equal(tmp_path: Path) -> None:
    assert _products(tmp_path, "-DSUPPORTS(name)=__builtin_cpu_supports(name)")


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these instructions are those of x86-64")
@pytest.mark.skipif(not Path("/usr/include/simde").is_dir(), reason="SIMDe is missing: apt-get install libsimde-dev")
def test_products_that_this_processor_may_lack(tmp_path: Path) -> None:
    found = _products(tmp_path, "-DSUPPORTS(name)=1", "-I", str(Path(__file__).parent / "simulated"))
    assert found == ["SSE2", "AVX2", "AVX-512", "AVX-512 VNNI"]


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
def test_a_network_of_odd_sizes(c: Any, mode: str, tmp_path: Path) -> None:
    """Products of 27, 36 and 12 values, 50 and 5 columns, and inputs beyond their ranges."""
    config = Config("odd", height=18, width=30, dim=12, layers=2, classes=5, patch=6, head_dim=4, skip=True)
    network = random_checkpoint(config, 3)
    cell = StepCell(network.model)
    names = tuple(cell.linears())
    plan = Plan(mode, "u8", names, dict.fromkeys(names, (-0.4, 1.3)), names[::3] if mode == "static" else ())
    frames = np.random.default_rng(1).integers(0, 256, (3, *config.frame_shape), dtype=np.uint8)
    _compare(c, cell, plan, network, frames, tmp_path)


def test_signed_products_that_contradict_themselves(c: Any, tmp_path: Path) -> None:
    """The numbers before each product at their ends and beyond, with a right digest: refused, or stepped."""
    config = Config("small", height=16, width=16, dim=32, layers=1, classes=3)
    network, statuses = random_checkpoint(config, 3), []
    cell = StepCell(network.model)
    names = tuple(cell.linears())
    for mode in ("static", "dynamic", "weight-only"):
        plan = Plan(mode, "u8", names, dict.fromkeys(names, (-0.4, 1.3)))
        good = weights_of(cell, network.labels, network.fit, plan)
        (place,) = (
            i for i in range(256, 4096, 64) if good[i : i + 16] == PRODUCT.pack(*rounding("embed.parts.0", 192, plan))
        )
        for offset, kind, values in (
            (0, "<i", (-1, 0, 1, 2, 3, 4, 2**31 - 1)),
            (4, "<i", (-(2**31), -256, -255, -1, 0, 1)),
            (8, "<i", (-1, 0, 1, 255, 256, 8191, 8192, 2**31 - 1)),
            (12, "<f", (np.nan, np.inf, -1.0, 0.0, 1e-45, 1e29)),
        ):
            for value in values:
                content = bytearray(good)
                struct.pack_into(kind, content, place + offset, value)
                statuses.append(opened_as(c, signed(content), tmp_path))
                assert statuses[-1] in (OK, FORMAT), (mode, offset, value)
    assert 20 < statuses.count(FORMAT) < len(statuses) - 20


@pytest.mark.parametrize("quant", ["static", "dynamic", "weight-only"])
def test_products_are_read_back(quant: str, tmp_path: Path) -> None:
    network, found = made.checkpoint("lcr_pico"), _prepared("lcr_pico", quant, "u8")
    content = weights_of(found.cell, network.labels, network.fit, found.plan)
    digests, path = prepared_digests(found.cell, found.plan, "c"), tmp_path / "model.bin"
    path.write_bytes(content)
    assert differing(tmp_path, "c", ("model.bin",), digests) == []
    steps, _ = quantise_weight(found.cell.linears()["layers.1.kv"].weight.detach().numpy())
    changed = bytearray(content)
    changed[content.index(packed_steps(steps)) + 5] ^= 1
    path.write_bytes(changed)
    assert differing(tmp_path, "c", ("model.bin",), digests) == ["layers.1.kv"]
