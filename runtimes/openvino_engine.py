"""OpenVINO bundles, with the state at the boundary or inside the model."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.contract import EDGE, FRAME, LOGITS, STATE_DTYPES, STATE_NAMES, STATES_IN, STATES_OUT, TensorSpec
from lcr_edge.errors import BundleError
from lcr_edge.runtimes.api import EngineOptions
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.engines import ENGINES
from lcr_edge.runtimes.feedback import EngineStream, TwoStates, buffer
from lcr_edge.runtimes.libraries import openvino

Array = npt.NDArray[Any]
# OpenVINO's property; the bundle's runtime hint has the same name.
_GROUP_SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
# Whether the CPU device turns quantised products into int8 ones; without, it computes the same roundings in float.
LOW_PRECISION = "LP_TRANSFORMS_MODE"


@functools.cache
def core() -> Any:
    """The one ``openvino.Core`` of this process, which is never destroyed.

    The CPU plugin of a Core puts a signal stack of its own in place and frees it when it goes. Two that go in the order
    in which they came leave the process with a stack that is gone, and the next signal, Ctrl-C among them, is a crash.
    """
    return openvino().Core()


@functools.cache
def saturates() -> bool:
    """Whether OpenVINO's int8 products are wrong on this CPU, found by one whose result is known.

    x86 processors with AVX2 or AVX-512 but without VNNI add two products of a uint8 and an int8 in 16 bits, where large
    ones stop at 32767. Takes about 0.1 s, once in a process. Raises MissingExtraError.
    """
    try:
        ov, ops = openvino(), openvino("openvino.opset13")
    except ImportError as error:
        raise ENGINES["openvino"].missing() from error
    size, one, zero = 64, np.float32(1), np.float32(0)
    given = ops.parameter([1, size], np.float32)
    rounded = ops.fake_quantize(given, zero, one, zero, one, 256)
    stored = ops.convert(ops.constant(np.full((size, size), 127, np.int8)), np.float32)
    weights = ops.multiply(stored, np.float32(1 / 127))
    product = ov.Model([ops.matmul(rounded, weights, False, True)], [given], "saturates")
    compiled = core().compile_model(product, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    sums = np.asarray(compiled.create_infer_request().infer([np.ones((1, size), np.float32)])[0])
    return bool(np.abs(sums - size).max() > 0.01 * size)


class OpenVinoEngine:
    """One compiled model on the CPU device, one infer request for ``run``, and one or two for each stream.

    OpenVINO's default arithmetic on many CPUs is bf16 or f16, whose error compounds in a fed-back state, so the hint
    is always set. Where int8 products saturate (:func:`saturates`), an int8 bundle computes in float what int8 products
    should give: right, but slower. Raises MissingExtraError and BundleError (model too new, state variables that do not
    fit).
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        try:
            self._ov = openvino()
        except ImportError as error:
            raise ENGINES["openvino"].missing() from error
        self.name = f"openvino {str(self._ov.__version__).split('-')[0]}"
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": options.precision_hint,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = options.threads
        path = bundle.folder / bundle.model_files[0]
        properties.update(_dynamic_quantisation(bundle))
        try:
            if bundle.precision == "int8" and saturates():
                properties[LOW_PRECISION] = False
                self.name += ", int8 in float"
            compiled = core().compile_model(str(path), "CPU", properties)
            self._request = compiled.create_infer_request()
        except Exception as error:
            raise BundleError(
                f"{self.name} cannot load {path}: {_last_line(error)}; the bundle was made with openvino "
                f"{bundle.producer('openvino')}: upgrade this one, or export again"
            ) from error
        self.inputs = _specs(compiled.inputs, [spec.name for spec in bundle.inputs])
        self.outputs = _specs(compiled.outputs, [spec.name for spec in bundle.outputs])
        self._compiled = compiled
        self._variables: _Variables | None = None
        self._make_variables = functools.partial(
            _Variables, self._ov, str(path), bundle.config.state_shape, STATE_DTYPES[bundle.state_precision]
        )
        if bundle.state_mode == "internal":
            self._variables = self._make_variables(self._request)
        elif self._request.query_state():
            raise BundleError(f"{path} keeps a state inside, but its manifest says explicit; export the bundle again")
        self._given: dict[str, Array] = {}
        self._made: dict[str, Array] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One step from the states in ``feeds``."""
        if not self._given:  # not before the loader has compared shapes and dtypes with the contract
            # Bound once: to set tensors at every step and to make views of the results takes longer than to copy them.
            self._given = {spec.name: buffer(spec) for spec in self.inputs}
            self._made = {spec.name: buffer(spec) for spec in self.outputs}
            self._tensors = _bind(self._ov, self._request, self.inputs, self.outputs, {**self._given, **self._made})
        if self._variables is not None:
            self._variables.write(*(feeds[name] for name in STATES_IN))
        for name, array in self._given.items():
            np.copyto(array, feeds[name], casting="no")
        _infer(self._request)
        results = {name: array.copy() for name, array in self._made.items()}
        if self._variables is not None:
            results.update(zip(STATES_OUT, self._variables.read()))
        return results

    def open_stream(self) -> EngineStream:
        """A stream on requests of its own: two, for two pairs of states, or one if the model keeps the states."""
        requests = [self._compiled.create_infer_request() for _ in range(1 if self._variables else 2)]
        if self._variables is not None:
            variables = self._make_variables(requests[0])
            return _InsideStream(self._ov, requests[0], variables, self.inputs, self.outputs)
        return _SharedStream(self._ov, requests, self.inputs, self.outputs)


class _SharedStream(TwoStates):
    """Two requests, which differ in the states that they read and write."""

    def __init__(
        self, ov: Any, requests: list[Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        super().__init__(inputs, outputs)
        self._requests = requests
        self._tensors = [_bind(ov, request, inputs, outputs, arrays) for request, arrays in zip(requests, self.arrays)]

    def compute(self) -> None:
        """See ``EngineStream``."""
        _infer(self._requests[self.turn])


class _InsideStream:
    """One request of a model that keeps the states."""

    inside = True

    def __init__(
        self,
        ov: Any,
        request: Any,
        variables: _Variables,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self._arrays = {spec.name: buffer(spec) for spec in (*inputs, *outputs)}
        self._tensors = _bind(ov, request, inputs, outputs, self._arrays)
        self._request = request
        self.read, self.write = variables.read, variables.write

    def give(self, frame: Array, edge: Array | None) -> None:
        """See ``EngineStream``."""
        np.copyto(self._arrays[FRAME][0], frame)
        if edge is not None:
            np.copyto(self._arrays[EDGE][0], edge)

    def compute(self) -> None:
        """See ``EngineStream``."""
        _infer(self._request)

    def take(self) -> Array:
        """See ``EngineStream``."""
        return self._arrays[LOGITS].copy()


class _Variables:
    """The states inside a request. Raises BundleError if its variables are not h and c of this shape."""

    def __init__(self, ov: Any, path: str, shape: tuple[int, ...], dtype: str, request: Any) -> None:
        self._tensor, self._shape, self._dtype = ov.Tensor, shape, np.dtype(dtype)
        self._variables = _variables(request, path, shape)

    def read(self) -> tuple[Array, Array]:
        """Copies of h and c [L, N+1, C], in the dtype of the boundary."""
        h, c = (np.array(item.state.data, self._dtype).reshape(self._shape) for item in self._variables)
        return h, c

    def write(self, h: Array, c: Array) -> None:
        """Set h and c."""
        for variable, values in zip(self._variables, (h, c)):
            variable.state = self._tensor(np.asarray(values, variable.state.data.dtype))


def _bind(
    ov: Any, request: Any, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], arrays: Mapping[str, Array]
) -> list[Any]:
    """Let a request read and write these arrays in place, and return what has to live as long as it does."""
    tensors = []
    for specs, bind in ((inputs, request.set_input_tensor), (outputs, request.set_output_tensor)):
        for index, spec in enumerate(specs):
            tensors.append(ov.Tensor(arrays[spec.name], shared_memory=True))
            bind(index, tensors[-1])
    return tensors


def _infer(request: Any) -> None:
    # Not shared, the results would be copied to arrays that nobody reads.
    request.infer(share_inputs=True, share_outputs=True)


def _dynamic_quantisation(bundle: Bundle) -> dict[str, int]:
    """The property that says whether compressed weights multiply inputs in int8 (and how many share a scale) or float.

    Without it the CPU device chooses int8, so a weight-only bundle has to give 0.
    """
    hints = bundle.manifest.get("runtime_hints")
    size = hints.get(_GROUP_SIZE) if isinstance(hints, dict) else None
    if size is None:
        return {}
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise BundleError(
            f"bundle {bundle.folder}: {_GROUP_SIZE} must be 0 or a positive number of values, found {size!r}; "
            "export the bundle again"
        )
    return {_GROUP_SIZE: size}


def _specs(ports: Any, wanted: list[str]) -> tuple[TensorSpec, ...]:
    """The ports in the model's order. A port may carry several names; the contract's is preferred."""
    specs = []
    for port in ports:
        names = sorted(port.get_names())
        name = next((name for name in wanted if name in names), ", ".join(names) or "(no name)")
        shape = tuple(size.get_length() if size.is_static else -1 for size in port.get_partial_shape())
        specs.append(TensorSpec(name, np.dtype(port.get_element_type().to_dtype()).name, shape))
    return tuple(specs)


def _variables(request: Any, path: str, shape: tuple[int, ...]) -> list[Any]:
    """The state variables in contract order, found by the start of their names: state_h..., state_c..."""
    found = request.query_state()
    ordered = []
    for prefix in STATE_NAMES:
        matches = [variable for variable in found if variable.name.startswith(prefix)]
        if len(matches) != 1 or len(found) != len(STATE_NAMES) or tuple(matches[0].state.shape) != shape:
            have = ", ".join(f"{variable.name} {list(variable.state.shape)}" for variable in found) or "none"
            raise BundleError(
                f"{path}: state variables are {have}; expected one {prefix}... {list(shape)} for each of "
                f"{', '.join(STATE_NAMES)}, beside {LOGITS}; export the bundle again"
            )
        ordered.append(matches[0])
    return ordered


def _last_line(error: Exception) -> str:
    # OpenVINO's messages start with source positions; the cause comes last.
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
