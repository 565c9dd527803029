"""The CUDA WKV kernel without a GPU: its source run on the CPU, and compiled by nvcc."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lcr_edge.kernels.compilers import find_cxx, find_nvcc
from lcr_edge.kernels.wkv import build, launch
from lcr_edge.tolerances import WKV_CHUNKS
from tests.wkv_cases import (
    DTYPES,
    LENGTHS,
    NAMES,
    assert_right,
    awkward,
    make_inputs,
    nan_in_new_tensors,
    relative_rms,
    run,
)

needs_cxx = pytest.mark.skipif(find_cxx() is None, reason="no C++ compiler (g++, c++, clang++ or $CXX)")
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc (PATH, CUDA_HOME or /usr/local/cuda)")
MakeKernels = Callable[..., launch.Kernels]


@pytest.fixture(scope="session")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> MakeKernels:
    """Makes the kernel for a dtype and head size from the same C++ source, with loops in place of the GPU's grid."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers share what they compile

    def make(dtype: torch.dtype = torch.float32, dim: int = 32, descending: bool = False) -> launch.Kernels:
        return build.host_kernels(dtype, dim, folder / "wkv", descending=descending)

    return make


@needs_cxx
@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_kernel_source_in_float32(on_cpu: MakeKernels, tokens: int, chunks: int) -> None:
    inputs = make_inputs(tokens)
    assert_right(run(on_cpu(), inputs, chunks), inputs)


@pytest.mark.slow
@needs_cxx
@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("tokens", [17, 50])
def test_kernel_source_for_other_head_sizes(on_cpu: MakeKernels, dim: int, tokens: int) -> None:
    inputs = make_inputs(tokens, dim)
    for chunks in (1, 3):
        assert_right(run(on_cpu(dim=dim), inputs, chunks), inputs, f"{chunks} chunks")


@pytest.mark.slow
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
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_every_output_is_written(on_cpu: MakeKernels, dtype: torch.dtype) -> None:
    inputs = make_inputs(17, dtype=dtype)
    for chunks in (1, 3):
        with nan_in_new_tensors():
            assert launch.empty_tokens_first(inputs[0]).isnan().all()
            assert inputs[3].new_empty(3).isnan().all()
            got = run(on_cpu(dtype), inputs, chunks)
        assert_right(got, inputs)


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


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_87", "sm_90"])
@pytest.mark.parametrize("dim", launch.DIMS)
def test_nvcc_compiles_without_register_spills(arch: str, dim: int, tmp_path: Path) -> None:
    for dtype in DTYPES if dim == 32 else DTYPES[1:]:
        command = build.nvcc_command(str(find_nvcc()), dtype, dim, arch)
        command += ["-cubin", "-Xptxas", "-v", "-o", str(tmp_path / "wkv.cubin")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        entries = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'", done.stderr)
        spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
        assert sorted(entries) == sorted((entry, arch) for entry in launch.ENTRIES)
        assert spills == [("0", "0", "0")] * len(entries), f"{dtype} {dim} {arch}: {spills}"


@pytest.mark.slow
@needs_nvcc
def test_nvcc_library_has_the_c_interface(tmp_path: Path) -> None:
    command = build.nvcc_library_command(str(find_nvcc()), torch.bfloat16, 32, "sm_90")
    path = build.compile_library(command, "wkv", tmp_path)
    assert build.LibraryKernels(path, "nvcc", 132, 0).multiprocessors == 132
    assert path.suffix == ".so"
