"""The WKV operators and their portable form, and building the kernel: what is said where it cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, library

from lcr_edge.errors import UsageError
from lcr_edge.kernels.compilers import find_cxx
from lcr_edge.kernels.wkv import PortableFormWarning, build, launch, op, portable, wkv, wkv_matmul, wkv_scan
from lcr_edge.tolerances import WKV_FORMS
from tests.wkv_cases import (
    DECAYS,
    DTYPES,
    LENGTHS,
    NAMES,
    assert_right,
    awkward,
    expected,
    make_inputs,
    relative_rms,
    run,
)

needs_cxx = pytest.mark.skipif(find_cxx() is None, reason="no C++ compiler (g++, c++, clang++ or $CXX)")


@pytest.mark.parametrize("form", ["scan", "matmul", "operator"])
def test_gradcheck_of_the_portable_forms(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(1, 2, 7, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    log_w = -torch.rand(2, 3, generator=generator, dtype=torch.float64) - 0.1
    u = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    forms: dict[str, Callable[..., Tensor]] = {
        "scan": wkv_scan,
        "matmul": partial(wkv_matmul, chunk=3),
        "operator": wkv,
    }
    assert torch.autograd.gradcheck(forms[form], [x.requires_grad_() for x in (r, k, v, log_w, u)])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    r, k, v, log_w, u, dy = awkward(make_inputs(5, 16, dtype))
    inputs = (r, k, v, log_w.to(exact), u.to(exact))
    library.opcheck(torch.ops.lcr_edge.wkv.default, inputs)
    library.opcheck(torch.ops.lcr_edge.wkv.default, tuple(x.detach().clone().requires_grad_() for x in inputs))
    library.opcheck(torch.ops.lcr_edge.wkv_backward.default, (*inputs, dy))


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("decays", list(DECAYS))
def test_portable_gradients_equal_the_definition(tokens: int, decays: str) -> None:
    inputs = [x.double() for x in make_inputs(tokens, 16, decays=decays)]
    if decays == "strong":
        inputs[3][0] = -200.0
    got = [portable.forward(*inputs[:5]), *portable.backward(*inputs)]
    for name, value, want in zip(NAMES, got, expected(inputs)):
        assert relative_rms(value, want) <= WKV_FORMS, name


@pytest.mark.parametrize("decays", ["trained", "weak"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [3, 50, 197])
def test_operator_on_the_cpu(tokens: int, dtype: torch.dtype, decays: str) -> None:
    inputs = make_inputs(tokens, 16, dtype, decays)
    leaves = [x.requires_grad_() for x in inputs[:5]]
    y = wkv(*leaves)
    assert_right([y, *torch.autograd.grad(y, leaves, inputs[5])], inputs)


def test_operator_takes_mixed_dtypes_and_float64_decays() -> None:
    r, k, v, log_w, u, _ = make_inputs(5, 16)
    log_w = log_w.double().requires_grad_()
    y = wkv(r.bfloat16(), k, v, log_w, u)
    assert y.dtype == torch.float32
    (dlog_w,) = torch.autograd.grad(y.sum(), log_w)
    assert dlog_w.dtype == torch.float64
    assert torch.isfinite(dlog_w).all()


def test_operator_without_tokens_or_frames() -> None:
    for shape in ((2, 3, 0, 16), (0, 3, 5, 16)):
        r, k, v = (torch.zeros(shape, requires_grad=True) for _ in range(3))
        log_w, u = (torch.zeros(3, 16, requires_grad=True) for _ in range(2))
        y = wkv(r, k, v, log_w, u)
        assert y.shape == shape
        gradients = torch.autograd.grad(y.sum(), (r, k, v, log_w, u))
        assert [g.shape for g in gradients] == [r.shape] * 3 + [u.shape] * 2
        assert float(gradients[3].abs().sum()) == 0.0


def test_operator_under_compile() -> None:
    inputs = make_inputs(17, 16)

    def loss(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
        joined = wkv(torch.tanh(r), k, v, -torch.exp(log_w), u).transpose(1, 2).flatten(-2)
        return joined.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = []
    for function in (loss, compiled):
        leaves = [x.detach().clone().requires_grad_() for x in inputs[:5]]
        value = function(*leaves)
        results.append([value.detach(), *torch.autograd.grad(value, leaves)])
    for eager, traced in zip(*results):
        torch.testing.assert_close(traced, eager)


def test_second_order_gradients_are_refused() -> None:
    *leaves, _ = make_inputs(3, 16)
    leaves = [x.requires_grad_() for x in leaves]
    gradients = torch.autograd.grad(wkv(*leaves).square().sum(), leaves, create_graph=True)
    with pytest.raises(UsageError, match="no second-order gradients"):
        torch.autograd.grad(gradients[0].sum(), leaves)


def test_wrong_shapes_are_refused() -> None:
    r, k, v, log_w, u, _ = make_inputs(3, 16)
    with pytest.raises(UsageError, match="k and r must agree"):
        wkv(r, k[:, :, :2], v, log_w, u)
    with pytest.raises(UsageError, match=r"log_w is .*\[3, 15\]"):
        wkv(r, k, v, log_w[:, :15], u)
    with pytest.raises(UsageError, match=r"\[B, h, N, d\]"):
        wkv(r[0], k[0], v[0], log_w, u)


def test_the_portable_form_is_announced_once_for_each_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "first reason"

    def unavailable(*_: object) -> launch.Kernels:
        raise build.KernelUnavailableError(reason)

    monkeypatch.setattr(op, "load", unavailable)
    monkeypatch.setattr(op, "_announced", set())
    x = torch.zeros(1, 1, 1, 16)
    with pytest.warns(PortableFormWarning, match=r"slower than the CUDA kernel: first reason.*doctor"):
        assert op.kernels_for(x) is None
    assert op.kernels_for(x) is None  # a second warning would be an error here
    reason = "second reason"
    with pytest.warns(PortableFormWarning, match="second reason"):
        op.kernels_for(x)


def test_unsupported_dtypes_sizes_and_settings_name_what_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(build.KernelUnavailableError, match=r"float32, bfloat16, float16 .*not float64"):
        build.load(torch.float64, 32, 0)
    with pytest.raises(build.KernelUnavailableError, match="16, 32, 64, not float32 and 48"):
        build.load(torch.float32, 48, 0)
    monkeypatch.setenv("LCR_EDGE_WKV", "portable")
    with pytest.raises(build.KernelUnavailableError, match="asks for the portable form"):
        build.load(torch.float32, 32, 0)
    monkeypatch.setenv("LCR_EDGE_WKV", "fast")
    with pytest.raises(build.KernelUnavailableError, match="not one of auto, nvrtc, nvcc, portable"):
        build.load(torch.float32, 32, 0)


@needs_cxx
def test_a_failing_compiler_and_an_unusable_cache_say_so(tmp_path: Path) -> None:
    cxx = str(find_cxx())
    with pytest.raises(build.KernelUnavailableError, match=r"(?s)failed:.*absent\.cpp"):
        build.compile_library([cxx, "absent.cpp"], "broken", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(build.KernelUnavailableError, match="set LCR_EDGE_CACHE"):
        build.host_kernels(torch.float32, 16, tmp_path / "file" / "cache")


@pytest.mark.slow
@needs_cxx
def test_several_builders_at_once_leave_one_library(tmp_path: Path) -> None:
    def make(_: int) -> launch.Kernels:
        return build.host_kernels(torch.float32, 16, tmp_path)

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(make, range(3)))
    assert len(list(tmp_path.iterdir())) == 1
    inputs = make_inputs(3, 16)
    for kernels in made:
        assert_right(run(kernels, inputs), inputs)
