"""The step cell for C: one file of packed weights, and the sources that step it (``runtimes/c``).

The file is a header of 256 bytes, the labels with a zero behind each, and float32 tensors, each at a multiple of 64
bytes, in the order in which ``lcr_weights.c`` takes them. Weights are packed in panels of 32 columns: the sums that a
processor keeps in registers then read them from one end to the other. Little-endian, with its own digest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lcr_edge.config import Config
from lcr_edge.contract import CONTRACT_VERSION
from lcr_edge.errors import UsageError
from lcr_edge.export.targets.job import Converted, Job
from lcr_edge.frames import FITS
from lcr_edge.model.norm import NORM_EPS
from lcr_edge.model.step_cell import StepCell
from lcr_edge.runtimes.c_library import FORMAT_VERSION, sources
from lcr_edge.runtimes.golden import Golden
from lcr_edge.tolerances import PROMISES

F32 = npt.NDArray[np.float32]
# What lcr_weights.c takes.
_MOST = {"height": 8192, "width": 8192, "patch": 256, "dim": 8192, "layers": 64, "classes": 65536, "train_fps": 999_999}
_MOST_HIDDEN = 65536
_MAGIC, _ORDER = b"LCRSTEP\0", 0x0A0B0C0D
_PANEL, _ALIGNMENT, _PARTS = 32, 64, 4
# Magic, byte order, format and contract version, size of the header and of the file, digest; 14 whole numbers of the
# config, bytes of the labels; 4 floats.
_HEADER = struct.Struct("<8sIIIIQ32s14iI4f116x")
_DIGEST = slice(32, 64)
# Magic, byte order, version, frames; height, width, classes, layers, tokens, dim; two promises; digest at 64.
_GOLDEN_HEADER, _GOLDEN_DIGEST = struct.Struct("<8sIII6i2f76x"), slice(64, 96)
_GOLDEN_FRAMES = 8


def convert(job: Job) -> Converted:
    """Write model.bin, and the header and sources beside it. Raises UsageError for what ``lcr_weights.c`` refuses."""
    _check(job)
    job.path.write_bytes(weights_of(job.source.cell, job.labels, job.fit))
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


def weights_of(cell: StepCell, labels: tuple[str, ...], fit: str) -> bytes:
    """The content of model.bin."""
    config = cell.config
    names = b"".join(label.encode() + b"\0" for label in labels)
    content = bytearray(_HEADER.size) + names
    for tensor in _tensors(cell):
        content += bytes(-len(content) % _ALIGNMENT) + tensor.astype("<f4").tobytes()
    content[: _HEADER.size] = _HEADER.pack(
        _MAGIC,
        _ORDER,
        FORMAT_VERSION,
        CONTRACT_VERSION,
        _HEADER.size,
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
        0,
        len(names),
        config.fmax,
        config.train_fps,
        NORM_EPS,
        float(cell.embed.norm_eps),
    )
    content[_DIGEST] = hashlib.sha256(content).digest()
    return bytes(content)


def golden_files(golden: Golden, config: Config) -> dict[str, bytes]:
    """golden.bin: the golden clip as ``lcr_selftest.c`` reads it, without its last frames where it is long."""
    promise, frames = PROMISES["fp32"], golden.frames[:_GOLDEN_FRAMES]
    shape = (config.height, config.width, config.classes, *config.state_shape)
    promised = promise.step_abs, promise.stream_abs
    content = bytearray(_GOLDEN_HEADER.pack(b"LCRGOLD\0", _ORDER, FORMAT_VERSION, len(frames), *shape, *promised))
    for t, frame in enumerate(frames):
        for part in (frame, golden.logits[t], np.stack([golden.state_h[t], golden.state_c[t]])):
            data = part.astype("<f4" if part.dtype == np.float32 else part.dtype).tobytes()
            content += data + bytes(-len(data) % _ALIGNMENT)
    content[_GOLDEN_DIGEST] = hashlib.sha256(content).digest()
    return {"golden.bin": bytes(content)}


def _tensors(cell: StepCell) -> Iterator[F32]:
    """All tensors, in the order of the file."""
    config, embed = cell.config, cell.embed
    for row in (cell.frame_row, cell.edge_row, embed.sums, embed.bias, embed.norm_scale, embed.norm_shift):
        yield _flat(row)
    for part in embed.parts:
        yield from _matrix(part)
    for _ in range(_PARTS - len(embed.parts)):  # patches of few pixels
        yield from _matrix(nn.Linear(0, config.dim, bias=False))
    yield from _matrix(cell.embed_edge)
    yield from _matrix(cell.prompt)
    layers: list[Any] = list(cell.layers)
    yield _flat(layers[0].cos)
    yield _flat(layers[0].sin)
    for layer in layers:
        yield _scale(layer.rg_scale, 2 * config.dim)
        yield from _matrix(layer.rg)
        yield _scale(layer.kv_scale, config.dim)
        yield from _matrix(layer.kv)
        for row in (layer.decay, layer.wkv_u, torch.tensor(layer.y_eps), layer.y_scale, layer.y_shift):
            yield _flat(row)
        yield from _matrix(layer.attend)
        yield _scale(layer.mix_in_scale, config.dim)
        yield from _matrix(layer.mix_in)
        yield from _matrix(layer.mix_out)
    yield _scale(cell.head_scale, 2 * config.dim)
    yield from _matrix(cell.classify)


def _matrix(linear: nn.Module) -> Iterator[F32]:
    """Panels [columns / 32, inner, 32] of a product's weights, the last one filled up with zeros, and its bias."""
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach().numpy()
    columns, inner = weight.shape
    padded = np.zeros((-(-columns // _PANEL) * _PANEL, inner), np.float32)
    padded[:columns] = weight
    yield padded.reshape(-1, _PANEL, inner).transpose(0, 2, 1).reshape(-1)
    bias = np.zeros(len(padded), np.float32)
    if linear.bias is not None:
        bias[:columns] = linear.bias.detach().numpy()
    yield bias


def _scale(scale: Tensor | None, size: int) -> F32:
    return np.ones(size, np.float32) if scale is None else _flat(scale)


def _flat(tensor: Tensor) -> F32:
    return tensor.detach().numpy().astype(np.float32).reshape(-1)
