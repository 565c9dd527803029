"""The skeleton and the look of the HTML pages: one file each, no script, readable on a phone and in the dark.

Whatever comes from outside (names of classes, of files, of bundles) goes through :func:`text`.
"""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --paper: #fff; --soft: #68707a; --rule: #d8dce1; --good: #1a7f37;
  --bad: #c4231b; --s0: #2a6fdb; --s1: #d9730d; --s2: #16866f; --limit: #c4231b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171a; --soft: #9aa3ad; --rule: #353b42;
  --good: #4ac26b; --bad: #ff7b72; --s0: #6ea8ff; --s1: #f2a45c; --s2: #5bc8ae; --limit: #ff7b72; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p, li { overflow-wrap: anywhere; } .soft { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; }
td, th { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap;
  unicode-bidi: isolate; }
td:first-child, th:first-child { text-align: left; } th { font-weight: 600; }
.met { color: var(--good); font-weight: 600; } .missed { color: var(--bad); font-weight: 600; }
.confusion td, .confusion th { padding: .1rem .3rem; text-align: center; }
.confusion td:first-child { text-align: left; } .same { color: var(--soft); }
.other { background: var(--bad); color: var(--paper); }
.left td, .left th { text-align: left; }
.promises td, .promises th, .words td, .words th { white-space: normal; text-align: left; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--rule); border-radius: .3rem; font-size: .875rem; }
code { user-select: all; -webkit-user-select: all; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; overflow-wrap: anywhere; }
figure img { height: 6rem; display: block; }
@media (max-width: 40rem) { svg { font-size: 18px; } }
""".strip()

# Marks that turn the direction of the text behind them.
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, lone surrogates, ends of lines


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page. title: plain text. parts: HTML; empty ones are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading, plain text, and what stands below it, HTML."""
    return f"<h2>{text(title)}</h2>\n{body}"


def paragraph(sentence: str, style: str = "soft") -> str:
    """A paragraph of plain text."""
    return f'<p class="{style}">{text(sentence)}</p>\n'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """head: plain text; rows: cells that are already HTML."""
    top = "".join(f"<th>{text(cell)}</th>" for cell in head)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{style}">\n<tr>{top}</tr>\n{body}\n</table></div>\n'


def share_bar(share: float) -> str:
    """A bar of a table's cell that is filled to ``share``, in [0, 1]."""
    return (
        '<svg viewBox="0 0 100 8" preserveAspectRatio="none" style="width:8rem;height:.6rem" aria-hidden="true">'
        f'<rect width="{100 * share:.1f}" height="8" fill="var(--s0)"/></svg>'
    )


def command(line: str) -> str:
    """A command to copy, plain text: a click marks all of it."""
    return f"<pre><code>{text(line)}</code></pre>\n"


def figure(jpeg: bytes, caption: str, what: str) -> str:
    """A picture inside the page. caption: HTML. what: the same in plain text, for those who do not see it."""
    data = base64.b64encode(jpeg).decode()
    picture = f'<img src="data:image/jpeg;base64,{data}" alt="{text(what)}">'
    return f'<figure><div class="scroll">{picture}</div><figcaption>{caption}</figcaption></figure>\n'


def text(value: str) -> str:
    """Any text as HTML, on one line. What cannot be seen or turns the direction of writing is shown as an escape."""
    return html.escape("".join(_seen(character) for character in value))


def _seen(character: str) -> str:
    if character in _TURNS or unicodedata.category(character) in _UNSEEN:
        return character.encode("unicode_escape").decode()
    return character
