"""Edges: OpenCV, numpy, torch and three engines agree pixel for pixel on real video and hard artificial frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge.edges import cv2_edges, host_edges, numpy_edges
from lcr_edge.edges.host import otsu_threshold
from lcr_edge.errors import FrameError, UsageError
from lcr_edge.runtimes.openvino_engine import core
from tests.clips import CLIPS, frames, real_clip

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from lcr_edge.edges.graph import EdgeGraph  # noqa: E402 - it needs torch

U8 = npt.NDArray[np.uint8]
SIZES = (64, 112, 224)
CROPS = 80  # of each size


def crops(size: int) -> list[U8]:
    """Random windows, and whole frames cropped to a square and scaled down, of all real clips; the same every time."""
    random = np.random.default_rng(size)
    found: list[U8] = []
    for name in CLIPS:
        images = [image for image in frames(real_clip(name), 40)[::4] if min(image.shape[:2]) >= size // 2]
        for number in range(CROPS // len(CLIPS)):
            image = images[number % len(images)]
            height, width = image.shape[:2]
            if number % 2 and min(height, width) >= size:
                top, left = random.integers(height - size + 1), random.integers(width - size + 1)
                found.append(np.ascontiguousarray(image[top : top + size, left : left + size]))
            else:
                side = min(height, width)
                top, left = (height - side) // 2, (width - side) // 2
                square = image[top : top + side, left : left + side]
                found.append(np.asarray(cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8))
    return found


def opencv(frame: U8) -> U8:
    """The definition, by OpenCV's own functions only."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    high, _ = cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    edges = cv2.Canny(gray, int(high) // 2, int(high), apertureSize=3, L2gradient=False)
    return np.asarray(edges > 0, dtype=np.uint8)


def artificial() -> dict[str, U8]:
    """Frames that real video rarely shows, uint8 [48, 64, 3] each (height and width differ)."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64]
    gray = {
        "black": np.zeros((48, 64)),
        "constant": np.full((48, 64), 137),
        "white": np.full((48, 64), 255),
        "two levels": np.where(columns < 20, 40, 200),
        "two levels, one pixel": np.where((rows == 11) & (columns == 30), 255, 0),
        "checkerboard": (rows + columns) % 2 * 255,
        "five levels": random.integers(0, 5, (48, 64)) * 60,
        "ramp": columns * 4,
        "faint noise": random.integers(100, 104, (48, 64)),
    }
    found = {name: np.repeat(image.astype(np.uint8)[:, :, None], 3, axis=2) for name, image in gray.items()}
    found["colour noise"] = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return found


def comb(size: int) -> U8:
    """A faint comb, bright at one tooth's end: its outline is one weak edge far longer than the frame's side."""
    image = np.full((size, size), 100, np.uint8)
    image[6:-6, 6:12] = 116
    for top in range(6, size - 12, 12):
        image[top : top + 6, 6:-6] = 116
    image[6:9, -10:-6] = 255
    return np.repeat(image[:, :, None], 3, axis=2)


def by_torch(images: list[U8]) -> list[U8]:
    edges = EdgeGraph()(torch.from_numpy(np.stack(images)))
    assert edges.dtype == torch.float32
    assert set(edges.unique().tolist()) <= {0.0, 1.0}
    return list(edges.numpy().astype(np.uint8))


@pytest.mark.parametrize("size", [*SIZES[:-1], pytest.param(SIZES[-1], marks=pytest.mark.slow)])
def test_all_forms_equal_opencv_on_real_frames(size: int) -> None:
    images = crops(size)
    assert len(images) == CROPS
    assert len({image.tobytes() for image in images}) > CROPS // 2
    expected = [opencv(image) for image in images]
    assert 0.01 < float(np.mean(expected)) < 0.5
    for form, results in (
        ("cv2", [cv2_edges(image) for image in images]),
        ("numpy", [numpy_edges(image) for image in images]),
        ("torch", by_torch(images)),
    ):
        wrong = [
            i for i, (a, b) in enumerate(zip(results, expected)) if a.dtype != np.uint8 or not np.array_equal(a, b)
        ]
        assert not wrong, f"{form} differs from OpenCV on {len(wrong)} of {CROPS} crops, the first is {wrong[0]}"


@pytest.mark.parametrize("name", sorted(artificial()))
def test_all_forms_equal_opencv_on_artificial_frames(name: str) -> None:
    image = artificial()[name]
    expected = opencv(image)
    assert np.array_equal(cv2_edges(image), expected)
    assert np.array_equal(numpy_edges(image), expected)
    assert np.array_equal(by_torch([image])[0], expected)
    if name in ("black", "constant", "white"):
        assert not expected.any()
    if name == "two levels":
        assert expected.any()


def test_long_weak_edge_is_followed_to_its_end() -> None:
    image = comb(96)
    expected = opencv(image)
    assert expected.sum() > 8 * 96
    assert np.array_equal(numpy_edges(image), expected)
    assert np.array_equal(by_torch([image])[0], expected)


def test_a_batch_equals_its_frames() -> None:
    images = [*crops(64)[:20], np.full((64, 64, 3), 9, np.uint8)]
    for one, expected in zip((by_torch([image])[0] for image in images), by_torch(images)):
        assert np.array_equal(one, expected)


def test_otsu_threshold_is_the_first_of_tied_levels() -> None:
    counts = np.zeros(256, np.int64)
    counts[[50, 200]] = 7
    assert otsu_threshold(counts) == 50
    assert otsu_threshold(np.eye(256, dtype=np.int64)[77]) == 0


def test_otsu_threshold_is_the_exact_maximum() -> None:
    from fractions import Fraction

    random = np.random.default_rng(1)
    for _ in range(10):
        counts = [int(c) for c in random.poisson(random.gamma(0.3, 200, 256))]
        n, s = sum(counts), sum(i * c for i, c in enumerate(counts))
        best, best_value, n1, s1 = 0, Fraction(0), 0, 0
        for level, count in enumerate(counts):
            n1, s1 = n1 + count, s1 + level * count
            value = Fraction((n * s1 - n1 * s) ** 2, n1 * (n - n1)) if 0 < n1 < n else Fraction(0)
            if value > best_value:
                best, best_value = level, value
        assert otsu_threshold(np.array(counts)) == best


def test_host_edges_works_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    image = crops(64)[0]
    monkeypatch.setattr("lcr_edge.edges.host._cv2_installed", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    assert np.array_equal(host_edges(image), opencv(image))


def test_host_edges_accepts_a_view() -> None:
    image = crops(64)[1][:, ::-1]
    assert not image.flags.c_contiguous
    assert np.array_equal(cv2_edges(image), numpy_edges(image))


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
    ids=["float", "gray", "colour first", "alpha", "empty", "list"],
)
@pytest.mark.parametrize("form", [host_edges, cv2_edges, numpy_edges])
def test_bad_frames_are_refused(form: Callable[[Any], U8], frame: Any) -> None:
    with pytest.raises(FrameError, match="frame must"):
        form(frame)


def test_bad_graph_input_is_refused() -> None:
    for bad in (torch.zeros(1, 8, 8, 3), torch.zeros(8, 8, 3, dtype=torch.uint8)):
        with pytest.raises(FrameError, match="uint8"):
            EdgeGraph()(bad)
    with pytest.raises(FrameError, match="scale it down"):
        EdgeGraph()(torch.zeros(1, 400, 400, 3, dtype=torch.uint8))
    with pytest.raises(UsageError, match="at least 1"):
        EdgeGraph(0)


def small_crops() -> list[U8]:
    """Frames for exported graphs, uint8 [32, 48, 3]: small, because a graph grows with the frame's longer side."""
    return [image[:32] for image in crops(48)]


def onnx_file(folder: Path, steps: int | None) -> Path:
    pytest.importorskip("onnxscript")
    path = folder / "edges.onnx"
    frame = torch.zeros(1, 32, 48, 3, dtype=torch.uint8)
    torch.onnx.export(
        EdgeGraph(steps).eval(),
        (),
        kwargs={"frame": frame},
        f=str(path),
        dynamo=True,
        external_data=False,
        input_names=["frame"],
        output_names=["edge"],
        opset_version=18,
        verbose=False,
    )
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_file(tmp_path_factory.mktemp("edges"), None)


def onnxruntime_step(path: Path) -> Callable[[U8], Any]:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    return lambda frame: session.run(None, {"frame": frame[None]})[0][0]


def openvino_step(path: Path) -> Callable[[U8], Any]:
    pytest.importorskip("openvino")
    model = core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda frame: np.array(model({"frame": frame[None]})[0])[0]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [onnxruntime_step, openvino_step])
def test_exported_onnx_equals_opencv(exported: Path, engine: Callable[[Path], Callable[[U8], Any]]) -> None:
    step = engine(exported)
    for image in small_crops():
        assert np.array_equal(step(image), opencv(image))


@pytest.mark.slow
def test_exported_steps_limit_the_reach(tmp_path: Path) -> None:
    step = onnxruntime_step(onnx_file(tmp_path, 1))
    found, expected = (np.stack([f(image) for image in small_crops()]) for f in (step, opencv))
    assert found.sum() < expected.sum()
    assert not np.any((found == 1) & (expected == 0))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the converter's own imports warn
def test_exported_tflite_equals_opencv(tmp_path: Path) -> None:
    litert_torch = pytest.importorskip("litert_torch")
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    path = tmp_path / "edges.tflite"
    frame = torch.zeros(1, 32, 48, 3, dtype=torch.uint8)
    litert_torch.convert(EdgeGraph().eval(), sample_kwargs={"frame": frame}).export(str(path))
    runner = interpreter_module.Interpreter(str(path)).get_signature_runner()
    for image in small_crops():
        (edges,) = runner(frame=image[None]).values()
        assert np.array_equal(edges[0], opencv(image))
