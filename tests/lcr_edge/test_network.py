"""The network against itself: clip and steps, reach of every input, parameter counts, the edge prompt's start."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import lcr_edge
from lcr_edge.checkpoint import random_checkpoint
from lcr_edge.config import CELLS, CONFIGS, HEADS, KV_SOURCES, VARIANTS, Config, get_config
from lcr_edge.errors import FrameError, UsageError
from lcr_edge.model.network import LCR
from lcr_edge.runtimes.inspect import count_parameters
from lcr_edge.tolerances import FORWARD_EQUALS_STEPS

SMALL = Config("small", height=32, width=48, dim=64, layers=2, classes=5)


def _clip(config: Config, batch: int, frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (batch, frames, config.height // 8, config.width // 8, 3), generator=generator)
    return coarse.to(torch.uint8).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def _random(config: Config, seed: int = 1) -> LCR:
    return random_checkpoint(config, seed).model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 7), (3, 1), (3, 5)])
@pytest.mark.parametrize("variant", [*VARIANTS, "skip"])
def test_a_clip_equals_its_steps(variant: str, batch: int, frames: int, dtype: torch.dtype) -> None:
    config = dataclasses.replace(SMALL, **VARIANTS.get(variant, {"skip": True}))
    model = _random(config).to(dtype)
    clip = _clip(config, batch, frames)
    with torch.inference_mode():
        logits, final = model(clip)
        state = model.initial_state(batch)
        for t in range(frames):
            expected, state = model.step(clip[:, t], state)
            error = (logits[:, t] - expected).abs().max()
            assert error <= FORWARD_EQUALS_STEPS[str(dtype).removeprefix("torch.")]
    for found, want in zip(final, state):
        scale = max(1.0, float(want.abs().max()))  # the paper's residual cell grows without bound
        assert (found - want).abs().max() <= FORWARD_EQUALS_STEPS[str(dtype).removeprefix("torch.")] * scale


def test_a_state_splits_a_clip_anywhere() -> None:
    model = _random(SMALL).double()
    clip = _clip(SMALL, 2, 6)
    with torch.inference_mode():
        whole, final = model(clip)
        first, state = model(clip[:, :4])
        second, joined = model(clip[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(joined, final, rtol=0, atol=1e-10)


def _reach(model: LCR) -> dict[str, float]:
    """Largest |d logits / d input| of the second frame's step, for the frame, the edges and both states."""
    config = model.config
    clip = _clip(config, 1, 2)
    with torch.no_grad():
        _, state = model.step(clip[:, 0], model.initial_state())
    pixels: list[Tensor] = []

    def remember(_: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        pixels.append(inputs[0].detach().requires_grad_())
        return (pixels[0],)

    handle = model.embed.register_forward_pre_hook(remember)
    edge = torch.rand(1, config.height, config.width, dtype=torch.float64).requires_grad_()
    leaves = [part.detach().requires_grad_() for part in state]
    logits, _ = model.step(clip[:, 1], (leaves[0], leaves[1]), edge)
    handle.remove()
    inputs = [*pixels, edge, *leaves]
    gradients = torch.autograd.grad(logits.square().sum(), inputs, materialize_grads=True)
    return dict(zip(("frame", "edge", "h", "c"), (float(g.abs().max()) for g in gradients)))


def test_every_input_reaches_the_logits() -> None:
    assert all(gradient > 1e-8 for gradient in _reach(_random(SMALL).double()).values())


def test_the_paper_variant_does_not_see_the_frame() -> None:
    """Why it is not the default: with K, V from edges and a class-token head no pixel reaches the logits."""
    config = dataclasses.replace(SMALL, **VARIANTS["paper"])
    reach = _reach(_random(config).double())
    assert reach["frame"] == 0.0
    assert reach["edge"] > 1e-8


@pytest.mark.parametrize("kv", KV_SOURCES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_learns(kv: str, head: str, cell: str) -> None:
    config = dataclasses.replace(SMALL, kv=kv, head=head, cell=cell)
    model = _random(config)
    model(_clip(config, 1, 3))[0].square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    blind = kv == "edge" and head == "cls"
    assert silent == (
        [n for n, _ in model.named_parameters() if n.startswith("embed.p") or "embed.norm" in n] if blind else []
    )


def test_a_new_network_has_an_edge_independent_forget_gate() -> None:
    model = lcr_edge.build("lcr_pico")
    _, _, prompts = model.tokens(_clip(model.config, 2, 1)[:, 0])
    assert not bool(prompts.any())


def test_the_bounded_cell_stays_bounded_on_a_stream() -> None:
    model = _random(SMALL)
    bound = SMALL.fmax / (1 - SMALL.fmax)
    with torch.inference_mode():
        state = model.initial_state()
        for _ in range(20):
            _, state = model(_clip(SMALL, 1, 10), state)
    assert float(state[1].abs().max()) <= bound
    assert float(state[0].abs().max()) <= 1.0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_inspect_counts_what_the_module_has(name: str, variant: str) -> None:
    model = lcr_edge.build(name, variant=variant)
    assert count_parameters(model.config) == sum(p.numel() for p in model.parameters())


def test_lcr_tiny_has_the_paper_s_size() -> None:
    paper = count_parameters(get_config("lcr_tiny", variant="paper"))
    assert abs(paper / 5.14e6 - 1) <= 0.03
    assert abs(count_parameters(get_config("lcr_tiny")) / 5.14e6 - 1) <= 0.10


def test_wrong_frames_and_names_are_refused() -> None:
    model = lcr_edge.build("lcr_pico")
    with pytest.raises(FrameError, match="uint8"):
        model.step(torch.zeros(1, 64, 64, 3), model.initial_state())
    with pytest.raises(FrameError, match="64, 64, 3"):
        model.step(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), model.initial_state())
    with pytest.raises(UsageError, match="lcr_nano"):
        lcr_edge.build("lcr_huge")
    with pytest.raises(UsageError, match="paper"):
        lcr_edge.build("lcr_nano", variant="other")
