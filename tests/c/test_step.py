"""The C step: against the float network, under sanitizers, and what it says to bad input."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.config import CONFIGS
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import BundleError
from lcr_edge.runtimes import State, load
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.c_engine import declared
from lcr_edge.runtimes.c_library import FLAGS, SOURCES, library
from lcr_edge.runtimes.golden import read_golden
from lcr_edge.runtimes.selftest import selftest
from lcr_edge.tolerances import PROMISES
from tests.c.step_library import (
    ARGUMENT,
    COMPILERS,
    DIGEST,
    ENDIAN,
    FORMAT,
    MEMORY,
    OK,
    OVERLAP,
    PARITY,
    STATE,
    VERSION,
    Options,
    aligned,
    arrays,
    sanitised,
    step,
)
from tests.runtimes.toy import reseal

STRICT = ("-Wall", "-Wextra", "-Werror", "-Wconversion", "-pedantic")
PROMISE = PROMISES["fp32"]
OF_LIBM = ("ceil", "fabsf", "sqrtf", "expf", "rint", "rintf", "floor", "floorf", "fmin", "fminf", "fmax", "fmaxf")
OF_THE_COMPILER = ("__cpu_model", "__cpu_indicator_init", "__cpu_features2", "_GLOBAL_OFFSET_TABLE_")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_sources_are_strict_c99(compiler: str, tmp_path: Path) -> None:
    for source in sorted(SOURCES.glob("*.c")):
        call = [compiler, "-std=c99", "-O1", *STRICT, "-I", str(SOURCES), "-c", str(source), "-o", str(tmp_path / "o")]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), source.name


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_the_header_is_for_cpp_too(tmp_path: Path) -> None:
    (tmp_path / "user.cpp").write_text(
        '#include "lcr_edge.h"\nint main() { return lcr_abi_version() - LCR_ABI_VERSION; }'
    )
    call = ["g++", "-std=c++11", *STRICT, "-I", str(SOURCES), "-c", "user.cpp"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_files_nothing_allocates(tmp_path: Path) -> None:
    """The library for firmware calls no allocator and no file function."""
    if not COMPILERS:
        pytest.skip("there is no C compiler")
    sources = [str(path) for path in sorted(SOURCES.glob("lcr_*.c"))]
    call = [COMPILERS[0], "-std=c99", "-O2", "-DLCR_NO_FILES", "-fno-builtin", "-c", *sources]
    subprocess.run(call, cwd=tmp_path, check=True)
    objects = [str(path) for path in sorted(tmp_path.glob("*.o"))]
    symbols = subprocess.run(["nm", "-u", *objects], capture_output=True, text=True, check=True).stdout
    called = {line.split()[-1] for line in symbols.splitlines() if " U " in line}
    wanted = {name for name in called if not name.startswith("lcr_")}
    assert wanted <= {"memcpy", "memset", "memmove", "memcmp", "strlen", *OF_LIBM, *OF_THE_COMPILER}


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined", "memory"])
def test_threads_share_a_model(sanitizer: str, weights: Path, tmp_path: Path) -> None:
    program = sanitised(sanitizer, tmp_path)
    done = subprocess.run([str(program), str(weights), "4"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["default", "paper"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_kind_of_network_keeps_the_promise(name: str, variant: str, tmp_path: Path) -> None:
    """Of random weights, with several chunks of tokens in the reference, and the paper's head and cell."""
    import torch

    from lcr_edge.checkpoint import random_checkpoint
    from lcr_edge.config import get_config
    from lcr_edge.export.targets.c_convert import weights_of
    from lcr_edge.model.step_cell import StepCell

    checkpoint = random_checkpoint(get_config(name, variant=variant), 3)
    path, config = tmp_path / "model.bin", checkpoint.config
    path.write_bytes(weights_of(StepCell(checkpoint.model), checkpoint.labels, checkpoint.fit))
    step, network = library(), checkpoint.model.double()
    opened = ctypes.c_void_p()
    assert declared(step).lcr_open(str(path).encode(), None, ctypes.byref(opened)) == OK
    random = np.random.default_rng(0)
    h, c = random.uniform(-0.5, 0.5, (2, *config.state_shape)).astype(np.float32)
    frame = random.integers(0, 256, config.frame_shape, np.uint8)
    state, logits = np.stack([h, c]), np.zeros(config.classes, np.float32)
    status = step.lcr_step_edges(
        opened, frame.ctypes.data, None, state.ctypes.data, state.ctypes.data, logits.ctypes.data
    )
    assert status == OK
    step.lcr_close(opened)
    edges = torch.from_numpy(host_edges(frame))[None]
    before = (torch.from_numpy(h)[None].double(), torch.from_numpy(c)[None].double())
    with torch.no_grad():
        wanted, after = network.step(torch.from_numpy(frame)[None], before, edges)
    for found, answer in zip((logits, *state), (wanted, *after)):
        assert np.abs(found - answer.numpy()[0]).max() <= (PROMISE.step_abs or 0.0)


@pytest.mark.parametrize("plain", [0, 1])
def test_plain_c_and_in_place_steps_agree(plain: int, c: Any, weights: Path) -> None:
    golden = read_golden(read_bundle(weights.parent))
    shape, classes = golden.state_h.shape[1:], golden.logits.shape[1]
    opened = ctypes.c_void_p()
    assert c.lcr_open(str(weights).encode(), ctypes.byref(Options(1, plain)), ctypes.byref(opened)) == OK
    assert (c.lcr_about(opened).kernels == b"plain C") or not plain
    inside, before = np.zeros((2, *shape), np.float32), np.zeros((2, *shape), np.float32)
    logits, others = np.zeros((2, classes), np.float32)
    for t, frame in enumerate(golden.frames):
        after = np.full_like(before, np.nan)
        assert step(c, opened, frame, None if t == 0 else before, after, logits) == OK
        assert step(c, opened, frame, inside, inside, others) == OK
        np.testing.assert_array_equal(inside, after)
        np.testing.assert_array_equal(logits, others)
        before = after
        for found, wanted in ((logits, golden.logits[t]), (after[0], golden.state_h[t]), (after[1], golden.state_c[t])):
            assert np.abs(found - wanted).max() <= (PROMISE.stream_abs or 0.0)
    c.lcr_close(opened)


def test_what_a_model_says_of_itself(c: Any, model: Any, weights: Path) -> None:
    bundle = read_bundle(weights.parent)
    info, config = c.lcr_about(model), bundle.config
    assert (info.height, info.width, info.layers, info.tokens, info.dim) == (64, 64, *config.state_shape)
    assert (info.fit, info.int8, info.train_fps) == (0, 0, config.train_fps)
    assert tuple(c.lcr_label(model, number).decode() for number in range(config.classes)) == bundle.labels
    assert c.lcr_label(model, -1) is None
    assert c.lcr_label(model, config.classes) is None
    assert c.lcr_state_size(model) == 2 * 4 * int(np.prod(config.state_shape))
    messages = {c.lcr_message(status) for status in range(15)}
    assert len(messages) == 15
    assert b"an unknown status" in messages


def test_bad_arguments_of_a_step(c: Any, model: Any) -> None:
    frame, before, after, logits = arrays(c, model)
    after[...], logits[...] = 7.0, 7.0
    for broken in (np.nan, np.inf, -np.inf):
        for place in (0, before.size // 2, before.size - 1):
            state = before.copy()
            state.reshape(-1)[place] = broken
            assert step(c, model, frame, state, after, logits) == STATE
    memory = np.zeros(2 * before.size + 64, np.float32)
    overlapping = memory[: before.size], memory[16 : before.size + 16]
    assert step(c, model, frame, overlapping[0], overlapping[1], logits) == OVERLAP
    assert step(c, model, frame, before, after, after.reshape(-1)[: logits.size]) == OVERLAP
    odd = np.zeros(before.nbytes + 1, np.uint8)[1:]
    assert step(c, model, frame, odd, after, logits) == ARGUMENT
    none: Any = None
    for arguments in ((none, before, after, logits), (frame, before, none, logits), (frame, before, after, none)):
        assert step(c, model, *arguments) == ARGUMENT
    assert step(c, None, frame, before, after, logits) == ARGUMENT
    assert (after == 7.0).all()
    assert (logits == 7.0).all()


def test_weights_and_arena_of_the_caller(c: Any, weights: Path) -> None:
    content = np.frombuffer(weights.read_bytes(), np.uint8)
    flash = aligned(content.size)
    flash[:] = content
    size = c.lcr_arena_size(ctypes.c_void_p(flash.ctypes.data), ctypes.c_size_t(flash.size), None)
    assert size > 0
    assert c.lcr_arena_size(ctypes.c_void_p(flash.ctypes.data), ctypes.c_size_t(100), None) == 0
    arena, opened = aligned(size), ctypes.c_void_p()

    def open_at(place: int, room: int) -> int:
        pointers = ctypes.c_void_p(flash.ctypes.data), ctypes.c_size_t(flash.size), None, ctypes.c_void_p(place)
        return int(c.lcr_open_memory(*pointers, ctypes.c_size_t(room), ctypes.byref(opened)))

    assert open_at(arena.ctypes.data, size - 1) == MEMORY
    assert open_at(arena.ctypes.data + 4, size) == MEMORY
    assert open_at(arena.ctypes.data, size) == OK
    frame, before, after, logits = arrays(c, opened)
    assert step(c, opened, frame, before, after, logits) == OK
    own = load(weights.parent)
    wanted, state = own.step(frame, own.initial_state())
    np.testing.assert_array_equal(logits, wanted)
    np.testing.assert_array_equal(after[1], state.c)
    c.lcr_close(opened)


def test_a_bundle_is_stepped_in_python(weights: Path, tmp_path: Path) -> None:
    if not COMPILERS:
        pytest.skip("there is no C compiler")
    report = selftest(weights.parent)
    assert report.passed, report.failures
    assert report.engine.startswith("C, ")
    names = {path.name for path in weights.parent.iterdir()}
    assert {path.name for path in SOURCES.iterdir() if path.is_file()} | {"model.bin"} <= names
    other = tmp_path / "bundle"
    shutil.copytree(weights.parent, other)
    (other / "model.bin").write_bytes(weights.read_bytes()[:-64])
    reseal(other)
    with pytest.raises(BundleError, match="or it was cut off"):
        load(other)
    model = load(weights.parent)
    state = model.initial_state()
    kept = State(state.h.copy(), state.c.copy())
    model.step(read_golden(model.bundle).frames[0], state)
    np.testing.assert_array_equal(state.h, kept.h)


class Errors(ctypes.Structure):
    """lcr_errors."""

    _fields_ = (("frames", ctypes.c_int), ("one_step", ctypes.c_float), ("stream", ctypes.c_float))


def _selftest(c: Any, model: Any, content: bytes) -> tuple[int, Errors]:
    golden, memory, errors = aligned(len(content)), np.zeros(c.lcr_selftest_size(model), np.uint8), Errors()
    golden[:] = np.frombuffer(content, np.uint8)
    pointers = ctypes.c_void_p(golden.ctypes.data), ctypes.c_size_t(golden.size), ctypes.c_void_p(memory.ctypes.data)
    return int(c.lcr_selftest(model, *pointers, ctypes.byref(errors))), errors


def _resigned(content: bytearray) -> bytes:
    content[64:96] = bytes(32)
    content[64:96] = hashlib.sha256(content).digest()
    return bytes(content)


def test_a_selftest_on_the_device(c: Any, model: Any, weights: Path) -> None:
    c.lcr_selftest_size.restype = ctypes.c_size_t
    good = weights.with_name("golden.bin").read_bytes()
    status, errors = _selftest(c, model, good)
    assert (status, errors.frames) == (OK, 8)
    assert 0 < errors.one_step <= (PROMISE.step_abs or 0.0)
    assert 0 < errors.stream <= (PROMISE.stream_abs or 0.0)
    golden = read_golden(read_bundle(weights.parent))
    first = 128 + -(-golden.frames[0].size // 64) * 64
    (was,) = struct.unpack_from("<f", good, first)
    assert was == golden.logits[0, 0]
    for wrong in (was + 1e-3, np.nan):
        content = bytearray(good)
        struct.pack_into("<f", content, first, wrong)
        assert _selftest(c, model, bytes(content))[0] == DIGEST
        status, errors = _selftest(c, model, _resigned(content))
        assert status == PARITY
        assert not errors.one_step <= 5e-4
    for size in (100, 128, len(good) - 64):
        assert _selftest(c, model, good[:size])[0] in (FORMAT, DIGEST)
    for place in range(16, 44, 4):  # frames, and the shape of another network
        content = bytearray(good)
        struct.pack_into("<I", content, place, 3)
        was_three = struct.unpack_from("<I", good, place) == (3,)
        assert _selftest(c, model, _resigned(content))[0] == (OK if was_three else FORMAT)
    assert _selftest(c, model, good[:8] + good[8:12][::-1] + good[12:])[0] == ENDIAN
    assert _selftest(c, model, good[:12] + bytes([7]) + good[13:])[0] == VERSION


def test_the_makefile_builds_a_library(weights: Path, tmp_path: Path) -> None:
    if not COMPILERS or not shutil.which("make"):
        pytest.skip("there is no C compiler, or no make")
    folder = tmp_path / "bundle"
    shutil.copytree(weights.parent, folder)
    done = subprocess.run(["make", "-C", str(folder), "CFLAGS=-O1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compiled = [line.split() for line in done.stdout.splitlines() if " -c " in line]
    assert len(compiled) == len(list(SOURCES.glob("lcr_*.c")))
    assert all({"-O1", *FLAGS} - {"-O3"} <= set(words) for words in compiled)
    for flags, again in (("-O1", False), ("-O0", True), ("-O1", True)):  # other flags, and nothing is left of the old
        made = subprocess.run(
            ["make", "-C", str(folder), f"CFLAGS={flags}"], capture_output=True, text=True, check=True
        )
        assert (made.stdout.count(" -c ") == len(compiled)) is again
    built = declared(ctypes.CDLL(str(folder / "liblcr_edge.so")))
    opened = ctypes.c_void_p()
    assert built.lcr_open(str(folder / "model.bin").encode(), None, ctypes.byref(opened)) == OK
    built.lcr_close(opened)
    subprocess.run(["make", "-C", str(folder), "CFLAGS=-O1", "selftest"], capture_output=True, check=True)
    done = subprocess.run([str(folder / "selftest"), str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "passed")
    (folder / "golden.bin").write_bytes(b"LCR")
    done = subprocess.run(["./selftest"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "copy the bundle again" in done.stderr
    flags = next(line for line in (SOURCES / "Makefile").read_text().splitlines() if line.startswith("STEP_FLAGS"))
    assert set(FLAGS) - {"-O3"} <= set(flags.split())
