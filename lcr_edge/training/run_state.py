"""The state of a run on disk: one safetensors file, replaced atomically, from which the run continues exactly.

It holds the network, its average, the training-only head, the optimisers' state, the carried stream states with their
tube masks, and, as JSON, the step and the settings. A process that is killed at any moment leaves the last complete
file. Everything else that a run depends on is a function of the seed and the step.

A digest covers all of it: from a file in which a tensor is missing or a bit has changed, a run would go on differently.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lcr_edge.checkpoint import write_tensors
from lcr_edge.errors import CheckpointError, UsageError

NAME = "run.safetensors"
FORMAT = "lcr_edge run 2"
# The temporary files (see files.py) of what a run writes; rendered clips in the same folder have their own care.
_LEFT = re.compile(r"\.(.+\.safetensors|.+\.judge\.npz|metrics\.csv|.+\.png|.+\.html)\.[0-9a-f]{16}\.tmp(\..+)?")


class RunState(NamedTuple):
    """step: how many are done. progress: running figures of the log. tensors: by group ("model", "average", ...)."""

    step: int
    settings: dict[str, Any]
    progress: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def write(folder: Path, state: RunState) -> None:
    """Write the state, whole or not at all. Raises OutputError."""
    flat = {f"{group}:{name}": value for group, part in state.tensors.items() for name, value in part.items()}
    about = json.dumps({"step": state.step, "settings": state.settings, "progress": state.progress})
    write_tensors(folder / NAME, flat, {"format": FORMAT, "run": about, "sha256": _digest(about, flat)})


def _digest(about: str, flat: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name, value in sorted(flat.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def clean(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    for left in folder.glob(".*.tmp*"):
        if _LEFT.fullmatch(left.name):
            left.unlink(missing_ok=True)


def read(folder: Path) -> RunState:
    """Read the state. Raises UsageError without a file to resume from, CheckpointError for any other file."""
    from safetensors import SafetensorError, safe_open

    path = folder / NAME
    if not path.is_file():
        raise UsageError(f"{folder} has no {NAME} to resume from; leave out --resume to start a run")
    flat: dict[str, Tensor] = {}
    tensors: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 - not a dict
                group, name = key.split(":", 1)
                flat[key] = tensors.setdefault(group, {})[name] = file.get_tensor(key)
        if metadata["format"] != FORMAT:
            raise ValueError(f"format {metadata['format']!r}")
        if metadata["sha256"] != _digest(metadata["run"], flat):
            raise ValueError("it was damaged or altered: its digest is another")
        about = json.loads(metadata["run"])
        return RunState(int(about["step"]), dict(about["settings"]), dict(about["progress"]), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not the state of a run ({error}); start the run again in another --out"
        ) from error


def check_same(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """UsageError, with every setting in which the resumed run would differ from the saved one."""
    differing = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if differing:
        listed = "; ".join(f"{name}: {saved.get(name)!r} then, {wanted.get(name)!r} now" for name in differing)
        raise UsageError(
            f"the saved run has other settings ({listed}); resume with the same ones, or start in another --out"
        )
