"""Hooks of mkdocs. Docstrings name things by Sphinx roles, such as :func:`load`, which Markdown would show as text."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:func|meth|class|mod|attr):(?=<code>)")


def on_page_content(html: str, **_: Any) -> str:
    """The page with each role taken away and its name kept as code."""
    return _ROLE.sub("", html)
