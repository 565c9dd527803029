"""Ask on the terminal what becomes of a clip."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from typing import Callable

from lcr_edge.errors import UsageError

KEEP, REDO, LEAVE_OUT, PLAY, QUIT = "keep", "redo", "leave out", "play again", "quit"
_WAIT_S = 0.1


def check_terminal() -> None:
    """UsageError unless stdin is a terminal, where somebody can answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("--review asks on a terminal, and stdin is none; call it from a terminal, or leave it out")


def ask(question: str, answers: Sequence[str], idle: Callable[[], None]) -> str:
    """One of ``answers``, chosen by its first letter; ``QUIT`` at the end of the input (Ctrl-D).

    idle is called several times a second while nobody answers. It may raise, which ends the question.
    """
    prompt = f"{question} {', '.join(f'[{answer[0]}]{answer[1:]}' for answer in answers)}? "
    while True:
        print(prompt, end="", file=sys.stderr, flush=True)
        # Not input(): it would go on waiting after a signal that a handler has noted.
        while not select.select([sys.stdin], [], [], _WAIT_S)[0]:
            idle()
        line = os.read(sys.stdin.fileno(), 4096)
        if not line:
            return QUIT
        word = line.decode(errors="replace").strip().lower()
        chosen = [answer for answer in answers if word and answer.startswith(word)]
        if len(chosen) == 1:
            return chosen[0]
