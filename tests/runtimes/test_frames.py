"""letterbox and center_crop, with OpenCV and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge import frames
from lcr_edge.errors import FrameError, UsageError
from lcr_edge.frames import FITS, center_crop, letterbox

SIZES = [(480, 640), (640, 480), (100, 100), (33, 257), (40, 40), (13, 9), (1, 1), (1, 500)]


def picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(3).integers(1, 256, (height, width, 3), np.uint8)


@pytest.fixture(params=["opencv", "numpy"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "opencv":
        pytest.importorskip("cv2")
    else:
        monkeypatch.setattr(frames, "_opencv", lambda: None)
    return str(request.param)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", sorted(FITS))
def test_any_size_fits(backend: str, fit: str, size: tuple[int, int]) -> None:
    source = picture(*size)
    before = source.copy()
    for height, width in ((112, 112), (32, 48), (5, 3)):
        out = FITS[fit](source, height, width)
        assert out.shape == (height, width, 3), backend
        assert out.dtype == np.uint8
        assert out.flags.c_contiguous
        assert not np.shares_memory(out, source)
    assert np.array_equal(source, before)


def test_letterbox_keeps_the_aspect_and_centres(backend: str) -> None:
    out = letterbox(np.full((480, 640, 3), 200, np.uint8), 112, 112)
    rows, columns = np.flatnonzero(out.any(axis=(1, 2))), np.flatnonzero(out.any(axis=(0, 2)))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (14, 97, 0, 111), backend
    assert (out[14:98] == 200).all()
    assert not out[:14].any()
    assert not out[98:].any()
    odd = letterbox(np.full((2, 4, 3), 9, np.uint8), 5, 4)
    assert np.array_equal(np.flatnonzero(odd.any(axis=(1, 2))), [1, 2])


def test_center_crop_cuts_the_edges_off(backend: str) -> None:
    source = np.zeros((100, 300, 3), np.uint8)
    source[:, 100:200] = (10, 20, 30)
    out = center_crop(source, 50, 50)
    assert (out == np.array([10, 20, 30], np.uint8)).all(), backend
    assert not center_crop(source[:, :100], 50, 50).any()


def test_the_right_size_is_left_alone(backend: str) -> None:
    source = picture(112, 112)
    for fit in FITS.values():
        assert np.array_equal(fit(source, 112, 112), source), backend


def test_shrinking_averages_areas(backend: str) -> None:
    source = picture(64, 96)
    expected = source.reshape(32, 2, 48, 2, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(letterbox(source, 32, 48) - expected).max() <= 0.5, backend


@pytest.mark.parametrize("size", SIZES)
def test_numpy_equals_opencv_within_one_level(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    pytest.importorskip("cv2")
    source = picture(*size)
    shapes = ((112, 112), (224, 224), (32, 48))
    fast = [fit(source, *shape).astype(int) for fit in FITS.values() for shape in shapes]
    monkeypatch.setattr(frames, "_opencv", lambda: None)
    plain = [fit(source, *shape).astype(int) for fit in FITS.values() for shape in shapes]
    for ours, theirs in zip(plain, fast):
        assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("fit", sorted(FITS))
@pytest.mark.parametrize(
    ("frame", "hint"),
    [
        (np.zeros((4, 4), np.uint8), r"\[height, width, 3\]"),
        (np.zeros((3, 4, 4), np.uint8), "channels last"),
        (np.zeros((4, 4, 4), np.uint8), "keep three"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        ([[1]], "asarray"),
    ],
)
def test_frames_that_cannot_be_fitted(fit: str, frame: Any, hint: str) -> None:
    with pytest.raises(FrameError, match=hint):
        FITS[fit](frame, 8, 8)


@pytest.mark.parametrize("fit", sorted(FITS))
def test_sizes_that_are_none(fit: str) -> None:
    bad: list[Any] = [0, -4, 3.5, "8", None]
    for size in bad:
        with pytest.raises(UsageError, match="width"):
            FITS[fit](picture(4, 4), 8, size)
    numpy_int: Any = np.int64(8)
    assert FITS[fit](picture(4, 4), 8, numpy_int).shape == (8, 8, 3)
