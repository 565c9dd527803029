"""Measures a bundle against the float PyTorch cell: one step at a time and with its own state fed back."""

from __future__ import annotations

from collections.abc import Iterable

from lcr_edge.errors import ParityError, StateError, UsageError
from lcr_edge.export.verify.phases import Mode
from lcr_edge.export.verify.reference import Step
from lcr_edge.export.verify.remedy import Made
from lcr_edge.export.verify.report import Report
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.checks import StateUse, mode_checks, promised

# First frame of each phase: the state is zero, then filling, then full; then a stream.
PHASES = (0, 1, 4, 50)


def measure(model: Model, reference: Iterable[Step], clip: str) -> Report:
    """Step the bundle beside the reference, which starts from zero states; ``clip`` names the frames in the report.

    The growth of the error is not judged here: one stream cannot tell it from a change of scene (see ``streams``).
    Does not raise on a missed promise. Raises BundleError for a precision without a promise, FrameError, UsageError
    for too few frames, and ParityError where a state is NaN before there are enough frames to judge.
    """
    promise = promised(model)
    one_step, stream = Mode(PHASES, promise.settled), Mode(PHASES, promise.settled)
    own = before = model.initial_state()
    use = StateUse(model)
    broken: list[str] = []
    count = 0
    model.reset()
    for step in reference:
        wanted = (step.logits, step.state_h, step.state_c)
        try:
            logits, after = model.step(step.frame, before)
            stepped = model.state_values(after)
            own_logits, own = model.step(step.frame, own)
            streaming = model.state_values(own)
        except StateError as error:  # NaN or Inf, which no promise allows
            broken.append(f"the bundle's own state cannot be fed back from frame {count} on: {error}")
            break
        one_step.add(count, (logits, *stepped), wanted)
        # Where the engine can keep the states, its own feedback is what a device runs.
        internal = model.bundle.state_mode == "internal"
        streamed = model.step_stream(step.frame) if internal else own_logits
        stream.add(count, (streamed, *streaming), wanted)
        if internal:
            stream.add_logits(count, own_logits, step.logits)
        use.add(step.frame, before, logits, after)
        before = model.state_of(step.state_h, step.state_c)
        count += 1
    if count <= promise.settled and broken:
        raise ParityError(f"{model.manifest['name']}: {broken[0]}")
    if count <= promise.settled:
        raise UsageError(f"measuring {model.bundle.precision} takes at least {promise.settled + 1} frames, got {count}")
    return Report(
        bundle=str(model.manifest["name"]),
        engine=model.engine.name,
        precision=model.bundle.precision,
        made=Made.of(model.manifest),
        clip=clip,
        frames=count,
        promise=promise,
        one_step=one_step.lines(),
        stream=stream.lines(),
        one_step_curve=one_step.curve(),
        stream_curve=stream.curve(),
        checks=tuple(mode_checks(promise, one_step, stream)),
        broken=(*use.failures(), *broken),
    )
