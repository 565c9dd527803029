"""The exported step: one frame of one stream, rewritten for static graphs and small engines.

:class:`StepCell` computes what :meth:`lcr_edge.model.network.LCR.step` computes, from constants folded in float64:

- pixel normalisation goes into the patch embedding, each LayerNorm's scale and shift into the projection after it,
  the forget gate's bias into the edge prompts;
- R and G are one matrix product, so are K and V, and so are the prompts of all layers;
- decay tables are constants, dense or in chunks of tokens, whichever is faster and safe in float32.

:meth:`StepCell.equalise` moves scales between the channels of a matrix product's input and its weights, for int8.

There is no batch axis, so that products are plain matrices; no tensor has more than four axes. A cell that steps
several streams (:func:`with_streams`) puts the tokens of all of them into these matrices, one stream after the other.
"""

from __future__ import annotations

import copy
from typing import Callable, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcr_edge.config import Config
from lcr_edge.kernels.wkv import WkvTables, choose_chunk, make_tables, wkv_with_tables
from lcr_edge.model.embed import PatchEmbed
from lcr_edge.model.layer import Layer
from lcr_edge.model.network import LCR
from lcr_edge.model.norm import NORM_EPS, SteadyNorm

# The network takes pixels * _PIXEL - 1.
_PIXEL = 2.0 / 255.0
_PARTS = 4
# Products of a layer that read what a norm has just made.
_AFTER_NORM = ("rg", "kv", "mix_in")
# Tokens per WKV chunk in an integer-only model. Inside a chunk, each half of a WKV score carries half of a decay's
# exponent, up to exp(80), and no grid covers both that and 1. With two tokens, all factors that count are 1; those of
# the unwanted triangle may saturate.
INTEGER_CHUNK = 2


class StepCell(nn.Module):
    """One step with the edges computed inside: see :meth:`forward`. Built from a trained network, in its own memory.

    dtype: float32 to export; float64 shows that the rewriting itself is exact. chunk: tokens per WKV chunk,
    by default :func:`lcr_edge.kernels.wkv.choose_chunk` per layer. Raises UnsafeDecayError.
    """

    edge_row: Tensor
    frame_row: Tensor
    head_scale: Tensor | None
    # Dtype of the states at the boundary; None: that of the arithmetic. See with_state_precision.
    state_dtype: torch.dtype | None = None
    # Whether a norm's channel factors multiply its row factors first, then its values. See with_joined_factors.
    joined: bool = False
    # How many streams a step takes. See with_streams.
    streams: int = 1

    def __init__(self, model: LCR, *, dtype: torch.dtype = torch.float32, chunk: int | None = None) -> None:
        super().__init__()
        config = model.config
        self.config = config
        self.edge_graph = copy.deepcopy(model.edge_graph)
        self.embed = _PatchCell(model.embed, dtype)
        edge_projection = model.embed_edge.projection
        self.embed_edge = _linear(_exact(edge_projection.weight), _exact(edge_projection.bias), dtype)
        self.register_buffer("frame_row", _copy(model.embed.class_token, dtype).reshape(1, -1))
        self.register_buffer("edge_row", _copy(model.embed_edge.class_token, dtype).reshape(1, -1))
        bias = torch.cat([_exact(layer.forget_bias) for layer in _layers(model)])
        self.prompt = _linear(_exact(model.prompt.weight), _exact(model.prompt.bias) + bias, dtype)
        self.layers = nn.ModuleList(_LayerCell(layer, model, dtype, chunk) for layer in _layers(model))
        self.classify = _fold(model.norm_head, model.classify, dtype)
        self.register_buffer("head_scale", None)

    def linears(self) -> dict[str, nn.Linear]:
        """The matrix products with weights, by the names of ``calibration.quant_plan``, in the order of a step."""
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)}

    def equalise(self, name: str, scale: Tensor) -> bool:
        """Divide input channel j of the product ``name`` by scale[j] > 0 and multiply its weights: the same results.

        The division goes where it costs nothing: into the norm before the product, or the product before that. Returns
        False if there is no such place (embeddings, prompts): then nothing was changed.
        """
        scale = scale.double()
        owner, _, short = name.rpartition(".")
        if name == "classify":
            self.head_scale = _divided(self.head_scale, scale, self.classify.weight.dtype)
        elif owner.startswith("layers."):
            layer = self.get_submodule(owner)
            assert isinstance(layer, _LayerCell)
            layer.divide_input(short, scale)
        else:
            return False
        linear = self.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        linear.weight.copy_(_exact(linear.weight) * scale)
        return True

    def forward(self, frame: Tensor, state_h_in: Tensor, state_c_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """frame uint8 [1, H, W, 3], states [L, N+1, C] -> logits [1, classes], next states [L, N+1, C]."""
        return self.step(frame, self.edge_graph(frame), state_h_in, state_c_in)

    def step(self, frame: Tensor, edge: Tensor, h_in: Tensor, c_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same with the edges given: {0, 1}, any dtype, [1, H, W]."""
        config = self.config
        if self.state_dtype is not None:
            h_in, c_in = h_in.to(self.frame_row.dtype), c_in.to(self.frame_row.dtype)
        patches = _cut(frame, config, 3).to(h_in.dtype)
        x = self._with_row(self.frame_row, self.embed(patches))
        e = self._with_row(self.edge_row, self.embed_edge(_cut(edge, config, 1).to(h_in.dtype)))
        forget = (config.fmax * torch.sigmoid(self.prompt(e))).chunk(config.layers, dim=1)
        states_h, states_c = [], []
        for index, layer in enumerate(self.layers):
            h, c = layer(x, e, forget[index], self._layer(h_in, index), self._layer(c_in, index))
            states_h.append(h)
            states_c.append(c)
            x = x + h if config.skip else h
        next_h, next_c = self._stack(states_h), self._stack(states_c)
        if self.state_dtype is not None:
            next_h, next_c = next_h.to(self.state_dtype), next_c.to(self.state_dtype)
        return self._head(h, c), next_h, next_c

    def _with_row(self, row: Tensor, tokens: Tensor) -> Tensor:
        """The row [1, C] before the tokens of each stream."""
        if self.streams == 1:
            return torch.cat([row, tokens])
        width = row.shape[1]
        rows = row.expand(self.streams, 1, width)
        return torch.cat([rows, tokens.reshape(self.streams, -1, width)], dim=1).reshape(-1, width)

    def _layer(self, states: Tensor, index: int) -> Tensor:
        """One layer's states, [tokens of all streams, C]."""
        return states[index] if self.streams == 1 else states[:, index].reshape(-1, states.shape[-1])

    def _stack(self, states: list[Tensor]) -> Tensor:
        """All layers' states as they cross the boundary."""
        if self.streams == 1:
            return torch.stack(states)
        return torch.stack([state.reshape(self.streams, -1, state.shape[-1]) for state in states], dim=1)

    def _head(self, h: Tensor, c: Tensor) -> Tensor:
        pooled = torch.cat([self._pool(h), self._pool(c)], dim=1)
        logits: Tensor = self.classify(_normalise(pooled, self.head_scale, self.joined))
        return logits

    def _pool(self, tokens: Tensor) -> Tensor:
        """One row for each stream: its class token, or the mean of its tokens."""
        cls = self.config.head == "cls"
        if self.streams == 1:
            return tokens[:1] if cls else tokens.mean(0, keepdim=True)
        tokens = tokens.reshape(self.streams, -1, tokens.shape[-1])
        return tokens[:, 0] if cls else tokens.mean(1)


class HostEdgeCell(nn.Module):
    """:class:`StepCell` with the edges as an input."""

    def __init__(self, cell: StepCell) -> None:
        super().__init__()
        self.cell = cell
        self.config = cell.config

    def forward(
        self, frame: Tensor, edge: Tensor, state_h_in: Tensor, state_c_in: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`StepCell.forward`, with edge uint8 [1, H, W] in {0, 1}."""
        return self.cell.step(frame, edge, state_h_in, state_c_in)


def with_state_precision(cell: nn.Module, state_precision: str) -> nn.Module:
    """The cell with its states in float16 at the boundary ("fp16") and its own arithmetic inside; itself otherwise.

    "int8" returns the cell too: there the converter quantises the boundary. The new cell shares the weights, under the
    same names. Raises TypeError for any other module.
    """
    if state_precision != "fp16":
        return cell

    def halve(step: StepCell) -> StepCell:
        twin = copy.copy(step)
        twin.state_dtype = torch.float16
        return twin

    return _inside(cell, halve)


def with_streams(cell: nn.Module, streams: int) -> nn.Module:
    """The cell that steps several streams at once; itself for one. It shares the weights, under the same names.

    frame uint8 [n, H, W, 3], edge [n, H, W], states [n, L, N+1, C] -> logits [n, classes] and states as the inputs.
    Only the WKV keeps streams apart; all else works on single tokens. Raises TypeError for any other module.
    """
    if streams == 1:
        return cell

    def multiply(step: StepCell) -> StepCell:
        # Shallow copies: modules and tables of their own, weights of the given cell.
        twin = _shallow(step)
        twin.streams = streams
        twin.layers = nn.ModuleList(_shallow(layer) for layer in step.layers)
        for layer in twin.layers:
            assert isinstance(layer, _LayerCell)
            layer.take_streams(streams)
        return twin

    return _inside(cell, multiply)


def _inside(cell: nn.Module, change: Callable[[StepCell], StepCell]) -> nn.Module:
    """The cell with its step changed, whether it takes edges or finds them. Raises TypeError for any other module."""
    if isinstance(cell, HostEdgeCell):
        return HostEdgeCell(change(cell.cell)).train(cell.training)
    if not isinstance(cell, StepCell):
        raise TypeError(f"{type(cell).__name__} is not a step cell")
    return change(cell)


def with_joined_factors(cell: nn.Module) -> nn.Module:
    """A copy that computes equalised norms as (x - mean) * (factor of the row * factors of the channels).

    The usual order, channel factors last, does not survive TFLite: its converter moves a constant factor in front of a
    product into the weights, which undoes :meth:`StepCell.equalise` and takes them off their int8 grid.
    """
    result = copy.deepcopy(cell)
    for module in result.modules():
        if isinstance(module, (StepCell, _LayerCell)):
            module.joined = True
    return result


class _PatchCell(nn.Module):
    """Pixels 0..255 of the frame's patches to normalised tokens.

    A sum over all pixels of a patch loses digits, different ones in each engine. So each patch is centred, its mean
    enters separately, and each product sums a quarter of the pixels. TFLite, which adds sequentially, gains most.
    """

    sums: Tensor
    bias: Tensor
    norm_scale: Tensor
    norm_shift: Tensor

    def __init__(self, embed: PatchEmbed, dtype: torch.dtype) -> None:
        super().__init__()
        norm = embed.norm
        assert isinstance(norm, SteadyNorm)
        weight = _exact(embed.projection.weight)
        self.parts = nn.ModuleList(_linear(part * _PIXEL, None, dtype) for part in weight.chunk(_PARTS, dim=1))
        self.register_buffer("sums", weight.sum(1).to(dtype, copy=True))
        self.register_buffer("bias", _copy(embed.projection.bias, dtype))
        self.register_buffer("norm_scale", _copy(norm.weight, dtype))
        self.register_buffer("norm_shift", _copy(norm.bias, dtype))
        self.norm_eps = norm.eps

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, patch * patch * 3] in 0..255 -> [N, C]."""
        mean = pixels.mean(dim=1, keepdim=True)
        x = (mean * _PIXEL - 1.0) * self.sums + self.bias
        for part, some in zip(self.parts, (pixels - mean).chunk(len(self.parts), dim=1)):
            x = x + part(some)
        return F.layer_norm(x, x.shape[-1:], self.norm_scale, self.norm_shift, self.norm_eps)


class _LayerCell(nn.Module):
    """One layer; the letters are those of :class:`lcr_edge.model.layer.Layer`."""

    cos: Tensor
    sin: Tensor
    decay: Tensor
    y_scale: Tensor
    y_shift: Tensor
    rg_scale: Tensor | None
    kv_scale: Tensor | None
    mix_in_scale: Tensor | None
    joined: bool = False
    streams: int = 1

    def __init__(self, layer: Layer, model: LCR, dtype: torch.dtype, chunk: int | None) -> None:
        super().__init__()
        config = model.config
        self.dim, self.heads, self.head_dim = config.dim, config.heads, config.head_dim
        self.hidden, self.cell, self.kv_source = layer.hidden, config.cell, config.kv
        self.rg = _fold(layer.norm_rg, layer.rg, dtype)
        self.kv = _fold(layer.norm_kv, layer.kv_projection, dtype)
        self.mix_in = _fold(layer.norm_mix, layer.mix_in, dtype)
        self.attend = _linear(_exact(layer.attend.weight), None, dtype)
        self.mix_out = _linear(_exact(layer.mix_out.weight), None, dtype)
        self.register_buffer("y_scale", _copy(layer.norm_y.weight, dtype))
        self.register_buffer("y_shift", _copy(layer.norm_y.bias, dtype))
        self.y_eps = layer.norm_y.eps
        for short in _AFTER_NORM:
            self.register_buffer(f"{short}_scale", None)
        sign = torch.ones(config.head_dim, dtype=torch.float64)
        sign[: config.head_dim // 2] = -1.0
        self.register_buffer("cos", _copy(model.cos, dtype))
        self.register_buffer("sin", (_exact(model.sin) * sign).to(dtype))
        log_w = -torch.exp(_exact(layer.decay))
        # For the C target, which goes from token to token instead of using tables.
        self.register_buffer("decay", torch.exp(log_w).to(dtype))
        tables = make_tables(log_w, _exact(layer.bonus), config.tokens, chunk or choose_chunk(log_w, config.tokens))
        for name, table in tables._asdict().items():
            self.register_buffer(f"wkv_{name}", table if table.dtype == torch.bool else _copy(table, dtype))

    def divide_input(self, short: str, scale: Tensor) -> None:
        """Divide what the product ``short`` reads by scale, float64 [in]: see :meth:`StepCell.equalise`."""
        if short in _AFTER_NORM:
            before: Tensor | None = getattr(self, f"{short}_scale")
            setattr(self, f"{short}_scale", _divided(before, scale, self.cos.dtype))
        elif short == "attend":
            self.y_scale.copy_(_exact(self.y_scale) / scale)
            self.y_shift.copy_(_exact(self.y_shift) / scale)
        else:  # mix_out reads relu(key)^2
            assert short == "mix_out"
            self.mix_in.weight[self.dim :].copy_(_exact(self.mix_in.weight[self.dim :]) / scale.sqrt()[:, None])
            self.mix_in.bias[self.dim :].copy_(_exact(self.mix_in.bias[self.dim :]) / scale.sqrt())

    def take_streams(self, streams: int) -> None:
        """Let the WKV work on the heads of several streams as if they were more heads of one."""
        self.streams = streams
        for name, table in self._tables()._asdict().items():
            if table.dtype != torch.bool:  # those are the same for all heads
                self.register_buffer(f"wkv_{name}", table.repeat(streams, *[1] * (table.dim() - 1)))

    def forward(self, x: Tensor, e: Tensor, forget: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """x, e, forget and the states h, c, all [N+1, C], to the next h, c; of several streams [streams (N+1), C]."""
        r, g = self.rg(_normalise(torch.cat([x, h], dim=1), self.rg_scale, self.joined)).split(self.dim, dim=1)
        z = e if self.kv_source == "edge" else x + e
        k, v = self.kv(_normalise(z, self.kv_scale, self.joined)).split(self.dim, dim=1)
        y = wkv_with_tables(self._turn(self._split(r)), self._turn(self._split(k)), self._split(v), self._tables())
        y = self._join(F.layer_norm(y, (self.head_dim,), eps=self.y_eps))
        x = x + self.attend(F.silu(g) * (y * self.y_scale + self.y_shift))
        gate, key = self.mix_in(_normalise(x, self.mix_in_scale, self.joined)).split([self.dim, self.hidden], dim=1)
        key = torch.relu(key)
        a = x + torch.sigmoid(gate) * self.mix_out(key * key)
        update = forget * (c + torch.tanh(a))
        c = update + c if self.cell == "residual" else update
        return torch.sigmoid(a) * torch.tanh(c), c

    def _split(self, x: Tensor) -> Tensor:
        """[N+1, C] -> [h, N+1, d]; of several streams [streams (N+1), C] -> [streams h, N+1, d]."""
        if self.streams == 1:
            return x.reshape(-1, self.heads, self.head_dim).transpose(0, 1)
        x = x.reshape(self.streams, -1, self.heads, self.head_dim).transpose(1, 2)
        return x.reshape(self.streams * self.heads, -1, self.head_dim)

    def _join(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`_split`."""
        if self.streams == 1:
            return y.transpose(0, 1).reshape(-1, self.dim)
        return y.reshape(self.streams, self.heads, -1, self.head_dim).transpose(1, 2).reshape(-1, self.dim)

    def _turn(self, x: Tensor) -> Tensor:
        """Rotary positions: ``embed.rotate``, its minus sign in the table of sines."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([second, first], dim=-1) * self.sin

    def _tables(self) -> WkvTables:
        return WkvTables(*(getattr(self, f"wkv_{name}") for name in WkvTables._fields))


_Module = TypeVar("_Module", bound=nn.Module)


def _shallow(module: _Module) -> _Module:
    """A copy whose modules and buffers can be exchanged without changing the module."""
    twin = copy.copy(module)
    twin._modules, twin._buffers = dict(module._modules), dict(module._buffers)
    return twin


def _layers(model: LCR) -> list[Layer]:
    return [layer for layer in model.layers if isinstance(layer, Layer)]


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype, copy=True)


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear.requires_grad_(False)


def _fold(norm: nn.LayerNorm, after: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    """after(norm(x)) as one Linear of the normalised x: W diag(scale) and W shift + b."""
    weight = _exact(after.weight)
    bias = weight @ _exact(norm.bias)
    if after.bias is not None:
        bias = bias + _exact(after.bias)
    return _linear(weight * _exact(norm.weight), bias, dtype)


def _cut(image: Tensor, config: Config, channels: int) -> Tensor:
    """[1, H, W(, channels)] to patches [N, patch * patch * channels], before any conversion: bytes are moved.

    Images of several streams give the patches of the first, then those of the second, and so on.
    """
    (rows, columns), patch = config.grid, config.patch
    rows *= image.shape[0]
    return image.reshape(rows, patch, columns, patch * channels).transpose(1, 2).reshape(rows * columns, -1)


def _divided(before: Tensor | None, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (1.0 / scale if before is None else _exact(before) / scale).to(dtype)


def _normalise(x: Tensor, scale: Tensor | None, joined: bool) -> Tensor:
    if scale is None or not joined:
        return F.layer_norm(x, x.shape[-1:], scale, eps=NORM_EPS)
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred * (torch.rsqrt((centred * centred).mean(dim=-1, keepdim=True) + NORM_EPS) * scale)
