"""The loss and the optimiser's groups, against what their docstrings say, written out."""

from __future__ import annotations

import math

import pytest
import torch

from lcr_edge.checkpoint import build_model, random_checkpoint
from lcr_edge.config import get_config
from lcr_edge.model.probe import Probe
from lcr_edge.training.loss import JOINTS, PROBE, JointHead, Learner, clip_loss, frame_weights
from lcr_edge.training.optimiser import WARMUP, Average, decays, learning_rate, make_optimisers
from lcr_edge.training.processes import World

CPU = World(0, 1, torch.device("cpu"))
PICO = get_config("lcr_pico")


def _learner(joints: bool = True) -> Learner:
    model = build_model(PICO)
    return Learner(
        model,
        joints=joints,
        world=CPU,
        smoothing=0.05,
        placement="every",
        joint_weight=0.5,
        limit_weight=1.0,
        calm_weight=0.0,
    )


@pytest.mark.parametrize("frames", [2, 7, 16])
def test_weights_of_frames_have_mean_one_and_rise(frames: int) -> None:
    every, last = frame_weights(frames), frame_weights(frames, "last")
    assert every.mean().item() == pytest.approx(1.0)
    assert last.mean().item() == pytest.approx(1.0)
    assert (every.diff() >= 0).all()
    assert (every > 0).sum() == frames - math.floor(frames / 4)
    assert torch.count_nonzero(last) == 1


def test_clip_loss_is_the_weighted_cross_entropy() -> None:
    logits = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 4, 2])
    log_p = logits.log_softmax(-1)
    smooth = 0.1
    target = torch.full((3, 5), smooth / 5)
    target[torch.arange(3), labels] += 1 - smooth
    per_frame = -(target[:, None] * log_p).sum(-1)
    torch.testing.assert_close(clip_loss(logits, labels, smooth), (per_frame * frame_weights(8)).mean())
    torch.testing.assert_close(clip_loss(logits, labels, smooth, "last"), per_frame[:, -1].mean())


def test_the_joint_head_counts_only_joints_in_patches_that_are_there() -> None:
    head = JointHead(PICO)
    with torch.no_grad():
        for parameter in head.read.parameters():
            parameter.zero_()
    hidden = torch.randn(1, 4, 17, PICO.dim)
    joints = torch.full((1, 4, JOINTS, 2), 0.1)  # patch 0, at rest
    # A head that reads nothing guesses every patch alike: the cross entropy is the log of their number.
    assert head(hidden, hidden, joints, None, CPU).item() == pytest.approx(math.log(16), rel=1e-5)
    some = torch.tensor([[0, 5, 6, 7]])
    assert head(hidden[:, :, :5], hidden[:, :, :5], joints, some, CPU).item() == pytest.approx(math.log(4), rel=1e-5)
    without = torch.tensor([[4, 5, 6, 7]])
    assert head(hidden[:, :, :5], hidden[:, :, :5], joints, without, CPU).item() == 0.0
    assert head(hidden, hidden, joints + 1.0, None, CPU).item() == 0.0


def test_a_masked_patch_is_read_at_its_own_place() -> None:
    head = JointHead(PICO)
    hidden = torch.randn(2, 4, 17, PICO.dim)
    joints = torch.rand(2, 4, JOINTS, 2)
    every = torch.arange(16).expand(2, -1)
    assert head(hidden, hidden, joints, every, CPU).item() == head(hidden, hidden, joints, None, CPU).item()


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 1000, 2e-3) for step in range(1000)]
    assert rates[0] == pytest.approx(2e-3 / WARMUP)
    assert max(rates) <= 2e-3
    assert all(later < earlier for earlier, later in zip(rates[WARMUP:], rates[WARMUP + 1 :]))
    assert rates[-1] < 1e-7


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(kind: str) -> None:
    learner = _learner()
    optimisers = make_optimisers(learner, kind, 0.1)
    found: dict[torch.nn.Parameter, float] = {}
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                assert parameter not in found
                found[parameter] = group["weight_decay"]
    names = {parameter: name for name, parameter in learner.named_parameters()}
    assert found.keys() == names.keys()
    for parameter, name in names.items():
        matrix = parameter.ndim == 2 and not name.endswith(("decay", "bonus"))
        assert (found[parameter] > 0) == matrix == decays(name, parameter), name
    assert len(optimisers) == (2 if kind == "muon" else 1)


def test_the_average_follows_the_weights() -> None:
    model = random_checkpoint(PICO, 0).model
    average = Average(model, 0.5)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.follow(model, 100)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(average.tensors[name], (start[name] + parameter) / 2)
    average.follow(model, 0)  # early steps count more
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(average.tensors[name], parameter - 0.05, rtol=1e-4, atol=1e-4)


def test_large_values_are_penalised_in_training_mode_only() -> None:
    model = random_checkpoint(PICO, 0).model
    clip = torch.zeros(1, 2, *PICO.frame_shape, dtype=torch.uint8)
    assert model.features(clip).excess.item() == 0.0
    with torch.no_grad():
        for layer in model.blocks():
            layer.rg.weight.mul_(100.0)
    assert model.features(clip).excess.item() == 0.0
    excess = model.train().features(clip).excess
    assert excess.item() > 1.0
    torch.autograd.backward(excess)
    assert all(layer.rg.weight.grad is not None for layer in model.blocks())


def test_a_probe_multiplies_the_growth_of_each_token_over_frames_in_a_row() -> None:
    probe = Probe(1e-3, torch.Generator().manual_seed(0))
    zero = torch.zeros(1, 3, 4, dtype=torch.float64)
    # Three tokens: one that grows for two frames, one that grows, shrinks and grows more, one that only shrinks.
    factors = torch.tensor([[2.0, 3.0, 0.1], [2.0, 0.5, 0.9], [0.1, 8.0, 0.9]], dtype=torch.float64)
    for factor in factors:
        h, c = probe.beside(0, (zero, zero))
        length = torch.cat([h, c], dim=-1).norm(dim=-1)
        torch.testing.assert_close(length, torch.full((1, 3), 1e-3, dtype=torch.float64))
        probe.follow(0, (zero, zero), (h * factor[:, None], c * factor[:, None]))
    assert probe.growth == pytest.approx(12.0)
    sums: list[list[float]] = [
        [2, 3, 1],
        [4, 1.5, 1],
        [1, 12, 1],
    ]  # where a sum is below 0 it starts again: never less than 1
    assert probe.expansion.item() == pytest.approx(sum(math.log(x) ** 2 for row in sums for x in row) / 9)


@torch.no_grad()
def test_a_layer_moves_each_token_by_that_tokens_state_alone() -> None:
    """What makes it right to probe the tokens of a layer side by side."""
    model = random_checkpoint(PICO, 0).model.double()
    clip = torch.randint(0, 256, (1, 3, *PICO.frame_shape), generator=torch.Generator().manual_seed(0)).byte()
    _, (h, c) = model(clip)
    _, after = model.step(clip[:, 0], (h, c))
    token, last = 5, PICO.layers - 1
    h[:, last, token] += 0.1
    _, moved = model.step(clip[:, 0], (h, c))
    differ = (moved[0] != after[0]).any(-1) | (moved[1] != after[1]).any(-1)
    assert differ.nonzero().tolist() == [[0, last, token]]


def test_expansion_is_what_a_small_change_of_the_state_becomes() -> None:
    model = random_checkpoint(PICO, 0).model.double()
    clip = torch.randint(0, 256, (1, 6, *PICO.frame_shape), generator=torch.Generator().manual_seed(0)).byte()
    # Small random weights: what changes the state dies out.
    assert model.features(clip).expansion.item() == 0.0
    assert model.features(clip, probe=Probe(PROBE)).expansion.item() < 1e-3
    calm = model.features(clip).hidden
    torch.testing.assert_close(model.features(clip, probe=Probe(PROBE)).hidden, calm, rtol=0, atol=0)
    with torch.no_grad():
        for layer in model.blocks():
            layer.rg.weight.mul_(30.0)
            layer.mix_out.weight.mul_(30.0)
    wild = model.features(clip, probe=Probe(PROBE)).expansion
    assert wild.item() > 0.01
    torch.autograd.backward(wild)
    gradients = [layer.mix_out.weight.grad for layer in model.blocks()]
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)
