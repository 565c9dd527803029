"""Ways to plant a fault: each is a context that gives the bundle to ask about, while the fault is there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lcr_edge.contract import STATES_IN
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.export.verify.reference import roll
from lcr_edge.runtimes.golden import GOLDEN
from tests.journeys.fault_bench import Bench
from tests.journeys.fault_cells import CELLS
from tests.journeys.fault_files import OnnxFile, OpenVinoFile, TfliteFile, open_model, replace, reseal
from tests.journeys.fault_runtime import ENGINE, WRAPPER, engine_fault

Array = npt.NDArray[Any]
LAYER = "layers.1"
PRODUCT = f"{LAYER}.mix_in"
_CLASS = 3


@contextlib.contextmanager
def none(bench: Bench, target: str, precision: str) -> Iterator[Path]:
    yield bench.healthy(target, precision)


@contextlib.contextmanager
def in_engine(kind: str, bench: Bench, target: str, precision: str) -> Iterator[Path]:
    folder = bench.healthy(target, precision)
    with engine_fault(target, ENGINE[kind]):
        yield folder


@contextlib.contextmanager
def around(kind: str, bench: Bench, target: str, precision: str) -> Iterator[Path]:
    folder = bench.healthy(target, precision)
    with WRAPPER[kind]():
        yield folder


@contextlib.contextmanager
def constants(
    pairs: Callable[[dict[str, Array]], list[tuple[Array, Array]]],
    bench: Bench,
    target: str,
    precision: str,
    products: bool = True,
) -> Iterator[Path]:
    """Constants of the cell with other content in the file. products: some are of products, which int8 changes."""
    cell = bench.cell(precision if products else "fp32", target)
    held = {name: tensor.detach().numpy() for name, tensor in (*cell.named_buffers(), *cell.named_parameters())}
    changes = pairs(held)
    if (target, precision) == ("tflite", "int8") and products:
        # A bias is added before the scales of the channels are applied.
        scales = {
            id(held[f"{name}.bias"]): quantise_weight(held[f"{name}.weight"])[1]
            for name in cell.linears()
            if f"{name}.bias" in held
        }
        changes = [((old / scales[id(old)]).astype(np.float32), new / scales[id(old)]) for old, new in changes]
    with bench.copied(target, precision) as folder:
        file = open_model(folder, target)
        if not replace(file, changes):
            raise AssertionError(f"{target} {precision}: no such constant in the file")
        file.save()
        yield folder


def bias_dropped(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    return [(held[f"{PRODUCT}.bias"], np.zeros_like(held[f"{PRODUCT}.bias"]))]


def bias_truncated(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    bias = held["prompt.bias"]
    return [(bias, np.trunc(bias * 4) / 4)]


def wrong_decay(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    """A token's decay where its neighbour's belongs."""
    name = f"{LAYER}.wkv_lead"
    return [(held[name], np.roll(held[name], 1, axis=-2))]


def swapped_decay(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    pairs = []
    for part in ("lead", "lag"):
        old = held[f"{LAYER}.wkv_{part}"]
        new = old.copy()
        new[..., [4, 24]] = new[..., [24, 4]]
        pairs.append((old, new))
    return pairs


def row_zeroed(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    old = held["classify.weight"]
    new = old.copy()
    new[_CLASS] = 0
    return [(old, new)]


def swapped_layers(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    names = [name.removeprefix("layers.1.") for name in held if name.startswith("layers.1.")]
    pairs = []
    for name in names:
        one, other = held[f"layers.1.{name}"], held[f"layers.2.{name}"]
        if one.dtype.kind == "f" and one.size > 1 and one.shape == other.shape and not np.array_equal(one, other):
            pairs += [(one, other), (other, one)]
    return pairs


def one_scale(held: dict[str, Array]) -> list[tuple[Array, Array]]:
    """The weights of one product on one grid for all channels, that of the largest weight."""
    old = held[f"{PRODUCT}.weight"]
    step = np.abs(old).max() / 127
    return [(old, (np.rint(old / step) * step).astype(np.float32))]


@contextlib.contextmanager
def number(old: float, new: float, bench: Bench, target: str, precision: str, **options: str) -> Iterator[Path]:
    """A scalar constant of the model."""
    with bench.copied(target, precision, **options) as folder:
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
def epsilon(bench: Bench, target: str, precision: str) -> Iterator[Path]:
    """That of one layer's norm of heads, four times as large; all norms with one epsilon in TFLite."""
    if target == "tflite":
        with number(0.01, 0.02, bench, target, precision) as folder:
            yield folder
        return
    with bench.copied(target, precision) as folder:
        file = open_model(folder, target)
        wanted = float(bench.cell("fp32", target).get_submodule(LAYER).y_eps)  # type: ignore[arg-type]
        count = 0
        if isinstance(file, OnnxFile):
            for node in file.model.graph.node:
                for entry in node.attribute:
                    if entry.name == "epsilon" and abs(entry.f - wanted) < 1e-3:
                        entry.f, count = 4 * entry.f, count + 1
        elif isinstance(file, OpenVinoFile):
            for data in file.tree.iter("data"):
                if abs(float(data.get("eps", "0")) - wanted) < 1e-3:
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
def integers(change: Callable[[Any], None], bench: Bench, target: str, precision: str) -> Iterator[Path]:
    with bench.copied(target, precision) as folder:
        file = open_model(folder, target)
        change(file)
        file.save()
        yield folder


def one_step_off(file: Any) -> None:
    weight = _of_layer(_weights(file), PRODUCT, ".weight")
    weight[...] = np.where(weight < 127, weight + 1, weight)


def one_weight_off(file: Any) -> None:
    weight = _of_layer(_weights(file), PRODUCT, ".weight")
    weight[7, 7] += 1 if weight[7, 7] < 0 else -1


def first_scale(file: Any) -> None:
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


def zero_point(file: Any) -> None:
    if isinstance(file, OnnxFile):
        file.constants[f"cell.{PRODUCT}.weight.x_zero"][...] += 1
        return
    for end in _ends(file):
        low, high = (float(a.item()) for a in _ends(file))
        end[...] = end.item() - (high - low) / 255
        break


def halved_range(file: Any) -> None:
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
def in_cell(kind: str, bench: Bench, target: str, precision: str) -> Iterator[Path]:
    with bench.converted(kind, target, precision, CELLS[kind]) as folder:
        yield folder


@contextlib.contextmanager
def zero_states(bench: Bench, target: str, precision: str) -> Iterator[Path]:
    samples = bench.samples.with_zero_states()
    with bench.converted("zero states", target, precision, lambda cell, plan: (cell, plan), samples) as folder:
        yield folder


@contextlib.contextmanager
def state_scale(bench: Bench, target: str, precision: str) -> Iterator[Path]:
    """The model and the manifest agree, but a state that is fed back is a twentieth larger than it was."""
    options = {"io": "int8", "state_precision": "int8", "quant": "static"}
    with bench.copied(target, precision, **options) as folder:
        file = TfliteFile(folder)
        for entry in file.model.signatureDefs[0].inputs:
            if entry.name.decode() == STATES_IN[0]:
                grid = file.model.subgraphs[0].tensors[entry.tensorIndex].quantization
                grid.scale = [np.float32(1.05 * grid.scale[0])]
                scale = float(grid.scale[0])
        file.save()

        def change(manifest: dict[str, Any]) -> None:
            for row in (*manifest["inputs"], *manifest["states"]):
                if STATES_IN[0] in (row.get("name"), row.get("in")):
                    row["scale"] = scale

        reseal(folder, change)
        yield folder


@contextlib.contextmanager
def manifest(change: Callable[[dict[str, Any]], None], bench: Bench, target: str, precision: str) -> Iterator[Path]:
    with bench.copied(target, precision) as folder:
        reseal(folder, change)
        yield folder


def labels(manifest: dict[str, Any]) -> None:
    manifest["labels"][:2] = manifest["labels"][1::-1]


def fit(manifest: dict[str, Any]) -> None:
    manifest["frame"]["fit"] = "crop"


def rate(manifest: dict[str, Any]) -> None:
    manifest["frame"]["train_fps"] = 25.0


@contextlib.contextmanager
def golden(name: str, change: Callable[[Array], Array], bench: Bench, target: str, precision: str) -> Iterator[Path]:
    with bench.copied(target, precision) as folder:
        bench.golden(folder, **{name: change})
        yield folder


@contextlib.contextmanager
def stale(bench: Bench, target: str, precision: str) -> Iterator[Path]:
    """The golden clip of a checkpoint some steps of training earlier: every weight a ten-thousandth away."""
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
