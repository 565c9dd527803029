"""Accuracy of a checkpoint on held-out clips: each from a zero state, and all of them as one endless stream.

A clip's decision is the largest mean logit over the second half of its frames. In the stream the clips follow each
other in random order and the state is never reset; it is watched for growth.
"""

from __future__ import annotations

from lcr_edge.evaluate.command import add_arguments, run
from lcr_edge.evaluate.measure import evaluate
from lcr_edge.evaluate.scores import decide

__all__ = ["add_arguments", "decide", "evaluate", "run"]
