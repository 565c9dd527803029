"""The fenced blocks of the documents. A comment right before a block says why no test can run it:

<!-- not run: needs a camera -->
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_MARK = re.compile(r"<!-- not run: (.+) -->")
_FENCE = re.compile(r"^```(\w*)$")
# Parts of a shell line that start another command.
_SEPARATORS = {"|", "||", "&&", ";", "do", "then", "else"}
_WORDS_BEFORE_LCR = (["lcr-edge"], ["python", "-m", "lcr_edge"])
_EXPORT = ["python", "-m", "lcr_edge.export"]


@dataclass(frozen=True)
class Block:
    """One fenced block. line: of its fence. not_run: why no test runs it, else empty."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    @property
    def place(self) -> str:
        """For messages: docs/verify.md:12."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order. Raises ValueError for one that is not closed or has no language."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    opened: tuple[int, str] | None = None
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            if not fence[1]:
                raise ValueError(f"{page}:{number}: a block without a language")
            opened = number, fence[1]
            continue
        start, language = opened
        mark = _MARK.fullmatch(lines[start - 2]) if start >= 2 else None
        text = "\n".join(lines[start : number - 1]) + "\n"
        found.append(Block(page, start, language, text, mark[1] if mark else ""))
        opened = None
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: a block that is not closed")
    return found


def all_blocks() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in PAGES for block in blocks_of(page)]


def commands(script: str) -> list[list[str]]:
    """The simple commands of a shell script, comments and redirections left out: words of each.

    Understands what documents use: lines continued by a backslash, pipes, ``&&``, ``||``, ``;``, ``for`` and
    assignments before a command.
    """
    found: list[list[str]] = []
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        skip = False
        for word in lexer:
            if skip:  # the file of a redirection
                skip = False
            elif set(word) <= set("<>&") and word != "&&":
                skip = True
                if words and words[-1] in ("1", "2"):
                    words.pop()
            elif word in _SEPARATORS:
                found.append(words)
                words = []
            else:
                words.append(word)
        found.append(words)
    return [words for words in found if words]


def lcr_arguments(words: list[str]) -> list[str] | None:
    """What follows ``lcr-edge`` in a command, whichever way it is called; None for a command that is not ours."""
    for index in range(len(words)):
        for start in _WORDS_BEFORE_LCR:
            if words[index : index + len(start)] == start:
                return words[index + len(start) :]
        if words[index : index + 3] == _EXPORT:
            return ["export", *words[index + 3 :]]
        if words[index : index + 2] == ["-m", "lcr_edge"]:  # torchrun -m lcr_edge
            return words[index + 2 :]
    return None
