"""The manifest of a bundle: what the exporter knows about it, for the loader."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcr_edge import __version__
from lcr_edge.checkpoint import Checkpoint
from lcr_edge.contract import (
    CONTRACT_VERSION,
    LOGITS,
    STATE_DTYPES,
    STATE_NAMES,
    STATES_IN,
    STATES_OUT,
    Boundary,
    input_specs,
    output_specs,
)
from lcr_edge.errors import BundleError
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.stored import PRODUCTS
from lcr_edge.export.targets.table import producers
from lcr_edge.export.verify.clips import judging, name_of, strange
from lcr_edge.runtimes.bundle import MANIFEST, Bundle, file_record, seal
from lcr_edge.runtimes.tensors import scaling, tensor_table

PARITY = "parity.json"
SETTLED = "calibration_states"


def write_manifest(
    folder: Path,
    request: Request,
    checkpoint: Checkpoint,
    required_ops: list[str],
    *,
    boundary: Boundary | None = None,
    calibration_digest: str | None = None,
    float_layers: Sequence[str] = (),
    products: Mapping[str, str] | None = None,
    calibration_states: float | None = None,
) -> None:
    """Write manifest.json for all files now in the folder; write it again when one is added.

    For int8 only: boundary, (scale, zero point) of logits and states by tensor name, with ``--io int8``;
    calibration_digest, of the samples that gave the ranges; float_layers, products left in float (names as in
    ``calibration.quant_plan``); products, the digest of each prepared product (``targets.stored``); calibration_states,
    the share of the samples whose states are not zero. Raises ValueError if ``--io int8`` lacks the boundary.
    """
    config, boundary = request.config, boundary or {}
    dtype = STATE_DTYPES[request.state_precision]
    state_bytes = np.dtype(dtype).itemsize * int(np.prod(config.state_shape))
    inputs = input_specs(config, request.edges, request.state_mode, request.state_precision, boundary, request.batch)
    outputs = output_specs(config, request.state_mode, request.state_precision, boundary, request.batch)
    int8 = request.precision == "int8"
    if request.io == "int8" and not {LOGITS, *STATES_IN, *STATES_OUT} <= set(boundary):
        raise ValueError("an integer-only model needs (scale, zero point) of its logits and states")
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    manifest: dict[str, Any] = {
        "contract_version": CONTRACT_VERSION,
        "name": request.name,
        "target": request.target,
        "precision": request.precision,
        "edges": request.edges,
        "state_mode": request.state_mode,
        "state_precision": request.state_precision,
        "io": request.io,
        "batch": request.batch,
        "quant": request.quant if int8 else None,
        "activations": request.activations if int8 and request.quant == "static" else None,
        "config": config.to_dict(),
        "model_files": list(request.row.files),
        "files": {name: file_record(folder / name) for name in names},
        "checkpoint_sha256": checkpoint.sha256,
        "random_seed": random_seed(checkpoint),
        "judged_on": judged_on(checkpoint),
        "producer": _producers(),
        "inputs": tensor_table(inputs),
        "outputs": tensor_table(outputs),
        "frame": {
            "height": config.height,
            "width": config.width,
            "colour": "RGB",
            "layout": "NHWC",
            "fit": checkpoint.fit,
            "train_fps": config.train_fps,
        },
        "states": [
            {
                "in": f"{name}_in",
                "out": f"{name}_out",
                "dtype": dtype,
                "shape": list(config.state_shape),
                "bytes": state_bytes,
                **scaling(boundary.get(f"{name}_in")),
            }
            for name in STATE_NAMES
        ],
        "labels": list(checkpoint.labels),
        "calibration_digest": calibration_digest,
        SETTLED: calibration_states,
        "float_layers": list(float_layers),
        PRODUCTS: None if products is None else dict(products),
        "runtime_hints": _hints(request),
        "required_ops": required_ops,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    (folder / MANIFEST).write_bytes(seal(manifest))


def read_parity(bundle: Bundle) -> dict[str, Any]:
    """What was measured at export; empty if the bundle has no such file. Raises BundleError for a damaged one."""
    path = bundle.folder / PARITY
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {path}: {error}; export the bundle again") from error


def _hints(request: Request) -> dict[str, Any]:
    of_int8 = request.row.int8_hints.get(request.quant, {}) if request.precision == "int8" else {}
    return {**request.row.hints, **of_int8}


def random_seed(checkpoint: Checkpoint) -> int | None:
    """The seed of a checkpoint made by ``random_checkpoint``, None for one read from a file."""
    seed = checkpoint.training.get("random_seed")
    return int(seed) if seed is not None and checkpoint.path is None else None


def judged_on(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Whose clips judge a network's bundles: name, and SHA-256 of the clips where they are not rendered.

    None for a network of which only single steps are judged, because no clips of its kind are at hand.
    """
    if strange(checkpoint):
        return None
    pack = judging(checkpoint)
    return {"data": name_of(checkpoint), "sha256": None if pack is None else pack.sha256}


def _producers() -> Mapping[str, str]:
    found = {"lcr_edge": __version__}
    for package in producers():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
