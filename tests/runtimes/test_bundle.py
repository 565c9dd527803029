"""Bundles that must be refused, and what the refusal says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.errors import BundleError, FrameError
from lcr_edge.frames import center_crop, letterbox
from lcr_edge.runtimes import load
from lcr_edge.runtimes.bundle import MANIFEST, file_record, read_bundle, seal
from lcr_edge.runtimes.golden import GOLDEN, read_golden
from lcr_edge.runtimes.openvino_engine import core
from lcr_edge.runtimes.selftest import selftest
from tests.runtimes.toy import CONFIG, make_bundle, model_bytes, onnx_bytes, reseal

FRAME = {"height": 32, "width": 48, "colour": "RGB", "layout": "NHWC", "train_fps": 8}
SWAPPED = {"state_h_in": "x", "state_c_in": "state_h_in", "x": "state_c_in"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", "onnx")


def refused(folder: Path, *hints: str) -> None:
    with pytest.raises(BundleError) as caught:
        load(folder)
    for hint in hints:
        assert hint in str(caught.value)


def test_an_intact_bundle_is_read(bundle: Path) -> None:
    found = read_bundle(str(bundle))
    assert found.config == CONFIG
    assert (found.target, found.precision, found.edges, found.state_mode) == ("onnx", "fp32", "graph", "explicit")
    assert read_golden(found).logits.shape == (6, CONFIG.classes)


def test_the_manifest_says_how_frames_are_fitted(bundle: Path, rng: np.random.Generator) -> None:
    camera = rng.integers(0, 256, (90, 160, 3), np.uint8)
    for entry, expected in (({}, letterbox), ({"fit": "letterbox"}, letterbox), ({"fit": "crop"}, center_crop)):
        reseal(bundle, frame={**FRAME, **entry})  # without the entry: made before it existed
        model = load(bundle)
        assert model.bundle.fit == entry.get("fit", "letterbox")
        fitted = model.fit(camera)
        np.testing.assert_array_equal(fitted, expected(camera, 32, 48))
        assert fitted.shape == model.frame_shape
        with pytest.raises(FrameError, match="uint8"):
            model.fit(camera / np.float32(255))  # type: ignore[arg-type]


def test_sealing_is_repeatable_and_replaces_an_old_seal() -> None:
    once = seal({"contract_version": 1, "checkpoint_sha256": "0" * 64, "labels": ["Zeichen ü"]})
    content = json.loads(once)
    assert content["checkpoint_sha256"] == "0" * 64
    assert content["manifest_sha256"] != "0" * 64
    assert seal(content) == once
    assert "ü" in once.decode()
    with pytest.raises(ValueError, match="JSON"):
        seal({"train_fps": float("nan")})


def test_a_changed_byte_anywhere_in_the_manifest(bundle: Path) -> None:
    path = bundle / MANIFEST
    raw = path.read_bytes()
    for position in range(len(raw)):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        with pytest.raises(BundleError):
            read_bundle(bundle)
    for changed in (raw + b"\n", raw[:-1], raw[1:], b""):
        path.write_bytes(changed)
        with pytest.raises(BundleError):
            read_bundle(bundle)
    path.write_bytes(raw)
    read_bundle(bundle)


@pytest.mark.parametrize("target", ["onnx", "openvino", "tflite"])
def test_a_changed_byte_in_any_other_file(tmp_path: Path, target: str) -> None:
    folder = make_bundle(tmp_path / "bundle", target)
    others = [path for path in folder.iterdir() if path.name != MANIFEST]
    assert {path.name for path in others} >= {GOLDEN}
    for path in others:
        raw = path.read_bytes()
        for position in (0, len(raw) // 2, len(raw) - 1):
            path.write_bytes(raw[:position] + bytes([raw[position] ^ 0x10]) + raw[position + 1 :])
            refused(folder, path.name, "export the bundle again")
        path.write_bytes(raw[:-1])
        refused(folder, path.name, "truncated")
        path.write_bytes(raw)
    load(folder)


def test_files_missing_or_unknown(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("x")
    refused(bundle, "notes.txt", "remove")
    (bundle / "notes.txt").unlink()
    shutil.move(bundle / "model.onnx", bundle.parent / "model.onnx")
    refused(bundle, "model.onnx", "is missing")
    (bundle / "model.onnx").mkdir()
    refused(bundle, "model.onnx", "not a file")
    (bundle / MANIFEST).unlink()
    refused(bundle, "no manifest.json")


def test_paths_that_are_no_bundle(bundle: Path) -> None:
    refused(bundle.parent / "missing", "does not exist", "python -m lcr_edge.export")
    refused(bundle / "model.onnx", "give the bundle's folder")
    refused(bundle.parent, "no manifest.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"contract_version": 1}', "\xff\xfe"])
def test_manifests_that_are_none(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_bytes(text.encode("latin-1"))
    refused(bundle, MANIFEST, "export the bundle again")


def test_contract_versions(bundle: Path) -> None:
    reseal(bundle, contract_version=7)
    refused(bundle, "contract version 7; this lcr_edge supports 1", "upgrade")
    reseal(bundle, contract_version=0)
    refused(bundle, "contract version 0", "export it again")
    for value in ("1", 1.0, True, None):
        reseal(bundle, contract_version=value)
        refused(bundle, "contract version")


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"target": "coreml"}, "onnx, openvino, tflite"),
        ({"edges": "cloud"}, "graph, host"),
        ({"state_mode": "internal"}, "bundles for onnx cannot keep their state inside"),
        ({"labels": ["a", "b"]}, "3 strings"),
        ({"labels": ["a", "b", 3]}, "3 strings"),
        ({"config": {**CONFIG.to_dict(), "wings": 2}}, "wings"),
        ({"config": {**CONFIG.to_dict(), "layers": 0}}, "layers"),
        ({"config": {**CONFIG.to_dict(), "fmax": "high"}}, MANIFEST),
        ({"config": {**CONFIG.to_dict(), "layers": 1}}, "state_h_in"),
        ({"config": None}, "config"),
        ({"frame": {**FRAME, "colour": "BGR"}}, "colour"),
        ({"frame": {**FRAME, "train_fps": 0}}, "train_fps"),
        ({"frame": {**FRAME, "fit": "stretch"}}, "fit must be one of letterbox, crop, found 'stretch'; upgrade"),
        ({"frame": {**FRAME, "fit": None}}, "upgrade"),
        ({"model_files": ["other.onnx"]}, "model_files"),
        ({"model_files": ["../secret.onnx"]}, "model_files"),
        ({"model_files": []}, "model_files"),
        ({"inputs": "frame"}, "inputs"),
        ({"inputs": [{"name": "frame"}]}, "damaged"),
        ({"inputs": []}, "step contract"),
        ({"precision": 32}, "precision"),
        ({"producer": None}, "producer"),
    ],
)
def test_sealed_manifests_that_do_not_fit(bundle: Path, changes: dict[str, Any], hint: str) -> None:
    reseal(bundle, **changes)
    refused(bundle, hint)


@pytest.mark.parametrize("key", ["inputs", "outputs"])
def test_manifest_tensors_renamed_or_swapped(bundle: Path, key: str) -> None:
    table = json.loads((bundle / MANIFEST).read_text())[key]
    changes: dict[str, Any] = {key: [table[0], table[2], table[1]]}
    reseal(bundle, **changes)
    refused(bundle, key, "step contract expects state_h")
    changes[key] = [{**table[0], "name": "picture"}, *table[1:]]
    reseal(bundle, **changes)
    refused(bundle, "picture")
    changes[key] = [*table[:2], {**table[2], "dtype": "float16"}]
    reseal(bundle, **changes)
    refused(bundle, "float16")


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("rename", "hint"),
    [
        ({"state_h_in": "hidden"}, "hidden"),
        ({"frame": "input_1"}, "input_1"),
        ({"logits": "scores"}, "scores"),
        (SWAPPED, "step contract expects state_h_in"),
        ({"state_h_out": "x", "state_c_out": "state_h_out", "x": "state_c_out"}, "step contract expects state_h_out"),
    ],
)
def test_model_tensors_renamed_or_swapped(tmp_path: Path, target: str, rename: dict[str, str], hint: str) -> None:
    folder = make_bundle(tmp_path / "bundle", target)
    _write_model(folder, target, onnx_bytes("graph", rename))
    reseal(folder)
    refused(folder, "model.", hint)


def _write_model(folder: Path, target: str, onnx: bytes) -> None:
    if target == "onnx":
        (folder / "model.onnx").write_bytes(onnx)
        return
    ov: Any = pytest.importorskip("openvino")
    ov.save_model(core().read_model(onnx, b""), str(folder / "model.xml"), compress_to_fp16=False)


def test_states_swapped_behind_right_names_fail_the_selftest(bundle: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    model = onnx.load_from_string(onnx_bytes("graph", SWAPPED))
    inputs = {item.name: item for item in [*model.graph.input]}
    del model.graph.input[:]
    model.graph.input.extend(inputs[name] for name in ("frame", "state_h_in", "state_c_in"))
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)
    report = selftest(bundle)
    assert not report.passed
    assert any("one step" in failure for failure in report.failures)


@pytest.mark.parametrize(
    ("target", "edges", "state_mode", "other_edges", "other_mode"),
    [
        ("tflite", "graph", "explicit", "host", "explicit"),
        ("tflite", "host", "explicit", "graph", "explicit"),
        ("onnx", "graph", "explicit", "host", "explicit"),
        ("openvino", "graph", "explicit", "graph", "internal"),
        ("openvino", "graph", "internal", "graph", "explicit"),
    ],
)
def test_the_model_of_another_bundle(
    tmp_path: Path, target: str, edges: str, state_mode: str, other_edges: str, other_mode: str
) -> None:
    folder = make_bundle(tmp_path / "bundle", target, edges, state_mode)
    for name, data in model_bytes(target, other_edges, other_mode).items():
        (folder / name).write_bytes(data)
    reseal(folder)
    refused(folder, "export the bundle again")


@pytest.mark.parametrize("target", ["onnx", "openvino", "tflite"])
def test_a_sealed_model_that_its_engine_cannot_read(tmp_path: Path, target: str) -> None:
    folder = make_bundle(tmp_path / "bundle", target)
    model = next(folder.glob("model.[oxt]*"))
    model.write_bytes(b"this is no model " * 50)
    reseal(folder)
    refused(folder, "cannot load", "upgrade")


def test_golden_clips_that_cannot_be_used(bundle: Path) -> None:
    whole = dict(np.load(bundle / GOLDEN))
    changes: dict[str, dict[str, Any]] = {
        "frames is": {"frames": whole["frames"][:, 1:]},
        "state_c is": {"state_c": whole["state_c"].astype(np.float64)},
        "logits is": {"logits": whole["logits"][1:]},
        "cannot be read": {"edges": np.array([{}], object)},
    }
    for hint, change in changes.items():
        np.savez(bundle / GOLDEN, **{**whole, **change})
        reseal(bundle)
        with pytest.raises(BundleError, match=hint):
            selftest(bundle)
    (bundle / GOLDEN).write_bytes(b"PK\x03\x04 and no more")
    reseal(bundle)
    with pytest.raises(BundleError, match="cannot be read"):
        selftest(bundle)
    (bundle / GOLDEN).unlink()
    reseal(bundle)
    with pytest.raises(BundleError, match="no golden clip"):
        selftest(bundle)


def test_file_record_is_sha256_and_size(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_record(path) == {"sha256": digest, "bytes": 3}
