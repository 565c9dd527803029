"""The CUDA WKV kernel: its source run on the CPU, compiled by nvcc, and, where there is a GPU, run on it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lcr_edge.errors import UsageError
from lcr_edge.kernels.compilers import find_cxx, find_nvcc
from lcr_edge.kernels.wkv import PortableFormWarning, build, launch, op, wkv, wkv_matmul, wkv_reference, wkv_scan
from lcr_edge.tolerances import WKV_CHUNKS, WKV_KERNEL

NAMES = ("y", "dr", "dk", "dv", "dlog_w", "du")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LENGTHS = (1, 2, 3, 17, 50, 197)
# Slowest and fastest a of w = exp(-a): as trained, hardly any decay, everything gone after a token or two.
DECAYS = {"trained": (7e-3, 1.7), "weak": (1e-5, 1e-3), "strong": (5.0, 30.0)}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_cxx = pytest.mark.skipif(find_cxx() is None, reason="no C++ compiler (g++, c++, clang++ or $CXX)")
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc (PATH, CUDA_HOME or /usr/local/cuda)")
MakeKernels = Callable[..., launch.Kernels]


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
    return [launch.forward(kernels, *inputs[:5], chunks=chunks), *launch.backward(kernels, *inputs, chunks=chunks)]


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


@pytest.fixture(scope="session")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> MakeKernels:
    """Makes the kernel for a dtype and head size from the same C++ source, with loops in place of the GPU's grid."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers share what they compile

    def make(dtype: torch.dtype = torch.float32, dim: int = 32, descending: bool = False) -> launch.Kernels:
        return build.host_kernels(dtype, dim, folder / "wkv", descending=descending)

    return make


@pytest.fixture
def _nan_in_new_tensors() -> Iterator[None]:
    """torch fills every tensor that is made without values with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(before)


# The portable forms.


@pytest.mark.parametrize("form", ["scan", "matmul", "operator"])
def test_gradcheck_of_the_portable_forms(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(1, 2, 7, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    log_w = -torch.rand(2, 3, generator=generator, dtype=torch.float64) - 0.1
    u = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    forms: dict[str, Callable[..., Tensor]] = {
        "scan": wkv_scan,
        "matmul": lambda *inputs: wkv_matmul(*inputs, chunk=3),
        "operator": wkv,
    }
    assert torch.autograd.gradcheck(forms[form], [x.requires_grad_() for x in (r, k, v, log_w, u)])


# The kernel's source on the CPU.


@needs_cxx
@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_kernel_source_in_float32(on_cpu: MakeKernels, tokens: int, chunks: int) -> None:
    inputs = make_inputs(tokens)
    assert_right(run(on_cpu(), inputs, chunks), inputs)


@needs_cxx
@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("tokens", [17, 50])
def test_kernel_source_for_other_head_sizes(on_cpu: MakeKernels, dim: int, tokens: int) -> None:
    inputs = make_inputs(tokens, dim)
    for chunks in (1, 3):
        assert_right(run(on_cpu(dim=dim), inputs, chunks), inputs, f"{chunks} chunks")


@needs_cxx
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("tokens", [3, 50])
def test_kernel_source_in_half_precision(on_cpu: MakeKernels, dtype: torch.dtype, tokens: int) -> None:
    inputs = make_inputs(tokens, dtype=dtype)
    for chunks in (1, 3):
        assert_right(run(on_cpu(dtype), inputs, chunks), inputs, f"{chunks} chunks")


@needs_cxx
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_kernel_source_rounds_as_torch_does(on_cpu: MakeKernels, dtype: torch.dtype) -> None:
    """One token, r = 1 in the first channel only, u = k = 1: y = v, so v passes decode and encode unchanged.

    All 65 536 bit patterns, NaN apart (which must stay NaN); then u = 1 + 2^-10, so that y must be rounded.
    """
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    v = bits.view(dtype).reshape(-1, 1, 1, 32)
    r = torch.zeros_like(v)
    r[..., 0] = 1.0
    k, log_w = torch.ones_like(v), torch.full((1, 32), -1.0)
    for bonus in (1.0, 1.0 + 2.0**-10):
        y = launch.forward(on_cpu(dtype), r, k, v, log_w, torch.full((1, 32), bonus))
        want = (v.float() * bonus).to(dtype)
        same = (y.reshape(-1) == want.reshape(-1)) | (y.isnan() & want.isnan()).reshape(-1)
        assert same.all(), f"{int((~same).sum())} values differ"


@needs_cxx
@pytest.mark.parametrize("decays", ["weak", "strong"])
def test_kernel_source_with_weak_and_strong_decays(on_cpu: MakeKernels, decays: str) -> None:
    inputs = make_inputs(197, decays=decays)
    for chunks in (1, 5):
        assert_right(run(on_cpu(), inputs, chunks), inputs, f"{decays} {chunks} chunks")


@needs_cxx
def test_one_chunk_and_several_give_the_same(on_cpu: MakeKernels) -> None:
    inputs = make_inputs(197)
    whole = run(on_cpu(), inputs, 1)
    for chunks in (2, 12, 64, 197):
        for name, value, want in zip(NAMES, run(on_cpu(), inputs, chunks), whole):
            assert relative_rms(value, want) <= WKV_CHUNKS, f"{chunks} chunks: {name}"


@needs_cxx
@pytest.mark.parametrize("dim", launch.DIMS)
def test_no_barrier_is_missing(on_cpu: MakeKernels, dim: int) -> None:
    """Between two barriers the order of the lanes is free: first to last and last to first must agree to the bit."""
    inputs = make_inputs(37, dim)
    for chunks in (1, 2):
        results = [run(on_cpu(dim=dim, descending=descending), inputs, chunks) for descending in (False, True)]
        for name, up, down in zip(NAMES, *results):
            assert torch.equal(up, down), name


@needs_cxx
@pytest.mark.usefixtures("_nan_in_new_tensors")
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_every_output_is_written(on_cpu: MakeKernels, dtype: torch.dtype) -> None:
    inputs = make_inputs(17, dtype=dtype)
    assert launch.empty_tokens_first(inputs[0]).isnan().all()
    assert inputs[3].new_empty(3).isnan().all()
    for chunks in (1, 3):
        assert_right(run(on_cpu(dtype), inputs, chunks), inputs)


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


@needs_cxx
def test_any_strides(on_cpu: MakeKernels) -> None:
    inputs = awkward(make_inputs(17))
    for chunks in (1, 2):
        assert_right(run(on_cpu(), inputs, chunks), inputs)


def test_chunks_fill_the_device_only_where_the_batch_does_not() -> None:
    for dim in launch.DIMS:
        for multiprocessors in (16, 132):
            for tokens in LENGTHS:
                counts = [launch.choose_chunks(6 * batch, tokens, dim, multiprocessors) for batch in (1, 8, 64, 4096)]
                assert counts == sorted(counts, reverse=True)
                assert counts[-1] == 1
                assert all(count == 1 or tokens // count >= launch.MIN_CHUNK_TOKENS for count in counts)
    assert launch.choose_chunks(6, 197, 32, 132) == 197 // launch.MIN_CHUNK_TOKENS
    assert launch.choose_chunks(6, 197, 32, 16) > 1
    assert launch.choose_chunks(6, 10**6, 32, 132) <= launch.MAX_CHUNKS


# The operators.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    r, k, v, log_w, u, dy = awkward(make_inputs(5, 16, dtype))
    inputs = [r, k, v, log_w.to(exact), u.to(exact)]
    torch.library.opcheck(torch.ops.lcr_edge.wkv.default, inputs)
    torch.library.opcheck(torch.ops.lcr_edge.wkv.default, [x.detach().clone().requires_grad_() for x in inputs])
    torch.library.opcheck(torch.ops.lcr_edge.wkv_backward.default, [*inputs, dy])


@pytest.mark.parametrize("decays", list(DECAYS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_operator_on_the_cpu(dtype: torch.dtype, decays: str) -> None:
    inputs = make_inputs(50, 16, dtype, decays)
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
        gradients[0].sum().backward()


def test_wrong_shapes_are_refused() -> None:
    r, k, v, log_w, u, _ = make_inputs(3, 16)
    with pytest.raises(UsageError, match="k is torch.float32"):
        wkv(r, k[:, :, :2], v, log_w, u)
    with pytest.raises(UsageError, match=r"log_w is .*\[3, 15\]"):
        wkv(r, k, v, log_w[:, :15], u)
    with pytest.raises(UsageError, match=r"\[B, h, N, d\]"):
        wkv(r[0], k[0], v[0], log_w, u)


# Building, and saying so where it fails.


def test_the_portable_form_is_announced_once_for_each_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "first reason"

    def unavailable(*_: object) -> launch.Kernels:
        raise build.KernelUnavailableError(reason)

    monkeypatch.setattr(op, "load", unavailable)
    monkeypatch.setattr(op, "_announced", set())
    x = torch.zeros(1, 1, 1, 16)
    with pytest.warns(PortableFormWarning, match="slower than the CUDA kernel: first reason.*doctor") as caught:
        assert op.kernels_for(x) is None
        assert op.kernels_for(x) is None
    assert len(caught) == 1
    reason = "second reason"
    with pytest.warns(PortableFormWarning, match="second reason"):
        op.kernels_for(x)


def test_unsupported_dtypes_sizes_and_settings_name_what_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    with pytest.raises(build.KernelUnavailableError, match="float32, bfloat16, float16 .*not float64"):
        build.load(torch.float64, 32, device)
    with pytest.raises(build.KernelUnavailableError, match="16, 32, 64, not float32 and 48"):
        build.load(torch.float32, 48, device)
    monkeypatch.setenv("LCR_EDGE_WKV", "portable")
    with pytest.raises(build.KernelUnavailableError, match="asks for the portable form"):
        build.load(torch.float32, 32, device)
    monkeypatch.setenv("LCR_EDGE_WKV", "fast")
    with pytest.raises(build.KernelUnavailableError, match="none of auto, nvrtc, nvcc, portable"):
        build.load(torch.float32, 32, device)


@needs_cxx
def test_a_failing_compiler_and_an_unusable_cache_say_so(tmp_path: Path) -> None:
    cxx = str(find_cxx())
    with pytest.raises(build.KernelUnavailableError, match=r"(?s)failed:.*absent\.cpp"):
        build.compile_library([cxx, "absent.cpp"], "broken", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(build.KernelUnavailableError, match="set LCR_EDGE_CACHE"):
        build.host_kernels(torch.float32, 16, tmp_path / "file" / "cache")


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


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_87", "sm_90"])
@pytest.mark.parametrize("dim", launch.DIMS)
def test_nvcc_compiles_without_register_spills(arch: str, dim: int, tmp_path: Path) -> None:
    for dtype in DTYPES:
        command = build.nvcc_command(str(find_nvcc()), dtype, dim, arch)
        command += ["-cubin", "-Xptxas", "-v", "-o", str(tmp_path / "wkv.cubin")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        entries = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'", done.stderr)
        spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
        assert sorted(entries) == sorted((entry, arch) for entry in launch.ENTRIES)
        assert spills == [("0", "0", "0")] * len(entries), f"{dtype} {dim} {arch}: {spills}"


@needs_nvcc
def test_nvcc_library_has_the_c_interface(tmp_path: Path) -> None:
    command = build.nvcc_library_command(str(find_nvcc()), torch.bfloat16, 32, "sm_90")
    path = build.compile_library(command, "wkv", tmp_path)
    assert build.LibraryKernels(path, "nvcc", 132, 0).multiprocessors == 132
    assert path.suffix == ".so"


# On a GPU.


def to_gpu(inputs: list[Tensor]) -> list[Tensor]:
    return [x.cuda() for x in inputs]


def from_gpu(way: str, dtype: torch.dtype = torch.float32, dim: int = 32) -> launch.Kernels:
    if way == "nvrtc":
        return build.NvrtcKernels(dtype, dim, torch.cuda.current_device())
    return build.nvcc_kernels(dtype, dim, torch.cuda.current_device())


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", launch.DIMS)
@pytest.mark.parametrize("way", build.WAYS)
def test_gpu_equals_the_definition(way: str, dim: int, dtype: torch.dtype) -> None:
    if way == "nvcc" and find_nvcc() is None:
        pytest.skip("no nvcc")
    kernels = from_gpu(way, dtype, dim)
    for tokens in LENGTHS:
        for chunks in (None, 1, 3):
            inputs = to_gpu(make_inputs(tokens, dim, dtype))
            assert_right(run(kernels, inputs, chunks), inputs, f"{way} {chunks} chunks")


@needs_gpu
@pytest.mark.parametrize("decays", ["weak", "strong"])
def test_gpu_with_weak_and_strong_decays(decays: str) -> None:
    inputs = to_gpu(make_inputs(197, decays=decays))
    for chunks in (1, 5):
        assert_right(run(from_gpu("nvrtc"), inputs, chunks), inputs, decays)


@needs_gpu
def test_gpu_with_any_strides_and_long_inputs() -> None:
    kernels = from_gpu("nvrtc")
    inputs = awkward(to_gpu(make_inputs(50)))
    assert_right(run(kernels, inputs), inputs)
    inputs = to_gpu(make_inputs(1031, batch=1))
    assert_right(run(kernels, inputs), inputs)


@needs_gpu
@pytest.mark.usefixtures("_nan_in_new_tensors")
def test_gpu_writes_every_output() -> None:
    for dtype in DTYPES:
        inputs = to_gpu(make_inputs(17, dtype=dtype))
        assert launch.empty_tokens_first(inputs[0]).isnan().all()
        for chunks in (1, 3):
            assert_right(run(from_gpu("nvrtc", dtype), inputs, chunks), inputs)


@needs_gpu
def test_gpu_gives_the_same_bits_again() -> None:
    inputs = to_gpu(make_inputs(197, batch=32))
    first, second = (run(from_gpu("nvrtc"), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@needs_gpu
def test_gpu_runs_on_the_current_stream() -> None:
    """Two streams, each of which makes its inputs after a long wait: a launch on another stream would not see them."""
    kernels = from_gpu("nvrtc")
    sets = [make_inputs(197), make_inputs(50)]
    run(kernels, to_gpu(sets[0]))
    pinned = [[x.pin_memory() for x in inputs] for inputs in sets]
    on_device = [[torch.full_like(x, float("nan"), device="cuda") for x in inputs] for inputs in sets]
    torch.cuda.synchronize()
    results: list[list[Tensor]] = []
    for host, device in zip(pinned, on_device):
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(50_000_000)
            for target, source in zip(device, host):
                target.copy_(source, non_blocking=True)
            results.append(run(kernels, device))
    torch.cuda.synchronize()
    for inputs, got in zip(sets, results):
        assert_right(got, inputs)


@needs_gpu
def test_gpu_operator_uses_the_kernel() -> None:
    inputs = to_gpu(make_inputs(197, dtype=torch.bfloat16))
    assert op.kernels_for(inputs[0]) is not None
    leaves = [x.requires_grad_() for x in inputs[:5]]
    y = wkv(*leaves)
    assert_right([y, *torch.autograd.grad(y, leaves, inputs[5])], inputs)
    torch.library.opcheck(torch.ops.lcr_edge.wkv.default, [x.detach().clone() for x in leaves])


@needs_gpu
def test_gpu_falls_back_to_the_portable_form_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCR_EDGE_WKV", "portable")
    monkeypatch.setattr(op, "_announced", set())
    inputs = to_gpu(make_inputs(50))
    leaves = [x.requires_grad_() for x in inputs[:5]]
    with pytest.warns(PortableFormWarning, match="LCR_EDGE_WKV=portable"):
        y = wkv(*leaves)
    assert_right([y, *torch.autograd.grad(y, leaves, inputs[5])], inputs)


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_gpu_other_than_the_current_one() -> None:
    inputs = [x.to("cuda:1") for x in make_inputs(50)]
    with torch.cuda.device(0):
        got = wkv(*inputs[:5])
    assert got.device == inputs[0].device
    assert relative_rms(got, expected(inputs)[0]) <= WKV_KERNEL["float32"]
