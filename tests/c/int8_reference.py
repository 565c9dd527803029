"""The int8 step of C in NumPy, bit for bit: what every processor must compute.

Each line is one rounding of float32, in the order of ``lcr_network.c`` and ``lcr_rows.inc``; only the sums of whole
numbers are free in their order. Letters are those of ``model.step_cell``, from which all numbers come.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.edges.host import host_edges
from lcr_edge.export.targets.c_convert import fine_steps
from lcr_edge.model.norm import NORM_EPS
from lcr_edge.model.step_cell import StepCell

F32 = npt.NDArray[np.float32]
_f = np.float32
_LANES = 16


class Int8Reference:
    """Steps a prepared cell by its plan."""

    def __init__(self, cell: StepCell, plan: Plan) -> None:
        self._cell, self._plan, self._linears = cell, plan, cell.linears()

    def step(self, frame: npt.NDArray[np.uint8], h_in: F32, c_in: F32) -> tuple[F32, F32, F32]:
        """frame [H, W, 3], states [L, N+1, C] -> logits [classes], the next states."""
        cell, config = self._cell, self._cell.config
        x = np.concatenate([_array(cell.frame_row), self._embed(_cut(frame, config.patch))])
        edges = _cut(host_edges(frame)[..., None], config.patch).astype(_f)
        e = np.concatenate([_array(cell.edge_row), self._product("embed_edge", edges)])
        forget = _sigmoid(self._product("prompt", e), config.fmax)
        h, c = np.empty_like(h_in), np.empty_like(c_in)
        for index in range(config.layers):
            own = forget[:, index * config.dim :][:, : config.dim]
            h[index], c[index] = self._layer(index, x, e, own, h_in[index], c_in[index])
            x = x + h[index] if config.skip else h[index]
        return self._classify(h[-1], c[-1]), h, c

    def _embed(self, patches: npt.NDArray[np.uint8]) -> F32:
        embed: Any = self._cell.embed
        mean = patches.sum(1, dtype=np.uint32).astype(_f) / _f(patches.shape[1])
        level = mean * (_f(2.0) / _f(255.0)) - _f(1.0)
        tokens = level[:, None] * _array(embed.sums) + _array(embed.bias)
        pixels = patches.astype(_f) - mean[:, None]
        first = 0
        for part in range(len(embed.parts)):
            inner = embed.parts[part].in_features
            tokens = tokens + self._product(f"embed.parts.{part}", pixels[:, first : first + inner])
            first += inner
        return _normalise(tokens, float(embed.norm_eps), _array(embed.norm_scale), _array(embed.norm_shift))

    def _layer(self, index: int, x: F32, e: F32, forget: F32, h: F32, c: F32) -> tuple[F32, F32]:
        layer: Any = self._cell.layers[index]
        config = self._cell.config
        name, dim, heads = f"layers.{index}.", config.dim, (-1, config.heads, config.head_dim)
        both = _normalise(np.concatenate([x, h], axis=1), NORM_EPS, _array(layer.rg_scale))
        rg = self._product(f"{name}rg", both)
        z = e if config.kv == "edge" else x + e
        kv = self._product(f"{name}kv", _normalise(z, NORM_EPS, _array(layer.kv_scale)))
        r, k, v = (part[:, :dim].reshape(heads) for part in (rg, kv, kv[:, dim:]))
        cos, sin = _array(layer.cos).reshape(-1, 1, heads[2]), _array(layer.sin).reshape(-1, 1, heads[2])
        r, k = (part * cos + np.roll(part, heads[2] // 2, axis=2) * sin for part in (r, k))
        y = _wkv(r, k, v, _array(layer.decay).reshape(heads[1:]), _array(layer.wkv_u).reshape(heads[1:]))
        y = _normalise(y, layer.y_eps).reshape(len(x), dim) * _array(layer.y_scale) + _array(layer.y_shift)
        g = rg[:, dim:]
        x = x + self._product(f"{name}attend", g * _sigmoid(g) * y)
        mix = self._product(f"{name}mix_in", _normalise(x, NORM_EPS, _array(layer.mix_in_scale)))
        key = np.maximum(mix[:, dim:], _f(0.0))
        a = x + _sigmoid(mix[:, :dim]) * self._product(f"{name}mix_out", key * key)
        kept = _f(config.cell == "residual") * c
        c = forget * (c + _tanh(a)) + kept
        following: F32 = _sigmoid(a) * _tanh(c)
        return following, c

    def _classify(self, h: F32, c: F32) -> F32:
        pooled = np.concatenate([h, c], axis=1)[: len(h) if self._cell.config.head == "mean" else 1]
        total = np.zeros_like(pooled[0])
        for row in pooled:
            total = total + row
        mean = (total / _f(len(pooled)))[None]
        logits: F32 = self._product("classify", _normalise(mean, NORM_EPS, _array(self._cell.head_scale)))[0]
        return logits

    def _product(self, name: str, x: F32) -> F32:
        """[rows, in] -> [rows, out]: rows and weights as whole numbers, their sum, and back to floats."""
        linear: Any = self._linears[name]
        weight = _array(linear.weight)
        weight_scale = np.abs(weight).max(axis=1) / _f(127.0)
        weight_scale[weight_scale == 0.0] = 1.0
        whole = np.rint(weight / weight_scale[:, None]).astype(np.int64)
        scale, low, high = self._grid(name, x)
        steps = np.rint(np.clip(x * (_f(1.0) / scale), low, high)).astype(np.int64)
        bias = np.zeros(len(weight), _f) if linear.bias is None else _array(linear.bias)
        result: F32 = (steps @ whole.T).astype(_f) * (scale * weight_scale) + bias
        return result

    def _grid(self, name: str, x: F32) -> tuple[F32, F32, F32]:
        """Scale, lowest and highest whole number of each row, [rows, 1]."""
        mode, column = self._plan.mode_of(name), np.ones((len(x), 1), _f)
        if mode == "static":
            scale, zero = self._plan.scale(name)
            low, high = (-127, 127) if self._plan.activations == "s8" else (-zero, 255 - zero)
            return column * _f(scale), column * _f(low), column * _f(high)
        if mode == "dynamic":
            least, most = np.minimum(x.min(1), _f(0.0))[:, None], np.maximum(x.max(1), _f(0.0))[:, None]
            row_scale = np.maximum(most - least, _f(1e-6)) / _f(255.0)
            row_zero = np.rint(np.clip(-least / row_scale, _f(0.0), _f(255.0)))
            return row_scale, -row_zero, _f(255.0) - row_zero
        end = column * _f(fine_steps(x.shape[1]))
        return np.maximum(np.abs(x).max(1), _f(1e-6))[:, None] / end, -end, end


def _array(tensor: Any) -> Any:
    """None, a row of ones as the file has it, multiplies nothing."""
    return None if tensor is None else tensor.detach().numpy()


def _cut(image: npt.NDArray[np.uint8], patch: int) -> npt.NDArray[np.uint8]:
    """[H, W, channels] -> [patches, patch * patch * channels]."""
    height, width, channels = image.shape
    parts = image.reshape(height // patch, patch, width // patch, patch * channels)
    return parts.transpose(0, 2, 1, 3).reshape(-1, patch * patch * channels)


def _sum(x: F32) -> F32:
    """Over the last axis, in sixteen parts, which are then added in pairs."""
    rest = -x.shape[-1] % _LANES
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], rest), _f)], axis=-1)
    pieces = padded.reshape(*x.shape[:-1], -1, _LANES)
    parts = np.zeros((*x.shape[:-1], _LANES), _f)
    for index in range(pieces.shape[-2]):
        parts = parts + pieces[..., index, :]
    while parts.shape[-1] > 1:
        half = parts.shape[-1] // 2
        parts = parts[..., :half] + parts[..., half:]
    result: F32 = parts
    return result


def _normalise(x: F32, eps: float, scale: F32 | None = None, shift: F32 | None = None) -> F32:
    count = _f(x.shape[-1])
    centred = x - _sum(x) / count
    result: F32 = centred * (_f(1.0) / np.sqrt(_sum(centred * centred) / count + _f(eps)))
    result = result if scale is None else result * scale
    return result if shift is None else result + shift


def _exponential(x: F32) -> F32:
    x = np.clip(x, _f(-87.0), _f(88.0))
    shifted = x * _f(1.44269504) + _f(12582912.0)
    n = shifted - _f(12582912.0)
    r = (x - n * _f(0.693145752)) - n * _f(1.42860677e-6)
    q = _f(1.3814583654e-3) * r + _f(8.3687240258e-3)
    for factor in (4.1668388993e-2, 0.16666521132, 0.49999994040):
        q = q * r + _f(factor)
    result: F32 = np.ldexp((q * r) * r + r + _f(1.0), n.astype(np.int32)).astype(_f)
    return result


def _sigmoid(x: F32, factor: float = 1.0) -> F32:
    result: F32 = _f(factor) / (_f(1.0) + _exponential(-x))
    return result


def _tanh(x: F32) -> F32:
    result: F32 = _f(1.0) - _f(2.0) / (_exponential(_f(2.0) * x) + _f(1.0))
    return result


def _wkv(r: F32, k: F32, v: F32, w: F32, u: F32) -> F32:
    """[tokens, heads, d] -> the same: what a token gives itself, then what those before and behind it left."""
    tokens, heads, width = r.shape
    y: F32 = _sum(r * u * k) * v
    for first in range(0, width, 4):
        some = slice(first, first + 4)
        for order in (range(tokens), reversed(range(tokens))):
            s = np.zeros((heads, 4, width), _f)
            for t in order:
                terms = r[t, :, some, None] * s
                y[t] = y[t] + ((terms[:, 0] + terms[:, 1]) + (terms[:, 2] + terms[:, 3]))
                s = w[:, some, None] * s + k[t, :, some, None] * v[t, :, None, :]
    return y
