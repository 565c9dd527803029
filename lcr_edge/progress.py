"""Progress on stderr: a line per long step, and bars where somebody watches."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, Protocol, TypeVar

T = TypeVar("T")


class Bar(Protocol):
    """What a bar can do."""

    def update(self, n: int = 1) -> Any:
        """Move on by ``n``."""


class _NoBar:
    def update(self, n: int = 1) -> None:
        """Nobody watches."""


@contextlib.contextmanager
def step(title: str, stream: IO[str] | None = None) -> Iterator[None]:
    """Say on stderr that a long step starts, and how long it took."""
    out = sys.stderr if stream is None else stream
    print(f"{title} ...", end="", file=out, flush=True)
    begin = time.perf_counter()
    try:
        yield
    except BaseException:
        print(" failed", file=out, flush=True)
        raise
    print(f" {time.perf_counter() - begin:.1f} s", file=out, flush=True)


def watched() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def bar(title: str, total: int, unit: str, show: bool) -> Iterator[Bar]:
    """A bar on stderr that is moved by hand and vanishes when the body ends.

    It appears where ``show`` asks for it, somebody watches a terminal and tqdm is installed.
    """
    if not show or not watched():
        yield _NoBar()
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield _NoBar()
        return
    with tqdm(total=total, desc=title, unit=unit, leave=False) as made:
        yield made


def with_bar(items: Iterable[T], title: str, unit: str, total: int, show: bool) -> Iterator[T]:
    """The items, with a :func:`bar` that counts them."""
    with bar(title, total, unit, show) as moved:
        for item in items:
            yield item
            moved.update()
