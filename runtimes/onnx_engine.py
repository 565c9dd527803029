"""ONNX bundles on onnxruntime."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.contract import TensorSpec
from lcr_edge.errors import BundleError, LcrError
from lcr_edge.runtimes import onnx_providers
from lcr_edge.runtimes.api import EngineOptions
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.engines import ENGINES
from lcr_edge.runtimes.feedback import EngineStream, KeptStates, TwoStates
from lcr_edge.runtimes.libraries import onnxruntime

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int8)": "int8", "tensor(uint8)": "uint8"}


class OnnxEngine:
    """One onnxruntime session. Raises MissingExtraError, BundleError (model too new), UsageError (providers).

    Of several providers the first one has to run at least one operator; ``name`` says how many.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        try:
            ort = onnxruntime()
        except ImportError as error:
            raise ENGINES["onnx"].missing() from error
        self.name = f"onnxruntime {ort.__version__}"
        names = options.providers or (onnx_providers.CPU,)
        onnx_providers.check_available(names, ort.get_available_providers())
        providers = onnx_providers.configured(names, bundle, ort.__version__)
        settings = session_settings(ort, options.threads)
        path = bundle.folder / bundle.model_files[0]
        first = names[0]
        with contextlib.ExitStack() as stack:
            if first != onnx_providers.CPU:
                stack.enter_context(onnx_providers.profiled(settings))
            try:
                # Without its fallback, which prints to stdout and goes on with the CPU.
                self._session = ort.InferenceSession(str(path), settings, providers=providers, enable_fallback=0)
                if first != onnx_providers.CPU:
                    onnx_providers.check_session(self._session.get_providers(), first)
                    nodes = onnx_providers.nodes_of(self._session, bundle.inputs)
                    self.name += f", {onnx_providers.check_nodes(nodes, first)}"
            except LcrError:
                raise
            except Exception as error:
                raise BundleError(self._message(error, path, first, bundle)) from error
        self._on_cpu = tuple(names) == (onnx_providers.CPU,)
        self.inputs = tuple(_spec(item) for item in self._session.get_inputs())
        self.outputs = tuple(_spec(item) for item in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]

    def _message(self, error: Exception, path: Path, provider: str, bundle: Bundle) -> str:
        what = f"{self.name} cannot load {path}"
        if provider != onnx_providers.CPU:
            return f"{what} on {onnx_providers.short(provider)}: {_first_line(error)}; try the CPU"
        return (
            f"{what}: {_first_line(error)}; the bundle was made with onnxruntime {bundle.producer('onnxruntime')}: "
            "upgrade this one, or export again"
        )

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """One step; onnxruntime reads the arrays in place and allocates new results."""
        results: list[npt.NDArray[Any]] = self._session.run(self._output_names, dict(feeds))
        return {name: np.asarray(array) for name, array in zip(self._output_names, results)}

    def open_stream(self) -> EngineStream:
        """A stream whose states stay in two pairs of buffers; with other providers than the CPU, in new arrays."""
        return _BoundStream(self._session, self.inputs, self.outputs) if self._on_cpu else KeptStates(self)


class _BoundStream(TwoStates):
    """Two bindings of the session, which differ in the states that they read and write."""

    def __init__(self, session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        super().__init__(inputs, outputs)
        self._run = session.run_with_iobinding
        self._bindings = []
        for arrays in self.arrays:
            binding = session.io_binding()
            for specs, bind in ((inputs, binding.bind_input), (outputs, binding.bind_output)):
                for spec in specs:
                    bind(spec.name, "cpu", 0, np.dtype(spec.dtype).type, spec.shape, arrays[spec.name].ctypes.data)
            self._bindings.append(binding)

    def compute(self) -> None:
        """See ``EngineStream``."""
        self._run(self._bindings[self.turn])


def session_settings(ort: Any, threads: int | None) -> Any:
    """How a session runs. threads: CPU threads per step, None for onnxruntime's own choice."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads or 0
    # A step is one chain of small operators: a second thread pool for parallel branches only costs time.
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 3
    # x86 processors without VNNI add two int8 products in 16 bits, which saturates. With this, onnxruntime takes
    # kernels there that do not; elsewhere it changes nothing.
    settings.add_session_config_entry("session.x64quantprecision", "1")
    return settings


def _spec(item: Any) -> TensorSpec:
    # A dynamic dimension is a name or None here; -1 differs from every static size and is refused.
    shape = tuple(size if isinstance(size, int) else -1 for size in item.shape)
    return TensorSpec(item.name, _DTYPES.get(item.type, item.type), shape)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
