"""Evaluation: accuracy on held-out clips, each from a zero state, and on all of them as one endless stream.

The decision on a clip is the largest mean logit over the second half of its frames. In the stream the clips follow each
other in random order and the state is never reset; it is watched for growth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lcr_edge.evaluate.result import Result
from lcr_edge.evaluate.scores import decide

if TYPE_CHECKING:
    from lcr_edge.evaluate.measure import evaluate

__all__ = ["Result", "decide", "evaluate"]


def __getattr__(name: str) -> Any:
    """``evaluate`` needs torch, whose import takes seconds: the command line says so before."""
    if name == "evaluate":
        from lcr_edge.evaluate import measure

        return measure.evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
