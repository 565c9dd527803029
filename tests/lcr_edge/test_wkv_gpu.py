"""The CUDA WKV kernel on a GPU: against the definition in float64, on streams, with awkward inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, library

from lcr_edge.kernels.compilers import find_nvcc
from lcr_edge.kernels.wkv import PortableFormWarning, build, launch, op, wkv
from lcr_edge.tolerances import WKV_KERNEL
from tests.wkv_cases import (
    DTYPES,
    LENGTHS,
    assert_right,
    awkward,
    expected,
    make_inputs,
    nan_in_new_tensors,
    relative_rms,
    run,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def to_gpu(inputs: list[Tensor]) -> list[Tensor]:
    return [x.cuda() for x in inputs]


def from_gpu(dtype: torch.dtype = torch.float32, dim: int = 32, way: str = "auto") -> launch.Kernels:
    if way == "auto":
        return build.load(dtype, dim, torch.cuda.current_device())
    if way == "nvrtc":
        return build.NvrtcKernels(dtype, dim, torch.cuda.current_device())
    return build.nvcc_kernels(dtype, dim, torch.cuda.current_device())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", launch.DIMS)
@pytest.mark.parametrize("way", build.WAYS)
def test_gpu_equals_the_definition(way: str, dim: int, dtype: torch.dtype) -> None:
    if way == "nvcc" and find_nvcc() is None:
        pytest.skip("no nvcc")
    kernels = from_gpu(dtype, dim, way)
    for tokens in LENGTHS:
        for chunks in (None, 1, 3):
            inputs = to_gpu(make_inputs(tokens, dim, dtype))
            assert_right(run(kernels, inputs, chunks), inputs, f"{way} {chunks} chunks")


@pytest.mark.parametrize("decays", ["weak", "strong"])
def test_gpu_with_weak_and_strong_decays(decays: str) -> None:
    inputs = to_gpu(make_inputs(197, decays=decays))
    for chunks in (1, 5):
        assert_right(run(from_gpu(), inputs, chunks), inputs, decays)


def test_gpu_with_any_strides_and_long_inputs() -> None:
    kernels = from_gpu()
    inputs = awkward(to_gpu(make_inputs(50)))
    assert_right(run(kernels, inputs), inputs)
    inputs = to_gpu(make_inputs(1031, batch=1))
    assert_right(run(kernels, inputs), inputs)


def test_gpu_writes_every_output() -> None:
    for dtype in DTYPES:
        inputs = to_gpu(make_inputs(17, dtype=dtype))
        kernels = from_gpu(dtype)
        for chunks in (1, 3):
            with nan_in_new_tensors():
                assert launch.empty_tokens_first(inputs[0]).isnan().all()
                got = run(kernels, inputs, chunks)
            assert_right(got, inputs)


def test_gpu_gives_the_same_bits_again() -> None:
    inputs = to_gpu(make_inputs(197, batch=32))
    first, second = (run(from_gpu(), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_gpu_runs_on_the_current_stream() -> None:
    """Two streams, each of which makes its inputs after a long wait: a launch on another stream would not see them."""
    cuda: Any = torch.cuda
    kernels = from_gpu()
    sets = [make_inputs(197), make_inputs(50)]
    run(kernels, to_gpu(sets[0]))
    pinned = [[x.pin_memory() for x in inputs] for inputs in sets]
    on_device = [[torch.full_like(x, float("nan"), device="cuda") for x in inputs] for inputs in sets]
    torch.cuda.synchronize()
    results: list[list[Tensor]] = []
    for host, device in zip(pinned, on_device):
        with torch.cuda.stream(cuda.Stream()):
            cuda._sleep(50_000_000)
            for target, source in zip(device, host):
                target.copy_(source, non_blocking=True)
            results.append(run(kernels, device))
    torch.cuda.synchronize()
    for inputs, got in zip(sets, results):
        assert_right(got, inputs)


def test_gpu_operator_uses_the_kernel() -> None:
    inputs = to_gpu(make_inputs(197, dtype=torch.bfloat16))
    assert op.kernels_for(inputs[0]) is not None
    leaves = [x.requires_grad_() for x in inputs[:5]]
    y = wkv(*leaves)
    assert_right([y, *torch.autograd.grad(y, leaves, inputs[5])], inputs)
    library.opcheck(torch.ops.lcr_edge.wkv.default, tuple(x.detach().clone() for x in leaves))


def test_gpu_falls_back_to_the_portable_form_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCR_EDGE_WKV", "portable")
    monkeypatch.setattr(op, "_announced", set())
    inputs = to_gpu(make_inputs(50))
    leaves = [x.requires_grad_() for x in inputs[:5]]
    with pytest.warns(PortableFormWarning, match="LCR_EDGE_WKV=portable"):
        y = wkv(*leaves)
    assert_right([y, *torch.autograd.grad(y, leaves, inputs[5])], inputs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_gpu_other_than_the_current_one() -> None:
    inputs = [x.to("cuda:1") for x in make_inputs(50)]
    with torch.cuda.device(0):
        got = wkv(*inputs[:5])
    assert got.device == inputs[0].device
    assert relative_rms(got, expected(inputs)[0]) <= WKV_KERNEL["float32"]
