"""The step cell for C: one file of packed weights, and the sources that step it (``runtimes/c``).

The file is a header of 256 bytes, the labels with a zero behind each, and tensors, each at a multiple of 64 bytes, in
the order in which ``lcr_weights.c`` takes them. Weights are packed in panels of 32 columns: the sums that a processor
keeps in registers then read them from one end to the other. Little-endian, with its own digest.

An int8 product reads rows of whole numbers, a = clamp(rint(x / s), low, high), with a scale s of the plan (static), of
the row (dynamic), or, where the plan leaves the product in float, a scale of the row so fine that only the rounding of
the weights counts. Its sums are exact, so every processor gets the same bits.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.contract import CONTRACT_VERSION
from lcr_edge.errors import UsageError
from lcr_edge.export.targets.job import Converted, Job
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.export.targets.request import Request
from lcr_edge.frames import FITS
from lcr_edge.model.norm import NORM_EPS
from lcr_edge.model.step_cell import StepCell
from lcr_edge.runtimes.c_engine import plain_answers
from lcr_edge.runtimes.c_library import FORMAT_VERSION, sources
from lcr_edge.runtimes.golden import Golden
from lcr_edge.tolerances import PROMISES

F32 = npt.NDArray[np.float32]
# What lcr_weights.c takes.
_MOST = {"height": 8192, "width": 8192, "patch": 256, "dim": 8192, "layers": 64, "classes": 65536, "train_fps": 999_999}
_MOST_HIDDEN = 65536
_MAGIC, _ORDER = b"LCRSTEP\0", 0x0A0B0C0D
PANEL, ALIGNMENT, PARTS = 32, 64, 4
# int8 weights of a column lie in words of four, in this order.
WORD = (0, 2, 1, 3)
# lcr_rounding of lcr_internal.h: how the rows that a product reads become whole numbers.
FLOAT, FIXED, _OWN, _FINE = range(4)
_ROUNDINGS = {"static": FIXED, "dynamic": _OWN, "weight-only": _FINE}
_MOST_FINE = 8191
# Rounding, lowest and highest whole number, scale.
PRODUCT = struct.Struct("<3if")
# Magic, byte order, format and contract version, size of the header and of the file, digest; 14 whole numbers of the
# config, bytes of the labels; 4 floats.
HEADER = struct.Struct("<8sIIIIQ32s14iI4f116x")
DIGEST = slice(32, 64)
# Magic, byte order, version, frames; height, width, classes, layers, tokens, dim; two promises; digest at 64.
_GOLDEN_HEADER, _GOLDEN_DIGEST = struct.Struct("<8sIII6i2f76x"), slice(64, 96)
_GOLDEN_FRAMES = 8


def convert(job: Job) -> Converted:
    """Write model.bin, and the header and sources beside it. Raises UsageError for what ``lcr_weights.c`` refuses."""
    _check(job)
    job.path.write_bytes(weights_of(job.source.cell, job.labels, job.fit, job.plan))
    for name, text in sources().items():
        (job.folder / name).write_text(text, encoding="utf-8")
    return Converted(["C99"])


def _check(job: Job) -> None:
    config = job.source.cell.config
    for field, most in _MOST.items():
        if getattr(config, field) > most:
            raise UsageError(f"C takes networks with {field} up to {most}; this one has {getattr(config, field)}")
    if config.dim * config.ffn_mult > _MOST_HIDDEN:
        raise UsageError(f"C takes a channel mix of up to {_MOST_HIDDEN} values; this network has more")
    for label in job.labels:
        if "\0" in label:
            raise UsageError(f"the label {label!r} has a zero in it, which ends strings in C: rename the class")


def weights_of(cell: StepCell, labels: tuple[str, ...], fit: str, plan: Plan | None = None) -> bytes:
    """The content of model.bin. plan: of a cell that was prepared for int8."""
    config = cell.config
    names = b"".join(label.encode() + b"\0" for label in labels)
    content = bytearray(HEADER.size) + names
    for tensor in _tensors(cell, plan):
        content += bytes(-len(content) % ALIGNMENT) + tensor
    content[: HEADER.size] = HEADER.pack(
        _MAGIC,
        _ORDER,
        FORMAT_VERSION,
        CONTRACT_VERSION,
        HEADER.size,
        len(content),
        bytes(32),
        config.height,
        config.width,
        config.patch,
        config.dim,
        config.layers,
        config.classes,
        config.head_dim,
        config.dim * config.ffn_mult,
        config.kv != "edge",
        config.head == "mean",
        config.cell == "residual",
        config.skip,
        tuple(FITS).index(fit),
        plan is not None,
        len(names),
        config.fmax,
        config.train_fps,
        NORM_EPS,
        float(cell.embed.norm_eps),
    )
    content[DIGEST] = hashlib.sha256(content).digest()
    return bytes(content)


def golden_files(golden: Golden, request: Request, folder: Path) -> dict[str, bytes]:
    """golden.bin: the golden clip as ``lcr_selftest.c`` reads it, without its last frames where it is long.

    Of float32 the answers are the reference's, within its promise. Of int8 they are those of plain C, to the last bit:
    how far they are from the float network is for the export to measure. Raises BundleError without a compiler.
    """
    config, frames = request.config, golden.frames[:_GOLDEN_FRAMES]
    shape = (config.height, config.width, config.classes, *config.state_shape)
    promised = PROMISES["fp32"].step_abs, PROMISES["fp32"].stream_abs
    answers = golden.logits, golden.state_h, golden.state_c
    if request.precision == "int8":
        promised, answers = (0.0, 0.0), plain_answers(folder / request.row.files[0], frames, config)
    logits, state_h, state_c = answers
    content = bytearray(_GOLDEN_HEADER.pack(b"LCRGOLD\0", _ORDER, FORMAT_VERSION, len(frames), *shape, *promised))
    for t, frame in enumerate(frames):
        for part in (frame, logits[t], np.stack([state_h[t], state_c[t]])):
            data = part.astype("<f4" if part.dtype == np.float32 else part.dtype).tobytes()
            content += data + bytes(-len(data) % ALIGNMENT)
    content[_GOLDEN_DIGEST] = hashlib.sha256(content).digest()
    return {"golden.bin": bytes(content)}


def _tensors(cell: StepCell, plan: Plan | None) -> Iterator[bytes]:
    """All tensors, in the order of the file."""
    config, embed, names = cell.config, cell.embed, {linear: name for name, linear in cell.linears().items()}

    def product(linear: nn.Module) -> Iterator[bytes]:
        assert isinstance(linear, nn.Linear)
        yield from _product(names.get(linear, ""), linear, plan)

    for row in (cell.frame_row, cell.edge_row, embed.sums, embed.bias, embed.norm_scale, embed.norm_shift):
        yield _flat(row)
    for part in embed.parts:
        yield from product(part)
    for _ in range(PARTS - len(embed.parts)):  # patches of few pixels
        yield from product(nn.Linear(0, config.dim, bias=False))
    yield from product(cell.embed_edge)
    yield from product(cell.prompt)
    layers: list[Any] = list(cell.layers)
    yield _flat(layers[0].cos)
    yield _flat(layers[0].sin)
    for layer in layers:
        yield _scale(layer.rg_scale, 2 * config.dim)
        yield from product(layer.rg)
        yield _scale(layer.kv_scale, config.dim)
        yield from product(layer.kv)
        for row in (layer.decay, layer.wkv_u, torch.tensor(layer.y_eps), layer.y_scale, layer.y_shift):
            yield _flat(row)
        yield from product(layer.attend)
        yield _scale(layer.mix_in_scale, config.dim)
        yield from product(layer.mix_in)
        yield from product(layer.mix_out)
    yield _scale(cell.head_scale, 2 * config.dim)
    yield from product(cell.classify)


def _product(name: str, linear: nn.Linear, plan: Plan | None) -> Iterator[bytes]:
    """How a product's rows are rounded; panels [columns / 32, inner, 32] of its weights, the last one filled up with
    zeros; for int8 the scales of the columns and the sums of their steps; and its bias."""
    weight: F32 = linear.weight.detach().numpy()
    columns, inner = weight.shape
    padded = -(-columns // PANEL) * PANEL
    if plan is None or name not in plan.layers:
        yield PRODUCT.pack(FLOAT, 0, 0, 0.0)
        yield _panels(weight).astype("<f4").tobytes()
    else:
        yield PRODUCT.pack(*rounding(name, inner, plan))
        steps, scale = quantise_weight(weight)
        yield packed_steps(steps)
        yield _padded(scale, padded).tobytes()
        yield _padded(steps.sum(axis=1, dtype=np.int32), padded).tobytes()
    given: Tensor | None = linear.bias
    bias = np.zeros(columns, np.float32) if given is None else given.detach().numpy()
    yield _padded(bias, padded).tobytes()


def rounding(name: str, inner: int, plan: Plan) -> tuple[int, int, int, float]:
    """Kind, lowest and highest whole number, and scale of the rows that a product reads."""
    kind = _ROUNDINGS[plan.mode_of(name)]
    if kind == _FINE:
        return kind, 0, fine_steps(inner), 0.0
    if kind == _OWN:
        return kind, 0, 0, 0.0
    low, high, scale = input_grid(plan, name)
    return kind, low, high, scale


def input_grid(plan: Plan, name: str) -> tuple[int, int, float]:
    """Lowest and highest whole number and scale of what a static product reads. Raises UsageError without a range."""
    if name not in plan.ranges or not np.isfinite(plan.ranges[name]).all():
        raise UsageError(f"the plan has no usable range for the input of layer {name}: calibrate again")
    scale, zero = plan.scale(name)
    return (-127, 127, scale) if plan.activations == "s8" else (-zero, 255 - zero, scale)


def fine_steps(inner: int) -> int:
    """Steps on each side of 0 for a product of ``inner`` values with int8 weights whose sums fit 32 bits."""
    return min(_MOST_FINE, (2**31 - 1) // (128 * max(inner, 1)))


def packed_steps(steps: npt.NDArray[np.int8]) -> bytes:
    """int8 [columns, inner] as words of four values of a column, in panels [columns / 32, inner / 4, 32, 4]."""
    columns, inner = steps.shape
    padded = np.zeros((-(-columns // PANEL) * PANEL, -(-inner // 4) * 4), np.int8)
    padded[:columns, :inner] = steps
    words = padded.reshape(-1, PANEL, padded.shape[1] // 4, 4)[..., list(WORD)]
    return words.transpose(0, 2, 1, 3).tobytes()


def _panels(weight: F32) -> F32:
    columns, inner = weight.shape
    padded = np.zeros((-(-columns // PANEL) * PANEL, inner), np.float32)
    padded[:columns] = weight
    return padded.reshape(-1, PANEL, inner).transpose(0, 2, 1)


def _padded(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Little-endian, with zeros up to a size."""
    result = np.zeros(size, values.dtype.newbyteorder("<"))
    result[: len(values)] = values
    return result


def _scale(scale: Tensor | None, size: int) -> bytes:
    return np.ones(size, "<f4").tobytes() if scale is None else _flat(scale)


def _flat(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().astype("<f4").tobytes()
