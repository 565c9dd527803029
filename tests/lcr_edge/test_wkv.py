"""The scan and matmul forms of the WKV against its readable definition: values and gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from lcr_edge.errors import UnsafeDecayError
from lcr_edge.kernels.wkv import is_safe, wkv_matmul, wkv_reference, wkv_scan
from lcr_edge.tolerances import WKV_FORMS

Form = Callable[..., Tensor]
LENGTHS = (1, 2, 17, 50, 63, 197)
FORMS: dict[str, Form] = {
    "scan": wkv_scan,
    "dense": wkv_matmul,
    "chunks of 7": partial(wkv_matmul, chunk=7),
    "chunks of 14": partial(wkv_matmul, chunk=14),
    "chunks of 1": partial(wkv_matmul, chunk=1),
}


def _inputs(tokens: int, fastest: float = 0.35, heads: int = 2, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    r, k, v = (torch.randn(2, heads, tokens, width, generator=generator, dtype=torch.float64) for _ in range(3))
    w = torch.exp(-torch.linspace(1e-3, fastest, heads * width, dtype=torch.float64)).view(heads, width)
    u = torch.randn(heads, width, generator=generator, dtype=torch.float64)
    return [x.requires_grad_() for x in (r, k, v, w, u)]


def _run(form: Form, inputs: list[Tensor], log_space: bool = False) -> list[Tensor]:
    r, k, v, w, u = inputs
    y = form(r, k, v, w if log_space else torch.log(w), u)
    weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), inputs, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("tokens", LENGTHS)
def test_forms_equal_the_definition_with_gradients(tokens: int) -> None:
    inputs = _inputs(tokens)
    expected = _run(wkv_reference, inputs)
    for name, form in FORMS.items():
        for what, value, want in zip(("y", "dr", "dk", "dv", "dw", "du"), _run(form, inputs), expected):
            error = (value - want).abs().max() / want.abs().max().clamp(min=1.0)
            assert error <= WKV_FORMS, f"{name}: {what} differs by {error:.2e}"


@pytest.mark.parametrize("form", ["scan", "chunks of 7", "chunks of 1"])
def test_strong_and_weak_decays(form: str) -> None:
    r, k, v, w, u = _inputs(50, fastest=20.0)
    inputs = [r, k, v, torch.log(w).detach().requires_grad_(), u]  # d/dw itself is amplified by 1/w = exp(20)
    for value, want in zip(_run(FORMS[form], inputs, True), _run(wkv_reference, inputs, True)):
        assert (value - want).abs().max() / want.abs().max().clamp(min=1.0) <= WKV_FORMS


def test_an_unsafe_chunk_is_refused_with_the_size_that_would_do() -> None:
    r, k, v, w, u = _inputs(50, fastest=20.0)
    assert not is_safe(torch.log(w), 50)
    with pytest.raises(UnsafeDecayError, match="at most 8 tokens"):
        wkv_matmul(r, k, v, torch.log(w), u)


def test_float32_stays_finite_at_the_edge_of_safety() -> None:
    heads, width, tokens = 1, 4, 50
    log_w = torch.full((heads, width), -3.19)
    assert is_safe(log_w, tokens)
    r, k, v = (10 * torch.ones(1, heads, tokens, width) for _ in range(3))
    inputs = [x.requires_grad_() for x in (r, k, v, log_w, torch.ones(heads, width))]
    r, k, v, log_w, u = inputs
    y = wkv_matmul(r, k, v, log_w, u)
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(y.sum(), inputs))
    torch.testing.assert_close(y, wkv_reference(r, k, v, log_w, u), rtol=1e-5, atol=0.0)


def test_any_leading_axes() -> None:
    r, k, v, w, u = _inputs(17)
    whole = wkv_matmul(r, k, v, torch.log(w), u, chunk=5)
    torch.testing.assert_close(wkv_matmul(r[1], k[1], v[1], torch.log(w), u, chunk=5), whole[1], rtol=0.0, atol=1e-13)
