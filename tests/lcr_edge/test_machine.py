"""What engines a machine can have: machines of all kinds, made up, and the real /proc/cpuinfo of some."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcr_edge.machine import Machine, how_to_get, processor, this_machine
from tests.boards.boards import BOARDS

PI5 = Machine("aarch64", 64, (3, 11), (2, 36))


def test_this_machine_can_have_what_is_installed_here() -> None:
    here = this_machine()
    assert here.bits == 64
    assert here.python >= (3, 9)
    assert "[onnx]" in how_to_get("onnxruntime", here) or "activate" in how_to_get("onnxruntime", here)


@pytest.mark.parametrize(
    ("engine", "machine", "says"),
    [
        ("openvino", PI5, "[openvino]"),
        ("ai-edge-litert", PI5, "[tflite]"),
        ("tflite-runtime", PI5, "in an environment of its own: it needs numpy 1"),
        ("tflite-runtime", Machine("aarch64", 64, (3, 12), (2, 39)), "its newest wheels are for Python 3.11"),
        ("onnxruntime", Machine("aarch64", 64, (3, 14), (2, 41)), "its newest wheels are for Python 3.13"),
        ("openvino", Machine("aarch64", 64, (3, 9), (2, 28)), "not for glibc 2.28: needs 2.31"),
        ("openvino", Machine("x86_64", 64, (3, 9), (2, 28)), "[openvino]"),
        ("openvino", Machine("riscv64", 64, (3, 12), (2, 39)), "its wheels are for x86_64 and aarch64"),
        ("onnxruntime", Machine("x86_64", 64, (3, 11), None), "Alpine has musl"),
        # A system of 32 bits has a kernel of either.
        ("onnxruntime", Machine("armv7l", 32, (3, 11), (2, 36)), "take tflite-runtime"),
        ("onnxruntime", Machine("aarch64", 32, (3, 11), (2, 36)), "take tflite-runtime"),
        ("tflite-runtime", Machine("aarch64", 32, (3, 11), (2, 36)), "apt-get install python3-numpy"),
        ("tflite-runtime", Machine("armv7l", 32, (3, 13), (2, 41)), "its newest wheels are for Python 3.11"),
    ],
)
def test_each_engine_on_each_machine(engine: str, machine: Machine, says: str) -> None:
    assert says in how_to_get(engine, machine)


def test_the_processor_and_what_engines_use_of_it(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    names = []
    for board in BOARDS:
        path.write_text(board.cpuinfo())
        names.append(processor(path))
    assert names[0] == "Raspberry Pi 5, asimddp, asimdhp"
    assert names[1] == "Raspberry Pi 4"
    path.write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n"
    )
    assert processor(path) == "Some CPU @ 2 GHz, avx2, avx512_vnni"
    assert processor(tmp_path / "none")
