"""Constants of model files: found by what they hold, changed in place, and the bundle sealed as if it were right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from lcr_edge.export.targets import tflite_file
from lcr_edge.export.targets.c_convert import DIGEST
from lcr_edge.export.targets.c_stored import Tensors, layout
from lcr_edge.runtimes.bundle import MANIFEST, file_record, seal

Array = npt.NDArray[Any]
_OV_TYPES = {"f32": "float32", "f16": "float16", "i8": "int8", "u8": "uint8", "i32": "int32", "i64": "int64"}
_TFLITE_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 7: "int16", 9: "int8"}


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Write the digests of the files as they are now, after ``change`` of the manifest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in manifest["files"]:
        manifest["files"][name] = file_record(folder / name)
    if change is not None:
        change(manifest)
    (folder / MANIFEST).write_bytes(seal(manifest))


class ModelFile(Protocol):
    """constants: the arrays of the file, by a name of its own. Change an array's content, then ``save``."""

    constants: dict[str, Array]

    def save(self) -> None:
        """Write the file and seal the bundle."""


def open_model(folder: Path, target: str) -> ModelFile:
    """The model of a bundle."""
    forms: dict[str, Callable[[Path], ModelFile]] = {
        "onnx": OnnxFile,
        "openvino": OpenVinoFile,
        "tflite": TfliteFile,
        "c": CFile,
    }
    return forms[target](folder)


class OnnxFile:
    """model: the parsed file, whose attributes may be changed too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = onnx.load(folder / "model.onnx")
        self.constants = {t.name: numpy_helper.to_array(t).copy() for t in self.model.graph.initializer}

    def save(self) -> None:
        for tensor in self.model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(self.constants[tensor.name], tensor.name))
        onnx.save(self.model, self.folder / "model.onnx")
        reseal(self.folder)


class OpenVinoFile:
    """tree: the parsed model.xml. Constants that the file shares are one array here too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = ElementTree.parse(folder / "model.xml")
        self._bytes = np.fromfile(folder / "model.bin", np.uint8)
        self.constants = {}
        for layer in self.tree.iter("layer"):
            data = layer.find("data")
            if layer.get("type") != "Const" or data is None or data.get("element_type") not in _OV_TYPES:
                continue
            start, size = int(data.get("offset", "0")), int(data.get("size", "0"))
            shape = [int(part) for part in data.get("shape", "").split(",") if part.strip()]
            dtype = _OV_TYPES[str(data.get("element_type"))]
            if size:
                view = self._bytes[start : start + size].view(dtype).reshape(shape)
                self.constants[f"{layer.get('name')} {layer.get('id')}"] = view

    def save(self) -> None:
        self.tree.write(self.folder / "model.xml", encoding="utf-8", xml_declaration=True)
        self._bytes.tofile(self.folder / "model.bin")
        reseal(self.folder)


class TfliteFile:
    """model: objects of the schema."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model: Any = tflite_file.read((folder / "model.tflite").read_bytes())
        self.constants = {}
        for index, tensor in enumerate(self.model.subgraphs[0].tensors):
            buffer = self.model.buffers[tensor.buffer]
            if buffer.data is None or tensor.type not in _TFLITE_TYPES:
                continue
            if not isinstance(buffer.data, np.ndarray) or not buffer.data.flags.writeable:
                buffer.data = np.array(buffer.data, np.uint8)
            shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
            name = f"{tflite_file.text(tensor)} {index}"
            self.constants[name] = buffer.data.view(_TFLITE_TYPES[tensor.type]).reshape(shape)

    def save(self) -> None:
        (self.folder / "model.tflite").write_bytes(tflite_file.write(self.model))
        reseal(self.folder)


class CFile:
    """int8 weights as they lie in the file, a line of 128 for 32 columns."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "model.bin"
        self._content = bytearray(self._path.read_bytes())
        tensors = _Views(self._content)
        for _, shape in layout(tensors.sizes):
            tensors.product(*shape)
        self.constants = {
            str(number): array.reshape(-1, 128) if array.dtype == np.int8 else array
            for number, array in enumerate(tensors.views)
        }

    def save(self) -> None:
        self._content[DIGEST] = bytes(32)
        self._content[DIGEST] = hashlib.sha256(self._content).digest()
        self._path.write_bytes(self._content)
        reseal(self._path.parent)


class _Views(Tensors):
    """Keeps every array that it takes, which are the file's own bytes."""

    def __init__(self, content: bytearray) -> None:
        super().__init__(content)
        self.views: list[Array] = []

    def _take(self, count: int, dtype: str) -> Array:
        self.views.append(super()._take(count, dtype))
        return self.views[-1]


def replace(file: ModelFile, pairs: list[tuple[Array, Array]]) -> int:
    """Give the constants that hold the first array of a pair the content of the second, in whatever shape and float
    type the file has it. Returns how many were changed; the pairs may swap contents."""
    changes = []
    for old, new in pairs:
        for array in file.constants.values():
            if array.size == old.size and array.dtype.kind == "f" and array.size > 0:
                same = old.astype(array.dtype).reshape(-1)
                if np.array_equal(array.reshape(-1), same):
                    changes.append((array, new.astype(array.dtype).reshape(array.shape)))
    for array, values in changes:
        array[...] = values
    return len(changes)
