"""LCR: the whole network, over a clip (training) and over one frame (what is exported)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lcr_edge.config import Config
from lcr_edge.edges.graph import EdgeGraph
from lcr_edge.errors import FrameError
from lcr_edge.model.embed import PatchEmbed, rotary_tables
from lcr_edge.model.layer import Layer, excess
from lcr_edge.model.norm import NORM_EPS, SteadyNorm
from lcr_edge.model.probe import Probe

State = tuple[Tensor, Tensor]
# Tensors a layer and frame whose size is penalised in training: R and G, K, V, the attention's output, the mix's.
_PENALISED = 5


class Features(NamedTuple):
    """What the layers compute from a clip: the input of the heads, and what else training needs."""

    hidden: Tensor  # H of the last layer after every frame, [B, T, N+1, C]
    cells: Tensor  # C of the last layer after every frame, [B, T, N+1, C]
    state: State  # H, C of all layers after the last frame, each [B, L, N+1, C]
    excess: Tensor  # scalar: how far values inside the layers exceed their soft limit; zero except in training mode
    expansion: Tensor  # scalar: how much the layers amplify small changes of their state; zero unless probed


class LCR(nn.Module):
    """LSTM CrossRWKV (arXiv 2411.05636): frames and a state in, logits and the next state out.

    Frames are uint8 RGB [..., H, W, 3]; edges, where given, are {0, 1} [..., H, W] of any dtype, else they are computed
    by :class:`lcr_edge.edges.graph.EdgeGraph`. A state is (H, C), each float [B, L, N+1, C], zeros at the start of a
    stream.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        size = (config.height, config.width)
        self.edge_graph = EdgeGraph()
        self.embed = PatchEmbed(*size, 3, config.patch, config.dim, normalise=True)
        self.embed_edge = PatchEmbed(*size, 1, config.patch, config.dim, normalise=False)
        # The zero convolution: training starts from a forget gate that does not depend on the edges.
        self.prompt = nn.Linear(config.dim, config.layers * config.dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm_head = nn.LayerNorm(2 * config.dim, eps=NORM_EPS)
        self.classify = nn.Linear(2 * config.dim, config.classes)
        for zeroed in (self.prompt, self.classify):
            nn.init.zeros_(zeroed.weight)
            nn.init.zeros_(zeroed.bias)
        cos, sin = rotary_tables(*config.grid, config.head_dim)
        self.register_buffer("cos", cos.float(), persistent=False)
        self.register_buffer("sin", sin.float(), persistent=False)

    def initial_state(self, batch: int = 1, tokens: int | None = None) -> State:
        """Zeros: a stream's state before its first frame, each [B, L, N+1, C]. tokens: in place of N+1, if not all."""
        layers, every, dim = self.config.state_shape
        zeros = self.cos.new_zeros(batch, layers, every if tokens is None else tokens, dim)
        return zeros, zeros.clone()

    def blocks(self) -> list[Layer]:
        """The layers, with their type."""
        return [cast(Layer, layer) for layer in self.layers]

    def steady_norms(self) -> list[SteadyNorm]:
        """The norms whose running averages training has to update, by :meth:`SteadyNorm.follow`, after every step."""
        return [module for module in self.modules() if isinstance(module, SteadyNorm)]

    def tokens(
        self, frames: Tensor, edges: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x, e [B, N+1, C] and the prompts p [B, N+1, L, C] of frames [B, H, W, 3], of the patches in keep [B, n]."""
        if frames.dtype != torch.uint8 or tuple(frames.shape[-3:]) != self.config.frame_shape:
            raise FrameError(
                f"frames must be uint8 [..., {', '.join(map(str, self.config.frame_shape))}] RGB, "
                f"got {frames.dtype} {list(frames.shape)}"
            )
        edges = self.edge_graph(frames) if edges is None else edges
        pixels = frames.to(self.cos.dtype).flatten(-2) * (2.0 / 255.0) - 1.0
        e = self.embed_edge(edges.to(self.cos.dtype), keep)
        prompts = self.prompt(e).reshape(*e.shape[:-1], self.config.layers, self.config.dim)
        return self.embed(pixels, keep), e, prompts

    def head(self, h: Tensor, c: Tensor) -> Tensor:
        """logits = W_class LN([H ; C]), H and C [..., N+1, C] of the last layer: tokens' mean or the class token."""
        both = torch.cat([h, c], dim=-1)
        pooled = both[..., 0, :] if self.config.head == "cls" else both.mean(dim=-2)
        logits: Tensor = self.classify(self.norm_head(pooled))
        return logits

    def step(
        self, frame: Tensor, state: State, edge: Tensor | None = None, *, probe: Probe | None = None
    ) -> tuple[Tensor, State]:
        """One frame of B streams: frame [B, H, W, 3], state (H, C) -> logits [B, classes], next state.

        probe: follows small changes of the state from one call to the next.
        """
        x, e, prompts = self.tokens(frame, edge)
        rotary = (self.cos, self.sin)
        states = []
        for index, layer in enumerate(self.blocks()):
            before = (state[0][:, index], state[1][:, index])
            kv, tables = layer.keys_values(x, e, *rotary), layer.tables(self.config.tokens)
            h, c, _ = layer(x, kv, prompts[:, :, index], before, rotary, tables)
            if probe is not None:
                other = layer(x, kv, prompts[:, :, index], probe.beside(index, before), rotary, tables)
                probe.follow(index, (h, c), other[:2])
            states.append((h, c))
            x = x + h if self.config.skip else h
        h, c = (torch.stack(part, dim=1) for part in zip(*states))
        return self.head(*states[-1]), (h, c)

    @torch.no_grad()
    def damp(self, factor: float) -> None:
        """Multiply by ``factor`` the weights by which a token's own H reaches R and G, in all layers.

        What a token's state does to its next one, but for the cell's decay, passes through them (and through the scale
        of the norm before them). Growth of small changes is a product over frames, so it falls steeply with them.
        """
        for layer in self.blocks():
            layer.rg.weight[:, self.config.dim :].mul_(factor)

    def forward(self, clip: Tensor, state: State | None = None, edges: Tensor | None = None) -> tuple[Tensor, State]:
        """T frames of B streams: clip [B, T, H, W, 3] -> logits [B, T, classes] of every frame, state after the last.

        Equal to T calls of :meth:`step`, but layer by layer: keys and values do not depend on the state, so a layer
        computes them for all frames at once, and only what depends on the state runs frame by frame.
        """
        features = self.features(clip, state, edges)
        return self.head(features.hidden, features.cells), features.state

    def features(
        self,
        clip: Tensor,
        state: State | None = None,
        edges: Tensor | None = None,
        keep: Tensor | None = None,
        *,
        probe: Probe | None = None,
    ) -> Features:
        """Clip [B, T, H, W, 3], state and edges as in :meth:`forward`, through all layers.

        keep: int64 [B, n], rising: tube masking. Only these patches of each clip (and the class token) are computed, in
        all its frames; they keep their rotary positions and are neighbours in the WKV. States then are [B, L, n+1, C].

        probe: measures ``expansion``, in float32 or float64; a second copy of each layer runs with a changed state.
        """
        batch, time = clip.shape[:2]
        count = self.config.tokens if keep is None else keep.shape[1] + 1
        h_in, c_in = self.initial_state(batch, count) if state is None else state
        if torch.is_grad_enabled():  # the same for first and later frames, so that a compiled layer is compiled once
            h_in, c_in = (x if x.requires_grad else x.detach().requires_grad_() for x in (h_in, c_in))
        # Time first, so that the part of one frame is contiguous: quick to read, and the same in clips of any length.
        frames_first = clip.transpose(0, 1).flatten(0, 1)
        edges_first = None if edges is None else edges.transpose(0, 1).flatten(0, 1)
        rotary, rotary_all = (self.cos, self.sin), (self.cos, self.sin)
        keep_all = None
        if keep is not None:
            keep_all = keep.repeat(time, 1)
            token = torch.cat([keep.new_zeros(batch, 1), keep + 1], dim=1)
            rotary = (self.cos[token].unsqueeze(1), self.sin[token].unsqueeze(1))  # [B, 1, n+1, d]: for all heads
            rotary_all = (rotary[0].repeat(time, 1, 1, 1), rotary[1].repeat(time, 1, 1, 1))
        x, e, prompts = self.tokens(frames_first, edges_first, keep_all)

        def frame_by_frame(tokens: Tensor) -> tuple[Tensor, ...]:
            # unbind, not indexing: the gradient of T slices would be T zero-filled copies of the whole.
            return tokens.reshape(time, batch, *tokens.shape[1:]).unbind(0)

        finals: list[State] = []
        sizes: list[Tensor] = []
        inputs = zip(self.blocks(), prompts.unbind(2), h_in.unbind(1), c_in.unbind(1))
        for index, (layer, prompt, h, c) in enumerate(inputs):
            tables = layer.tables(count)
            keys_values = layer.keys_values(x, e, *rotary_all)
            keys, values = (frame_by_frame(part) for part in keys_values)
            frames = []
            for x_t, k_t, v_t, p_t in zip(frame_by_frame(x), keys, values, frame_by_frame(prompt)):
                before = (h, c)
                h, c, size = layer(x_t, (k_t, v_t), p_t, before, rotary, tables)
                frames.append((h, c))
                sizes.append(size)
                if probe is not None:
                    other = layer(x_t, (k_t, v_t), p_t, probe.beside(index, before), rotary, tables)
                    probe.follow(index, (h, c), other[:2])
            finals.append((h, c))
            if self.training:
                sizes.append(excess(*keys_values) * time)
            out = torch.stack([h for h, _ in frames]).flatten(0, 1)
            x = x + out if self.config.skip else out

        hidden, cells = (torch.stack(part, dim=1) for part in zip(*frames))
        h, c = (torch.stack(part, dim=1) for part in zip(*finals))
        excessive = torch.stack(sizes).sum() / (_PENALISED * time * len(finals))
        expansion = excessive.new_zeros(()) if probe is None else probe.expansion
        return Features(hidden, cells, (h, c), excessive, expansion)
