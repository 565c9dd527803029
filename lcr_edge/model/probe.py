"""Small changes of the state that travel beside a stream, one for each token of each layer: where do they grow?

Within a layer a token's next state depends on its own state alone: keys and values come from the layer below. So tokens
are probed side by side, by one more call of the layer, and each is seen by itself. In the length of the whole state's
change a token that doubles for ten frames hides behind others that change slowly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]
# Least length after a frame, in units of that before: a direction that dies out is kept, and may grow again.
_LEAST = 1e-3


class Probe:
    """length: of the changes that are added to a token's [H ; C], which is about 10 long. generator: of the first
    frame's directions, torch's own by default.

    From then on each direction is the one that the frames before have left. After each frame a change is brought back
    to ``length``, and the logarithms of what that took are summed along the frames: growth of a token is the largest
    sum over frames in a row (Kadane's algorithm).
    """

    def __init__(self, length: float, generator: torch.Generator | None = None) -> None:
        self.length, self._generator = length, generator
        self._changes: dict[int, Tensor] = {}
        self._grown: dict[int, Tensor] = {}
        self._squares: list[Tensor] = []
        self._largest: list[Tensor] = []

    def beside(self, layer: int, state: State) -> State:
        """The state (H, C) of a layer, each [B, N+1, C], with the change added."""
        h, c = state
        change = self._changes.get(layer)
        if change is None:
            shape = (*h.shape[:-1], 2 * h.shape[-1])
            drawn = torch.randn(shape, generator=self._generator, dtype=h.dtype, device=h.device)
            self._changes[layer] = change = nn.functional.normalize(drawn, dim=-1) * self.length
            self._grown[layer] = h.new_zeros(h.shape[:-1])
        before, after = change.chunk(2, dim=-1)
        return h + before, c + after

    def follow(self, layer: int, state: State, other: State) -> None:
        """The frame took the layer's state to ``state`` and what was beside it to ``other``."""
        moved = torch.cat([there - here for here, there in zip(state, other)], dim=-1)
        length = moved.norm(dim=-1, keepdim=True).clamp(min=_LEAST * self.length)
        grown = (self._grown[layer] + (length[..., 0] / self.length).log()).clamp(min=0)
        self._grown[layer] = grown
        self._squares.append(grown.square().mean())
        self._largest.append(grown.detach().amax())
        self._changes[layer] = (moved * (self.length / length)).detach()

    @property
    def expansion(self) -> Tensor:
        """Scalar: mean over tokens, frames and layers of the square of log(growth so far)."""
        return torch.stack(self._squares).mean()

    @property
    def growth(self) -> float:
        """How many times longer a token's change got at most, over any frames in a row; at least 1."""
        return float(torch.stack(self._largest).amax().clamp(max=700.0).exp())
