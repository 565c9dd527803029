"""Evaluation: accuracy on held-out clips, each from a zero state, and on all of them as one endless stream.

The decision on a clip is the largest mean logit over the second half of its frames. In the stream the clips follow each
other in random order and the state is never reset; it is watched for growth.
"""

from __future__ import annotations

from lcr_edge.evaluate.measure import evaluate
from lcr_edge.evaluate.result import Result
from lcr_edge.evaluate.scores import decide

__all__ = ["Result", "decide", "evaluate"]
