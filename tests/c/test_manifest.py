"""The reader of manifests in C: what is JSON, and what damaged and hostile manifests do to it, under sanitizers."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lcr_edge.errors import BundleError
from lcr_edge.runtimes.bundle import MANIFEST, read_bundle, seal
from lcr_edge.runtimes.c_library import SOURCES
from tests import shared
from tests.c.engine_library import ENGINES, READER
from tests.c.step_library import COMPILERS, DIGEST, FORMAT, OK, UNSUPPORTED, VERSION
from tests.runtimes import toy

JSON = {
    b"{}": 1,
    b"[]": 1,
    b' [1, -0.5e+3, "a\\u00e9\\ud83d\\ude00\\n", true, false, null] ': 7,
    b'{"a": {"b": [[], {}]}, "c": ""}': 9,
    b"0": 1,
    b'"\xc3\xa9\xf0\x9f\x98\x80"': 1,
    b"[" * 32 + b"]" * 32: 32,
    # None of these is JSON, or it is too deep.
    b"[" * 33 + b"]" * 33: 0,
    b"[" * 100000: 0,
    b"": 0,
    b" ": 0,
    b"{": 0,
    b"[1": 0,
    b"[1,": 0,
    b"[1,]": 0,
    b"[,1]": 0,
    b"[1 2]": 0,
    b"{1: 2}": 0,
    b'{"a"}': 0,
    b'{"a":}': 0,
    b'{"a":1,}': 0,
    b'{"a":1]': 0,
    b"[1}": 0,
    b"1 1": 0,
    b"01": 0,
    b"1.": 0,
    b".5": 0,
    b"+1": 0,
    b"1e": 0,
    b"-": 0,
    b"NaN": 0,
    b"Infinity": 0,
    b"nul": 0,
    b"truefalse": 0,
    b"'a'": 0,
    b'"a': 0,
    b'"\\': 0,
    b'"\\"': 0,
    b'"\\x"': 0,
    b'"\\u12': 0,
    b'"\\u12g4"': 0,
    b'"\\ud800"': 0,
    b'"\\udc00"': 0,
    b'"\\ud800\\u0041"': 0,
    b'"a\nb"': 0,
    b'"a\x00b"': 0,
    b'"\xc3"': 0,
    b'"\xc0\xaf"': 0,
    b'"\xed\xa0\x80"': 0,
    b'"\xf4\x90\x80\x80"': 0,
    b'"\xff"': 0,
    b"\xef\xbb\xbf{}": 0,
    b"{}\x00": 0,
    b"/**/{}": 0,
}


@pytest.fixture(scope="module")
def program() -> Path:
    """reading.c with the reader's sources and AddressSanitizer and UBSan."""
    if not COMPILERS:
        pytest.skip("there is no C compiler: apt-get install gcc")

    def make(folder: Path) -> None:
        sources = [Path(__file__).parent / "reading.c", *(ENGINES / name for name in READER), SOURCES / "lcr_sha256.c"]
        flags = ["-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        call = [COMPILERS[0], *flags, "-I", str(SOURCES), "-I", str(ENGINES), *map(str, sources)]
        subprocess.run([*call, "-o", str(folder / "reading")], check=True)

    return shared.folder("c_reading", make) / "reading"


def _told(program: Path, what: str, paths: Sequence[Path]) -> list[str]:
    done = subprocess.run([str(program), what, *map(str, paths)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    return lines


def _statuses(program: Path, paths: Sequence[Path]) -> list[int]:
    return [int(line.split()[0]) for line in _told(program, "onnx", paths)]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy.make_bundle(tmp_path / "toy", "onnx", "host")


def _manifests(bundle: Path, contents: Sequence[bytes]) -> list[Path]:
    """A manifest of each content, beside the model."""
    paths = [bundle / f"{number}.json" for number in range(len(contents))]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    return paths


def test_what_is_json(program: Path, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(len(JSON))]
    for path, content in zip(paths, JSON):
        path.write_bytes(content)
    assert dict(zip(JSON, map(int, _told(program, "-", paths)))) == JSON


def test_python_agrees_on_damaged_json(program: Path, bundle: Path, tmp_path: Path) -> None:
    """A thousand texts of one to three changes: what C takes for JSON, Python does, and the other way round."""
    chance = random.Random(5)
    whole = json.dumps(json.loads((bundle / MANIFEST).read_bytes()), separators=(",", ":"), ensure_ascii=False).encode()
    texts = []
    for _ in range(1000):
        text = bytearray(whole[: chance.choice((200, 700, len(whole)))])
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(text))
            text[place : place + chance.randint(0, 2)] = chance.choice(
                (b"", b'"', b",", b"]", b"}", b"0", b"\\", b"\xc3")
            )
        texts.append(bytes(text))
    paths = [tmp_path / f"text{number}" for number in range(len(texts))]
    for path, damaged in zip(paths, texts):
        path.write_bytes(damaged)
    found = [int(line) > 0 for line in _told(program, "-", paths)]
    wanted = [_is_json(damaged) for damaged in texts]
    assert found == wanted
    assert 20 < sum(wanted) < 900


def _is_json(text: bytes) -> bool:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(text.decode(), parse_constant=refuse)
    except ValueError:
        return False
    return True


def test_a_manifest_that_is_cut_or_changed(program: Path, bundle: Path) -> None:
    whole = (bundle / MANIFEST).read_bytes()
    assert _statuses(program, [bundle, bundle / MANIFEST, *_manifests(bundle, [whole])]) == [OK, OK, OK]
    cut = _statuses(program, _manifests(bundle, [whole[:size] for size in range(0, len(whole) - 2, 7)]))
    assert set(cut) == {FORMAT}
    changed = []
    for place in range(0, len(whole), 5):
        for bit in (1, 64):
            changed.append(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
    assert set(_statuses(program, _manifests(bundle, changed))) <= {FORMAT, VERSION, DIGEST}


@pytest.mark.parametrize("kind", ["missing", "null", "text", "number", "huge", "list", "nothing"])
def test_values_of_another_kind(kind: str, program: Path, bundle: Path) -> None:
    """Sealed anew, so that each value is looked at. What Python does not take, C does not take."""
    other: dict[str, Any] = {
        "null": None,
        "text": "x" * 300,
        "number": -1,
        "huge": 10**30,
        "list": [[]],
        "nothing": "",
    }
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    places: list[tuple[str, ...]] = [(key,) for key in manifest if key != "manifest_sha256"]
    places += [(key, inner) for key in ("config", "frame", "files") for inner in manifest[key]]
    places += [("files", "model.onnx", key) for key in ("sha256", "bytes")]
    contents = [_with(manifest, place, other.get(kind), missing=kind == "missing") for place in places]
    found = _statuses(program, _manifests(bundle, contents))
    copy = bundle.with_name("copy")
    for place, content, status in zip(places, contents, found):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("[0-9]*.json"))
        (copy / MANIFEST).write_bytes(content)
        try:
            read_bundle(copy)
            wanted = True
        except BundleError:
            wanted = False
        needed = {("target",), ("edges",), ("labels",), ("config",), ("frame",), ("model_files",), ("files",)}
        if not wanted and place in needed:
            assert status != OK, (place, kind)
        # Python has a default for a size of patches; every manifest names it.
        if wanted and (place, kind) != (("config", "patch"), "missing"):
            assert status == OK, (place, kind)


def _with(manifest: dict[str, Any], place: tuple[str, ...], value: Any, *, missing: bool) -> bytes:
    copy = json.loads(json.dumps(manifest))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    if missing:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return seal(copy)


def test_hostile_manifests(program: Path, bundle: Path) -> None:
    """Sealed manifests that want what is not theirs, or more than there is."""
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    record = manifest["files"]["model.onnx"]
    changes: list[dict[str, Any]] = [
        {"model_files": ["../toy/model.onnx"], "files": {"../toy/model.onnx": record}},
        {"model_files": ["/etc/passwd"], "files": {"/etc/passwd": record}},
        {"model_files": ["..", "model.onnx"]},
        {"model_files": ["model.onnx"] * 3},
        {"model_files": []},
        {"files": {"model.onnx": {**record, "bytes": 2**62}}},
        {"files": {"model.onnx": {**record, "bytes": 0}}},
        {"config": {**manifest["config"], "layers": 2**31}},
        {"config": {**manifest["config"], "height": 8192, "width": 8192, "patch": 1, "dim": 8192, "layers": 64}},
        {"config": {**manifest["config"], "classes": 65536}},
        {"labels": ["a\0b", "c", "d"]},
        {"frame": {**manifest["frame"], "train_fps": 1e300}},
        {"frame": {**manifest["frame"], "train_fps": 1e-300}},
        {"runtime_hints": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": -1}},
        {"batch": 2**40},
    ]
    contents = [seal({**manifest, **change}) for change in changes]
    found = _statuses(program, _manifests(bundle, contents))
    assert set(found) <= {FORMAT, DIGEST}, found
    twice = (bundle / MANIFEST).read_bytes().replace(b'"target"', b'"batch": 1, "target": "tflite", "target"', 1)
    deep = b"[" * 2_000_000
    big = b" " * (4 << 20) + b"{}"
    assert _statuses(program, _manifests(bundle, [twice, deep, big])) == [DIGEST, FORMAT, FORMAT]


def test_kinds_that_no_engine_takes(program: Path, bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    changes: list[dict[str, Any]] = [
        {"state_mode": "internal"},
        {"io": "int8"},
        {"state_precision": "fp16"},
        {"batch": 3},
        {"target": "tflite"},
    ]
    contents = [seal({**manifest, **change}) for change in changes]
    assert set(_statuses(program, _manifests(bundle, contents))) == {UNSUPPORTED}
    # Bundles made before these entries existed.
    older = {key: value for key, value in manifest.items() if key not in ("io", "state_precision", "batch")}
    assert _statuses(program, _manifests(bundle, [seal(older)])) == [OK]
