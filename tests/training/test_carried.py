"""Tube masks and carried states: the masked network is the network that was given only those tokens, and cheaper."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from lcr_edge.checkpoint import build_model, random_checkpoint
from lcr_edge.config import get_config
from lcr_edge.model.network import LCR
from lcr_edge.tolerances import FORWARD_EQUALS_STEPS, TUBE_MASK_SPEEDUP
from lcr_edge.training.carried import Streams
from lcr_edge.training.loss import clip_loss
from lcr_edge.training.processes import World

CPU = World(0, 1, torch.device("cpu"))
PICO = get_config("lcr_pico")
EXACT = FORWARD_EQUALS_STEPS["float64"]


def _clip(batch: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randint(0, 256, (batch, frames, *PICO.frame_shape), generator=generator, dtype=torch.uint8)
    return clip, torch.randint(0, 2, clip.shape[:-1], generator=generator, dtype=torch.uint8)


def _streams(carry: float = 0.5, tube_mask: float = 0.5, rows: int = 4, world: World = CPU) -> Streams:
    return Streams(PICO, rows, carry=carry, tube_mask=tube_mask, seed=3, world=world)


def _given_only(model: LCR, clip: Tensor, edges: Tensor, keep: list[int]) -> tuple[Tensor, Tensor]:
    """H and C of the last layer, token by token written out: all patches are embedded, then some are thrown away."""
    h = [model.cos.new_zeros(1, len(keep) + 1, PICO.dim) for _ in model.layers]
    c = [part.clone() for part in h]
    kept = [0, *(patch + 1 for patch in keep)]
    rotary = (model.cos[kept], model.sin[kept])
    out = []
    for frame, edge in zip(clip[0], edges[0]):
        x, e, prompts = (part[:, kept] for part in model.tokens(frame[None], edge[None]))
        for number, layer in enumerate(model.blocks()):
            kv = layer.keys_values(x, e, *rotary)
            h[number], c[number], _ = layer(
                x, kv, prompts[:, :, number], (h[number], c[number]), rotary, layer.log_decay()
            )
            x = h[number]
        out.append((h[-1], c[-1]))
    hidden, cells = (torch.stack(part, dim=1) for part in zip(*out))
    return hidden, cells


def test_the_masked_network_is_the_network_given_only_those_tokens() -> None:
    model = random_checkpoint(PICO, 1).model.double()
    clip, edges = _clip(2, 3)
    keep = torch.tensor([[0, 3, 7, 8, 15], [1, 2, 4, 11, 12]])
    with torch.no_grad():
        masked = model.features(clip, None, edges, keep)
        for row in range(2):
            hidden, cells = _given_only(model, clip[row : row + 1], edges[row : row + 1], keep[row].tolist())
            torch.testing.assert_close(masked.hidden[row : row + 1], hidden, rtol=0, atol=EXACT)
            torch.testing.assert_close(masked.cells[row : row + 1], cells, rtol=0, atol=EXACT)
        every = model.features(clip, None, edges, torch.arange(16).expand(2, -1))
        torch.testing.assert_close(every.hidden, model.features(clip, None, edges).hidden, rtol=0, atol=EXACT)
        # What was dropped has no influence, and what was kept has.
        pixels = model.embed(clip[:, 0].double().flatten(-2), keep)
        changed = clip.clone()
        changed[0, :, :16, 16:32] = 255  # patch 1, which row 0 dropped
        assert torch.equal(model.embed(changed[:, 0].double().flatten(-2), keep), pixels)
        changed[0, :, :16, :16] = 255  # patch 0
        assert not torch.equal(model.embed(changed[:, 0].double().flatten(-2), keep), pixels)


@pytest.mark.slow
def test_tube_masking_half_of_the_patches_saves_time() -> None:
    config = get_config("lcr_nano")
    model = build_model(config).train()
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (24, 4, *config.frame_shape), generator=generator, dtype=torch.uint8)
    edges = torch.randint(0, 2, clip.shape[:-1], generator=generator, dtype=torch.uint8)
    labels = torch.arange(24)

    def step(tube_mask: float) -> float:
        streams = Streams(config, 24, carry=0.0, tube_mask=tube_mask, seed=0, world=CPU)
        _, keep = streams.begin(0)
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            features = model.features(clip, None, edges, keep)
            logits = model.head(features.hidden, features.cells)
        torch.autograd.backward(clip_loss(logits, labels) + features.excess)
        return time.process_time() - began

    # Processor time, interleaved, and the minimum of each: other work on the machine only ever adds.
    pairs = [(step(0.0), step(0.5)) for _ in range(6)][1:]
    whole, masked = (min(times) for times in zip(*pairs))
    print(f"a step takes {whole:.3f} s of processor time, masked {masked:.3f} s: {whole / masked:.2f} times")
    assert whole / masked >= TUBE_MASK_SPEEDUP


def test_a_mask_is_the_same_in_all_frames_and_stays_while_the_state_is_carried() -> None:
    streams = _streams()
    state, first = streams.begin(0)
    assert state is None
    assert first is not None
    assert first.shape == (4, 8)
    assert (first.diff(dim=1) > 0).all()
    assert len({tuple(row) for row in first.tolist()}) > 1
    carried = []
    for step in range(1, 30):
        left = torch.full((4, *streams.shape), float(step))
        streams.end((left, left.clone()))
        before = streams.keep
        state, keep = streams.begin(step)
        assert state is not None
        assert keep is not None
        assert before is not None
        for row in range(4):
            goes_on = bool(state[0][row].any())
            carried.append(goes_on)
            assert torch.equal(state[0][row], left[row] if goes_on else torch.zeros_like(left[row]))
            assert not goes_on or torch.equal(keep[row], before[row])
    assert 0.3 < sum(carried) / len(carried) < 0.7


@pytest.mark.parametrize(("carry", "expected"), [(0.0, 0), (1.0, 4)])
def test_carry_is_a_probability(carry: float, expected: int) -> None:
    streams = _streams(carry=carry, tube_mask=0.0)
    assert streams.begin(0) == (None, None)
    ones = torch.ones(4, *PICO.state_shape)
    streams.end((ones, ones))
    state, keep = streams.begin(1)
    assert keep is None
    assert state is not None
    assert int(state[0].amax((1, 2, 3)).sum()) == expected


def test_streams_of_two_processes_are_those_of_one_and_can_be_restored() -> None:
    whole = _streams()
    whole.begin(0)
    left = torch.arange(4.0).view(-1, 1, 1, 1).expand(4, *whole.shape) + 1
    whole.end((left, left))
    saved = whole.tensors()
    state, keep = whole.begin(1)
    assert state is not None
    assert keep is not None
    for rank, rows in enumerate((slice(0, 2), slice(2, 4))):
        part = _streams(world=World(rank, 2, torch.device("cpu")))
        part.restore(saved)
        own_state, own_keep = part.begin(1)
        assert own_state is not None
        assert own_keep is not None
        assert torch.equal(own_state[0], state[0][rows])
        assert torch.equal(own_state[1], state[1][rows])
        assert torch.equal(own_keep, keep[rows])


def test_gradients_do_not_flow_into_the_clip_before() -> None:
    streams = _streams(carry=1.0)
    streams.begin(0)
    left = torch.ones(4, *streams.shape, requires_grad=True)
    streams.end((2 * left, 2 * left))
    state, _ = streams.begin(1)
    assert state is not None
    assert not state[0].requires_grad
