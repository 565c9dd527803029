"""Progress on stderr: a line for each long step, and bars where somebody watches."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, TypeVar

T = TypeVar("T")


class Bar:
    """A bar that nobody watches: it prints nothing but the lines that it is told to."""

    def update(self, n: int = 1) -> None:
        """Move on by ``n``."""

    def show(self, figures: Mapping[str, float]) -> None:
        """Show these figures beside the bar, with three decimals."""

    def say(self, line: str) -> None:
        """Print a line to stderr, above the bar."""
        print(line, file=sys.stderr, flush=True)


class _Drawn(Bar):
    def __init__(self, drawn: Any) -> None:
        self._drawn = drawn

    def update(self, n: int = 1) -> None:
        self._drawn.update(n)

    def show(self, figures: Mapping[str, float]) -> None:
        self._drawn.set_postfix({name: f"{value:.3f}" for name, value in figures.items()}, refresh=False)

    def say(self, line: str) -> None:
        self._drawn.write(line, file=sys.stderr)


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


def load_torch() -> None:
    """Import torch, which takes seconds, and say so before. Where it is not installed, who needs it will tell."""
    if "torch" not in sys.modules and importlib.util.find_spec("torch") is not None:
        with step("loading PyTorch"):
            importlib.import_module("torch")


def watched() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def bar(title: str, total: int, unit: str, show: bool, start: int = 0, *, line: bool = False) -> Iterator[Bar]:
    """A bar on stderr from ``start`` to ``total`` that is moved by hand and vanishes when the body ends.

    It appears only where ``show`` is true, stderr is a terminal and tqdm is installed. line: where it does not, though
    ``show`` is true, print a line as :func:`step` does; then the body must not print.
    """
    tqdm = _tqdm() if show and watched() else None
    if tqdm is None:
        with step(f"{title}: {total} {unit}{'' if total == 1 else 's'}") if show and line else contextlib.nullcontext():
            yield Bar()
        return
    with tqdm(total=total, initial=start, desc=title, unit=unit, leave=False) as drawn:
        yield _Drawn(drawn)


def _tqdm() -> Any:
    """The class, None where the package is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm


def with_bar(items: Iterable[T], title: str, unit: str, total: int, show: bool, *, line: bool = False) -> Iterator[T]:
    """The items, with a :func:`bar` that counts them."""
    with bar(title, total, unit, show, line=line) as moved:
        for item in items:
            yield item
            moved.update()
