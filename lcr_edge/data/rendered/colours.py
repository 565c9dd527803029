"""Colours of rendered people and rooms: skin, clothes, furniture. RGB, float64 [3], 0 to 255."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rng = np.random.Generator

# Human skin from very light to very dark. The skin of a clip is a random point on the line through these.
_SKIN = np.array(
    [
        [255, 222, 198],
        [243, 198, 160],
        [226, 174, 130],
        [200, 140, 98],
        [158, 102, 68],
        [112, 70, 46],
        [78, 48, 34],
    ],
    np.float64,
)
# Black, dark brown, brown, blond and grey.
_HAIR = np.array([[28, 22, 20], [62, 42, 28], [120, 86, 50], [190, 155, 100], [150, 148, 145]])


def skin_tone(rng: Rng) -> Array:
    """A skin colour, spread evenly over the human range."""
    place = rng.uniform(0, len(_SKIN) - 1)
    low = min(int(place), len(_SKIN) - 2)
    tone = _SKIN[low] + (place - low) * (_SKIN[low + 1] - _SKIN[low])
    return np.asarray(np.clip(tone + rng.normal(0, 4, 3), 30, 255))


def cloth_colour(rng: Rng) -> Array:
    """A colour for clothes or furniture, seldom strongly saturated."""
    grey = rng.uniform(45, 225)
    return np.asarray(np.clip(grey + rng.normal(0, 34, 3), 12, 245))


def hair_colour(rng: Rng) -> Array:
    """A hair colour; values may lie a little outside of 0 to 255."""
    return np.asarray(rng.choice(_HAIR) + rng.normal(0, 8, 3))
