"""The rewritten cell is the network's step, to the last digits of float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lcr_edge.checkpoint import random_checkpoint
from lcr_edge.config import CONFIGS, HEADS, VARIANTS, Config, get_config
from lcr_edge.errors import UnsafeDecayError
from lcr_edge.kernels.wkv import choose_chunk, is_safe
from lcr_edge.kernels.wkv.matmul import DENSE_TOKENS
from lcr_edge.model.network import LCR
from lcr_edge.model.step_cell import HostEdgeCell, StepCell, with_joined_factors, with_state_precision, with_streams
from lcr_edge.tolerances import FORWARD_EQUALS_STEPS


def _compare(model: LCR, dtype: torch.dtype, chunk: int | None = None) -> float:
    """Worst difference of cell and network over two steps from random states."""
    model = model.to(dtype)
    config = model.config
    cell = HostEdgeCell(StepCell(model, dtype=dtype, chunk=chunk))
    generator = torch.Generator().manual_seed(1)
    h, c = (torch.randn(1, *config.state_shape, generator=generator).to(dtype) for _ in range(2))
    worst = 0.0
    for _ in range(2):
        frame = torch.randint(0, 256, (1, *config.frame_shape), dtype=torch.uint8, generator=generator)
        edge = torch.randint(0, 2, (1, config.height, config.width), dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            logits, (h_next, c_next) = model.step(frame, (h, c), edge)
            found = cell(frame, edge, h[0], c[0])
        for a, b in zip(found, (logits, h_next[0], c_next[0])):
            assert a.shape == b.shape
            assert a.dtype == dtype
            worst = max(worst, float((a - b).abs().max()))
        h, c = h_next, c_next
    return worst


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_cell_equals_the_step(name: str, variant: str, dtype: torch.dtype) -> None:
    config = dataclasses.replace(get_config(name, variant=variant), layers=2)
    assert (
        _compare(random_checkpoint(config, 5).model, dtype) <= FORWARD_EQUALS_STEPS[str(dtype).removeprefix("torch.")]
    )


def test_the_cell_has_the_skip_of_the_config() -> None:
    config = dataclasses.replace(get_config("lcr_pico"), skip=True)
    assert _compare(random_checkpoint(config, 5).model, torch.float64) <= FORWARD_EQUALS_STEPS["float64"]


@pytest.mark.parametrize("chunk", [1, 2, 7, 25])
def test_any_chunk_gives_the_same_numbers(chunk: int) -> None:
    config = Config("oblong", height=48, width=80, dim=64, layers=2, classes=5)
    assert _compare(random_checkpoint(config, 5).model, torch.float64, chunk) <= FORWARD_EQUALS_STEPS["float64"]


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("host", [True, False])
def test_streams_in_one_call_equal_one_call_each(host: bool, head: str, chunk: int | None) -> None:
    """With tokens in one chunk and in several, edges given and not, and both ways to pool."""
    config = Config("oblong", height=48, width=80, dim=64, layers=2, classes=5, head=head)
    one: torch.nn.Module = StepCell(random_checkpoint(config, 5).model.double(), dtype=torch.float64, chunk=chunk)
    one = HostEdgeCell(one) if host else one  # type: ignore[arg-type]
    several = with_streams(one, 3)
    assert {name: id(weight) for name, weight in several.named_parameters()} == {
        name: id(weight) for name, weight in one.named_parameters()
    }
    generator = torch.Generator().manual_seed(1)
    frame = torch.randint(0, 256, (3, *config.frame_shape), dtype=torch.uint8, generator=generator)
    edge = torch.randint(0, 2, (3, config.height, config.width), dtype=torch.uint8, generator=generator)
    h, c = torch.randn(2, 3, *config.state_shape, dtype=torch.float64, generator=generator).unbind(0)
    seen = (frame, edge) if host else (frame,)
    together = several(*seen, h, c)
    assert [tuple(part.shape) for part in together] == [(3, 5), (3, *config.state_shape), (3, *config.state_shape)]
    for row in range(3):
        alone = one(*(part[row : row + 1] for part in seen), h[row], c[row])
        for found, wanted in zip(together, alone):
            assert float((found[row] - wanted.reshape(found[row].shape)).abs().max()) <= FORWARD_EQUALS_STEPS["float64"]


def test_a_cell_for_streams_leaves_the_first_alone() -> None:
    cell = HostEdgeCell(StepCell(random_checkpoint(get_config("lcr_pico"), 5).model))
    assert with_streams(cell, 1) is cell
    halves = with_state_precision(with_streams(cell, 2), "fp16")
    frame, edge = torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.zeros(2, 64, 64, dtype=torch.uint8)
    h = torch.zeros(2, *cell.config.state_shape, dtype=torch.float16)
    assert halves(frame, edge, h, h)[1].dtype == torch.float16
    state = torch.zeros(cell.config.state_shape)
    assert cell(frame[:1], edge[:1], state, state)[1].shape == cell.config.state_shape
    with pytest.raises(TypeError, match="is not a step cell"):
        with_streams(torch.nn.Linear(1, 1), 2)


def test_equalising_changes_no_result() -> None:
    """Also twice, and with the factors in the order that TFLite's converter leaves alone."""
    model = random_checkpoint(get_config("lcr_pico"), 5).model.double()
    cell = HostEdgeCell(StepCell(model, dtype=torch.float64))
    frame = torch.randint(0, 256, (1, *cell.config.frame_shape), dtype=torch.uint8)
    edge = torch.randint(0, 2, (1, 64, 64), dtype=torch.uint8)
    h, c = torch.randn(2, *cell.config.state_shape, dtype=torch.float64).unbind(0)
    before = cell(frame, edge, h, c)
    moved = set()
    with torch.no_grad():
        for name, linear in [*cell.cell.linears().items()] * 2:
            if cell.cell.equalise(name, torch.rand(linear.in_features) + 0.5):
                moved.add(name)
    assert set(cell.cell.linears()) - moved == {"embed_edge", "prompt", *(f"embed.parts.{part}" for part in range(4))}
    for other in (cell, with_joined_factors(cell)):
        for a, b in zip(before, other(frame, edge, h, c)):
            torch.testing.assert_close(a, b, rtol=0.0, atol=FORWARD_EQUALS_STEPS["float64"])
    assert not cell.cell.joined


def test_edges_of_the_graph_equal_edges_given() -> None:
    cell = StepCell(random_checkpoint(get_config("lcr_pico"), 5).model)
    frame = torch.randint(0, 256, (1, *cell.config.frame_shape), dtype=torch.uint8)
    h, c = torch.randn(2, *cell.config.state_shape).unbind(0)
    with torch.no_grad():
        inside = cell(frame, h, c)
        outside = HostEdgeCell(cell)(frame, cell.edge_graph(frame).to(torch.uint8), h, c)
    for a, b in zip(inside, outside):
        torch.testing.assert_close(a, b, atol=0.0, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cell_shares_nothing_with_the_model(dtype: torch.dtype) -> None:
    """Neither a submodule nor memory, whether or not a cast stands between the two; so no change crosses over."""
    model = random_checkpoint(get_config("lcr_pico"), 5).model.to(dtype)
    cell = StepCell(model, dtype=dtype)
    assert not {id(part) for part in cell.modules()} & {id(part) for part in model.modules()}
    assert not _memory(cell) & _memory(model)
    frame = torch.randint(0, 256, (1, *cell.config.frame_shape), dtype=torch.uint8)
    state = torch.randn(2, 1, *cell.config.state_shape, dtype=dtype)

    def step() -> list[torch.Tensor]:
        with torch.no_grad():
            logits, states = model.step(frame, (state[0], state[1]), model.edge_graph(frame))
        return [logits, *states]

    before, hysteresis = step(), model.edge_graph.hysteresis
    cell.edge_graph.hysteresis = 1
    with torch.no_grad():
        for tensor in (*cell.parameters(), *cell.buffers()):
            tensor.zero_()
    assert model.edge_graph.hysteresis == hysteresis
    for a, b in zip(before, step()):
        torch.testing.assert_close(a, b, atol=0.0, rtol=0.0)


def test_the_cell_keeps_no_part_of_the_model() -> None:
    model = random_checkpoint(get_config("lcr_pico"), 5).model
    cell = HostEdgeCell(StepCell(model))
    frame = torch.zeros(1, *cell.config.frame_shape, dtype=torch.uint8)
    edge = torch.zeros(1, 64, 64, dtype=torch.uint8)
    h, c = torch.ones(2, *cell.config.state_shape).unbind(0)
    before = [part.clone() for part in cell(frame, edge, h, c)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for a, b in zip(before, cell(frame, edge, h, c)):
        torch.testing.assert_close(a, b, atol=0.0, rtol=0.0)


def test_the_chunk_is_dense_when_small_and_safe_always() -> None:
    slow, fast = torch.tensor([[-0.01, -1.0]]), torch.tensor([[-0.01, -20.0]])
    assert choose_chunk(slow, 50) == 50
    assert choose_chunk(slow, 197) <= DENSE_TOKENS
    for log_w, tokens in ((slow, 50), (slow, 197), (fast, 50), (fast, 197)):
        chunk = choose_chunk(log_w, tokens)
        assert is_safe(log_w, chunk)
        assert chunk >= 1
    assert choose_chunk(fast, 50) < 50


def test_decays_that_no_chunk_holds_are_refused() -> None:
    model = random_checkpoint(get_config("lcr_pico"), 5).model
    with torch.no_grad():
        torch.nn.init.constant_(model.layers[0].get_parameter("decay"), 6.0)
    with pytest.raises(UnsafeDecayError, match="train again"):
        StepCell(model)


def _memory(module: torch.nn.Module) -> set[int]:
    """Where the tensors of a module lie."""
    return {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
