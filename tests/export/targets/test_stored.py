"""What an int8 file stores is compared with what was prepared: a single step of a weight or a zero point is seen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.export.targets.stored import PRODUCTS, Stored, can_read, differing
from lcr_edge.export.targets.table import TARGETS
from lcr_edge.runtimes.bundle import Bundle, read_bundle
from tests.export import made
from tests.journeys.fault_files import open_model

INT8 = [target for target, row in TARGETS.items() if "int8" in row.precisions]
MODES = [(target, quant) for target in INT8 for quant in ("static", "dynamic", "weight-only")]


def _differing(bundle: Bundle) -> list[str]:
    return differing(bundle.folder, bundle.target, bundle.model_files, bundle.manifest[PRODUCTS])


@pytest.mark.slow
@pytest.mark.parametrize(("target", "quant"), MODES)
def test_a_bundle_stores_what_was_prepared(target: str, quant: str) -> None:
    bundle = read_bundle(made.bundle("lcr_pico", target, "int8", quant=quant))
    assert len(bundle.manifest[PRODUCTS]) > 15
    assert _differing(bundle) == []
    assert can_read(target)


def _integers(file: Any) -> list[str]:
    """The weights, the largest first."""
    names = [name for name, array in file.constants.items() if array.dtype == np.int8 and array.ndim == 2]
    return sorted(names, key=lambda name: -file.constants[name].size)


@pytest.mark.slow
@pytest.mark.parametrize("target", INT8)
def test_one_step_of_one_weight_is_seen(tmp_path: Path, target: str) -> None:
    folder: Path = shutil.copytree(made.bundle("lcr_pico", target, "int8"), tmp_path / "bundle")
    file = open_model(folder, target)
    weight = file.constants[_integers(file)[0]]
    weight[3, 5] += 1 if weight[3, 5] < 0 else -1
    file.save()
    assert len(_differing(read_bundle(folder))) == 1


@pytest.mark.slow
def test_one_step_of_a_zero_point_is_seen(tmp_path: Path) -> None:
    folder: Path = shutil.copytree(made.bundle("lcr_pico", "onnx", "int8"), tmp_path / "bundle")
    file = open_model(folder, "onnx")
    zero = file.constants["cell.layers.1.rg.weight.x_zero"]
    zero += 1
    file.save()
    assert _differing(read_bundle(folder)) == ["layers.1.rg"]


@pytest.mark.slow
@pytest.mark.parametrize("target", INT8)
def test_a_bias_that_is_gone_is_seen(tmp_path: Path, target: str) -> None:
    folder: Path = shutil.copytree(made.bundle("lcr_pico", target, "int8"), tmp_path / "bundle")
    bundle = read_bundle(folder)
    size = 2 * bundle.config.dim
    file = open_model(folder, target)
    biases = [a for a in file.constants.values() if a.size == size and a.dtype == np.float32 and (a < 0).any()]
    biases[0][...] = 0
    file.save()
    assert len(_differing(read_bundle(folder))) == 1


def test_digests_tell_everything_apart() -> None:
    steps, scale, bias = np.ones((2, 3), np.int8), np.ones(2, np.float32), np.zeros(2, np.float32)
    forms = [
        Stored(steps, scale, (1.0, 3.0), bias),
        Stored(-steps, scale, (1.0, 3.0), bias),
        Stored(steps.reshape(3, 2), scale, (1.0, 3.0), bias),
        Stored(steps, 2 * scale, (1.0, 3.0), bias),
        Stored(steps, scale, (1.0, 4.0), bias),
        Stored(steps, scale, (1.0, 3.0), bias + 1),
        Stored(steps, scale, (1.0, 3.0)),
        Stored(steps, scale, (), bias),
    ]
    assert len({form.digest() for form in forms}) == len(forms)
    assert Stored(steps, scale, (), bias).digest() == Stored(steps.copy(), scale, (), -bias).digest()
