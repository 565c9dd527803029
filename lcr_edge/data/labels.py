"""Class names: those of the Jester data set (27), in the order of the packaged checkpoint, and what any may be."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from lcr_edge.errors import UsageError

MAX_LABEL = 255  # characters; a class may be named by its folder
MAX_FOLDER_LABEL = 100  # bytes in UTF-8: file systems allow 255, and names of files are made of it too
_REFUSED = ("Cc", "Zl", "Zp")  # Unicode categories: control characters, ends of lines
_NOT_UTF8 = "Cs"  # lone surrogates: bytes of a file's name that are no characters
_FORMATTING = "Cf"  # direction of writing, zero width: two names may look the same, or one like another
_JOINER = "\u200d"  # the one of them that stands inside emoji
_EMOJI = ("So", "Sk")  # pictures, skin tones
_AS_PICTURE = "\ufe0f"  # may follow a picture

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
        kinds = {unicodedata.category(character) for character in label}
        if _NOT_UTF8 in kinds:
            raise UsageError(f"the name of class {number}, {label!a:.90}, is not UTF-8; rename it")
        if kinds.intersection(_REFUSED):
            raise UsageError(f"the name of class {number}, {label!a:.90}, holds a control character; rename it")


def check_distinct(labels: Sequence[str]) -> None:
    """Refuse names that are one folder on some systems: equal ones, and those that differ in upper and lower case only.

    Raises UsageError, which names the two.
    """
    seen: dict[str, str] = {}
    for label in labels:
        # Accents too can be written in two ways that look the same.
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())
        other = seen.get(key)
        if other is not None:
            if other == label:
                raise UsageError(f"the class {label!r} is there twice; name it once")
            raise UsageError(
                f"the classes {other!r} and {label!r} differ only in upper and lower case, or in how an accent is "
                "written; rename one, or make one class of them"
            )
        seen[key] = label


def check_folder_labels(labels: Sequence[str]) -> None:
    """Refuse class names that cannot become folders everywhere, or that do not look like what they are.

    Raises UsageError for what ``check_labels`` and ``check_distinct`` refuse, and for a name that is empty, longer than
    100 bytes, begins with a dot, begins or ends with a space, holds a slash or a backslash, or an invisible formatting
    character (of emoji, the joiners are kept). Letters of all scripts and emoji are fine.
    """
    if not all(label.strip() for label in labels):
        raise UsageError("a class has no name; give names with commas between them")
    check_labels(labels)
    for label in labels:
        if "/" in label or "\\" in label:
            fault = "holds a slash; each class is one folder"
        elif label.startswith("."):
            fault = "begins with a dot, which hides its folder; begin it with a letter"
        elif label != label.strip():
            fault = "begins or ends with a space; leave that out"
        elif len(label.encode()) > MAX_FOLDER_LABEL:
            fault = f"has {len(label.encode())} bytes, and {MAX_FOLDER_LABEL} are allowed; choose a shorter name"
        elif _formatted(label):
            fault = "holds an invisible formatting character; type the name anew"
        else:
            continue
        raise UsageError(f"the class name {label!a:.90} {fault}")
    check_distinct(labels)


def _formatted(label: str) -> bool:
    for place, character in enumerate(label):
        if unicodedata.category(character) != _FORMATTING:
            continue
        around = label[:place].rstrip(_AS_PICTURE)[-1:], label[place + 1 : place + 2]
        if character != _JOINER or not all(x and unicodedata.category(x) in _EMOJI for x in around):
            return True
    return False
