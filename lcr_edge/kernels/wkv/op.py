"""The WKV as torch operators, ``lcr_edge::wkv`` and ``lcr_edge::wkv_backward``: the CUDA kernel where it is available.

If the kernel cannot be compiled for a CUDA tensor, the portable form runs instead, and a PortableFormWarning says why,
once per reason.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, library

from lcr_edge.errors import UsageError
from lcr_edge.kernels.wkv import launch, portable
from lcr_edge.kernels.wkv.build import KernelUnavailableError, load
from lcr_edge.kernels.wkv.scan import wkv_scan

_announced: set[str] = set()


class PortableFormWarning(UserWarning):
    """The portable form of the WKV runs on a CUDA device because the kernel cannot."""


def wkv(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    """The bidirectional WKV with gradients for all five inputs (equation: lcr_edge.kernels.wkv).

    r, k, v: [B, h, N, d], float32, bfloat16, float16 (or float64: portable form). Different dtypes are promoted to
    their common one. log_w, u: [h, d] of any float dtype, used as float32 (float64 with float64 r). Returns
    [B, h, N, d] of r's dtype whose memory order is [B, N, h, d]; sums are float32 whatever the dtype. Raises UsageError
    for other shapes, and for second-order gradients.
    """
    dtype = torch.promote_types(torch.promote_types(r.dtype, k.dtype), v.dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    y: Tensor = torch.ops.lcr_edge.wkv(r.to(dtype), k.to(dtype), v.to(dtype), log_w.to(exact), u.to(exact))
    return y


def announce(reason: str) -> None:
    """Warn, once per reason, that the portable form runs on a CUDA device."""
    if reason in _announced:
        return
    _announced.add(reason)
    warnings.warn(
        f"the WKV runs in its portable form, which is slower than the CUDA kernel: {reason}. See: lcr-edge doctor",
        PortableFormWarning,
        stacklevel=2,
    )


def kernels_for(x: Tensor) -> launch.Kernels | None:
    """The compiled kernel for x's dtype, head size and device; None, with a warning, if there is none."""
    try:
        return load(x.dtype, x.shape[-1], x.get_device())
    except KernelUnavailableError as error:
        announce(str(error))
        return None


def _portable(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    wide = log_w.dtype
    return _tokens_first(portable.forward(r.to(wide), k.to(wide), v.to(wide), log_w, u), r)


def _portable_backward(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    wide = log_w.dtype
    dr, dk, dv, dlog_w, du = portable.backward(r.to(wide), k.to(wide), v.to(wide), log_w, u, dy.to(wide))
    return _tokens_first(dr, r), _tokens_first(dk, r), _tokens_first(dv, r), dlog_w, du


def _tokens_first(x: Tensor, like: Tensor) -> Tensor:
    return launch.empty_tokens_first(like).copy_(x)


@library.custom_op("lcr_edge::wkv", mutates_args=(), device_types="cpu")
def _wkv(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    launch.check(r, k, v, log_w, u)
    return _portable(r, k, v, log_w, u) if r.numel() else launch.empty_tokens_first(r)


@_wkv.register_kernel("cuda")
def _wkv_cuda(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    launch.check(r, k, v, log_w, u)
    kernels = kernels_for(r) if r.numel() else None
    if kernels is not None:
        return launch.forward(kernels, r, k, v, log_w, u)
    return _portable(r, k, v, log_w, u) if r.numel() else launch.empty_tokens_first(r)


@_wkv.register_fake
def _wkv_fake(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    launch.check(r, k, v, log_w, u)
    return launch.empty_tokens_first(r)


@library.custom_op("lcr_edge::wkv_backward", mutates_args=(), device_types="cpu")
def _wkv_backward(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    launch.check(r, k, v, log_w, u, dy)
    return _portable_backward(r, k, v, log_w, u, dy) if r.numel() else _no_tokens(r, log_w)


@_wkv_backward.register_kernel("cuda")
def _wkv_backward_cuda(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    launch.check(r, k, v, log_w, u, dy)
    if not r.numel():
        return _no_tokens(r, log_w)
    kernels = kernels_for(r)
    if kernels is not None:
        return launch.backward(kernels, r, k, v, log_w, u, dy)
    return _portable_backward(r, k, v, log_w, u, dy)


@_wkv_backward.register_fake
def _wkv_backward_fake(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    launch.check(r, k, v, log_w, u, dy)
    dr, dk, dv = (launch.empty_tokens_first(r) for _ in range(3))
    return dr, dk, dv, log_w.new_empty(log_w.shape), u.new_empty(u.shape)


def _no_tokens(r: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dr, dk, dv = (launch.empty_tokens_first(r) for _ in range(3))
    return dr, dk, dv, log_w.new_zeros(log_w.shape), log_w.new_zeros(log_w.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = torch.ops.lcr_edge.wkv_backward(*ctx.saved_tensors, dy)
    return gradients


def _refuse(ctx: Any, *gradients: Tensor) -> None:  # noqa: ARG001
    raise UsageError(
        "lcr_edge::wkv has no second-order gradients; use wkv_matmul or wkv_scan of lcr_edge.kernels.wkv for them"
    )


_wkv.register_autograd(_gradients, setup_context=_save)
_wkv_backward.register_autograd(_refuse)


def kernel_works(index: int) -> tuple[str, float]:
    """Compile the kernel for CUDA device number ``index``, run it both ways and compare it with wkv_scan in float64.

    Returns how it was compiled ("nvrtc" or "nvcc") and the largest relative rms difference of the output and the five
    gradients. Raises KernelUnavailableError if it cannot be compiled.
    """
    kernels, device = load(torch.float32, 32, index), torch.device("cuda", index)
    generator = torch.Generator().manual_seed(0)
    r, k, v, dy = (torch.randn(2, 2, 50, 32, generator=generator).to(device) for _ in range(4))
    log_w = -torch.exp(torch.linspace(-5.0, 0.5, 64)).view(2, 32).to(device)
    u = torch.randn(2, 32, generator=generator).to(device)
    got = [launch.forward(kernels, r, k, v, log_w, u), *launch.backward(kernels, r, k, v, log_w, u, dy)]
    exact = [x.double().requires_grad_() for x in (r, k, v, log_w, u)]
    y = wkv_scan(*exact)
    want = [y.detach(), *torch.autograd.grad(y, exact, dy.double())]
    return str(getattr(kernels, "way", "")), max(float((a.double() - b).norm() / b.norm()) for a, b in zip(got, want))
