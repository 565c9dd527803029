"""The C step without files and malloc: arrays for flash, memory that is known beforehand, and Cortex-M."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.machinery
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.config import CONFIGS, get_config
from lcr_edge.errors import UsageError
from lcr_edge.export.targets.request import Request
from lcr_edge.runtimes.c_library import FLAGS, SOURCES
from tests.c.step_library import COMPILERS, FORMAT, OK, PARITY, aligned
from tests.export import made

HERE = Path(__file__).parent
CORTEX_M = HERE.parents[1] / "examples" / "cortex_m"
CROSS = "arm-none-eabi-gcc"
M_FLAGS = {
    "m7": ("-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mthumb", "-mfloat-abi=hard"),
    "m55": ("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"),
}
# Bytes of stack: of one function, and of the deepest chain of calls, without what libm takes. docs/firmware.md says so.
MOST_OF_ONE, MOST_OF_A_CHAIN = 2048, 4096
ALLOCATORS = re.compile(r"\b_?(malloc|calloc|realloc|free|sbrk|_sbrk|_malloc_r|_free_r|fopen|printf|fprintf)\b")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of lcr_pico with the files for firmware, of the real writer, beside the sources."""
    from lcr_edge.export.targets.c_firmware import firmware_files

    if not COMPILERS:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("firmware") / "lcr_pico-c-fp32"
    shutil.copytree(made.bundle("lcr_pico", "c"), folder)
    for name, text in firmware_files(folder, folder.name, get_config("lcr_pico")).items():
        (folder / name).write_text(text)
    return folder


def defines(bundle: Path) -> dict[str, int]:
    found = re.findall(r"#define LCR_MODEL_(\w+) (\d+)", (bundle / "model.h").read_text())
    return {name: int(number) for name, number in found}


def compiled(compiler: str, sources: list[Path], flags: tuple[str, ...], folder: Path) -> Path:
    program = folder / "program"
    call = [compiler, "-std=c99", "-O2", *flags, *map(str, sources), "-lm", "-o", str(program)]
    subprocess.run(call, check=True)
    return program


@pytest.mark.slow
def test_the_arrays_hold_the_files(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(
        '#include "model.h"\n#include <stdio.h>\nint main(void) {\n'
        "    fwrite(lcr_model_weights, 1, LCR_MODEL_WEIGHTS_SIZE, stdout);\n"
        "    fwrite(lcr_model_golden, 1, LCR_MODEL_GOLDEN_SIZE, stdout);\n"
        "    return (uintptr_t)lcr_model_weights % 64 != 0 || (uintptr_t)lcr_model_golden % 64 != 0;\n}\n"
    )
    sources = [tmp_path / "main.c", bundle / "model_weights.c", bundle / "model_golden.c"]
    for compiler in COMPILERS:
        strict = ("-Wall", "-Wextra", "-Werror", "-Wconversion", "-pedantic", "-I", str(bundle))
        done = subprocess.run([str(compiled(compiler, sources, strict, tmp_path))], capture_output=True, check=True)
        assert done.stdout == (bundle / "model.bin").read_bytes() + (bundle / "golden.bin").read_bytes()


def test_the_last_word_of_an_array_is_filled_up() -> None:
    """A weights file need not be whole words."""
    from lcr_edge.export.targets.c_firmware import _array

    content = bytes(range(1, 12))
    (line,) = [line for line in _array("a", content, "text").splitlines() if line.startswith("0x")]
    assert line == "0x807060504030201,0xb0a09,"


def test_the_header_says_what_the_library_needs(c: Any, bundle: Path) -> None:
    content, found = (bundle / "model.bin").read_bytes(), defines(bundle)
    flash = aligned(len(content))
    flash[:] = np.frombuffer(content, np.uint8)
    where = ctypes.c_void_p(flash.ctypes.data), ctypes.c_size_t(flash.size), None
    arena, opened = aligned(found["ARENA"]), ctypes.c_void_p()
    room = ctypes.c_void_p(arena.ctypes.data), ctypes.c_size_t(found["ARENA"])
    assert c.lcr_open_memory(*where, *room, ctypes.byref(opened)) == OK
    assert found["ARENA"] == c.lcr_arena_size(*where)
    assert found["STATE"] == c.lcr_state_size(opened)
    c.lcr_selftest_size.restype = ctypes.c_size_t
    assert found["SELFTEST"] == c.lcr_selftest_size(opened)
    info = c.lcr_about(opened)
    assert (found["HEIGHT"], found["WIDTH"], found["CLASSES"]) == (info.height, info.width, 27)
    assert found["WEIGHTS_SIZE"] == len(content)
    assert found["GOLDEN_SIZE"] == (bundle / "golden.bin").stat().st_size


def test_an_export_for_firmware(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Request(get_config("lcr_pico"), "c", firmware=True).name == "lcr_pico-c-fp32"
    with pytest.raises(UsageError, match="--firmware works with --target c"):
        Request(get_config("lcr_pico"), "onnx", firmware=True)
    for target in ("tflite", "all"):
        assert main(["export", "--target", target, "--firmware", "--out", str(tmp_path)]) == 2
        assert "--firmware works with --target c only" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_exporter_writes_the_arrays(tmp_path: Path) -> None:
    from lcr_edge.export.exporter import Exporter
    from lcr_edge.runtimes.bundle import read_bundle

    if not COMPILERS:
        pytest.skip("there is no C compiler")
    request = Request(get_config("lcr_pico"), "c", firmware=True)
    exported = Exporter(made.checkpoint("lcr_pico"), tmp_path).export(request, made.GATE)
    arrays = {"model.h", "model_weights.c", "model_golden.c"}
    assert arrays <= set(exported.sizes)
    assert arrays <= set(read_bundle(exported.folder).manifest["files"])
    assert defines(exported.folder)["WEIGHTS_SIZE"] == exported.sizes["model.bin"]


@pytest.mark.slow
def test_makefile_and_cmake_build_the_library_for_firmware(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    if shutil.which("make"):
        done = subprocess.run(
            ["make", "-s", "-C", str(folder), "CFLAGS=-O1", "firmware"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        _check_archive(folder / "liblcr_firmware.a")
        subprocess.run(["make", "-s", "-C", str(folder), "clean"], check=True)
        assert {path.name for path in folder.iterdir()} == {path.name for path in bundle.iterdir()}
        (folder / "model.h").rename(tmp_path / "model.h")
        done = subprocess.run(
            ["make", "-s", "-C", str(folder), "CFLAGS=-O0", "firmware"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "model.h" in done.stderr or "--firmware" in done.stderr
        (tmp_path / "model.h").rename(folder / "model.h")
    if shutil.which("cmake"):
        build = tmp_path / "build"
        subprocess.run(["cmake", "-S", str(folder), "-B", str(build)], capture_output=True, check=True)
        subprocess.run(["cmake", "--build", str(build), "-t", "lcr_firmware"], capture_output=True, check=True)
        _check_archive(build / "liblcr_firmware.a")


def _check_archive(archive: Path) -> None:
    """Nothing in it allocates or opens files, and the arrays are there."""
    symbols = subprocess.run(["nm", str(archive)], capture_output=True, text=True, check=True).stdout
    assert not ALLOCATORS.search(symbols)
    for name in ("lcr_model_weights", "lcr_model_golden", "lcr_step", "lcr_selftest_hash"):
        assert re.search(rf" [RTr] {name}$", symbols, re.MULTILINE), name


def test_the_hash_is_of_every_answer(c: Any, bundle: Path) -> None:
    """A chain over logits and states of the golden clip, with the model's own state fed back."""
    opened = ctypes.c_void_p()
    assert c.lcr_open(str(bundle / "model.bin").encode(), None, ctypes.byref(opened)) == OK
    found = defines(bundle)
    good = (bundle / "golden.bin").read_bytes()
    status, hash_, frames = _hashed(c, opened, good, found["SELFTEST"])
    assert status == OK
    wanted, state = bytes(32), np.zeros(found["STATE"] // 4, np.float32)
    logits = np.zeros(found["CLASSES"], np.float32)
    pixels = 3 * found["HEIGHT"] * found["WIDTH"]
    each = sum(-(-size // 64) * 64 for size in (pixels, logits.nbytes, state.nbytes))
    for number in range(frames):
        frame = np.frombuffer(good, np.uint8, pixels, 128 + number * each).copy()
        before = None if number == 0 else ctypes.c_void_p(state.ctypes.data)
        pointers = ctypes.c_void_p(state.ctypes.data), ctypes.c_void_p(logits.ctypes.data)
        assert c.lcr_step(opened, ctypes.c_void_p(frame.ctypes.data), before, *pointers) == OK
        wanted = hashlib.sha256(wanted + logits.tobytes()).digest()
        wanted = hashlib.sha256(wanted + state.tobytes()).digest()
    assert hash_ == wanted[:8]
    # Wrong reference answers do not change what the model computes; a damaged clip has no hash.
    wrong = bytearray(good)
    place = 128 + -(-pixels // 64) * 64
    wrong[place : place + 4] = np.float32(100).tobytes()
    assert _hashed(c, opened, bytes(wrong), found["SELFTEST"])[:2] == (6, bytes(8))
    wrong[64:96] = bytes(32)
    wrong[64:96] = hashlib.sha256(wrong).digest()
    assert _hashed(c, opened, bytes(wrong), found["SELFTEST"])[:2] == (PARITY, hash_)
    assert _hashed(c, opened, good[:100], found["SELFTEST"])[:2] == (FORMAT, bytes(8))
    c.lcr_close(opened)


def _hashed(c: Any, model: Any, content: bytes, size: int) -> tuple[int, bytes, int]:
    golden, memory, hash_ = aligned(len(content)), aligned(size), np.zeros(8, np.uint8)
    golden[:] = np.frombuffer(content, np.uint8)
    errors = (ctypes.c_int * 3)()
    where = ctypes.c_void_p(golden.ctypes.data), ctypes.c_size_t(golden.size), ctypes.c_void_p(memory.ctypes.data)
    status = c.lcr_selftest_hash(model, *where, errors, ctypes.c_void_p(hash_.ctypes.data))
    return int(status), hash_.tobytes(), errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_arena_is_large_enough_on_32_bits(name: str, tmp_path: Path) -> None:
    from lcr_edge.checkpoint import random_checkpoint
    from lcr_edge.export.targets.c_convert import weights_of
    from lcr_edge.model.step_cell import StepCell

    tools = "arm-linux-gnueabihf-gcc", "qemu-arm-static", "gcc"
    for tool in tools:
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    checkpoint = random_checkpoint(get_config(name), 3)
    path = tmp_path / "model.bin"
    path.write_bytes(weights_of(StepCell(checkpoint.model), checkpoint.labels, checkpoint.fit))
    sources = [HERE / "arena_size.c", *sorted(SOURCES.glob("lcr_*.c"))]
    sizes = {}
    for compiler, emulator in ((tools[0], ["qemu-arm-static"]), ("gcc", [])):
        program = compiled(compiler, sources, ("-static", "-I", str(SOURCES)), tmp_path)
        said = subprocess.run([*emulator, str(program), str(path)], capture_output=True, text=True, check=True).stdout
        match = re.fullmatch(r"(\d+) of (\d+) bits\n", said)
        assert match, said
        sizes[int(match[2])] = int(match[1])
    assert 0 < sizes[32] <= sizes[64]


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["x86-64", *M_FLAGS])
def test_the_stack_is_bounded(processor: str, tmp_path: Path) -> None:
    """No function's stack depends on what it is given, and the deepest chain of calls is short."""
    compiler = CROSS if processor in M_FLAGS else "gcc"
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    flags = (*FLAGS, *M_FLAGS.get(processor, ()), "-DLCR_NO_FILES", "-fstack-usage", "-fcallgraph-info=su")
    sources = [str(path) for path in sorted(SOURCES.glob("lcr_*.c"))]
    subprocess.run([compiler, *flags, "-c", *sources], cwd=tmp_path, check=True)
    usage = [line.split("\t") for path in tmp_path.glob("*.su") for line in path.read_text().splitlines()]
    assert len(usage) > 40
    assert [row for row in usage if row[2] == "dynamic"] == []
    assert [row for row in usage if int(row[1]) > MOST_OF_ONE] == []
    stack, calls = _call_graph("\n".join(path.read_text() for path in tmp_path.glob("*.ci")))
    assert 1000 < _deepest("lcr_selftest_hash", stack, calls, ()) <= MOST_OF_A_CHAIN
    for name in ("lcr_open_memory", "lcr_fit_image", "lcr_events_step"):
        assert 0 < _deepest(name, stack, calls, ()) <= MOST_OF_A_CHAIN


def _call_graph(text: str) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Bytes of stack of each function, and what each calls; a pointer may lead to any kernel of lcr_kernels.c."""
    nodes = re.findall(r'node: \{ title: "([^"]+)" label: "[^"]*?(\d+) bytes', text)
    stack = {name: int(number) for name, number in nodes}
    calls: dict[str, set[str]] = {}
    for source, target in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', text):
        calls.setdefault(source, set()).add(target)
    calls["__indirect_call"] = {name for name in stack if "lcr_kernels.c:" in name}
    assert calls["__indirect_call"]
    return stack, calls


def _deepest(name: str, stack: Mapping[str, int], calls: Mapping[str, set[str]], above: tuple[str, ...]) -> int:
    assert name not in above, f"recursion: {above}"
    deeper = (_deepest(other, stack, calls, (*above, name)) for other in calls.get(name, ()))
    return stack.get(name, 0) + max(deeper, default=0)


@pytest.mark.slow
def test_a_painted_stack_stays_within_the_bound(bundle: Path, tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    flags = (*(flag for flag in FLAGS if flag != "-std=c99"), "-I", str(SOURCES), "-pthread")
    program = compiled("gcc", [HERE / "painted.c", *sorted(SOURCES.glob("lcr_*.c"))], flags, tmp_path)
    call = [str(program), str(bundle / "model.bin"), str(bundle / "golden.bin")]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    # libm and the resolving of its functions take some more.
    assert 1000 < int(done.stdout) <= MOST_OF_A_CHAIN + 4096


@pytest.mark.parametrize("tool", ["gcc", "clang"])
def test_the_program_for_cortex_m_is_strict_c99(tool: str, bundle: Path) -> None:
    compiler = [CROSS] if tool == "gcc" else ["clang", "--target=thumbv7em-none-eabihf", "-ffreestanding"]
    if not shutil.which(compiler[0]):
        pytest.skip(f"{compiler[0]} is not installed")
    strict = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-pedantic", '-DBOARD_CLOCK_TEXT="1"')
    for source in ("main.c", "board.c"):
        call = [*compiler, *M_FLAGS["m7"], *strict, "-I", str(bundle), "-fsyntax-only", str(CORTEX_M / source)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), source


@pytest.mark.slow
@pytest.mark.parametrize("cpu", list(M_FLAGS))
def test_a_model_on_cortex_m(cpu: str, bundle: Path, tmp_path: Path) -> None:
    """The whole image has no allocator, its selftest passes, and it stays within the memory that was said."""
    for tool in (CROSS, "qemu-system-arm", "make"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    machines = _machines()
    (processor,) = [row for row in machines.PROCESSORS if row.cpu == cpu]
    if not machines._has_newlib(CROSS):
        pytest.skip("newlib is not installed")
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    subprocess.run(["make", "-s", "-C", str(CORTEX_M), f"BUNDLE={folder}", f"CPU={cpu}"], check=True)
    image = folder / f"cortex_{cpu}.elf"
    symbols = subprocess.run(["arm-none-eabi-nm", str(image)], capture_output=True, text=True, check=True).stdout
    assert "lcr_step" in symbols
    assert not ALLOCATORS.search(symbols)
    outcome = machines.run(processor, bundle)
    assert outcome.result == "passed", outcome
    assert float(outcome.said["one"]) <= 1e-5
    takes = {name: int(number) for name, number in outcome.takes.items()}
    found = defines(bundle)
    assert takes["needed"] <= takes["arena"] == found["ARENA"]
    assert (takes["weights"], takes["state"]) == (found["WEIGHTS_SIZE"], found["STATE"])
    assert 1000 < takes["stack"] <= MOST_OF_A_CHAIN
    assert 1e6 < machines.instructions(outcome.takes) < 1e9
    if cpu == "m7":  # a wrong answer is told there too; one processor is enough
        bad = machines.planted(bundle, tmp_path / "planted")
        _write_arrays(bad)
        assert machines.run(processor, bad).result == "FAILED"


def _write_arrays(bundle: Path) -> None:
    from lcr_edge.export.targets.c_firmware import firmware_files

    for name, text in firmware_files(bundle, bundle.name, get_config("lcr_pico")).items():
        (bundle / name).write_text(text)


def _machines() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("c_machines", str(HERE / "machines"))
    spec = importlib.util.spec_from_loader("c_machines", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["c_machines"] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


def test_int8_answers_must_be_the_same_everywhere() -> None:
    machines = _machines()

    def said(hash_: str, precision: str) -> Any:
        return machines.Outcome("passed", "", {"hash": hash_, "precision": precision})

    skipped = machines.Outcome("skipped", "no compiler")
    assert machines.compare([said("a", "int8"), skipped, said("a", "int8")]) == []
    assert machines.compare([said("a", "int8"), skipped, said("b", "int8")]) == ["a", "b"]
    assert machines.compare([said("a", "float32"), said("b", "float32")]) == []
