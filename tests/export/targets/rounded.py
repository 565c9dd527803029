"""ONNX bundles that promise what int8 does, made quickly: float arithmetic, matrices rounded to a number of bits."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lcr_edge.runtimes import Model, load
from lcr_edge.runtimes.bundle import MANIFEST, file_record, seal
from tests.export import made


@functools.cache
def bundle(name: str, bits: int = 8, push: int | None = None) -> Path:
    """Folder of a rounded copy of ``made.bundle(name, "onnx")``. push: a class that always wins."""
    folder: Path = shutil.copytree(made.bundle(name, "onnx"), made.folder() / f"rounded-{bits}")
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.endswith("classify.bias") and push is not None:
            values = values + np.float32(100) * (np.arange(len(values)) == push)
        elif tensor.name.endswith(".weight") and values.ndim == 2:
            scale = np.abs(values).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
            values = np.round(values / scale) * scale
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    onnx.save(model, folder / "model.onnx")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["model.onnx"] = file_record(folder / "model.onnx")
    (folder / MANIFEST).write_bytes(seal({**manifest, "precision": "int8"}))
    return folder


@functools.cache
def rounded(name: str, bits: int = 8, push: int | None = None) -> Model:
    """The same, loaded."""
    return load(bundle(name, bits, push), threads=1)
