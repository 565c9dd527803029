"""Whether a bundle is the one that it claims to be, and whether its runtime keeps the step's rules.

Errors of logits and states say nothing about labels, about how frames are fitted, or about a caller's second camera.
These checks do: each counts what differs from the checkpoint, or from what a step promises, and nothing may. Two more
measure: of int8, how far the engine is from the rounding that was planned; of ``--batch``, how far streams in one call
are from the same streams one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lcr_edge.edges.host import host_edges
from lcr_edge.errors import BundleError, StateError
from lcr_edge.export.manifest import SETTLED
from lcr_edge.export.targets.stored import PRODUCTS, can_read, differing
from lcr_edge.export.verify.rules import differing_values, rules_of_the_step
from lcr_edge.frames import FITS
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.checks import Check, differences
from lcr_edge.runtimes.golden import Golden, read_golden
from lcr_edge.runtimes.planned import planned_check
from lcr_edge.runtimes.row_check import row_check
from lcr_edge.tolerances import CALIBRATED_ON_STATES, GOLDEN_OFF

if TYPE_CHECKING:
    from lcr_edge.checkpoint import Checkpoint

U8 = npt.NDArray[np.uint8]
# Sizes of camera frames, height and width in shares of the network's, whose fitting is compared.
_CAMERAS = ((1.0, 1.0), (1.5, 2.0), (2.0, 1.0), (0.75, 0.5))


@dataclass(frozen=True)
class Identity:
    """checks: what was compared, each with the number of differences, and ``runtimes.planned`` and
    ``runtimes.row_check`` where they apply. broken: what kept one from being compared."""

    checks: tuple[Check, ...]
    broken: tuple[str, ...] = ()

    @property
    def _compared(self) -> list[Check]:
        """The checks that count differences: all but those that measure."""
        return [check for check in self.checks if check.kind == "differences"]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the checks are in the report's list."""
        return {"differences": sum(int(check.measured or 0) for check in self._compared)}

    def table(self) -> str:
        """A line for people."""
        judged = [check for check in self._compared if check.met is not None]
        held, left = sum(check.met is True for check in judged), len(self._compared) - len(judged)
        rest = f"; {left} not judged" if left else ""
        return f" identity {held} of {len(judged)} comparisons without a difference{rest}"


def measure_identity(model: Model, checkpoint: Checkpoint) -> Identity:
    """Compare a bundle's manifest, golden clip and integer products with its checkpoint, and try the step's rules.

    Takes some thirty steps. Does not raise on a difference. Raises BundleError for a golden clip that cannot be read.
    """
    checks = [*_manifest(model, checkpoint), *_fit(model, checkpoint), *_golden(model, checkpoint), *_int8(model)]
    broken = []
    try:
        checks += rules_of_the_step(model)
        golden = read_golden(model.bundle)
        checks += [check for check in (planned_check(model, golden), row_check(model, golden)) if check is not None]
    except StateError as error:  # NaN or Inf
        broken.append(f"identity: the rules of the step cannot be tried: {error}")
    return Identity(tuple(checks), tuple(broken))


def _manifest(model: Model, checkpoint: Checkpoint) -> Iterator[Check]:
    wanted = list(checkpoint.labels)
    for where, labels in (("manifest", model.manifest.get("labels")), ("runtime", model.labels)):
        found = list(labels or ())
        other = [k for k in range(max(len(found), len(wanted))) if found[k : k + 1] != wanted[k : k + 1]]
        first = f"label {other[0]} is {found[other[0] : other[0] + 1]}, not {wanted[other[0]]!r}" if other else ""
        yield differences(
            f"labels of the {where}", len(other), f"the labels of the {where} are not the checkpoint's", first
        )
    config = checkpoint.config
    frame = {"fit": checkpoint.fit, "train_fps": config.train_fps, "height": config.height, "width": config.width}
    # Bundles made before this entry existed are letterboxed.
    said = {"fit": model.bundle.fit, **dict(model.manifest.get("frame") or {})}
    named = [*_unlike(config.to_dict(), dict(model.manifest.get("config") or {})), *_unlike(frame, said)]
    text = "the manifest says of the network or its frames what the checkpoint does not"
    yield differences("manifest's config and frame", len(named), text, "; ".join(named))


def _unlike(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [f"{key} is {found.get(key)!r}, not {value!r}" for key, value in wanted.items() if found.get(key) != value]


def _fit(model: Model, checkpoint: Checkpoint) -> Iterator[Check]:
    """``Model.fit`` against the function that the network's training used, on frames of several shapes."""
    random = np.random.default_rng(1)
    height, width, _ = checkpoint.config.frame_shape
    pixels = 0
    for down, across in _CAMERAS:
        frame = random.integers(0, 256, (round(height * down), round(width * across), 3), np.uint8)
        pixels += differing_values(model.fit(frame.copy()), FITS[checkpoint.fit](frame, height, width))
    yield differences(
        "pixels of fitted frames",
        pixels,
        f"frames are not fitted as in training ({checkpoint.fit})",
        f"{pixels} pixels",
    )


def _golden(model: Model, checkpoint: Checkpoint) -> Iterator[Check]:
    """The golden clip against the network: its edges, and every answer as one step from the one before."""
    import torch

    golden = read_golden(model.bundle)
    with torch.no_grad():
        # The tensor program, not the function that made them: two that agree are hardly both wrong.
        program = checkpoint.model.edge_graph(torch.from_numpy(golden.frames)).numpy().astype(np.uint8)
    pixels = differing_values(golden.edges, program)
    yield differences(
        "pixels of the golden edges", pixels, "the golden clip's edges are not the reference's", f"{pixels} pixels"
    )
    seen = np.stack([host_edges(frame) for frame in golden.frames])
    pixels = differing_values(seen, program)
    text = "this machine finds other edges than the reference: install another OpenCV, or none"
    yield differences("pixels of edges on this machine", pixels, text, f"{pixels} pixels")
    off = _off(golden, checkpoint, program)
    wrong = int((~(off <= GOLDEN_OFF)).sum())
    text = "the golden clip's answers are not those of the checkpoint"
    yield differences("golden answers", wrong, text, f"{wrong} of {len(off)} frames, off by up to {off.max():.1e}")


def _off(golden: Golden, checkpoint: Checkpoint, edges: U8) -> npt.NDArray[np.float64]:
    """The largest difference of each frame's answer from one step of the network, in float64 arithmetic, from the
    golden state before: float64 [T], in units of the largest value of the tensor where that is above 1, because float32
    has as many digits there."""
    import torch

    network = copy.deepcopy(checkpoint.model).eval().double()
    before = (
        torch.from_numpy(np.concatenate([np.zeros_like(part[:1]), part[:-1]]))
        for part in (golden.state_h, golden.state_c)
    )
    h, c = (part.double() for part in before)
    with torch.no_grad():
        logits, after = network.step(torch.from_numpy(golden.frames), (h, c), torch.from_numpy(edges))
    off = np.zeros(len(golden.frames))
    for found, answer in zip((golden.logits, golden.state_h, golden.state_c), (logits, *after)):
        wanted = answer.numpy()
        error = np.abs(found - wanted).reshape(len(off), -1).max(axis=1)
        # numpy's maximum keeps a NaN.
        off = np.maximum(off, error / max(1.0, float(np.abs(wanted).max())))
    return off


def _int8(model: Model) -> Iterator[Check]:
    """The integers in the model file, and what they were calibrated on."""
    manifest, bundle = model.manifest, model.bundle
    digests, share = manifest.get(PRODUCTS), manifest.get(SETTLED)
    if bundle.precision != "int8":
        return
    name, text = "int8 products", "the model file has other weights, scales, zero points or biases than were prepared"
    if bundle.io == "int8":
        yield differences(name, None, text, "not judged: an integer-only model is quantised by its converter")
    elif not can_read(bundle.target):
        yield differences(name, None, text, "not judged: products cannot be read back from files of this target")
    elif not isinstance(digests, dict):
        why = "not judged: the bundle has no digests of its products; export it again to have them"
        yield differences(name, None, text, why)
    else:
        try:
            other = differing(bundle.folder, bundle.target, bundle.model_files, digests)
            shown = ", ".join(other[:4]) + (" ..." if len(other) > 4 else "")
            yield differences(name, len(other), text, f"{len(other)} of {len(digests)}: {shown}" if other else "")
        except ImportError as error:
            yield differences(name, None, text, f"not judged: {error.name} is not installed")
        except Exception as error:  # a file that the engine runs but whose products cannot be found
            raise BundleError(
                f"{bundle.folder / bundle.model_files[0]}: its int8 products cannot be read ({error}); export it again"
            ) from error
    if isinstance(share, (int, float)):
        few = int(share < CALIBRATED_ON_STATES)
        text = f"only {share:.0%} of the calibration samples have a state, at least {CALIBRATED_ON_STATES:.0%} must"
        yield differences("calibrated on states", few, text, f"{share:.0%} of the samples have a state")
