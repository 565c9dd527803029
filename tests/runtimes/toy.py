"""A tiny recurrent step that honours the contract, as real ONNX, OpenVINO and TFLite bundles.

    drive = mean(frame) / 255 @ W_x [+ mean(edge)]           [C]
    c_out = 0.6 c_in + tanh(0.5 h_in + drive)                [L, N+1, C]
    h_out = 0.7 tanh(c_out)
    logits = mean over layers and tokens of h_out @ W_h

The runtimes are tested on it so that their tests need neither the network nor its exporters. Its states may cross the
boundary as float16 or int8; the arithmetic is always float32.
"""

from __future__ import annotations

import functools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge.config import Config
from lcr_edge.contract import LOGITS, STATE_DTYPES, STATES_IN, STATES_OUT, input_specs, output_specs
from lcr_edge.edges.host import host_edges
from lcr_edge.runtimes.bundle import MANIFEST, file_record, seal
from lcr_edge.runtimes.openvino_engine import core
from lcr_edge.runtimes.tensors import scaling, tensor_table
from tests import shared

CONFIG = Config("toy", height=32, width=48, dim=32, layers=2, classes=3)
LABELS = ("left", "right", "none")
MODEL_FILES = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin"), "tflite": ("model.tflite",)}
# target, edges, state_mode of every kind of bundle there is
KINDS = (
    ("onnx", "graph", "explicit"),
    ("onnx", "host", "explicit"),
    ("openvino", "graph", "explicit"),
    ("openvino", "host", "explicit"),
    ("openvino", "graph", "internal"),
    ("tflite", "graph", "explicit"),
    ("tflite", "host", "explicit"),
)
# Scale and zero point of the int8 tensors: |h| < 0.7, |c| < 2.5.
BOUNDARY = {LOGITS: (0.125, 2)}
BOUNDARY.update(dict.fromkeys(("state_h_in", "state_h_out"), (0.00625, 5)))
BOUNDARY.update(dict.fromkeys(("state_c_in", "state_c_out"), (0.0234375, -4)))
Floats = npt.NDArray[np.float32]


@functools.lru_cache(maxsize=1)
def weights() -> tuple[Floats, Floats]:
    """W_x [3, C] and W_h [C, classes]."""
    rng = np.random.Generator(np.random.PCG64(7))
    w_x = rng.normal(0, 1, (3, CONFIG.dim)).astype(np.float32)
    w_h = rng.normal(0, 1, (CONFIG.dim, CONFIG.classes)).astype(np.float32)
    return w_x, w_h


def clip(steps: int = 6) -> npt.NDArray[np.uint8]:
    """uint8 [T, H, W, 3]: noise around a colour that changes from frame to frame."""
    rng = np.random.Generator(np.random.PCG64(11))
    colour = rng.integers(0, 200, (steps, 1, 1, 3))
    noise = rng.integers(0, 56, (steps, *CONFIG.frame_shape))
    return np.asarray(colour + noise, np.uint8)


def reference_step(frame: npt.NDArray[np.uint8], edges: str, h: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
    """The equations above in numpy: logits [classes], h, c."""
    w_x, w_h = weights()
    drive = (frame.astype(np.float64).mean(axis=(0, 1)) / 255) @ w_x.astype(np.float64)
    if edges == "host":
        drive = drive + host_edges(frame).mean()
    c = (0.6 * c + np.tanh(0.5 * h + drive)).astype(np.float32)
    h = (0.7 * np.tanh(c)).astype(np.float32)
    return (h.mean(axis=(0, 1)) @ w_h).astype(np.float32), h, c


def golden(edges: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of golden.npz."""
    frames = clip()
    h = c = np.zeros(CONFIG.state_shape, np.float32)
    rows = []
    for frame in frames:
        logits, h, c = reference_step(frame, edges, h, c)
        rows.append((host_edges(frame), logits, h, c))
    names = ("edges", "logits", "state_h", "state_c")
    return {"frames": frames, **{name: np.stack([row[i] for row in rows]) for i, name in enumerate(names)}}


def make_bundle(
    folder: Path,
    target: str,
    edges: str = "graph",
    state_mode: str = "explicit",
    state_precision: str = "fp32",
    batch: int = 1,
) -> Path:
    """Write a complete, sealed bundle into ``folder`` (created) and return it. Skips without the target's packages.

    batch: streams in a call; several only for ONNX and OpenVINO."""
    folder.mkdir(parents=True)
    for name, data in model_bytes(target, edges, state_mode, state_precision, batch).items():
        (folder / name).write_bytes(data)
    arrays = golden(edges)
    np.savez(folder / "golden.npz", **arrays)  # type: ignore[arg-type]
    reseal(folder, manifest(target, edges, state_mode, state_precision, batch))
    return folder


def manifest(target: str, edges: str, state_mode: str, state_precision: str, batch: int = 1) -> dict[str, Any]:
    """A manifest without its table of files and its seal."""
    dtype, boundary = STATE_DTYPES[state_precision], BOUNDARY if state_precision == "int8" else {}
    size = int(np.prod(CONFIG.state_shape)) * np.dtype(dtype).itemsize
    return {
        "contract_version": 1,
        "name": f"toy-{target}-fp32",
        "target": target,
        "precision": "fp32",
        "edges": edges,
        "state_mode": state_mode,
        "state_precision": state_precision,
        "io": "int8" if state_precision == "int8" else "float",
        "config": CONFIG.to_dict(),
        "model_files": list(MODEL_FILES[target]),
        "checkpoint_sha256": "0" * 64,
        "producer": {target: "1.0"},
        "batch": batch,
        "inputs": tensor_table(input_specs(CONFIG, edges, state_mode, state_precision, boundary, batch)),
        "outputs": tensor_table(output_specs(CONFIG, state_mode, state_precision, boundary, batch)),
        "frame": {"height": 32, "width": 48, "colour": "RGB", "layout": "NHWC", "train_fps": 8.0},
        "states": [
            {"in": f"{name}_in", "out": f"{name}_out", "dtype": dtype, "shape": [2, 7, 32], "bytes": size}
            | scaling(boundary.get(f"{name}_in"))
            for name in ("state_h", "state_c")
        ],
        "labels": list(LABELS),
        "calibration_digest": None,
        "runtime_hints": {},
        "required_ops": [],
        "created": "2026-01-01T00:00:00Z",
    }


def reseal(folder: Path, content: dict[str, Any] | None = None, **changes: Any) -> None:
    """Write manifest.json anew, with right digests: as ``content`` or as it was, top-level ``changes`` applied."""
    path = folder / MANIFEST
    if content is None:
        content = json.loads(path.read_text(encoding="utf-8"))
    files = {item.name: file_record(item) for item in sorted(folder.iterdir()) if item.name != MANIFEST}
    path.write_bytes(seal({**content, "files": files, **changes}))


def model_bytes(
    target: str, edges: str, state_mode: str, state_precision: str = "fp32", batch: int = 1
) -> dict[str, bytes]:
    """The model files of one kind of bundle by name; built once a run (or before it, see ``main``)."""
    kind = "-".join((target, edges, state_mode, state_precision, str(batch)))
    folder = shared.folder(f"toys/{kind}", lambda part: _build(part, target, edges, state_mode, state_precision, batch))
    return {name: (folder / name).read_bytes() for name in MODEL_FILES[target]}


def _build(folder: Path, target: str, edges: str, state_mode: str, state_precision: str, batch: int) -> None:
    if target == "onnx":
        files = {"model.onnx": onnx_bytes(edges, state_precision=state_precision, batch=batch)}
    elif target == "openvino":
        files = _openvino_bytes(edges, state_mode, state_precision, batch)
    else:
        files = {"model.tflite": _tflite_bytes(edges, state_precision)}
    for name, data in files.items():
        (folder / name).write_bytes(data)


def onnx_bytes(
    edges: str, rename: dict[str, str] | None = None, state_precision: str = "fp32", batch: int = 1
) -> bytes:
    """The step as an ONNX model; ``rename`` gives graph inputs or outputs other names."""
    onnx = pytest.importorskip("onnx")
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in ("uint8", *STATE_DTYPES.values())}
    w_x, w_h = weights()
    constants = {
        "w_x": w_x / np.float32(255),
        "w_h": w_h,
        "keep": np.float32(0.6),
        "past": np.float32(0.5),
        "gain": np.float32(0.7),
        "row": np.array([batch, -1], np.int64),
        "apart": np.array([batch, 1, 1, -1] if batch > 1 else [1, -1], np.int64),
    }
    leaving: list[Any] = []
    nodes = [
        node("Cast", ["frame"], ["pixels"], to=onnx.TensorProto.FLOAT),
        node("ReduceMean", ["pixels"], ["colour"], axes=[1, 2], keepdims=0),
        node("MatMul", ["colour", "w_x"], ["drive_frame"]),
    ]
    if edges == "host":
        nodes += [
            node("Cast", ["edge"], ["edge_pixels"], to=onnx.TensorProto.FLOAT),
            node("ReduceMean", ["edge_pixels"], ["edge_means"], axes=[1, 2], keepdims=0),
            node("Reshape", ["edge_means", "row"], ["edge_mean"]),
            node("Add", ["drive_frame", "edge_mean"], ["drives"]),
        ]
    else:
        nodes += [node("Identity", ["drive_frame"], ["drives"])]
    nodes.append(node("Reshape", ["drives", "apart"], ["drive"]))
    # Float inside: what enters has the prefix "in." there, what leaves "out.".
    for name in (*STATES_IN, LOGITS, *STATES_OUT):
        ends = ([name], [f"in.{name}"]) if name in STATES_IN else ([f"out.{name}"], [name])
        kind = "float32" if name in STATES_IN or name == LOGITS else STATE_DTYPES[state_precision]
        if state_precision == "int8":
            constants[f"{name}.scale"] = np.float32(BOUNDARY[name][0])
            constants[f"{name}.zero"] = np.int8(BOUNDARY[name][1])
            ends[0].extend([f"{name}.scale", f"{name}.zero"])
            crossing = node("DequantizeLinear" if name in STATES_IN else "QuantizeLinear", *ends)
        else:
            crossing = node("Cast", *ends, to=kinds[kind])
        (nodes if name in STATES_IN else leaving).append(crossing)
    nodes += [
        node("Mul", ["in.state_h_in", "past"], ["from_h"]),
        node("Add", ["from_h", "drive"], ["input"]),
        node("Tanh", ["input"], ["fresh"]),
        node("Mul", ["in.state_c_in", "keep"], ["kept"]),
        node("Add", ["kept", "fresh"], ["out.state_c_out"]),
        node("Tanh", ["out.state_c_out"], ["squashed"]),
        node("Mul", ["squashed", "gain"], ["out.state_h_out"]),
        node("ReduceMean", ["out.state_h_out"], ["pooled"], axes=[-3, -2], keepdims=0),
        node("Reshape", ["pooled", "row"], ["pooled_row"]),
        node("MatMul", ["pooled_row", "w_h"], ["out.logits"]),
        *leaving,
    ]
    inputs = input_specs(CONFIG, edges, state_precision=state_precision, batch=batch)
    outputs = output_specs(CONFIG, state_precision=state_precision, batch=batch)
    graph = onnx.helper.make_graph(
        nodes,
        "toy",
        [value(spec.name, kinds[spec.dtype], spec.shape) for spec in inputs],
        [value(spec.name, kinds[spec.dtype], spec.shape) for spec in outputs],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    for old, new in (rename or {}).items():
        for item in (*model.graph.input, *model.graph.output):
            item.name = new if item.name == old else item.name
        for item in model.graph.node:
            item.input[:] = [new if name == old else name for name in item.input]
            item.output[:] = [new if name == old else name for name in item.output]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _openvino_bytes(edges: str, state_mode: str, state_precision: str, batch: int) -> dict[str, bytes]:
    ov: Any = pytest.importorskip("openvino")
    model = core().read_model(onnx_bytes(edges, state_precision=state_precision, batch=batch), b"")
    if state_mode == "internal":
        transformations = pytest.importorskip("openvino._offline_transformations")
        pairs = {f"{name}_in": f"{name}_out" for name in ("state_h", "state_c")}
        transformations.apply_make_stateful_transformation(model, pairs)
    with tempfile.TemporaryDirectory() as folder:
        ov.save_model(model, str(Path(folder) / "model.xml"), compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in MODEL_FILES["openvino"]}


def _tflite_bytes(edges: str, state_precision: str) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's own packages
        data = _convert(pytest.importorskip("torch"), pytest.importorskip("litert_torch"), edges, state_precision)
    return _with_scales(data) if state_precision == "int8" else data


def _convert(torch: Any, litert_torch: Any, edges: str, state_precision: str) -> bytes:
    w_x, w_h = (torch.from_numpy(array) for array in weights())

    def enter(state: Any, name: str) -> Any:
        scale, zero = BOUNDARY[name] if state_precision == "int8" else (1.0, 0)
        return (state.float() - zero) * scale

    def leave(values: Any, name: str) -> Any:
        if state_precision == "int8":
            scale, zero = BOUNDARY[name]
            return (torch.round(values / scale) + zero).clamp(-128, 127).to(torch.int8)
        return values if name == LOGITS else values.to(getattr(torch, STATE_DTYPES[state_precision]))

    class Step(torch.nn.Module):  # type: ignore[misc]
        def forward(self, frame: Any, state_h_in: Any, state_c_in: Any, edge: Any | None = None) -> dict[str, Any]:
            drive = frame.float().mean(dim=(1, 2)) / 255 @ w_x
            if edge is not None:
                drive = drive + edge.float().mean()
            c = 0.6 * enter(state_c_in, "state_c_in") + torch.tanh(0.5 * enter(state_h_in, "state_h_in") + drive)
            h = 0.7 * torch.tanh(c)
            results = {LOGITS: h.mean(dim=(0, 1))[None] @ w_h, "state_h_out": h, "state_c_out": c}
            return {name: leave(values, name) for name, values in results.items()}

    specs = input_specs(CONFIG, edges, state_precision=state_precision)
    samples = {spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        litert_torch.convert(Step().eval(), sample_kwargs=samples).export(str(path))
        return path.read_bytes()


def _with_scales(data: bytes) -> bytes:
    """The model with BOUNDARY written on its int8 tensors, as a quantiser would."""
    schema: Any = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers: Any = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(bytearray(data), 0)
    (signature,) = model.signatureDefs
    for entry in (*signature.inputs, *signature.outputs):
        if (name := entry.name.decode()) in BOUNDARY:
            quantisation = schema.QuantizationParametersT()
            quantisation.scale, quantisation.zeroPoint = [BOUNDARY[name][0]], [BOUNDARY[name][1]]
            model.subgraphs[signature.subgraphIndex].tensors[entry.tensorIndex].quantization = quantisation
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def main() -> None:
    """Build the models that take torch, for a run of the tests where there is none: see ``make test39``."""
    for edges in ("graph", "host"):
        for state_precision in STATE_DTYPES:
            model_bytes("tflite", edges, "explicit", state_precision)


if __name__ == "__main__":
    main()
