"""The edge map as a tensor program: the same Canny + Otsu as ``host``, in operators that every exporter accepts.

All values are whole numbers below 2**24 held in float32, so that sums are exact whatever order an engine adds in. A
comparison of whole numbers a > b is written clamp(a - b, 0, 1): engines vectorise that, and need no boolean tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcr_edge.edges.host import GRAY_SHIFT, GRAY_WEIGHTS, TAN_22
from lcr_edge.errors import FrameError, UsageError

MAX_PIXELS = 1 << 17  # level sums reach 128 per pixel and must stay below 2**24
_ROUND = 8  # hysteresis steps between two looks at whether anything changed
_CHUNK = 16
_HUGE = 1e30  # makes any difference that float32 can show at least 1


class EdgeGraph(nn.Module):
    """Canny edges with an Otsu threshold, equal to :func:`lcr_edge.edges.host_edges` pixel for pixel.

    hysteresis: how many one-pixel steps an exported graph follows weak edges away from strong ones, at least 1;
    default: the longer side of the frame. A graph has no loop that could stop by itself. Called from Python, the
    module goes on until nothing changes, whatever ``hysteresis`` is. Both agree unless some weak edge is longer.

    Raises UsageError for a hysteresis below 1.
    """

    gray_weights: Tensor
    sobel: Tensor
    rungs: Tensor
    difference: Tensor
    below: Tensor
    levels: Tensor

    def __init__(self, hysteresis: int | None = None) -> None:
        super().__init__()
        if hysteresis is not None and hysteresis < 1:
            raise UsageError(f"hysteresis must be at least 1 step, got {hysteresis}")
        self.hysteresis = hysteresis
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        levels = torch.arange(256.0)
        constants = {
            "gray_weights": torch.tensor(GRAY_WEIGHTS, dtype=torch.float32).reshape(3, 1) / (1 << GRAY_SHIFT),
            "sobel": torch.stack((across, across.T)).unsqueeze(1),
            "rungs": torch.arange(16.0).reshape(16, 1) - 1.0,
            "difference": torch.eye(16) - torch.diag(torch.ones(15), 1),
            "below": torch.triu(torch.ones(256, 256)),  # a row of counts times this: counts at or below each level
            "levels": levels,
        }
        for name, value in constants.items():
            # Not persistent: constants of the definition, no part of a checkpoint.
            self.register_buffer(name, value.contiguous(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EdgeGraph:
        """Follow ``to(device)`` but not ``double()``: the constants are exact in float32, and so is the arithmetic."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self.named_buffers():
            setattr(self, name, buffer.float())
        return self

    def forward(self, frame: Tensor) -> Tensor:
        """frame uint8 [B, H, W, 3] RGB to edges float32 [B, H, W] in {0, 1}.

        Works without gradients. For training data on a CPU ``host_edges`` gives the same edges several times faster.
        Raises FrameError for another dtype or shape, or more than 131072 pixels a frame.
        """
        if frame.dtype != torch.uint8 or frame.dim() != 4 or frame.shape[3] != 3 or 0 in frame.shape:
            raise FrameError(f"frame must be uint8 [B, H, W, 3] RGB, got {frame.dtype} {list(frame.shape)}")
        height, width = frame.shape[1:3]
        if height * width > MAX_PIXELS:
            raise FrameError(f"frame has {height}x{width} pixels, more than {MAX_PIXELS}; scale it down first")
        if torch.compiler.is_exporting():
            strong, weak = self._thin(frame)
            return _spread(strong, weak, self.hysteresis or max(height, width))
        with torch.no_grad():
            # On a CPU a few frames at a time stay in its cache: about twice as fast as a large batch at once.
            size = _CHUNK if frame.device.type == "cpu" else len(frame)
            parts = [frame[i : i + size] for i in range(0, len(frame), size)]
            return torch.cat([_spread_all(*self._thin(part)) for part in parts])

    def _thin(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Strong and weak edge pixels before hysteresis: float32 [B, H, W] in {0, 1} each."""
        batch, height, width, _ = frame.shape
        rgb = frame.reshape(batch, height * width, 3).float()
        gray = torch.floor((rgb @ self.gray_weights).reshape(batch, 1, height * width) + 0.5)
        high = self._otsu(gray, height * width)
        gx, gy = self._sobel(gray.reshape(batch, 1, height, width))
        weak = _peaks(gx, gy, torch.floor(high * 0.5))
        return weak * (gx.abs() + gy.abs() - high).clamp(0.0, 1.0), weak

    def _otsu(self, gray: Tensor, pixels: int) -> Tensor:
        """Otsu's threshold of each gray image [B, 1, H*W]: float32 [B, 1, 1], the rule of ``host.otsu_threshold``."""
        # Counts of pixels whose high nibble is >= i and low nibble is >= j, as one product; differences give the
        # histogram. Exporters have no histogram operator in common.
        high = torch.floor(gray * 0.0625)
        low = gray - 16.0 * high
        at_least = (high - self.rungs).clamp(0.0, 1.0) @ (low - self.rungs).clamp(0.0, 1.0).transpose(1, 2)
        counts = (self.difference @ at_least @ self.difference.T).reshape(-1, 256)
        n1 = counts @ self.below
        s1 = (counts * (self.levels - 128.0)) @ self.below
        n2 = pixels - n1
        # Levels counted from the rounded mean: the products below lose nothing and the rest is small.
        s1 = s1 - torch.floor(s1[:, 255:] / pixels + 0.5) * n1
        mean = s1[:, 255:] / pixels
        moment = n1 * mean - s1  # >= 0
        both = (n1 * n2).clamp(0.0, 1.0)  # 0 where a class is empty
        near = _first_maximum(moment * moment / (n1 * n2).clamp(min=1.0) * both, self.levels)
        # float32 cannot tell neighbouring levels at the flat top apart; their differences from one of them can be.
        here = (1.0 - (self.levels - near).abs()).clamp(min=0.0)
        n1_here, s1_here = (n1 * here).sum(1, keepdim=True), (s1 * here).sum(1, keepdim=True)
        step = n1 - n1_here
        a = (step * mean - (s1 - s1_here)) / (n1_here * mean - s1_here).clamp(min=1e-3)
        b = step / n1_here.clamp(min=1.0)
        c = step / (pixels - n1_here).clamp(min=1.0)
        gain = a * (2.0 + a) - b + c + b * c  # (1 + a)^2 - (1 + b)(1 - c): variance here or there
        return _first_maximum(gain - (1.0 - both) * _HUGE, self.levels).unsqueeze(2)

    def _sobel(self, gray: Tensor) -> tuple[Tensor, Tensor]:
        """Sobel derivatives [B, H, W] of gray [B, 1, H, W], the border pixels repeated."""
        tall = torch.cat((gray[:, :, :1], gray, gray[:, :, -1:]), 2)
        gradient = F.conv2d(torch.cat((tall[..., :1], tall, tall[..., -1:]), 3), self.sobel)
        return gradient[:, 0], gradient[:, 1]


def _first_maximum(values: Tensor, levels: Tensor) -> Tensor:
    """The first level [B, 1] at which values [B, 256] are largest."""
    short = ((values.amax(1, keepdim=True) - values) * _HUGE).clamp(0.0, 1.0)
    return (levels + 256.0 * short).amin(1, keepdim=True)


def _peaks(gx: Tensor, gy: Tensor, low: Tensor) -> Tensor:
    """Local maxima of the magnitude above low [B, 1, 1], as ``host._thin`` has it: float32 [B, H, W] in {0, 1}."""
    x, y = gx.abs(), gy.abs()
    magnitude = x + y
    height, width = magnitude.shape[1:]
    padded = F.pad(magnitude, (1, 1, 1, 1))

    def near(dy: int, dx: int) -> Tensor:
        return padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    # What a pixel must exceed, by direction. "Reach" is "exceed one less" between whole numbers.
    across = torch.maximum(near(0, -1), near(0, 1) - 1.0)
    along = torch.maximum(near(-1, 0), near(1, 0) - 1.0)
    main = torch.maximum(near(-1, -1), near(1, 1))
    anti = torch.maximum(near(-1, 1), near(1, -1))
    unit = float(1 << GRAY_SHIFT)
    slope = x * (TAN_22 / unit)  # a multiple of 1 / unit
    flat = ((slope - y) * unit).clamp(0.0, 1.0)
    steep = ((y - 2.0 * x - slope) * unit).clamp(0.0, 1.0)
    rising = (gx * -gy).clamp(0.0, 1.0)
    bar = main + rising * (anti - main)
    bar = bar + steep * (along - bar)
    bar = bar + flat * (across - bar)
    return (magnitude - torch.maximum(bar, low)).clamp(0.0, 1.0)


def _spread(strong: Tensor, weak: Tensor, steps: int) -> Tensor:
    """``steps`` times: every weak pixel beside a marked one is marked. For graphs; [B, H, W] each.

    On rows laid end to end with a zero border: there a shift is a slice of contiguous memory. On OpenVINO and LiteRT
    this is several times faster than 3x3 max pooling of one channel.
    """
    batch, height, width = weak.shape
    stride = width + 2
    margin = stride + 1
    free = F.pad(weak, (1, 1, 1, 1)).reshape(batch, -1)[:, margin:-margin]
    marked = F.pad(strong, (1, 1, 1, 1)).reshape(batch, -1)
    for _ in range(steps):
        wide = torch.maximum(torch.maximum(marked[:, :-2], marked[:, 1:-1]), marked[:, 2:])
        tall = torch.maximum(wide[:, : -2 * stride], wide[:, 2 * stride :])
        marked = F.pad(torch.maximum(tall, wide[:, stride:-stride]) * free, (margin, margin))
    return marked.reshape(batch, height + 2, stride)[:, 1:-1, 1:-1]


def _spread_all(strong: Tensor, weak: Tensor) -> Tensor:
    """``_spread`` until nothing changes; frames that are done drop out of the batch. Not exportable."""
    result = strong.clone()
    active = torch.arange(len(strong), device=strong.device)
    marked, free = strong, weak
    while len(active):
        before = marked
        marked = _spread(marked, free, _ROUND)
        result[active] = marked
        changed = (marked != before).flatten(1).any(1)
        active, marked, free = active[changed], marked[changed], free[changed]
    return result
