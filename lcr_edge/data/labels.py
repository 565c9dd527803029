"""Class names: those of the Jester data set (27), in the order of the packaged checkpoint, and what any may be."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from lcr_edge.errors import UsageError

MAX_LABEL = 255  # characters; a class may be named by its folder
_REFUSED = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, lone surrogates, ends of lines

JESTER: tuple[str, ...] = (
    "Doing other things",
    "Drumming Fingers",
    "No gesture",
    "Pulling Hand In",
    "Pulling Two Fingers In",
    "Pushing Hand Away",
    "Pushing Two Fingers Away",
    "Rolling Hand Backward",
    "Rolling Hand Forward",
    "Shaking Hand",
    "Sliding Two Fingers Down",
    "Sliding Two Fingers Left",
    "Sliding Two Fingers Right",
    "Sliding Two Fingers Up",
    "Stop Sign",
    "Swiping Down",
    "Swiping Left",
    "Swiping Right",
    "Swiping Up",
    "Thumb Down",
    "Thumb Up",
    "Turning Hand Clockwise",
    "Turning Hand Counterclockwise",
    "Zooming In With Full Hand",
    "Zooming In With Two Fingers",
    "Zooming Out With Full Hand",
    "Zooming Out With Two Fingers",
)


def check_labels(labels: Sequence[object]) -> None:
    """Refuse class names that cannot be printed on one line.

    Names come from files of others and are shown in terminals, pages and pictures. Raises UsageError unless each is a
    string of 1 to 255 characters without control characters.
    """
    for number, label in enumerate(labels):
        if not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL:
            raise UsageError(
                f"the name of class {number} must be a text of 1 to {MAX_LABEL} characters, found {label!r:.60}"
            )
        if any(unicodedata.category(character) in _REFUSED for character in label):
            raise UsageError(f"the name of class {number}, {label!a:.90}, holds a control character; rename it")
