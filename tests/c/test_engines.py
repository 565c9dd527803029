"""lcr_edge.h over onnxruntime and OpenVINO: against the reference, against Python's runtimes, and with bad input."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.errors import BundleError
from lcr_edge.runtimes import load
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.c_library import SOURCES
from lcr_edge.runtimes.golden import read_golden
from lcr_edge.runtimes.openvino_engine import saturates
from lcr_edge.tolerances import PROMISES
from tests.c.engine_library import ENGINES, STRICT, TARGETS, compiled, engine, engine_library, explained, package
from tests.c.step_library import (
    ARGUMENT,
    BUSY,
    COMPILERS,
    DIGEST,
    ENGINE,
    FILE,
    FORMAT,
    OK,
    OVERLAP,
    STATE,
    UNSUPPORTED,
    VERSION,
    Options,
    arrays,
    step,
)
from tests.export import made
from tests.runtimes import toy

PROMISE = PROMISES["fp32"]
HERE = Path(__file__).parent
OTHERS = {"onnx": "openvino", "openvino": "onnx"}


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def c(target: str) -> Any:
    return engine_library(target)


@pytest.fixture
def bundle(target: str) -> Path:
    return made.bundle("lcr_pico", target)


@pytest.fixture
def model(c: Any, bundle: Path) -> Iterator[Any]:
    status, why, opened = explained(c, bundle)
    assert (status, why) == (OK, "all is well")
    yield opened
    c.lcr_close(opened)


def _copy(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "bundle"))


def _follow(c: Any, bundle: Path) -> float:
    """Steps the golden clip in C, with two states in turn and in place, and in Python. The largest difference between
    the languages; what is in place must be the same."""
    status, why, model = explained(c, bundle)
    assert status == OK, why
    python = load(bundle)
    frame, before, after, logits = arrays(c, model)
    inside, others, state, worst = np.zeros_like(after), np.zeros_like(logits), python.initial_state(), 0.0
    for t, frame in enumerate(read_golden(python.bundle).frames):
        after[...] = np.nan
        assert step(c, model, frame, None if t == 0 else before, after, logits) == OK
        assert step(c, model, frame, inside, inside, others) == OK
        np.testing.assert_array_equal(inside, after)
        np.testing.assert_array_equal(logits, others)
        wanted, state = python.step(frame, state)
        for found, answer in ((logits, wanted), (after[0], state.h), (after[1], state.c)):
            worst = max(worst, float(np.abs(found - answer).max()))
        before, after = after, before
    c.lcr_close(model)
    return worst


def test_the_golden_clip(c: Any, bundle: Path) -> None:
    """From the reference's states, and with states of its own."""
    golden = read_golden(read_bundle(bundle))
    status, why, model = explained(c, bundle / "manifest.json")
    assert status == OK, why
    _, before, after, logits = arrays(c, model)
    own = np.zeros_like(before)
    for t, frame in enumerate(golden.frames):
        assert step(c, model, frame, before, after, logits) == OK
        before = np.stack([golden.state_h[t], golden.state_c[t]])
        assert max(np.abs(after - before).max(), np.abs(logits - golden.logits[t]).max()) <= (PROMISE.step_abs or 0)
        assert step(c, model, frame, own, own, logits) == OK
        assert max(np.abs(own - before).max(), np.abs(logits - golden.logits[t]).max()) <= (PROMISE.stream_abs or 0)
    c.lcr_close(model)


def test_python_steps_the_same(c: Any, bundle: Path) -> None:
    assert _follow(c, bundle) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["static", "dynamic", "weight-only"])
def test_python_steps_int8_the_same(quant: str, c: Any, target: str) -> None:
    """Also where int8 products saturate, and with OpenVINO's hint about inputs that are rounded on the fly."""
    assert _follow(c, made.bundle("lcr_pico", target, "int8", quant=quant)) == 0.0


@pytest.mark.parametrize("edges", ["host", "graph"])
def test_edges_of_every_kind(edges: str, c: Any, target: str, tmp_path: Path) -> None:
    folder = toy.make_bundle(tmp_path / "toy", target, edges)
    assert _follow(c, folder) == 0.0
    status, _, model = explained(c, folder)
    frame, before, after, logits = arrays(c, model)
    frame[10:20, 10:20] = 250
    given = np.zeros(frame.shape[:2], np.uint8)
    pointers = [array.ctypes.data for array in (frame, given, before, after, logits)]
    status = c.lcr_step_edges(model, *pointers)
    if edges == "graph":
        assert (status, float(np.abs(after).max())) == (UNSUPPORTED, 0.0)
    else:
        assert status == OK
        without = logits.copy()
        assert step(c, model, frame, before, after, logits) == OK
        assert np.abs(logits - without).max() > 1e-3
    c.lcr_close(model)


def test_what_a_model_says_of_itself(c: Any, model: Any, bundle: Path) -> None:
    read = read_bundle(bundle)
    info, config = c.lcr_about(model), read.config
    assert (info.height, info.width, info.layers, info.tokens, info.dim) == (64, 64, *config.state_shape)
    assert (info.fit, info.int8, info.train_fps) == (0, 0, config.train_fps)
    assert info.kernels.decode() == load(bundle).engine.name
    assert tuple(c.lcr_label(model, number).decode() for number in range(config.classes)) == read.labels
    assert c.lcr_label(model, -1) is None
    assert c.lcr_label(model, config.classes) is None
    assert c.lcr_state_size(model) == 2 * 4 * int(np.prod(config.state_shape))
    assert c.lcr_arena_size(None, ctypes.c_size_t(0), None) == 0
    left = ctypes.c_void_p(1)
    assert (
        c.lcr_open_memory(None, ctypes.c_size_t(0), None, None, ctypes.c_size_t(0), ctypes.byref(left)) == UNSUPPORTED
    )
    assert left.value is None


def test_other_entries_of_a_manifest(c: Any, bundle: Path, tmp_path: Path) -> None:
    folder = _copy(bundle, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    labels = [f'{number} " \\ \u00e9 \u6f22 \U0001f600' for number in range(len(manifest["labels"]))]
    toy.reseal(folder, labels=labels, frame={**manifest["frame"], "fit": "crop", "train_fps": 29.97})
    status, why, model = explained(c, folder)
    assert status == OK, why
    info = c.lcr_about(model)
    assert (info.fit, info.train_fps) == (1, np.float32(29.97))
    assert [c.lcr_label(model, number).decode() for number in range(len(labels))] == labels
    c.lcr_close(model)


def test_bad_arguments_of_a_step(c: Any, model: Any) -> None:
    frame, before, after, logits = arrays(c, model)
    after[...], logits[...] = 7.0, 7.0
    for broken in (np.nan, np.inf):
        state = before.copy()
        state.reshape(-1)[-1] = broken
        assert step(c, model, frame, state, after, logits) == STATE
    memory = np.zeros(2 * before.size + 64, np.float32)
    assert step(c, model, frame, memory[: before.size], memory[16 : before.size + 16], logits) == OVERLAP
    assert step(c, model, frame, before, after, after.reshape(-1)[: logits.size]) == OVERLAP
    edges = after.view(np.uint8).reshape(-1)
    pointers = [array.ctypes.data for array in (frame, edges, before, after, logits)]
    assert c.lcr_step_edges(model, *pointers) == OVERLAP
    odd = np.zeros(before.nbytes + 1, np.uint8)[1:]
    assert step(c, model, frame, odd, after, logits) == ARGUMENT
    none: Any = None
    for arguments in ((none, before, after, logits), (frame, before, none, logits), (frame, before, after, none)):
        assert step(c, model, *arguments) == ARGUMENT
    assert step(c, None, frame, before, after, logits) == ARGUMENT
    assert (after == 7.0).all()
    assert (logits == 7.0).all()


def test_memory_that_is_aligned_for_float_only(c: Any, model: Any) -> None:
    """The engines read and write the caller's memory where it is."""
    frame, before, after, logits = arrays(c, model)
    frame = np.random.default_rng(1).integers(0, 256, frame.shape, np.uint8)
    before[...] = np.random.default_rng(2).uniform(-0.5, 0.5, before.shape)
    assert step(c, model, frame, before, after, logits) == OK

    def moved(array: Any) -> Any:
        """The same values at an address that is a multiple of 64, plus one value."""
        memory = np.full(array.nbytes + 64 + 2 * array.itemsize, 0x5A, np.uint8)
        start = -memory.ctypes.data % 64 + array.itemsize
        found = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        found[...] = array
        return memory, found

    (_, frame_), (_, before_), (around, after_), (others, logits_) = map(moved, (frame, before, 0 * after, 0 * logits))
    for _ in range(2):
        assert step(c, model, frame_, before_, after_, logits_) == OK
        np.testing.assert_allclose(after_, after, rtol=0, atol=PROMISE.step_abs or 0)
        np.testing.assert_allclose(logits_, logits, rtol=0, atol=PROMISE.step_abs or 0)
    for memory, array in ((around, after_), (others, logits_)):
        start = array.ctypes.data - memory.ctypes.data
        assert (memory[:start] == 0x5A).all()
        assert (memory[start + array.nbytes :] == 0x5A).all()


def test_threads_share_a_model(c: Any, bundle: Path) -> None:
    """Four states on one handle end as they do alone; more steps at the same time than it was opened for wait."""
    status, why, model = explained(c, bundle, Options(4, 0))
    assert status == OK, why
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (5, 6, 64, 64, 3), np.uint8)
    ends: dict[int, tuple[Any, Any]] = {}
    busy = []

    def run(number: int) -> None:
        _, _, state, logits = arrays(c, model)
        for t, frame in enumerate(frames[number]):
            while (status := step(c, model, frame, state if t else None, state, logits)) == BUSY:
                busy.append(number)
            assert status == OK
        ends[number] = (state, logits)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == list(range(5))
    for number in range(5):
        together = ends[number]
        run(number)
        for found, wanted in zip(together, ends[number]):
            np.testing.assert_array_equal(found, wanted)
    assert set(busy) <= set(range(5))
    c.lcr_close(model)


def test_a_selftest_with_the_clip_of_the_c_bundle(c: Any, model: Any) -> None:
    content = (made.bundle("lcr_pico", "c") / "golden.bin").read_bytes()
    memory, golden = np.zeros(len(content) + 64, np.uint8), np.zeros(c.lcr_selftest_size(model) // 4, np.float32)
    start = -memory.ctypes.data % 64
    memory[start : start + len(content)] = np.frombuffer(content, np.uint8)
    errors = (ctypes.c_float * 3)()
    place = ctypes.c_void_p(memory.ctypes.data + start)
    scratch = ctypes.c_void_p(golden.ctypes.data)
    assert c.lcr_selftest(model, place, ctypes.c_size_t(len(content)), scratch, errors) == OK
    assert 0 < errors[1] <= (PROMISE.step_abs or 0)
    assert 0 < errors[2] <= (PROMISE.stream_abs or 0)


def test_bundles_that_cannot_be_run(c: Any, target: str, bundle: Path, tmp_path: Path) -> None:
    """Real bundles of other kinds, and what the library says of each."""
    kinds: dict[str, tuple[dict[str, Any], str]] = {
        "fp16": ({"state_precision": "fp16"}, "--state-precision fp32"),
        "batch": ({"batch": 2}, "--batch 1"),
    }
    if target == "openvino":
        kinds["internal"] = ({"state_mode": "internal"}, "--state-mode explicit")
    for name, (kind, advice) in kinds.items():
        status, why, model = explained(c, toy.make_bundle(tmp_path / name, target, **kind))
        assert (status, model.value) == (UNSUPPORTED, None), why
        assert advice in why
    status, why, _ = explained(c, toy.make_bundle(tmp_path / "other", OTHERS[target]))
    assert status == UNSUPPORTED
    assert f"the bundle is for {OTHERS[target]}, and this library runs bundles for {target}" in why
    folder = _copy(bundle, tmp_path)
    toy.reseal(folder, io="int8", state_precision="int8")
    status, why, _ = explained(c, folder)
    assert (status, "--io int8" in why) == (UNSUPPORTED, True)
    for threads in (0, -1, 65):
        assert explained(c, bundle, Options(threads, 0))[0] == ARGUMENT
    assert c.lcr_open(None, None, ctypes.byref(ctypes.c_void_p())) == ARGUMENT
    assert c.lcr_open(str(bundle).encode(), None, None) == ARGUMENT


def test_a_model_of_another_network(c: Any, target: str, bundle: Path, tmp_path: Path) -> None:
    """Its digest is right, so only the engine can tell."""
    for kind in ({"edges": "host"}, {"edges": "graph"}):
        folder = _copy(bundle, tmp_path / kind["edges"])
        for name, content in toy.model_bytes(target, kind["edges"], "explicit").items():
            (folder / name).write_bytes(content)
        toy.reseal(folder)
        status, why, model = explained(c, folder)
        assert (status, model.value) == (FORMAT, None)
        assert "manifest; export the bundle again" in why
    folder = _copy(bundle, tmp_path / "rubbish")
    for name in toy.MODEL_FILES[target]:
        (folder / name).write_bytes(b"<net>" * 100)
    toy.reseal(folder)
    status, why, model = explained(c, folder)
    assert (status, model.value) == (ENGINE, None)
    assert "cannot load the model" in why


def test_changed_and_missing_files(c: Any, target: str, bundle: Path, tmp_path: Path) -> None:
    for name in toy.MODEL_FILES[target]:
        folder = _copy(bundle, tmp_path / name)
        whole = (folder / name).read_bytes()
        place = len(whole) // 2
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        status, why, _ = explained(c, folder)
        assert (status, f"{name} is not what was exported" in why) == (DIGEST, True)
        (folder / name).write_bytes(whole[:-1])
        assert explained(c, folder)[0] == DIGEST
        (folder / name).unlink()
        status, why, _ = explained(c, folder)
        assert (status, f"{name} cannot be opened" in why) == (FILE, True)
        (folder / name).mkdir()
        assert explained(c, folder)[0] == FILE
    for path in (tmp_path / "nothing", tmp_path, "", "x" * 5000):
        status, why, model = explained(c, path)
        assert (status, model.value) == (FILE, None), why
    assert "manifest.json" in explained(c, tmp_path)[1]
    folder = _copy(bundle, tmp_path)
    toy.reseal(folder, contract_version=2)
    status, why, _ = explained(c, folder)
    assert (status, "version 2 of the contract" in why) == (VERSION, True)
    manifest = folder / "manifest.json"
    manifest.write_bytes((bundle / "manifest.json").read_bytes().replace(b"Thumb Up", b"Thumb Op", 1) + b" ")
    assert explained(c, folder)[0] == DIGEST
    with pytest.raises(BundleError):
        read_bundle(folder)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_sources_are_strict_c99(compiler: str, target: str, tmp_path: Path) -> None:
    built = engine(target)
    for source in built.files():
        call = [compiler, *built.flags(), "-O1", *STRICT, "-c", source, "-o", str(tmp_path / "o")]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), source


@pytest.mark.slow
def test_no_address_is_wrong(target: str, bundle: Path, tmp_path: Path) -> None:
    """Threads step under AddressSanitizer and UBSan. All memory is freed, but what OpenVINO keeps of threads."""
    built = engine(target)
    options = ["-D_GNU_SOURCE", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    stepping = compiled(built, tmp_path, "stepping", options, [str(HERE / "stepping.c"), *built.files()])
    (tmp_path / "engines").write_text("leak:ov::threading::CPUStreamsExecutor\n", encoding="utf-8")
    leaks = f"suppressions={tmp_path / 'engines'}:print_suppressions=0"
    # Without the second, OpenVINO's TBB loads a library in a way that AddressSanitizer does not allow.
    environment = {**os.environ, "LSAN_OPTIONS": leaks, "TBB_ENABLE_SANITIZERS": "1"}
    rubbish, other = _copy(bundle, tmp_path / "rubbish"), _copy(bundle, tmp_path / "other")
    for name, content in toy.model_bytes(target, "graph", "explicit").items():
        (rubbish / name).write_bytes(b"<net>" * 100)
        (other / name).write_bytes(content)
    toy.reseal(rubbish)
    toy.reseal(other)
    opening = compiled(built, tmp_path, "opening", options, [str(HERE / "opening.c"), *built.files()])
    bundles = [rubbish, other, tmp_path, rubbish, other, bundle]
    outputs = []
    for call in ([stepping, bundle, 4], [opening, *bundles]):
        done = subprocess.run(list(map(str, call)), capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append(done.stdout.splitlines())
    assert outputs[0] == ["same"]
    assert [int(line.split()[0]) for line in outputs[1]] == [ENGINE, FORMAT, FILE, ENGINE, FORMAT, OK]


@pytest.mark.slow
def test_openvino_gets_the_settings_of_python(tmp_path: Path) -> None:
    """Processors without bf16 or int8 products do not show in numbers which settings they have."""
    built = engine("openvino")
    program = compiled(
        built,
        tmp_path,
        "opening",
        ["-D_GNU_SOURCE", "-Wl,--wrap=ov_core_compile_model"],
        [str(HERE / "opening.c"), str(HERE / "settings.c"), *built.files()],
    )
    usual = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    several = {"INFERENCE_NUM_THREADS": "2", "NUM_STREAMS": "2"}
    for quant in (None, "static", "dynamic", "weight-only"):
        folder = made.bundle("lcr_pico", "openvino", "int8" if quant else "fp32", quant=quant)
        done = subprocess.run([str(program), str(folder)], capture_output=True, text=True, check=False)
        assert done.stdout.endswith("0 all is well\n"), done.stdout
        given = dict(line.split("=") for line in done.stdout.splitlines()[:-1])
        hints = json.loads((folder / "manifest.json").read_bytes())["runtime_hints"]
        group = {key: str(value) for key, value in hints.items() if key.startswith("DYNAMIC")}
        assert bool(group) == (quant in ("dynamic", "weight-only"))
        float_ = {"LP_TRANSFORMS_MODE": "NO"} if quant and saturates() else {}
        assert given == {**usual, **several, **group, **float_}


def test_steps_allocate_nothing_of_ours(target: str, bundle: Path, tmp_path: Path) -> None:
    built = engine(target)
    options = ["-D_GNU_SOURCE", "-fno-builtin", *(f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc"))]
    program = compiled(built, tmp_path, "allocating", options, [str(HERE / "allocating.c"), *built.files()])
    done = subprocess.run([str(program), str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    to_open, in_steps = (int(part.split()[0]) for part in done.stdout.split(","))
    assert (to_open > 5, in_steps) == (True, 0)


def test_nobody_is_told(target: str, bundle: Path, tmp_path: Path) -> None:
    """onnxruntime keeps what it reports in the home folder, unless the environment forbids it: nothing is there."""
    built = engine(target)
    program = compiled(built, tmp_path, "stepping", ["-D_GNU_SOURCE"], [str(HERE / "stepping.c"), *built.files()])
    home = tmp_path / "home"
    home.mkdir()
    hidden = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["HOME"] = str(home)
    done = subprocess.run(
        [str(program), str(bundle), "1"], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr
    assert list(home.rglob("*")) == []


@pytest.mark.skipif(not shutil.which("cmake"), reason="there is no cmake: apt-get install cmake")
@pytest.mark.slow
def test_cmake_builds_a_library(target: str, bundle: Path, tmp_path: Path) -> None:
    built = engine(target)
    root = package(built.name)
    options = {
        "onnx": [f"-DONNXRUNTIME_ROOT={root}", f"-DONNXRUNTIME_INCLUDE_DIR={built.headers}"],
        "openvino": [f"-DOPENVINO_ROOT={root}"],
    }
    configure = ["cmake", "-S", str(ENGINES), "-B", str(tmp_path / "build"), f"-DLCR_ENGINE={built.name}"]
    subprocess.run([*configure, *options[target]], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(tmp_path / "build")], check=True, capture_output=True)
    library = tmp_path / "build" / f"liblcr_edge_{built.name}.so"
    program = tmp_path / "stepping"
    call = [COMPILERS[0], "-I", str(SOURCES), str(HERE / "stepping.c"), str(library), "-lpthread"]
    subprocess.run([*call, f"-Wl,-rpath,{library.parent}", "-o", str(program)], check=True)
    done = subprocess.run([str(program), str(bundle), "2"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr


@pytest.mark.skipif(not shutil.which("cmake"), reason="there is no cmake: apt-get install cmake")
def test_cmake_says_what_is_missing(tmp_path: Path) -> None:
    missing = ["-DCMAKE_FIND_ROOT_PATH=/nowhere", "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY"]
    missing += ["-DCMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY", "-DCMAKE_FIND_ROOT_PATH_MODE_PACKAGE=ONLY"]
    (tmp_path / "onnxruntime_c_api.h").write_text("", encoding="utf-8")
    for number, (options, advice) in enumerate(
        (
            ([], "give -DLCR_ENGINE=onnxruntime"),
            (["-DLCR_ENGINE=tflite"], "give -DLCR_ENGINE=onnxruntime"),
            (["-DLCR_ENGINE=onnxruntime"], "libonnxruntime-dev"),
            (["-DLCR_ENGINE=onnxruntime", f"-DONNXRUNTIME_INCLUDE_DIR={tmp_path}"], "pip install onnxruntime"),
            (["-DLCR_ENGINE=openvino"], "pip install openvino"),
        )
    ):
        call = ["cmake", "-S", str(ENGINES), "-B", str(tmp_path / str(number)), *missing, *options]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert advice in " ".join(done.stderr.split())
