"""Weights files that are damaged, or signed and wrong, and compilers that cannot build the library that reads them."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.errors import BundleError, OutputError
from lcr_edge.runtimes import load
from tests.c.step_library import (
    ARGUMENT,
    COMPILERS,
    DIGEST,
    ENDIAN,
    FILE,
    FORMAT,
    OK,
    VERSION,
    Options,
    aligned,
    arrays,
    opened_as,
    sanitised,
    step,
)
from tests.c.tiny import signed, tiny


def test_bad_weights(c: Any, weights: Path, tmp_path: Path) -> None:
    good = weights.read_bytes()
    assert opened_as(c, good, tmp_path) == OK
    for size in (0, 1, 8, 255, 256, len(good) - 4, len(good) // 2):
        assert opened_as(c, good[:size], tmp_path) == FORMAT
    assert opened_as(c, good + b"\0" * 4, tmp_path) == FORMAT
    for place in (64, 200, 256, 300, len(good) // 2, len(good) - 1):
        assert opened_as(c, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], tmp_path) == DIGEST
    assert opened_as(c, good[:8] + good[8:12][::-1] + good[12:], tmp_path) == ENDIAN
    for place in (12, 16):
        assert opened_as(c, good[:place] + struct.pack("<I", 99) + good[place + 4 :], tmp_path) == VERSION
    opened = ctypes.c_void_p()
    assert c.lcr_open(str(tmp_path / "none").encode(), None, ctypes.byref(opened)) == FILE
    assert c.lcr_open(None, None, ctypes.byref(opened)) == ARGUMENT
    assert c.lcr_open(str(weights).encode(), None, None) == ARGUMENT
    for threads in (0, -1, 65):
        assert c.lcr_open(str(weights).encode(), ctypes.byref(Options(threads, 0)), ctypes.byref(opened)) == ARGUMENT


def test_signed_weights_that_contradict_themselves(c: Any, weights: Path, tmp_path: Path) -> None:
    """Every number of the header at its ends and beyond, with a right digest: refused, or a network that is stepped."""
    good, path, statuses = weights.read_bytes(), tmp_path / "weights", []
    numbers: list[tuple[int, str, float]] = [
        (place, "<i", value) for place in range(64, 124, 4) for value in (0, -1, 1, 2, 5, 2**16, 2**31 - 1)
    ]
    numbers += [(place, "<f", value) for place in range(124, 140, 4) for value in (np.nan, np.inf, -1.0, 0.0)]
    for place, kind, value in numbers:
        content, opened = bytearray(good), ctypes.c_void_p()
        struct.pack_into(kind, content, place, value)
        path.write_bytes(signed(content))
        statuses.append(c.lcr_open(str(path).encode(), None, ctypes.byref(opened)))
        assert statuses[-1] in (OK, FORMAT), (place, value)
        if statuses[-1] == OK:
            frame, before, after, logits = arrays(c, opened)
            assert step(c, opened, frame, before, after, logits) == OK
            c.lcr_close(opened)
    assert statuses.count(FORMAT) > 0.8 * len(statuses)


@pytest.mark.slow
def test_many_classes_and_missing_tensors_under_a_sanitizer(tmp_path: Path) -> None:
    """65 536 logits have room; a header whose tensors are missing asks for no memory."""
    program = sanitised("address,undefined", tmp_path)
    for numbers in ({"classes": 65536}, {"classes": 10_000, "dim": 32, "head_dim": 32, "hidden": 128}):
        path = tmp_path / "weights"
        path.write_bytes(tiny(**numbers))
        done = subprocess.run([str(program), str(path), "2"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr


def test_a_header_without_its_tensors(c: Any, tmp_path: Path) -> None:
    whole = tiny(height=8192, width=8192, patch=256)
    assert opened_as(c, whole, tmp_path) == OK
    content = bytearray(whole[: 256 + 2])
    struct.pack_into("<Q", content, 24, len(content))
    hollow = aligned(len(content))
    hollow[:] = np.frombuffer(signed(content), np.uint8)
    assert c.lcr_arena_size(ctypes.c_void_p(hollow.ctypes.data), ctypes.c_size_t(hollow.size), None) == 0
    assert opened_as(c, bytes(hollow), tmp_path) == FORMAT


def test_a_folder_and_an_empty_file_are_no_weights(c: Any, tmp_path: Path) -> None:
    opened = ctypes.c_void_p(16)
    assert c.lcr_open(str(tmp_path).encode(), None, ctypes.byref(opened)) == FILE
    assert opened.value is None
    opened = ctypes.c_void_p(16)
    assert c.lcr_open(b"x", ctypes.byref(Options(0, 0)), ctypes.byref(opened)) == ARGUMENT
    assert opened.value is None
    assert opened_as(c, b"", tmp_path) == FORMAT


@pytest.mark.parametrize(
    ("cc", "message"),
    [
        ("nosuch -O2", "CC=nosuch -O2 is none"),
        ("{folder}/broken", "cannot build the C step"),
        ("{folder}/unrunnable", "cannot be run"),
        ("{folder}/foreign", "cannot be loaded here"),
    ],
)
def test_compilers_that_cannot(
    cc: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    write = 'while [ "$1" != -o ]; do shift; done; echo foreign > "$2"'
    for name, text in {"broken": "#!/bin/sh\nexit 1", "unrunnable": "x", "foreign": f"#!/bin/sh\n{write}"}.items():
        (tmp_path / name).write_text(text + "\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("LCR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", cc.format(folder=tmp_path))
    for _ in range(2):  # nothing unusable is kept
        with pytest.raises(BundleError, match=message):
            load(weights.parent)
    if cc.endswith("broken"):
        monkeypatch.setenv("CC", f"{COMPILERS[0]} -g0")
        assert load(weights.parent).engine.name.startswith("C, ")
        (built,) = (tmp_path / "cache" / "c").glob("*/*.so")
        built.parent.chmod(0o777)
        with pytest.raises(OutputError, match="is not yours alone"):
            load(weights.parent)
