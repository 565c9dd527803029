"""The one thing to try when a bundle misses its promise, chosen from what was measured and how the bundle was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcr_edge.errors import how_to_install

if TYPE_CHECKING:
    from lcr_edge.export.verify.report import Report

# A stream this many times as far off as a single step: the network amplifies what each step adds.
AMPLIFIES = 8.0


@dataclass(frozen=True)
class Made:
    """How a bundle was made. config: the network's name. random: its weights are. quant: the int8 mode, or None.
    float_layers: some products of an int8 model compute in float, and not only those that do by default."""

    config: str
    random: bool = False
    quant: str | None = None
    float_layers: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Made:
        """Of a bundle's manifest."""
        return cls(
            str(manifest["config"]["name"]),
            manifest.get("random_seed") is not None,
            manifest.get("quant"),
            tuple(manifest.get("float_layers") or ()),
        )


def remedy(report: Report) -> str:
    """A sentence for the user; "" where nothing was missed, or where no option helps: a state that is not
    used, or a bundle that differs from its checkpoint."""
    measured = [check for check in report.every_check if check.kind != "differences"]
    if report.broken or all(check.met is not False for check in measured):
        return ""
    one_step, stream = (_worst(lines) for lines in (report.one_step, report.stream))
    float32_like = report.promise.step_abs is not None
    if float32_like and one_step[0] > (report.promise.step_abs or 0.0):
        return (
            "Single steps are off, so the fault lies in the conversion or the engine and not in the network: install "
            f"the tested versions ({how_to_install('export')}), and if that does not help, report it"
        )
    if float32_like or stream[1] > AMPLIFIES * one_step[1]:
        return _calm(report.made, one_step[0] if float32_like else None)
    if report.made.quant == "static":
        return "Let the engine find the ranges at every step: --quant dynamic"
    if report.made.quant == "dynamic" and not report.made.float_layers:
        return "Leave the layers that cost most in float: --keep-float auto"
    if report.made.quant == "dynamic":
        return "Store the weights alone as int8: --quant weight-only"
    return "Leave int8 for this network: --precision fp16"


def _calm(made: Made, one_step: float | None) -> str:
    if made.random:
        return "The weights are random, and these amplify small differences: try another --seed"
    right = "" if one_step is None else f"Single steps are right to {one_step:.0e}, but the "
    return (
        f"{right or 'The '}network amplifies small differences. Calm it: lcr-edge train --init CHECKPOINT --data DATA "
        f"--config {made.config} --out DIR --steps 160 --calm-share 1"
    )


def _worst(lines: Mapping[str, Any]) -> tuple[float, float]:
    """Largest absolute error, and largest rms error / std, of any tensor over all frames."""
    tallies = lines["all"].tensors.values()
    return max(tally.max_abs for tally in tallies), max(tally.relative for tally in tallies)
