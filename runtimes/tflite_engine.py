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

from lcr_edge.contract import EDGE, FRAME, LOGITS, STATES_IN, STATES_OUT, Boundary, TensorSpec
from lcr_edge.errors import BundleError
from lcr_edge.runtimes.api import EngineOptions
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.engines import ENGINES
from lcr_edge.runtimes.feedback import EngineStream

# ai-edge-litert first: it is newer and, where both are installed, faster.
_PACKAGES = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))
_SIGNATURE = "serving_default"
Array = npt.NDArray[Any]


class TfliteEngine:
    """One interpreter. Tensors are found by the names of its signature, never by position.

    coarse_activations: sigmoid and tanh are off by up to 8e-6, as those of tflite-runtime for 32-bit ARM are: about the
    16 bits that one Newton step leaves of a reciprocal's estimate, where NEON has no division. Its promise for float32
    is wider (``lcr_edge.tolerances``).

    Raises MissingExtraError and BundleError (model too new for the interpreter, no such signature).
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        interpreter_class, package, version = find_interpreter()
        self.name = f"{package} {version}"
        # By pointers: a 32-bit system may run on a 64-bit kernel, whose name of the machine says nothing.
        self.coarse_activations = package == "tflite-runtime" and sys.maxsize < 2**32
        path = bundle.folder / bundle.model_files[0]
        try:
            interpreter = interpreter_class(model_path=str(path), num_threads=options.threads)
            # Here, not at the first step: if the interpreter cannot prepare an operator, it cannot load the model.
            interpreter.allocate_tensors()
            signatures = interpreter.get_signature_list()
            runner = interpreter.get_signature_runner(_SIGNATURE) if _SIGNATURE in signatures else None
        except Exception as error:
            raise BundleError(
                f"{self.name} cannot load {path}: {_first_line(error)}; the bundle was made with ai-edge-litert "
                f"{bundle.producer('ai-edge-litert')}: upgrade the interpreter, or export again"
            ) from error
        if runner is None:
            raise BundleError(f"{path} has no signature {_SIGNATURE!r}, only {sorted(signatures)}; export it again")
        given, made = runner.get_input_details(), runner.get_output_details()
        # A signature is a table by name and has no order: where names agree, the contract's order is used.
        self.inputs = _specs(given, [spec.name for spec in bundle.inputs])
        self.outputs = _specs(made, [spec.name for spec in bundle.outputs])
        _check_scales((*self.inputs, *self.outputs), bundle.boundary, str(path))
        # The runner would resize and allocate at every step, so tensors are set by their numbers, which are those of
        # the first graph. It has to go: beside it, the interpreter refuses to run.
        del runner
        first = (*interpreter.get_input_details(), *interpreter.get_output_details())
        named = (*given.values(), *made.values())
        if sorted((item["index"], item["name"]) for item in first) != sorted(
            (item["index"], item["name"]) for item in named
        ):
            raise BundleError(f"{path}: {_SIGNATURE!r} is not the signature of the first graph; export it again")
        self._interpreter = interpreter
        self._given = {name: int(details["index"]) for name, details in given.items()}
        self._made = {name: int(details["index"]) for name, details in made.items()}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One step; the interpreter copies in and out."""
        for name, array in feeds.items():
            self._interpreter.set_tensor(self._given[name], array)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._made.items()}

    def open_stream(self) -> EngineStream:
        """A stream whose states are copied into the interpreter, as those of all others, and out of it."""
        return _CopiedStream(self._interpreter, self._given, self._made)


class _CopiedStream:
    """All streams use the same tensors. Copies by set_tensor and get_tensor take less time than views of them."""

    inside = False

    def __init__(self, interpreter: Any, given: Mapping[str, int], made: Mapping[str, int]) -> None:
        self.compute = interpreter.invoke
        self._set, self._get = interpreter.set_tensor, interpreter.get_tensor
        self._frame, self._edge, self._logits = given[FRAME], given.get(EDGE), made[LOGITS]
        self._states_in = [given[name] for name in STATES_IN]
        self._states_out = [made[name] for name in STATES_OUT]
        self._states: tuple[Array, Array]

    def give(self, frame: Array, edge: Array | None) -> None:
        """See ``EngineStream``."""
        self._set(self._frame, frame[None])
        if edge is not None:
            self._set(self._edge, edge[None])
        for index, state in zip(self._states_in, self._states):
            self._set(index, state)

    def take(self) -> Array:
        """See ``EngineStream``."""
        h, c = (self._get(index) for index in self._states_out)
        self._states = (h, c)
        logits: Array = self._get(self._logits)
        return logits

    def read(self) -> tuple[Array, Array]:
        """See ``EngineStream``."""
        return self._states

    def write(self, h: Array, c: Array) -> None:
        """See ``EngineStream``."""
        self._states = (np.array(h, order="C"), np.array(c, order="C"))


def find_interpreter() -> tuple[Any, str, str]:
    """The interpreter's class, its package and version. Raises MissingExtraError and BundleError."""
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
