"""Settings common to all tests: one thread per process and the same random numbers in every run."""

from __future__ import annotations

import os

# Before any test module imports numpy, torch or an engine: they read these when they load. One thread each makes
# sums repeatable and lets pytest-xdist use the cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import random
import shutil
import signal
import sys

import numpy as np
import pytest

from tests import shared

# Tests import engines themselves: those must not report either (``runtimes.libraries``).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def pytest_configure(config: pytest.Config) -> None:
    """Before pytest-xdist starts its processes, which inherit the name of the folder."""
    # A shell starts background jobs with Ctrl-C ignored; programs that tests send it to would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    made = shared.open_folder()
    if made is not None:
        config.add_cleanup(lambda: shutil.rmtree(made, ignore_errors=True))


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seed the global generators. torch is seeded only if something imported it: device-side tests stay free of it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (third-party code may draw from the global generator)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A fresh numpy generator, the same in every test."""
    return np.random.Generator(np.random.PCG64(0))
