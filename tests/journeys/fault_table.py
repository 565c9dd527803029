"""The faults, one row each: where it is planted, and on which engines and precisions it can be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tests.journeys import fault_plants as plants
from tests.journeys.fault_bench import Bench
from tests.journeys.fault_cells import CELLS
from tests.journeys.fault_runtime import ENGINE, WRAPPER

Plant = Callable[[Bench, str, str], contextlib.AbstractContextManager[Path]]
ENGINES = ("onnx", "openvino", "tflite")
FLOATS, ALL = ("fp32", "fp16"), ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Fault:
    """where: "file" (after conversion), "cell" (after preparation), "runtime", "frame", "manifest", "golden". plant: a
    context that gives the bundle to ask about, while the fault is there. unseen: why the golden clip cannot show it."""

    kind: str
    where: str
    plant: Plant
    engines: tuple[str, ...] = ENGINES
    precisions: tuple[str, ...] = ALL
    unseen: str = ""


_BEFORE = "its frames are fitted already"
_MANIFEST = "it has neither labels nor times"
_PICTURE = ("BGR for RGB", "frame mirrored", "frame transposed", "pixels scaled twice")
HEALTHY = Fault("no fault", "-", plants.none)
FAULTS: tuple[Fault, ...] = (
    *(Fault(kind, "runtime", partial(plants.in_engine, kind)) for kind in ENGINE if kind not in _PICTURE),
    *(Fault(kind, "frame", partial(plants.in_engine, kind)) for kind in _PICTURE),
    *(Fault(kind, "runtime", partial(plants.around, kind)) for kind in WRAPPER if kind.startswith("edges")),
    Fault(
        "crop for letterbox",
        "frame",
        partial(plants.around, "crop for letterbox"),
        precisions=("fp32",),
        unseen=_BEFORE,
    ),
    Fault(
        "frame resized twice",
        "frame",
        partial(plants.around, "frame resized twice"),
        precisions=("fp32",),
        unseen=_BEFORE,
    ),
    Fault(
        "reset that does not reset",
        "runtime",
        partial(plants.around, "reset that does not reset"),
        precisions=("fp32",),
        unseen="every stream of the selftest holds its own state",
    ),
    Fault(
        "a stream does not start from zeros", "runtime", partial(plants.around, "a stream does not start from zeros")
    ),
    Fault(
        "labels permuted in the runtime",
        "runtime",
        partial(plants.around, "labels permuted in the runtime"),
        precisions=("fp32",),
        unseen=_MANIFEST,
    ),
    Fault("bias dropped in one product", "file", partial(plants.constants, plants.bias_dropped)),
    Fault("forget bias truncated", "file", partial(plants.constants, plants.bias_truncated)),
    Fault("wrong decay table", "file", partial(plants.constants, plants.wrong_decay, products=False)),
    Fault("decay of two channels swapped", "file", partial(plants.constants, plants.swapped_decay, products=False)),
    Fault("a class's row zeroed", "file", partial(plants.constants, plants.row_zeroed), precisions=FLOATS),
    Fault("two layers swapped", "file", partial(plants.constants, plants.swapped_layers), precisions=FLOATS),
    Fault(
        "weights of one product on an int8 grid", "file", partial(plants.constants, plants.one_scale), precisions=FLOATS
    ),
    Fault("fmax changed", "file", partial(plants.number, 0.9, 0.89)),
    Fault("norm epsilon wrong", "file", plants.epsilon),
    Fault(
        "one product's weights one step off",
        "file",
        partial(plants.integers, plants.one_step_off),
        precisions=("int8",),
    ),
    Fault("one weight one step off", "file", partial(plants.integers, plants.one_weight_off), precisions=("int8",)),
    Fault("one channel's scale for all", "file", partial(plants.integers, plants.first_scale), precisions=("int8",)),
    Fault(
        "zero point of one product off by one",
        "file",
        partial(plants.integers, plants.zero_point),
        engines=("onnx", "openvino"),
        precisions=("int8",),
    ),
    Fault(
        "range of one product halved",
        "file",
        partial(plants.integers, plants.halved_range),
        engines=("onnx", "openvino"),
        precisions=("int8",),
    ),
    Fault(
        "calibrated on zero states",
        "cell",
        plants.zero_states,
        engines=("onnx", "openvino"),
        precisions=("int8",),
    ),
    Fault("one layer skipped", "cell", partial(plants.in_cell, "one layer skipped"), precisions=("fp32",)),
    *(
        Fault(kind, "cell", partial(plants.in_cell, kind), engines=("onnx", "openvino"), precisions=("fp32",))
        for kind in ("bf16 arithmetic", "products rounded to fp16")
    ),
    Fault("weights off their grid", "cell", partial(plants.in_cell, "weights off their grid"), precisions=("int8",)),
    Fault(
        "range of one product halved in the plan",
        "cell",
        partial(plants.in_cell, "range of one product halved in the plan"),
        engines=("onnx", "openvino"),
        precisions=("int8",),
    ),
    Fault(
        "labels permuted in the manifest",
        "manifest",
        partial(plants.manifest, plants.labels),
        precisions=("fp32",),
        unseen=_MANIFEST,
    ),
    Fault(
        "fit changed in the manifest",
        "manifest",
        partial(plants.manifest, plants.fit),
        precisions=("fp32",),
        unseen=_BEFORE,
    ),
    Fault(
        "rate changed in the manifest",
        "manifest",
        partial(plants.manifest, plants.rate),
        precisions=("fp32",),
        unseen=_MANIFEST,
    ),
    Fault(
        "edges in the graph with a wrong threshold",
        "file",
        partial(plants.number, 0.5, 0.4, edges="graph"),
        engines=("onnx",),
        precisions=("fp32",),
    ),
    Fault(
        "state scale of --io int8 not the same in and out",
        "file",
        plants.state_scale,
        engines=("tflite",),
        precisions=("int8",),
    ),
    Fault("golden of another checkpoint", "golden", plants.stale),
    Fault("golden's classes permuted", "golden", partial(plants.golden, "logits", lambda x: np.roll(x, 1, axis=1))),
    Fault(
        "golden's edges off by one pixel", "golden", partial(plants.golden, "edges", lambda x: np.roll(x, 1, axis=2))
    ),
)


def unused() -> set[str]:
    """Faults that are written down and in no row."""
    return {*ENGINE, *WRAPPER, *CELLS} - {fault.kind for fault in FAULTS}
