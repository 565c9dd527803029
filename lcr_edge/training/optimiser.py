"""Optimiser, learning rate and weight averaging."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lcr_edge.model.network import LCR
from lcr_edge.training.loss import Learner

OPTIMISERS = ("adamw", "muon")
WARMUP = 100  # steps
BETAS = (0.9, 0.99)
MUON_MOMENTUM = 0.95


def learning_rate(step: int, steps: int, peak: float, warmup: int = WARMUP) -> float:
    """Linear warm-up over the first ``warmup`` steps, cosine to zero at ``steps``."""
    return peak * min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices only, not to biases, norms, class tokens, WKV decays and bonuses."""
    return parameter.ndim == 2 and not name.endswith((".decay", ".bonus"))


def make_optimisers(learner: Learner, kind: str, weight_decay: float) -> list[Optimizer]:
    """AdamW with decay groups; with muon, the layers' matrices go to Muon (steps matched to AdamW's) instead."""
    named = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    matrices = [(name, p) for name, p in named if decays(name, p)]
    others = [p for name, p in named if not decays(name, p)]
    orthogonal = [p for name, p in matrices if kind == "muon" and ".layers." in name]
    plain = [p for name, p in matrices if not (kind == "muon" and ".layers." in name)]
    groups: list[dict[str, Any]] = [
        {"params": plain, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimisers: list[Optimizer] = [torch.optim.AdamW(groups, lr=0.0, betas=BETAS)]
    if orthogonal:
        optimisers.append(
            torch.optim.Muon(
                orthogonal,
                lr=0.0,
                weight_decay=weight_decay,
                momentum=MUON_MOMENTUM,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimisers


def set_rate(optimisers: list[Optimizer], rate: float) -> None:
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate


def state_tensors(optimisers: list[Optimizer], module: nn.Module) -> dict[str, Tensor]:
    """The optimisers' state, as ``<parameter>/<quantity>``: tensors by name, for a run's checkpoint."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for optimiser in optimisers
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_state(optimisers: list[Optimizer], module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Inverse of :func:`state_tensors`."""
    parameters = dict(module.named_parameters())
    owner = {p: o for o in optimisers for group in o.param_groups for p in group["params"]}
    for key, value in tensors.items():
        name, quantity = key.rsplit("/", 1)
        parameter = parameters[name]
        # AdamW keeps its step count on the CPU; everything else lies where the parameter does.
        place = value if quantity == "step" else value.to(parameter.device)
        owner[parameter].state[parameter][quantity] = place.clone()


class Average:
    """Exponential moving average of a network's weights and running averages (EMA): what is deployed.

    The decay rises from 0.1 to ``decay`` over the first steps, so that the start is forgotten.
    """

    def __init__(self, model: LCR, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def follow(self, model: LCR, step: int, most: float = 1.0) -> None:
        """After the optimiser's step number ``step``, counted from zero. most: of the decay."""
        decay = min(self.decay, most, (1 + step) / (10 + step))
        new = model.state_dict()
        torch._foreach_lerp_(list(self.tensors.values()), [new[name] for name in self.tensors], 1.0 - decay)
