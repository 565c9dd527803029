"""The faults, one row each: where it is planted, and on which engines and precisions it can be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lcr_edge.export.verify.reference import roll
from lcr_edge.runtimes.golden import GOLDEN
from tests.journeys.fault_bench import Bench
from tests.journeys.fault_cells import CELLS
from tests.journeys.fault_files import OnnxFile, OpenVinoFile, TfliteFile, open_model, replace, reseal
from tests.journeys.fault_runtime import ENGINE, WRAPPER, engine_fault

Array = npt.NDArray[Any]
Plant = Callable[[Bench, str, str], contextlib.AbstractContextManager[Path]]
ENGINES = ("onnx", "openvino", "tflite")
FLOATS, ALL = ("fp32", "fp16"), ("fp32", "fp16", "int8")
LAYER = "layers.1"
PRODUCT = f"{LAYER}.mix_in"
_CLASS = 3


@dataclass(frozen=True)
class Fault:
    """where: "file" (after conversion), "cell" (after preparation), "runtime", "frame", "manifest", "golden". plant: a
    context that gives the bundle to ask about, while the fault is there. unseen: why the golden clip cannot show it."""

    kind: str
    where: str
    plant: Plant
    engines: tuple[str, ...] = ENGINES
    precisions: tuple[str, ...] = ALL
    unseen: str = ""


@contextlib.contextmanager
def _none(bench: Bench, target: str, precision: str) -> Iterator[Path]:
    yield bench.healthy(target, precision)


@contextlib.contextmanager
def _in_engine(kind: str, bench: Bench, target: str, precision: str) -> Iterator[Path]:
    folder = bench.healthy(target, precision)
    with engine_fault(target, ENGINE[kind]):
        yield folder


@contextlib.contextmanager
def _around(kind: str, bench: Bench, target: str, precision: str) -> Iterator[Path]:
    folder = bench.healthy(target, precision)
    with WRAPPER[kind]():
        yield folder


@contextlib.contextmanager
def _constants(
    pairs: Callable[[dict[str, Array]], list[tuple[Array, Array]]], bench: Bench, target: str, precision: str
) -> Iterator[Path]:
    """Constants of the cell with other content in the model file."""
    cell = bench.cell(precision, target)
    held = {name: tensor.detach().numpy() for name, tensor in (*cell.named_buffers(), *cell.named_parameters())}
    with bench.copied(target, precision) as folder:
        file = open_model(folder, target)
        if not replace(file, pairs(held)):
            raise AssertionError(f"{target} {precision}: no such constant in the file")
        file.save()
        yield folder


def _bias_dropped(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    return [(held[f"{PRODUCT}.bias"], np.zeros_like(held[f"{PRODUCT}.bias"]))]


def _bias_truncated(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    bias = held["prompt.bias"]
    return [(bias, np.trunc(bias * 4) / 4)]


def _wrong_decay(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    """A token's decay where its neighbour's belongs."""
    name = f"{LAYER}.wkv_lead"
    return [(held[name], np.roll(held[name], 1, axis=-2))]


def _swapped_decay(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    pairs = []
    for part in ("lead", "lag"):
        old = held[f"{LAYER}.wkv_{part}"]
        new = old.copy()
        new[..., [4, 24]] = new[..., [24, 4]]
        pairs.append((old, new))
    return pairs


def _row_zeroed(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    old = held["classify.weight"]
    new = old.copy()
    new[_CLASS] = 0
    return [(old, new)]


def _swapped_layers(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    names = [name.removeprefix("layers.1.") for name in held if name.startswith("layers.1.")]
    pairs = []
    for name in names:
        one, other = held[f"layers.1.{name}"], held[f"layers.2.{name}"]
        if one.dtype.kind == "f" and one.size > 1 and not np.array_equal(one, other):
            pairs += [(one, other), (other, one)]
    return pairs


def _one_scale(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    """The weights of one product on one grid for all channels, that of the largest weight."""
    old = held[f"{PRODUCT}.weight"]
    step = np.abs(old).max() / 127
    return [(old, (np.rint(old / step) * step).astype(np.float32))]


@contextlib.contextmanager
def _number(old: float, new: float, bench: Bench, target: str, precision: str) -> Iterator[Path]:
    """A scalar constant of the model."""
    with bench.copied(target, precision) as folder:
        file = open_model(folder, target)
        found = [
            a for a in file.constants.values() if a.size == 1 and a.dtype.kind == "f" and abs(a.item() - old) < 1e-7
        ]
        if not found:
            raise AssertionError(f"{target} {precision}: no constant {old}")
        for array in found:
            array[...] = new
        file.save()
        yield folder


@contextlib.contextmanager
def _epsilon(bench: Bench, target: str, precision: str) -> Iterator[Path]:
    """That of one layer's norm of heads, four times as large; all norms with one epsilon in TFLite."""
    if target == "tflite":
        with _number(0.01, 0.02, bench, target, precision) as folder:
            yield folder
        return
    with bench.copied(target, precision) as folder:
        file = open_model(folder, target)
        wanted = bench.cell(precision, target).layers[1].y_eps
        count = 0
        if isinstance(file, OnnxFile):
            for node in file.model.graph.node:
                for entry in node.attribute:
                    if entry.name == "epsilon" and abs(entry.f - wanted) < 1e-3:  # type: ignore[operator]
                        entry.f, count = 4 * entry.f, count + 1
        elif isinstance(file, OpenVinoFile):
            for data in file.tree.iter("data"):
                if abs(float(data.get("eps", "0")) - wanted) < 1e-3:  # type: ignore[operator]
                    data.set("eps", str(4 * float(data.get("eps", "0"))))
                    count += 1
        assert count == 1, f"{count} norms of epsilon {wanted}"
        file.save()
        yield folder


def _weights(file: Any) -> dict[str, Array]:
    """The int8 weights of a file by what stands at the start of their name: the layer's."""
    return {n: a for n, a in file.constants.items() if a.dtype == np.int8 and a.ndim == 2 and ".weight" in n}


def _of_layer(found: dict[str, Array], layer: str, ending: str = "") -> Array:
    (name,) = [n for n in found if n.removeprefix("cell.").startswith(f"{layer}{ending}")]
    return found[name]


@contextlib.contextmanager
def _integers(change: Callable[[Any], None], bench: Bench, target: str, precision: str) -> Iterator[Path]:
    with bench.copied(target, precision) as folder:
        file = open_model(folder, target)
        change(file)
        file.save()
        yield folder


def _one_step_off(file: Any) -> None:
    weight = _of_layer(_weights(file), PRODUCT, ".weight")
    weight[...] = np.where(weight < 127, weight + 1, weight)


def _one_weight_off(file: Any) -> None:
    weight = _of_layer(_weights(file), PRODUCT, ".weight")
    weight[7, 7] += 1 if weight[7, 7] < 0 else -1


def _first_scale(file: Any) -> None:
    """The scale of the first channel for all, as an engine may read the file."""
    old = _scale(file)
    old[...] = old.reshape(-1)[0]


def _scale(file: Any) -> Array:
    """The scales of PRODUCT's channels."""
    if isinstance(file, OnnxFile):
        return file.constants[f"cell.{PRODUCT}.weight.scale"]
    if isinstance(file, TfliteFile):
        return _of_layer(file.constants, PRODUCT, ".scale")
    assert isinstance(file, OpenVinoFile)
    weight = _of_layer(_weights(file), PRODUCT, ".weight")
    names = list(file.constants)
    place = next(k for k, n in enumerate(names) if file.constants[n] is weight)
    # Written next to each other, in the order of the graph.
    return next(file.constants[n] for n in names[place + 1 :] if file.constants[n].shape == (len(weight), 1))


def _zero_point(file: Any) -> None:
    if isinstance(file, OnnxFile):
        file.constants[f"cell.{PRODUCT}.weight.x_zero"][...] += 1
        return
    for end in _ends(file):
        low, high = (float(a.item()) for a in _ends(file))
        end[...] = end.item() - (high - low) / 255
        break


def _halved_range(file: Any) -> None:
    if isinstance(file, OnnxFile):
        file.constants[f"cell.{PRODUCT}.weight.x_scale"][...] *= 0.5
        return
    for end in _ends(file):
        end[...] = end.item() / 2


def _ends(file: Any) -> list[Array]:
    """The two ends of the grid that PRODUCT's input is rounded to, in an OpenVINO file."""
    assert isinstance(file, OpenVinoFile)
    layers = {layer.get("id"): layer for layer in file.tree.iter("layer")}
    source = {(e.get("to-layer"), e.get("to-port")): e.get("from-layer") for e in file.tree.iter("edge")}
    reader = {e.get("from-layer"): e.get("to-layer") for e in file.tree.iter("edge")}
    (name,) = [n for n in _weights(file) if n.startswith(f"{PRODUCT}.weight")]
    index: Any = name.rpartition(" ")[2]
    for _ in range(3):  # Convert, Multiply, MatMul
        index = reader[index]
    rounds = layers[source[index, "0"]]
    return [
        next(a for n, a in file.constants.items() if n.endswith(f" {source[rounds.get('id'), port]}"))
        for port in ("1", "2")
    ]


@contextlib.contextmanager
def _in_cell(kind: str, bench: Bench, target: str, precision: str) -> Iterator[Path]:
    with bench.converted(kind, target, precision, CELLS[kind]) as folder:
        yield folder


@contextlib.contextmanager
def _zero_states(bench: Bench, target: str, precision: str) -> Iterator[Path]:
    samples = bench.samples.with_zero_states()
    with bench.converted("zero states", target, precision, lambda cell, plan: (cell, plan), samples) as folder:
        yield folder


@contextlib.contextmanager
def _manifest(change: Callable[[dict[str, Any]], None], bench: Bench, target: str, precision: str) -> Iterator[Path]:
    with bench.copied(target, precision) as folder:
        reseal(folder, change)
        yield folder


def _labels(manifest: dict[str, Any]) -> None:
    manifest["labels"][:2] = manifest["labels"][1::-1]


def _fit(manifest: dict[str, Any]) -> None:
    manifest["frame"]["fit"] = "crop"


def _rate(manifest: dict[str, Any]) -> None:
    manifest["frame"]["train_fps"] = 25.0


@contextlib.contextmanager
def _golden(name: str, change: Callable[[Array], Array], bench: Bench, target: str, precision: str) -> Iterator[Path]:
    with bench.copied(target, precision) as folder:
        bench.golden(folder, **{name: change})
        yield folder


@contextlib.contextmanager
def _stale(bench: Bench, target: str, precision: str) -> Iterator[Path]:
    """The golden clip of a checkpoint some steps of training earlier: every weight a ten-thousandth away."""
    import copy

    model = copy.deepcopy(bench.checkpoint.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 1e-4 * torch.randn(weight.shape, generator=generator))
    with bench.copied(target, precision) as folder:
        frames = np.load(folder / GOLDEN)["frames"]
        (folder / GOLDEN).write_bytes(roll(model, frames).to_bytes())
        reseal(folder)
        yield folder


_BEFORE = "its frames are fitted already"
_MANIFEST = "it has neither labels nor times"
HEALTHY = Fault("no fault", "-", _none)
FAULTS: tuple[Fault, ...] = (
    *(
        Fault(kind, "runtime", partial(_in_engine, kind))
        for kind in ENGINE
        if "frame " not in kind and "RGB" not in kind
    ),
    *(
        Fault(kind, "frame", partial(_in_engine, kind))
        for kind in ("BGR for RGB", "frame mirrored", "frame transposed")
    ),
    *(Fault(kind, "runtime", partial(_around, kind)) for kind in WRAPPER if kind.startswith("edges")),
    Fault("crop for letterbox", "frame", partial(_around, "crop for letterbox"), precisions=("fp32",), unseen=_BEFORE),
    Fault(
        "frame resized twice", "frame", partial(_around, "frame resized twice"), precisions=("fp32",), unseen=_BEFORE
    ),
    Fault(
        "reset that does not reset",
        "runtime",
        partial(_around, "reset that does not reset"),
        precisions=("fp32",),
        unseen="every stream of the selftest holds its own state",
    ),
    Fault("a stream does not start from zeros", "runtime", partial(_around, "a stream does not start from zeros")),
    Fault(
        "labels permuted in the runtime",
        "runtime",
        partial(_around, "labels permuted in the runtime"),
        precisions=("fp32",),
        unseen=_MANIFEST,
    ),
    Fault("bias dropped in one product", "file", partial(_constants, _bias_dropped)),
    Fault("forget bias truncated", "file", partial(_constants, _bias_truncated)),
    Fault("wrong decay table", "file", partial(_constants, _wrong_decay)),
    Fault("decay of two channels swapped", "file", partial(_constants, _swapped_decay)),
    Fault("a class's row zeroed", "file", partial(_constants, _row_zeroed), precisions=FLOATS),
    Fault("two layers swapped", "file", partial(_constants, _swapped_layers), precisions=FLOATS),
    Fault("weights of one product on an int8 grid", "file", partial(_constants, _one_scale), precisions=FLOATS),
    Fault("fmax changed", "file", partial(_number, 0.9, 0.89)),
    Fault("norm epsilon wrong", "file", _epsilon),
    Fault("one product's weights one step off", "file", partial(_integers, _one_step_off), precisions=("int8",)),
    Fault("one weight one step off", "file", partial(_integers, _one_weight_off), precisions=("int8",)),
    Fault("one channel's scale for all", "file", partial(_integers, _first_scale), precisions=("int8",)),
    Fault(
        "zero point of one product off by one",
        "file",
        partial(_integers, _zero_point),
        engines=("onnx", "openvino"),
        precisions=("int8",),
    ),
    Fault(
        "range of one product halved",
        "file",
        partial(_integers, _halved_range),
        engines=("onnx", "openvino"),
        precisions=("int8",),
    ),
    Fault("calibrated on zero states", "cell", _zero_states, precisions=("int8",)),
    Fault("one layer skipped", "cell", partial(_in_cell, "one layer skipped"), precisions=("fp32",)),
    *(
        Fault(kind, "cell", partial(_in_cell, kind), engines=("onnx", "openvino"), precisions=("fp32",))
        for kind in ("bf16 arithmetic", "products rounded to fp16")
    ),
    Fault("weights off their grid", "cell", partial(_in_cell, "weights off their grid"), precisions=("int8",)),
    Fault(
        "range of one product halved in the plan",
        "cell",
        partial(_in_cell, "range of one product halved in the plan"),
        engines=("onnx", "openvino"),
        precisions=("int8",),
    ),
    Fault(
        "labels permuted in the manifest",
        "manifest",
        partial(_manifest, _labels),
        precisions=("fp32",),
        unseen=_MANIFEST,
    ),
    Fault("fit changed in the manifest", "manifest", partial(_manifest, _fit), precisions=("fp32",), unseen=_BEFORE),
    Fault(
        "rate changed in the manifest", "manifest", partial(_manifest, _rate), precisions=("fp32",), unseen=_MANIFEST
    ),
    Fault("golden of another checkpoint", "golden", _stale),
    Fault("golden's classes permuted", "golden", partial(_golden, "logits", lambda x: np.roll(x, 1, axis=1))),
    Fault("golden's edges off by one pixel", "golden", partial(_golden, "edges", lambda x: np.roll(x, 1, axis=2))),
)


def unused() -> set[str]:
    """Faults that are written down and in no row."""
    return {*ENGINE, *WRAPPER, *CELLS} - {fault.kind for fault in FAULTS}
