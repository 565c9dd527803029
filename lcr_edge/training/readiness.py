"""Is a trained network ready to export? Measured on a stream of its own held-out clips, without any exporter.

Three ways in which a network that decides well still fails on a device, each as one figure:

- float32 rounding moves the stream away from float64 (``drift``);
- somewhere a small change of the state grows before it fades (``growth``), which is what engines then differ by;
- 8-bit weights and activations change its decisions (``int8``, by fake quantisation: a forecast).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcr_edge.edges.host import host_edges
from lcr_edge.model.network import LCR
from lcr_edge.model.probe import Probe
from lcr_edge.model.step_cell import StepCell
from lcr_edge.tolerances import READY

FRAMES = 240
_DIRECTIONS, _SMALL = 3, 1e-7
# How many times a frame is shown, to see what grows where a scene hardly moves.
SLOW = 4
_SETTLED = 4  # frames after a zero state that the int8 forecast leaves out, as the promise does


@dataclass(frozen=True)
class Readiness:
    """What was measured over ``frames`` frames of one stream.

    drift: max abs difference of logits and states between float32 and float64. growth: how many times larger a small
    change of the state gets at most, between any two frames: of the whole state, or of one token's where the scene
    hardly moves. int8: rms error of the logits over their standard deviation. agreement: share of the frames in which
    int8 decides as float does.
    """

    frames: int
    drift: float
    growth: float
    int8: float
    agreement: float

    @property
    def complaints(self) -> list[str]:
        """What stands in the way of an export, as phrases; empty when the network is ready."""
        found = []
        if not self.drift <= READY.drift:  # not (>), for NaN
            found.append(f"float32 is {self.drift:.1e} away from float64, at most {READY.drift:.0e} wanted")
        if not self.growth <= READY.growth:
            found.append(f"small changes grow {self.growth:.1f} times, at most {READY.growth:g} wanted")
        if not self.agreement >= READY.agreement:
            found.append(f"int8 decides as float in {self.agreement:.1%} of the frames, {READY.agreement:.0%} wanted")
        return found

    def line(self) -> str:
        """The figures in one line."""
        return (
            f"float32 {self.drift:.1e} from float64 over {self.frames} frames, small changes grow "
            f"{self.growth:.1f} times, int8 forecast {self.agreement:.1%} of the decisions (error {self.int8:.3f})"
        )


@torch.no_grad()
def measure(model: LCR, frames: Iterable[NDArray[np.uint8]]) -> Readiness:
    """Step a copy of the network over the frames, uint8 RGB [H, W, 3], from a zero state, never reset; on the CPU."""
    model = copy.deepcopy(model).cpu().float().eval()
    pictures = [(torch.from_numpy(frame)[None], torch.from_numpy(host_edges(frame))[None]) for frame in frames]
    exact, growth = _exact(model, pictures)
    growth = max(growth, _slow(model, pictures))
    cell = StepCell(model).eval()
    ranges: dict[str, tuple[float, float]] = {}
    with _watching(cell, ranges):
        single = _stream(cell, pictures)
    _quantise(cell, ranges)
    coarse = _stream(cell, pictures)
    drift = max(float((a - b).abs().max()) for one, two in zip(single, exact) for a, b in zip(one, two))
    wanted = torch.stack([row[0] for row in exact[_SETTLED:]])
    found = torch.stack([row[0] for row in coarse[_SETTLED:]])
    error = (found - wanted).square().mean().sqrt() / wanted.std().clamp(min=1e-12)
    agreement = (found.argmax(-1) == wanted.argmax(-1)).double().mean()
    return Readiness(len(pictures), drift, growth, float(error), float(agreement))


Pictures = list[tuple[Tensor, Tensor]]
Rows = list[tuple[Tensor, ...]]


def _exact(model: LCR, pictures: Pictures) -> tuple[Rows, float]:
    """Logits and states of every frame in float64, and the largest growth of a small change over any run of frames.

    Small changes of the whole state travel beside the stream. After each frame they are brought back to their length,
    and the logarithm of what that took is kept: the largest sum of neighbours is the growth (Kadane's algorithm).
    """
    network = copy.deepcopy(model).double()
    shape = (_DIRECTIONS, *model.config.state_shape)
    generator = torch.Generator().manual_seed(0)
    change = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    h, c = (x.double() for x in model.initial_state())
    rows: Rows = []
    running = torch.zeros(_DIRECTIONS, dtype=torch.float64)
    largest = 0.0
    for frame, edge in pictures:
        length = torch.stack([x.square().flatten(1).sum(1) for x in change]).sum(0).sqrt()
        change = [x * (_SMALL / length).view(-1, 1, 1, 1) for x in change]
        many = _DIRECTIONS + 1
        state = (torch.cat([h, h + change[0]]), torch.cat([c, c + change[1]]))
        logits, (h_all, c_all) = network.step(frame.expand(many, -1, -1, -1), state, edge.expand(many, -1, -1))
        h, c = h_all[:1], c_all[:1]
        change = [h_all[1:] - h, c_all[1:] - c]
        grown = torch.stack([x.square().flatten(1).sum(1) for x in change]).sum(0).sqrt() / _SMALL
        running = (running + grown.clamp(min=1e-300).log()).clamp(min=0.0)
        largest = max(largest, float(running.max()))
        rows.append((logits[0], h[0], c[0]))
    return rows, float(np.exp(min(largest, 700.0)))


def _slow(model: LCR, pictures: Pictures) -> float:
    """The largest growth of a small change of one token's state in one layer, where the scene hardly moves; in float64.

    In the length of the whole state's change such a token hides behind others. The stream is cut into SLOW ones side by
    side, each of whose frames is shown SLOW times.
    """
    network = copy.deepcopy(model).double()
    streams = min(SLOW, len(pictures))
    length = len(pictures) // streams
    h, c = (x.double() for x in model.initial_state(streams))
    probe = Probe(_SMALL, torch.Generator().manual_seed(0))
    for at in range(length):
        shown = [pictures[stream * length + at] for stream in range(streams)]
        frame, edge = (torch.cat(part) for part in zip(*shown))
        for _ in range(SLOW):
            _, (h, c) = network.step(frame, (h, c), edge, probe=probe)
    return probe.growth


def _stream(cell: StepCell, pictures: Pictures) -> Rows:
    h = c = torch.zeros(cell.config.state_shape)
    rows: Rows = []
    for frame, edge in pictures:
        logits, h, c = cell.step(frame, edge, h, c)
        rows.append((logits[0].double(), h.double(), c.double()))
    return rows


class _watching:
    """While entered, keeps the range of every matrix product's input."""

    def __init__(self, cell: StepCell, ranges: dict[str, tuple[float, float]]) -> None:
        self._cell, self._ranges = cell, ranges
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        for name, linear in self._cell.linears().items():
            self._hooks.append(linear.register_forward_pre_hook(self._hook(name)))

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = self._ranges.get(name, (0.0, 0.0))
            self._ranges[name] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

        return look


def _quantise(cell: StepCell, ranges: dict[str, tuple[float, float]]) -> None:
    """Round every product's weights to 8 bits per output channel, symmetric, and its input to 8 bits of its range."""
    for name, linear in cell.linears().items():
        scale = (linear.weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
        linear.weight.copy_((linear.weight / scale).round() * scale)
        low, high = ranges[name]
        step = max(high - low, 1e-30) / 255
        linear.register_forward_pre_hook(_rounding(low, step))


def _rounding(low: float, step: float) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    zero = round(-low / step)

    def rounded(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (((inputs[0] / step).round().clamp(-zero, 255 - zero)) * step,)

    return rounded
