"""One layer: the Cross RWKV gate, the channel mix and the LSTM cell with its edge-driven forget gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcr_edge.config import Config
from lcr_edge.kernels.wkv import WkvTables, choose_chunk, is_safe, make_tables, wkv, wkv_scan, wkv_with_tables
from lcr_edge.model.embed import rotate
from lcr_edge.model.norm import NORM_EPS, SteadyNorm

# Outputs of projections beyond this size are penalised in training: see :meth:`Layer.forward`.
SOFT_LIMIT = 2.0
# Smaller chunks of tokens cost more than the scan.
SMALLEST_CHUNK = 4


class Layer(nn.Module):
    """The equations of one layer; H, C are its states after the previous frame, x the output of the layer below.

    R, G = LN([x ; H]) W_r, LN([x ; H]) W_g                        rotary positions on R
    K, V = LN(z) W_k, LN(z) W_v       z = x + e or e               rotary positions on K
    y    = WKV(R, K, V, w, u),        w = exp(-exp(decay))         lcr_edge.kernels.wkv
    x'   = x + (SiLU(G) * GroupNorm_heads(y)) W_a
    A    = x' + sigmoid(LN(x') W_rc) * (relu(LN(x') W_kc)^2 W_vc)
    f    = fmax * sigmoid(b_f + p)                                 p: edge prompt of this layer
    C_t  = f * (C + tanh(A))          (cell="residual": f * (tanh(A) + C) + C)
    H_t  = sigmoid(A) * tanh(C_t)     the layer's output
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, hidden = config.dim, config.dim * config.ffn_mult
        self.dim, self.heads, self.head_dim, self.hidden = dim, config.heads, config.head_dim, hidden
        self.kv, self.cell, self.fmax = config.kv, config.cell, config.fmax
        self.norm_rg = nn.LayerNorm(2 * dim, eps=NORM_EPS)
        self.rg = nn.Linear(2 * dim, 2 * dim, bias=False)
        self.norm_kv = nn.LayerNorm(dim, eps=NORM_EPS)
        self.kv_projection = nn.Linear(dim, 2 * dim, bias=False)
        self.decay = nn.Parameter(torch.linspace(-5.0, 0.5, config.head_dim).repeat(config.heads, 1))
        self.bonus = nn.Parameter(torch.full((config.heads, config.head_dim), 0.5))
        self.norm_y = SteadyNorm(config.head_dim, dim)
        self.attend = nn.Linear(dim, dim, bias=False)
        self.norm_mix = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mix_in = nn.Linear(dim, dim + hidden, bias=False)  # W_rc and W_kc side by side
        self.mix_out = nn.Linear(hidden, dim, bias=False)  # W_vc
        self.forget_bias = nn.Parameter(torch.ones(dim))

    def log_decay(self) -> Tensor:
        """log w = -exp(decay), float64 [h, d]: it is multiplied by up to N and exponentiated, too much for float32."""
        return -torch.exp(self.decay.double())

    def tables(self, tokens: int) -> WkvTables | Tensor:
        """What the WKV needs from this layer's current decays: tables, or log w itself, float64 [h, d].

        log w itself if the decays are too fast for tables, and on a GPU: its kernel needs no tables, and reading the
        decays to make them would make the GPU wait.
        """
        log_w = self.log_decay()
        if log_w.is_cuda or not is_safe(log_w, SMALLEST_CHUNK):
            return log_w
        return make_tables(log_w, self.bonus, tokens, choose_chunk(log_w, tokens))

    def keys_values(self, x: Tensor, e: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """K, V [B, h, N+1, d] from the layer's input x and the edge tokens e, both [B, N+1, C]; no state involved."""
        z = e if self.kv == "edge" else x + e
        k, v = self.kv_projection(self.norm_kv(z)).chunk(2, dim=-1)
        return rotate(self.split_heads(k), cos, sin), self.split_heads(v)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, self.head_dim).transpose(-3, -2)

    def forward(
        self,
        x: Tensor,
        kv: tuple[Tensor, Tensor],
        prompt: Tensor,
        state: tuple[Tensor, Tensor],
        rotary: tuple[Tensor, Tensor],
        tables: WkvTables | Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One frame: x, prompt, H, C [B, N+1, C] and K, V [B, h, N+1, d] to the next H, C and, third, a scalar.

        The scalar is zero except in training mode: the :func:`excess` of the projections' outputs.
        """
        h, c = state
        rg = self.rg(self.norm_rg(torch.cat([x, h], dim=-1)))
        r, g = rg.chunk(2, dim=-1)
        y = self._wkv(rotate(self.split_heads(r), *rotary), *kv, tables)
        attended = self.attend(F.silu(g) * self.norm_heads(y))
        x = x + attended
        gate, key = self.mix_in(self.norm_mix(x)).split([self.dim, self.hidden], dim=-1)
        mixed = self.mix_out(torch.relu(key).square())
        a = x + torch.sigmoid(gate) * mixed
        forget = self.fmax * torch.sigmoid(self.forget_bias + prompt)
        update = forget * (c + torch.tanh(a))
        c = update + c if self.cell == "residual" else update
        size = excess(rg, attended, mixed) if self.training else a.new_zeros(())
        return torch.sigmoid(a) * torch.tanh(c), c, size

    def norm_heads(self, y: Tensor) -> Tensor:
        """GroupNorm over each head of each token: [B, h, N+1, d] -> [B, N+1, C]."""
        normed = self.norm_y.normalise(y).transpose(-3, -2).flatten(-2)
        return normed * self.norm_y.weight + self.norm_y.bias

    def _wkv(self, r: Tensor, k: Tensor, v: Tensor, tables: WkvTables | Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled(r.device.type)
        if r.is_cuda and isinstance(tables, Tensor):
            # Rotation has made r and k float32. The kernel sums in float32 whatever its inputs are.
            return (
                wkv(r.to(v.dtype), k.to(v.dtype), v, tables, self.bonus)
                if autocast
                else wkv(r, k, v, tables, self.bonus)
            )
        if autocast:
            # bfloat16 decays alone would cost several per cent: the portable forms always run in float32.
            with torch.autocast(r.device.type, enabled=False):
                return self._wkv(r.float(), k.float(), v.float(), tables)
        if isinstance(tables, Tensor):
            return wkv_scan(r, k, v, tables.to(r.dtype), self.bonus)
        return wkv_with_tables(r, k, v, tables)


def excess(*values: Tensor) -> Tensor:
    """How far entries exceed SOFT_LIMIT: the mean square over each tensor, summed over tensors; float32, scalar."""
    return torch.stack([(x.float().abs() - SOFT_LIMIT).clamp(min=0).square().mean() for x in values]).sum()
