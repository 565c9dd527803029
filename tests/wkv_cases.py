"""Inputs of the WKV kernel's tests and what its results are held against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lcr_edge.kernels.wkv import launch, wkv_reference
from lcr_edge.tolerances import WKV_KERNEL

NAMES = ("y", "dr", "dk", "dv", "dlog_w", "du")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LENGTHS = (1, 2, 3, 17, 50, 197)
# Slowest and fastest a of w = exp(-a): as trained, hardly any decay, everything gone after a token or two.
DECAYS = {"trained": (7e-3, 1.7), "weak": (1e-5, 1e-3), "strong": (5.0, 30.0)}


def make_inputs(
    tokens: int, dim: int = 32, dtype: torch.dtype = torch.float32, decays: str = "trained", batch: int = 2
) -> list[Tensor]:
    """r, k, v [B, 3, N, d], log_w, u [3, d], dy [B, 3, N, d] on the CPU."""
    generator = torch.Generator().manual_seed(tokens + dim)
    r, k, v, dy = (torch.randn(batch, 3, tokens, dim, generator=generator).to(dtype) for _ in range(4))
    slow, fast = DECAYS[decays]
    order = torch.randperm(3 * dim, generator=generator)
    log_w = -torch.logspace(torch.log10(torch.tensor(slow)), torch.log10(torch.tensor(fast)), 3 * dim)[order]
    return [r, k, v, log_w.view(3, dim), torch.randn(3, dim, generator=generator), dy]


def expected(inputs: list[Tensor]) -> list[Tensor]:
    """Output and gradients of the definition, in float64, of these very (rounded) inputs."""
    *leaves, dy = (x.detach().cpu().double() for x in inputs)
    leaves = [x.requires_grad_() for x in leaves]
    y = wkv_reference(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def run(kernels: launch.Kernels, inputs: list[Tensor], chunks: int | None = None) -> list[Tensor]:
    r, k, v, log_w, u, dy = inputs
    y = launch.forward(kernels, r, k, v, log_w, u, chunks)
    return [y, *launch.backward(kernels, r, k, v, log_w, u, dy, chunks)]


def relative_rms(value: Tensor, want: Tensor) -> float:
    error = (value.detach().cpu().double() - want.detach().cpu().double()).norm()
    return float(error / want.norm().clamp(min=1e-30)) if float(error) else 0.0


def assert_right(got: list[Tensor], inputs: list[Tensor], what: str = "") -> None:
    dtype = str(inputs[0].dtype).split(".")[-1]
    for name, value, want in zip(NAMES, got, expected(inputs)):
        error = relative_rms(value, want)
        assert error <= WKV_KERNEL[dtype], f"{what} {dtype} {list(inputs[0].shape)}: {name} is off by {error:.1e}"
    for name, value in zip(NAMES[:4], got):
        assert value.dtype == inputs[0].dtype
        assert value.transpose(1, 2).is_contiguous(), f"{name} is not laid out [B, N, h, d]"


def awkward(inputs: list[Tensor]) -> list[Tensor]:
    """The same shapes: r within a joint projection, k with tokens first, v with its channels apart, dy expanded."""
    r, k, v, log_w, u, dy = inputs
    batch, heads, tokens, dim = r.shape
    joint = torch.full((batch, tokens, 2, heads, dim), float("nan"), dtype=r.dtype, device=r.device)
    joint[:, :, 1] = r.transpose(1, 2)
    apart = v.transpose(2, 3).contiguous().transpose(2, 3)
    assert apart.stride(-1) == tokens
    whole = dy[:, :, :1].expand(batch, heads, tokens, dim)
    return [
        joint[:, :, 1].transpose(1, 2),
        k.transpose(1, 2).contiguous().transpose(1, 2),
        apart,
        log_w.T.contiguous().T,
        u.T.contiguous().T,
        whole,
    ]


@contextmanager
def nan_in_new_tensors() -> Iterator[None]:
    """torch fills every tensor that is made without values with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)
