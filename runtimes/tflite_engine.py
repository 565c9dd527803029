"""TFLite bundles on ai-edge-litert or tflite-runtime, whichever is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.contract import Boundary, TensorSpec
from lcr_edge.errors import BundleError
from lcr_edge.runtimes.api import EngineOptions
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.engines import ENGINES

# ai-edge-litert first: it is newer and, where both are installed, faster.
_PACKAGES = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))
_SIGNATURE = "serving_default"


class TfliteEngine:
    """One interpreter, called by its signature so that tensors are matched by name, never by position.

    coarse_activations: sigmoid and tanh are off by up to 8e-6, as those of tflite-runtime for 32-bit ARM are: about the
    16 bits that one Newton step leaves of a reciprocal's estimate, where NEON has no division. Its promise for float32
    is wider (``lcr_edge.tolerances``).

    Raises MissingExtraError and BundleError (model too new for the interpreter, no such signature).
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        interpreter_class, package, version = _find_interpreter()
        self.name = f"{package} {version}"
        # By pointers: a 32-bit system may run on a 64-bit kernel, whose name of the machine says nothing.
        self.coarse_activations = package == "tflite-runtime" and sys.maxsize < 2**32
        path = bundle.folder / bundle.model_files[0]
        try:
            interpreter = interpreter_class(model_path=str(path), num_threads=options.threads)
            # Here, not at the first step: if the interpreter cannot prepare an operator, it cannot load the model.
            interpreter.allocate_tensors()
            signatures = interpreter.get_signature_list()
            self._runner = interpreter.get_signature_runner(_SIGNATURE) if _SIGNATURE in signatures else None
        except Exception as error:
            raise BundleError(
                f"{self.name} cannot load {path}: {_first_line(error)}; the bundle was made with ai-edge-litert "
                f"{bundle.producer('ai-edge-litert')}: upgrade the interpreter, or export again"
            ) from error
        if self._runner is None:
            raise BundleError(f"{path} has no signature {_SIGNATURE!r}, only {sorted(signatures)}; export it again")
        # A signature is a table by name and has no order: where names agree, the contract's order is used.
        self.inputs = _specs(self._runner.get_input_details(), [spec.name for spec in bundle.inputs])
        self.outputs = _specs(self._runner.get_output_details(), [spec.name for spec in bundle.outputs])
        _check_scales((*self.inputs, *self.outputs), bundle.boundary, str(path))

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """One step; the signature runner copies in and out."""
        runner: Any = self._runner
        results: dict[str, npt.NDArray[Any]] = runner(**feeds)
        return results


def _find_interpreter() -> tuple[Any, str, str]:
    for module, package in _PACKAGES:
        if importlib.util.find_spec(module) is None:
            continue
        version = _version(package)
        if module == "tflite_runtime" and int(np.__version__.split(".")[0]) >= 2:
            # It imports, but fails later with a message that does not say why.
            raise BundleError(
                f"{package} {version} was built for numpy 1, but this is numpy {np.__version__}: "
                'pip install "numpy<2", or install ai-edge-litert beside it'
            )
        try:
            return importlib.import_module(f"{module}.interpreter").Interpreter, package, version
        except ImportError as error:
            raise BundleError(f"{package} {version} cannot be imported ({error}): reinstall it") from error
    raise ENGINES["tflite"].missing()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(unknown version)"


def _specs(details: Mapping[str, Any], wanted: list[str]) -> tuple[TensorSpec, ...]:
    names = [name for name in wanted if name in details] + sorted(set(details) - set(wanted))
    return tuple(
        TensorSpec(
            name,
            np.dtype(details[name]["dtype"]).name,
            tuple(int(size) for size in details[name]["shape"]),
            (float(details[name]["quantization"][0]), int(details[name]["quantization"][1])),
        )
        for name in names
    )


def _check_scales(specs: tuple[TensorSpec, ...], boundary: Boundary, path: str) -> None:
    """Raise BundleError unless int8 tensors have the manifest's scales, which turn their numbers into values."""
    for spec in specs:
        wanted = boundary.get(spec.name)
        if spec.dtype != "int8" or wanted is None or spec.quantised is None:
            continue
        # The file stores float32.
        if (np.float32(spec.quantised[0]), spec.quantised[1]) != (np.float32(wanted[0]), wanted[1]):
            raise BundleError(
                f"{path}: {spec.name} has scale and zero point {spec.quantised}, but its manifest says {wanted}; "
                "export the bundle again"
            )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
