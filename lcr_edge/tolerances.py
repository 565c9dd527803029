"""The one table of numerical promises (docs/verify.md, "What is promised"). Tests define no tolerances."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """What a bundle of one precision promises relative to the float PyTorch cell. None: not promised.

    Frames are counted from 0, the first frame after a zero state.

    top1: smallest share of free-running frames, from frame ``settled`` on, whose top-1 class equals the reference's, in
        [0, 1]. flips: this many frames may always differ, because a few frames cannot show a share like 0.98, and a
        network that has learnt little has near ties.
    step_abs: max abs error of logits and of every state after one step from the reference state.
    stream_abs: the same after each of 500 free-running frames, the bundle feeding its own state back.
    step_relative: rms error / standard deviation of the reference, of logits and of every state, after one step from
        the reference state, over all frames from ``settled`` on.
    drift: rms logit error of free-running streams over the frames LATE, divided by that over the frames EARLY; growth
        counts where the late error is above ``drift_counts``, a share of step_relative. Below it a ratio of two small
        errors says which scenes were shown, not that the state runs away.
    clip_points: percentage points by which the clip top-1 on held-out rendered gestures may be below float's.
    """

    top1: float
    flips: int = 0
    settled: int = 0
    step_abs: float | None = None
    stream_abs: float | None = None
    step_relative: float | None = None
    drift: float | None = None
    drift_counts: float = 0.0
    clip_points: float | None = None


PROMISES: dict[str, Promise] = {
    "fp32": Promise(top1=1.0, step_abs=1e-5, stream_abs=1e-4),
    "fp16": Promise(top1=0.995, flips=1, step_abs=1e-2, stream_abs=2e-2),
    "int8": Promise(top1=0.98, flips=1, settled=4, step_relative=0.10, drift=1.5, drift_counts=0.5, clip_points=0.5),
}

# The two windows that drift compares: first frame, and frame after the last.
EARLY, LATE = (40, 50), (400, 500)
# Rendered streams whose errors are pooled for drift: a single one, with ten frames in EARLY, gives 0.5 to 1.9, while
# eight give 0.9 to 1.1 (quantised lcr_nano, whose error does not grow).
DRIFT_STREAMS = 8
# Held-out rendered clips per class on which decisions are compared, and frames of the longest rendered stream.
CLIPS_PER_CLASS = 20
STREAM_FRAMES = 2000
# Clip top-1 in per cent from which a network counts as trained on the gestures, so that a loss means something.
LEARNT = 50.0


# float32 on an engine whose sigmoid and tanh are off by up to 8e-6 (lcr_edge.runtimes.tflite_engine).
COARSE_ACTIVATIONS = Promise(top1=0.995, flips=1, step_abs=2e-4, stream_abs=1e-3)


def promise_of(precision: str, state_precision: str = "fp32", *, coarse_activations: bool = False) -> Promise | None:
    """The promise of a bundle, None for a precision that this lcr_edge does not know.

    A float32 bundle whose states cross the boundary as float16 rounds like float16, and makes the fp16 promise.
    coarse_activations: of the engine that it runs on.
    """
    if precision == "fp32" and state_precision == "fp16":
        return PROMISES["fp16"]
    if precision == "fp32" and coarse_activations:
        return COARSE_ACTIVATIONS
    return PROMISES.get(precision)


# The same bundle on an ARM board and on x86-64, each one step from the reference's state: largest difference of logits
# and states. Of int8: rms difference / standard deviation of the reference from frame ``settled`` on, because a sum in
# another order moves a value to the next int8 number now and then.
ACROSS_CPUS = 1e-5
ACROSS_CPUS_INT8 = 0.02
# Streams in one call of a bundle of ``export --batch N`` against the same steps one by one: rms difference / standard
# deviation. An engine may add in another order in another row; where states or products are rounded, a value then moves
# to the next number of its grid now and then.
ROWS_OFF = 1e-6
ROWS_OFF_ROUNDED = 0.02
# A golden clip against the network that it is said to be of, one step at a time, both float64 arithmetic rounded to
# float32: largest difference, of values above 1 in units of the largest.
GOLDEN_OFF = 1e-6
# An int8 bundle's distance from the planned answers, in units of the planned rounding (lcr_edge.runtimes.planned): two
# roundings of one size that have nothing in common are 1.41 apart. Planned roundings below the second figure, a share
# of the tensor's standard deviation, count as that large: there float32 itself shows.
ROUNDING_OFF = 1.5
ROUNDING_LEAST = 1e-4
# Share of the int8 calibration samples that have a state other than zeros: at least. Streams give 7 of 8.
CALIBRATED_ON_STATES = 0.5

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


PACKAGED = ModelPromise(clip_top1=97.0, stream_loss=1.0)


@dataclass(frozen=True)
class Ready:
    """When training calls a network ready to export, see ``lcr_edge.training.readiness``.

    drift: of float32 from float64, a fifth of what fp32 bundles promise, because engines round in other orders. growth:
    of a small change of the state. agreement: share of the frames in which fake-quantised int8 decides as float does.
    """

    drift: float
    growth: float
    agreement: float


READY = Ready(drift=2e-5, growth=10.0, agreement=0.98)

# Clips written by a lossy codec and read back: mean absolute difference from the original, out of 255.
DECODED = 12.0
# Distance of a joint from the centre of the bright spot drawn at it, after crop and interpolated enlargement: pixels.
JOINT_PIXELS = 1.0
# A training step with half of the patches dropped, against one with all of them, on the same CPU in one run.
TUBE_MASK_SPEEDUP = 1.5

# A network mapped from Vision-RWKV against the Vision-RWKV formulas on the same tensors, float64, absolute.
VRWKV = 1e-10

# The CUDA WKV kernel against the float64 reference on the same (rounded) inputs, output and every gradient: largest
# relative rms difference, by the dtype of r, k, v and y.
WKV_KERNEL = {"float32": 1e-5, "bfloat16": 5e-3, "float16": 5e-3}
# Its results with the tokens in one chunk against several chunks, float32.
WKV_CHUNKS = 1e-5
# Two training processes against one with the joined batch in float32: max abs difference over rms, of a tensor.
TWO_PROCESSES = 1e-3
# Error of a product whose weights were rounded to the nearest grid points, over that with errors made to cancel, on
# correlated inputs: at least.
ROUNDING_GAIN = 2.0
# Stream error of int8 calibrated with zero states only, over that with rolled states, same layers: at least, by mode.
# Dynamic mode has no ranges to get wrong, only the rounding of its weights.
ROLLED_GAIN = {"static": 5.0, "dynamic": 1.5}
