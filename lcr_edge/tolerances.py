"""The one table of numerical promises (docs: README, "What parity means here"). Tests hold no literals of their own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """What a bundle of one precision promises against the float PyTorch cell.

    step_abs: max abs error of logits and of every state after one step from the reference state.
    stream_abs: the same after each of 500 free-running frames, the bundle feeding its own state back.
    top1: smallest share of free-running frames whose top-1 class equals the reference's, in [0, 1].
    """

    step_abs: float
    stream_abs: float
    top1: float


PROMISES: dict[str, Promise] = {
    "fp32": Promise(step_abs=1e-5, stream_abs=1e-4, top1=1.0),
    "fp16": Promise(step_abs=1e-2, stream_abs=2e-2, top1=0.995),
}

# The network against itself: forward(clip) and T calls of step, per torch dtype name.
FORWARD_EQUALS_STEPS = {"float64": 1e-10, "float32": 1e-5}
# The WKV forms against the readable reference in float64, outputs and gradients.
WKV_FORMS = 1e-12


@dataclass(frozen=True)
class ModelPromise:
    """What the packaged checkpoint reaches on held-out rendered gestures (docs/lcr_nano.md), in per cent.

    clip_top1: clips from a zero state, at least. stream_loss: points lost at most when the state is never reset.
    """

    clip_top1: float
    stream_loss: float


PACKAGED = ModelPromise(clip_top1=95.0, stream_loss=2.0)

# Clips that were written by a lossy codec and read again: mean absolute difference to the original, of 255.
DECODED = 12.0
# A joint against the middle of the bright spot drawn at it, after crop and enlargement by interpolation: pixels.
JOINT_PIXELS = 1.0
# A training step with half of the patches dropped, against one with all of them, on the same CPU in one run.
TUBE_MASK_SPEEDUP = 1.5

# What a network mapped from Vision-RWKV computes against their formulas on the same tensors, float64, absolute.
VRWKV = 1e-10

# The CUDA WKV kernel against the float64 reference on the same (rounded) inputs, output and every gradient: largest
# relative rms difference, by the dtype of r, k, v and y.
WKV_KERNEL = {"float32": 1e-5, "bfloat16": 5e-3, "float16": 5e-3}
# Its results with the tokens in one chunk against several chunks, float32.
WKV_CHUNKS = 1e-5
# Two training processes against one with the joined batch in float32: max abs difference over rms, of a tensor.
TWO_PROCESSES = 1e-3
