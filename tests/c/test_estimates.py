"""The estimates for ARM: what is counted in an inner loop, and a table of every processor."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = Path(__file__).parent / "estimates"
_LOOPS = """\
product_neon:
	mov	x1, 0
.L2:
	fmul	v0.4s, v1.4s, v2.4s
.L3:
	ldr	q1, [x1], 16
	fmla	v0.4s, v1.4s, v2.s[0]
	fmla	v3.4s, v1.4s, v2.s[1]
	subs	x2, x2, #1
	bne	.L3
	add	x3, x3, 1
	cbnz	x3, .L2
	ret
	.size	product_neon, .-product_neon
"""


@pytest.fixture(scope="module")
def estimates() -> Any:
    """The program as a module."""
    loader = SourceFileLoader("estimates", str(_PROGRAM))
    spec = importlib.util.spec_from_loader("estimates", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["estimates"] = module
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("instruction", "count"),
    [
        ("fmla v0.4s, v1.4s, v2.s[0]", 4),
        ("fmadd s0, s1, s2, s3", 1),
        ("sdot v0.4s, v1.16b, v2.4b[1]", 16),
        ("usdot v0.4s, v1.16b, v2.4b[1]", 16),
        ("smmla v0.4s, v1.16b, v2.16b", 32),
        ("smull v0.8h, v1.8b, v2.8b", 8),
        ("smlal2 v0.8h, v1.16b, v2.16b", 8),
        ("smlal v0.4s, v1.4h, v2.h[0]", 4),
        ("smlal2 v0.4s, v1.8h, v2.h[0]", 4),
        ("mla v0.4s, v1.4s, v2.4s", 4),
        ("vfma.f32 q2, q3, r0", 4),
        ("vmul.f32 q7, q2, q5", 4),
        ("vmladava.s8 r0, q1, q2", 16),
        ("vmlava.s8 r0, q1, q2", 16),
        ("smlad r0, r1, r2, r0", 2),
        ("sadalp v0.4s, v1.8h", 0),
        ("ldr q1, [x1], 16", 0),
        ("fadd v0.4s, v1.4s, v2.4s", 0),
    ],
)
def test_multiply_adds_of_an_instruction(instruction: str, count: int, estimates: Any) -> None:
    assert estimates.multiply_adds(f"\t{instruction.replace(' ', chr(9), 1)}") == count


def test_the_inner_loop_is_found(estimates: Any) -> None:
    loop = estimates.inner_loop(_LOOPS, "product_neon")
    assert [line.split()[0] for line in loop] == ["ldr", "fmla", "fmla", "subs", "bne"]
    for assembly, name in (
        (_LOOPS, "product_plain"),
        (_LOOPS.replace("fml", "fad").replace("fmul", "fadd"), "product_neon"),
    ):
        with pytest.raises(estimates.EstimateError):
            estimates.inner_loop(assembly, name)


def test_work_is_in_whole_blocks(estimates: Any) -> None:
    small, large = (estimates.Kernel("", "", rows, 8) for rows in (1, 8))
    assert estimates.work("lcr_nano", small) < estimates.work("lcr_nano", large)
    assert estimates.work("lcr_nano", large) % 64 == 0


@pytest.mark.slow
def test_a_table_of_every_processor(estimates: Any) -> None:
    try:
        mca = estimates.find_mca()
    except estimates.EstimateError as error:
        pytest.skip(str(error))
    for compiler in estimates._PACKAGES:
        if not shutil.which(compiler):
            pytest.skip(f"{compiler} is not installed")
    done = subprocess.run([sys.executable, str(_PROGRAM)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert mca in done.stdout
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| Cortex")]
    assert {row[0][2:] for row in rows} == {core.name for core in estimates.CORES}
    assert len(rows) == sum(
        core.compiler == kernel.compiler and core.model not in kernel.lacking
        for core in estimates.CORES
        for kernel in estimates.KERNELS
    )
    for row in rows:
        assert 0.02 < float(row[2]) < 10.0


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(_PROGRAM)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.endswith("apt-get install llvm-19\n")
