"""Bundles, golden clips and state files that are damaged: the loader gives what was saved, or its own error."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcr_edge.arrays import read_npz
from lcr_edge.errors import BundleError, MissingExtraError, StateError
from lcr_edge.runtimes import State, load
from lcr_edge.runtimes.bundle import MANIFEST, Bundle, read_bundle, seal
from lcr_edge.runtimes.golden import GOLDEN, Golden, read_golden
from lcr_edge.runtimes.state import StateFormat
from tests.fuzz.damage import bounded, changed_arrays, changed_bytes, changed_json, npz
from tests.runtimes.toy import CONFIG, golden, make_bundle

FORMAT = StateFormat(CONFIG.state_shape, np.dtype("float32"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Changed by the tests, which put back what they change."""
    return make_bundle(tmp_path_factory.mktemp("fuzz") / "bundle", "onnx", "host", "explicit", "fp32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file.npz"


def _state() -> State:
    draw = np.random.default_rng(1)
    h, c = draw.standard_normal((2, *CONFIG.state_shape)).astype(np.float32)
    return State(h, c)


def _saved(state: State, place: Path) -> bytes:
    state.save(place)
    return place.read_bytes()


def _loaded(place: Path, content: bytes) -> State | None:
    place.write_bytes(content)
    try:
        state = State.load(place)
        FORMAT.check(state)
    except StateError:
        return None
    return state


@bounded
@given(data=st.data())
def test_a_damaged_state_file(data: st.DataObject, place: Path) -> None:
    state = _state()
    loaded = _loaded(place, data.draw(changed_bytes(_saved(state, place))))
    if loaded is not None:
        np.testing.assert_array_equal(loaded.h, state.h)
        np.testing.assert_array_equal(loaded.c, state.c)


@bounded
@given(data=st.data())
def test_a_state_file_of_other_arrays(data: st.DataObject, place: Path) -> None:
    state = _state()
    whole = {"h": state.h, "c": state.c, "contract_version": np.array(1)}
    loaded = _loaded(place, npz(data.draw(changed_arrays(whole))))
    if loaded is not None:
        FORMAT.values(loaded)


def test_an_undamaged_state_is_loaded_and_may_be_written_to(place: Path) -> None:
    state = _state()
    loaded = _loaded(place, _saved(state, place))
    assert loaded is not None
    np.testing.assert_array_equal(loaded.h, state.h)
    loaded.h += 1


@bounded
@given(data=st.data())
def test_a_damaged_golden_clip(data: st.DataObject, bundle: Path, place: Path) -> None:
    whole: dict[str, Any] = golden("host")
    rounding = {name: whole[name][-2:].astype(np.float16) for name in ("logits", "state_h", "state_c")}
    checked = read_bundle(bundle)
    content = Golden(**whole, rounding=tuple(rounding.values())).to_bytes()
    plain = npz({**whole, **{f"rounding_{name}": array for name, array in rounding.items()}})
    place.write_bytes(data.draw(st.one_of(changed_bytes(content), changed_bytes(plain))))
    try:
        found = read_golden(checked, place)
    except BundleError:
        return
    for name, array in whole.items():
        np.testing.assert_array_equal(getattr(found, name), array)
    for one, array in zip(found.rounding or (), rounding.values()):  # a damaged name leaves none
        np.testing.assert_array_equal(one, array)


@bounded
@given(data=st.data())
def test_a_golden_clip_of_other_arrays(data: st.DataObject, bundle: Path, place: Path) -> None:
    place.write_bytes(npz(data.draw(changed_arrays(golden("host")))))
    try:
        found = read_golden(read_bundle(bundle), place)
    except BundleError:
        return
    assert found.state_h.shape == found.state_c.shape == (6, *CONFIG.state_shape)


def _read(bundle: Path) -> Bundle | None:
    try:
        return read_bundle(bundle)
    except BundleError:
        return None


@settings(bounded, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_file_of_a_bundle(data: st.DataObject, bundle: Path) -> None:
    whole = read_bundle(bundle)
    path = bundle / data.draw(st.sampled_from([MANIFEST, GOLDEN, "model.onnx"]))
    content = path.read_bytes()
    changed = data.draw(changed_bytes(content))
    path.write_bytes(changed)
    try:
        found = _read(bundle)
    finally:
        path.write_bytes(content)
    assert (found is not None) == (changed == content)
    assert found is None or found == whole


@bounded
@given(data=st.data())
def test_a_manifest_of_other_values(data: st.DataObject, bundle: Path) -> None:
    """Sealed as if it were right, so that every value is looked at."""
    path = bundle / MANIFEST
    content = path.read_bytes()
    whole = json.loads(content)
    changed = data.draw(changed_json(whole))
    try:
        sealed = seal(changed)
    except ValueError:  # no manifest: NaN is not JSON, and a lone surrogate is not UTF-8
        return
    path.write_bytes(sealed)
    try:
        model = load(bundle, threads=1)
    except (BundleError, MissingExtraError):  # of another target, whose engine need not be here
        return
    finally:
        path.write_bytes(content)
    logits, state = model.step(np.zeros(model.frame_shape, np.uint8), model.initial_state())
    assert logits.shape == (len(model.labels),)
    FORMAT.check(state)


@pytest.mark.parametrize("how", ["deflate", "shape", "bzip2"])
def test_a_small_file_is_not_inflated_to_gigabytes(how: str, tmp_path: Path) -> None:
    import tracemalloc

    path, size = tmp_path / "bomb.npz", 80_000_000
    header = io.BytesIO()
    shape = (size,)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    kinds = {"deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "shape": zipfile.ZIP_STORED}
    with zipfile.ZipFile(path, "w", kinds[how]) as archive, archive.open("h.npy", "w") as entry:
        entry.write(header.getvalue())
        for _ in range(1 if how == "shape" else size // 1_000_000):
            entry.write(bytes(1_000_000))
    assert path.stat().st_size < 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"would inflate|bytes for an array"):
            read_npz(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    arrays: dict[str, Any] = {
        "floats": draw.standard_normal((3, 4)).astype(np.float16),
        "columns": np.asfortranarray(draw.standard_normal((3, 4, 2))),
        "bytes": draw.integers(0, 256, (2, 0, 5), np.uint8),
        "number": np.array(5),
        "flag": np.array([True, False]),
        "large": np.zeros((200, 1000), ">i4"),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = read_npz(tmp_path / "x.npz")
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
            assert found[name].flags.writeable
