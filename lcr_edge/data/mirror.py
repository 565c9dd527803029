"""What a label becomes when its clip is mirrored: the label's words for left and right, and turns, are swapped.

A class without such a word stays itself. A class with one becomes the class of the swapped name when the set has it,
and must never be mirrored when it has not: the mirrored clip would belong to no class.

    Swiping Left                                    <->  Swiping Right
    Pulling something from left to right            <->  Pulling something from right to left
    turn_clockwise                                  <->  turn_counterclockwise (also anti-, ccw / cw)
    Driving in the left lane, without "right lane"  never mirrored

The words are searched inside others too ("lefthand"): an accidental find ("bright") has no partner and only keeps
one class from being mirrored, while a missed one would teach a wrong label.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

NEVER = -1

_WORDS = re.compile(
    r"counter[-_ ]?clockwise|anti[-_ ]?clockwise|clockwise|left|right|(?<![a-z])ccw(?![a-z])|(?<![a-z])cw(?![a-z])"
)
_SWAPPED = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "ccw": "clockwise",
    "cw": "counterclockwise",
}


def _plain(word: str) -> str:
    """One spelling of each word."""
    bare = re.sub(r"[-_ ]", "", word).replace("anti", "counter")
    return {"cw": "clockwise", "ccw": "counterclockwise"}.get(bare, bare)


def mirror_table(labels: tuple[str, ...]) -> NDArray[np.int64]:
    """Class index after mirroring, for each class: int64 [classes]; ``NEVER`` where mirroring is not allowed."""
    names = {_WORDS.sub(lambda found: _plain(found[0]), label.casefold()): i for i, label in enumerate(labels)}
    table = np.full(len(labels), NEVER, np.int64)
    for index, label in enumerate(labels):
        name = label.casefold()
        swapped = _WORDS.sub(lambda found: _SWAPPED[_plain(found[0])], name)
        table[index] = names.get(swapped, NEVER)
    # Spellings that only differ in case would make two classes point at one: both ways or not at all.
    oneway = [i for i, j in enumerate(table) if j != NEVER and table[j] != i]
    table[oneway] = NEVER
    return table
