"""Camera images that C fits to the frame are those of Python with OpenCV, byte for byte."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcr_edge import frames
from lcr_edge.export.targets.c_convert import weights_of
from lcr_edge.frames import FITS
from lcr_edge.model.step_cell import StepCell
from lcr_edge.runtimes import load
from tests.c.image_library import (
    ARGUMENT,
    BGR,
    FILL,
    GRAY8,
    NV12,
    OK,
    RGB,
    U8,
    YUYV,
    Image,
    address,
    fit,
    guarded,
    image,
    library,
    unguarded,
)
from tests.clips import CLIPS, real_clip
from tests.clips import frames as clip_frames
from tests.export import made
from tests.fuzz.damage import bounded

cv2: Any = pytest.importorskip("cv2")

MODES = {"letterbox": False, "crop": True}
MOST_SIDE = 8192


def padded(rows: U8, extra: int) -> U8:
    """uint8 [rows, bytes] with ``extra`` bytes behind each row."""
    whole = np.full((rows.shape[0], rows.shape[1] + extra), FILL, np.uint8)
    whole[:, : rows.shape[1]] = rows
    return whole


def fit_rgb(picture: U8, height: int, width: int, crop: bool, extra: int = 0) -> U8:
    plane = padded(picture.reshape(picture.shape[0], -1), extra)
    return fit(image([plane], picture.shape[1], picture.shape[0], RGB), height, width, crop)


def check(picture: U8, height: int, width: int, extra: int = 0) -> None:
    for name, crop in MODES.items():
        expected = FITS[name](picture, height, width)
        got = fit_rgb(picture, height, width, crop, extra)
        assert np.array_equal(got, expected), (picture.shape, height, width, name)


def noise(rng: np.random.Generator, height: int, width: int) -> U8:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def nv12(rng: np.random.Generator, height: int, width: int) -> U8:
    """Both planes below each other, as OpenCV takes them: [height * 3 / 2, width]."""
    return rng.integers(0, 256, (height * 3 // 2, width), dtype=np.uint8)


@pytest.mark.parametrize("clip", CLIPS)
def test_real_video(clip: str) -> None:
    for picture in clip_frames(real_clip(clip), 2):
        for height, width in ((112, 112), (224, 224), (96, 160), (600, 800)):
            check(picture, height, width)


# Into 24 x 36: the same size, halves, whole factors, odd ratios, larger, only one side, single rows and columns.
SIZES = [
    *[(24, 36), (48, 72), (72, 108), (24, 72), (48, 36), (96, 36), (24, 180), (120, 72), (144, 252)],
    *[(25, 37), (31, 97), (100, 101), (47, 71), (240, 320), (23, 35), (12, 18), (7, 5), (12, 72), (48, 18)],
    *[(24, 35), (23, 36), (24, 37), (1, 1), (1, 36), (24, 1), (1, 500), (500, 1), (2, 3), (3, 2), (49, 98)],
]


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: tuple[int, int], rng: np.random.Generator) -> None:
    for extra in (0, 1, 13):
        check(noise(rng, *size), 24, 36, extra)
    black_and_white = rng.choice(np.asarray([0, 255], np.uint8), (*size, 3))
    check(black_and_white, 24, 36)
    check(np.full((*size, 3), 255, np.uint8), 24, 36)


@pytest.mark.parametrize("factor", [2, 3, 4, 6, 8, 98, 186])
def test_halves_are_rounded_as_opencv_does(factor: int, rng: np.random.Generator) -> None:
    """Blocks of few levels, whose means are often a half. 98 and 186 are no whole numbers after two divisions."""
    count = min(200, MOST_SIDE // factor)
    for levels in ((0, 1), (254, 255), (7, 8, 9)):
        values = np.asarray(levels, np.uint8)
        check(rng.choice(values, (factor, count * factor, 3)), 1, count)
        check(rng.choice(values, (1, count * factor, 3)), 1, count)
        check(rng.choice(values, (count * factor, 1, 3)), count, 1)


@pytest.mark.parametrize(("long", "shorter"), [(1201, 1200), (4501, 3000), (8192, 8191), (7501, 3000)])
def test_less_than_a_thousandth_of_a_pixel_does_not_count(long: int, shorter: int, rng: np.random.Generator) -> None:
    for _ in range(4):
        check(noise(rng, long, 3), shorter, 3)
        check(noise(rng, 3, long), 3, shorter)


def test_white_that_thin_rests_darken() -> None:
    """What does not count is missing: where it is missing along both sides, OpenCV makes 254 of 255."""
    white = np.full((2002, 2002, 3), 255, np.uint8)
    check(white, 2001, 2001)
    assert fit_rgb(white, 2001, 2001, crop=False).min() == 254


@bounded
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    frame=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    extra=st.integers(0, 5),
)
def test_any_size_into_any_other(seed: int, size: tuple[int, int], frame: tuple[int, int], extra: int) -> None:
    check(noise(np.random.default_rng(seed), *size), *frame, extra)


@bounded
@given(
    seed=st.integers(0, 2**32 - 1),
    frame=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    factors=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_any_whole_factor(seed: int, frame: tuple[int, int], factors: tuple[int, int]) -> None:
    check(noise(np.random.default_rng(seed), frame[0] * factors[0], frame[1] * factors[1]), *frame)


def test_thousands_of_sizes(rng: np.random.Generator) -> None:
    for _ in range(2500):
        height, width = (int(side) for side in rng.integers(1, 240, 2))
        check(noise(rng, int(rng.integers(1, 400)), int(rng.integers(1, 400))), height, width)


@pytest.mark.parametrize("mode", MODES)
def test_the_other_orders_and_gray(mode: str, rng: np.random.Generator) -> None:
    for height, width in ((60, 90), (13, 17), (24, 36)):
        picture = noise(rng, height, width)
        expected = FITS[mode](np.ascontiguousarray(picture[..., ::-1]), 24, 36)
        plane = padded(picture.reshape(height, -1), 5)
        assert np.array_equal(fit(image([plane], width, height, BGR), 24, 36, MODES[mode]), expected)
        gray = picture[..., 0]
        expected = FITS[mode](np.repeat(gray[..., None], 3, axis=2), 24, 36)
        plane = padded(gray, 3)
        assert np.array_equal(fit(image([plane], width, height, GRAY8), 24, 36, MODES[mode]), expected)


# Also such whose centre begins at an odd column or row, and of which a crop takes an odd number of them.
YUV_SIZES = [(24, 36), (48, 72), (2, 2), (2, 58), (58, 2), (40, 110), (110, 40), (26, 96), (96, 26), (14, 22)]


@pytest.mark.parametrize("size", YUV_SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_yuv(mode: str, size: tuple[int, int], rng: np.random.Generator) -> None:
    height, width = size
    for extra in (0, 7):
        both = nv12(rng, height, width)
        expected = FITS[mode](np.asarray(cv2.cvtColor(both, cv2.COLOR_YUV2RGB_NV12), np.uint8), 24, 36)
        planes = [padded(both[:height], extra), padded(both[height:], extra + 2)]
        assert np.array_equal(fit(image(planes, width, height, NV12), 24, 36, MODES[mode]), expected)
        packed = rng.integers(0, 256, (height, width, 2), dtype=np.uint8)
        expected = FITS[mode](np.asarray(cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_YUY2), np.uint8), 24, 36)
        plane = padded(packed.reshape(height, -1), extra)
        assert np.array_equal(fit(image([plane], width, height, YUYV), 24, 36, MODES[mode]), expected)


def test_every_colour_of_yuv() -> None:
    """All 2^24 of them, 256 U x 256 luma for each V."""
    luma = np.arange(256, dtype=np.uint8).reshape(1, 64, 2, 2).repeat(256, axis=0).transpose(0, 2, 1, 3)
    luma = np.ascontiguousarray(luma.reshape(512, 128))
    for v in range(256):
        chroma = np.full((256, 128), v, np.uint8)
        chroma[:, ::2] = np.arange(256, dtype=np.uint8)[:, None]
        expected = cv2.cvtColor(np.concatenate([luma, chroma]), cv2.COLOR_YUV2RGB_NV12)
        got = fit(image([luma, chroma], 128, 512, NV12), 512, 128, crop=False)
        assert np.array_equal(got, expected), v
        packed = np.stack([luma, chroma.repeat(2, axis=0)], axis=-1).reshape(512, 256)
        got = fit(image([packed], 128, 512, YUYV), 512, 128, crop=False)
        assert np.array_equal(got, expected), v


def test_an_odd_height_of_yuyv(rng: np.random.Generator) -> None:
    packed = rng.integers(0, 256, (13, 36, 2), dtype=np.uint8)
    expected = FITS["letterbox"](np.asarray(cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_YUY2), np.uint8), 24, 36)
    assert np.array_equal(fit(image([packed.reshape(13, -1)], 36, 13, YUYV), 24, 36, crop=False), expected)


def test_the_largest_images() -> None:
    plane = np.full((MOST_SIDE, MOST_SIDE), 255, np.uint8)
    given = image([plane], MOST_SIDE, MOST_SIDE, GRAY8)
    assert np.all(fit(given, 1, 1, crop=False) == 255)
    plane[: MOST_SIDE // 2] = 1
    assert np.all(fit(given, 1, 1, crop=False) == 128)


def test_without_opencv_it_is_within_one_level(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_opencv", lambda: None)
    for height, width in ((60, 90), (13, 17), (100, 7), (48, 72)):
        picture = noise(rng, height, width)
        for name, crop in MODES.items():
            expected = FITS[name](picture, 24, 36).astype(int)
            assert np.abs(fit_rgb(picture, 24, 36, crop) - expected).max() <= 1


PLANE = np.zeros((64, 512), np.uint8)


def good(form: int) -> Image:
    """An image that can be fitted, 64 x 32."""
    return image([PLANE, PLANE], 64, 32, form)


def status(given: Image | None, height: int = 8, width: int = 8, *, scratch: bool = True, frame: bool = True) -> int:
    """Of lcr_fit_image; where it is not LCR_OK, nothing may have been written."""
    out, memory = guarded(8 * 8 * 3), guarded(1 << 14)
    pointer = None if given is None else ctypes.byref(given)
    places = address(out) if frame else None, address(memory) if scratch else None
    result = int(library().lcr_fit_image(pointer, height, width, 0, *places))
    if result != OK:
        assert np.all(out == FILL)
        assert np.all(memory == FILL)
    return result


def test_what_is_missing() -> None:
    assert status(good(RGB)) == OK
    assert status(None) == ARGUMENT
    assert status(good(RGB), scratch=False) == ARGUMENT
    assert status(good(RGB), frame=False) == ARGUMENT
    assert library().lcr_fit_scratch(None, 8, 8, 0) == 0
    for form in (RGB, BGR, GRAY8, NV12, YUYV):
        given = good(form)
        given.planes[1] = None
        assert status(given) == (ARGUMENT if form == NV12 else OK)
        given.planes[0] = None
        assert status(given) == ARGUMENT


@pytest.mark.parametrize("side", [0, -1, -(2**31), MOST_SIDE + 1, 2**31 - 1])
def test_sides_out_of_range(side: int) -> None:
    for name in ("width", "height"):
        given = good(GRAY8)
        given.strides[0] = 2**40
        setattr(given, name, side)
        assert status(given) == ARGUMENT
        assert library().lcr_fit_scratch(ctypes.byref(given), 8, 8, 0) == 0
    for sizes in ((8, side), (side, 8)):
        assert status(good(RGB), *sizes) == ARGUMENT
        assert library().lcr_fit_scratch(ctypes.byref(good(RGB)), *sizes, 0) == 0


@pytest.mark.parametrize(("form", "row"), [(RGB, 192), (BGR, 192), (GRAY8, 64), (NV12, 64), (YUYV, 128)])
def test_strides_shorter_than_a_row(form: int, row: int) -> None:
    for plane in (0, 1) if form == NV12 else (0,):
        given = good(form)
        given.strides[plane] = row
        assert status(given) == OK
        given.strides[plane] = row - 1
        assert status(given) == ARGUMENT
        assert library().lcr_fit_scratch(ctypes.byref(given), 8, 8, 0) == 0


def test_odd_sides_and_unknown_formats() -> None:
    for form, name, expected in (
        (NV12, "width", ARGUMENT),
        (NV12, "height", ARGUMENT),
        (YUYV, "width", ARGUMENT),
        (YUYV, "height", OK),
        (RGB, "width", OK),
        (GRAY8, "height", OK),
    ):
        given = good(form)
        setattr(given, name, 31)
        assert status(given) == expected, (form, name)
    for form in (-1, 5, 99):
        assert status(good(form)) == ARGUMENT


@pytest.mark.parametrize("mode", MODES)
def test_the_fit_of_a_model(mode: str, c: Any, weights: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """lcr_fit knows the model's size and fit, and refuses what lcr_fit_image refuses."""
    python, checkpoint = load(weights.parent), made.checkpoint("lcr_pico")
    (tmp_path / "model.bin").write_bytes(weights_of(StepCell(checkpoint.model), checkpoint.labels, mode))
    model, size = ctypes.c_void_p(), c.lcr_fit_size
    size.restype = ctypes.c_size_t
    assert c.lcr_open(str(tmp_path / "model.bin").encode(), None, ctypes.byref(model)) == OK
    assert c.lcr_about(model).fit == int(MODES[mode])
    height, width = python.manifest["config"]["height"], python.manifest["config"]["width"]
    for shape in ((120, 160), (48, 64), (63, 41)):
        picture = noise(rng, *shape)
        given = image([picture.reshape(shape[0], -1)], shape[1], shape[0], RGB)
        scratch, frame = guarded(size(model, ctypes.byref(given))), guarded(height * width * 3)
        assert c.lcr_fit(model, ctypes.byref(given), address(frame), address(scratch)) == OK
        unguarded(scratch)
        found = unguarded(frame).reshape(height, width, 3)
        assert np.array_equal(found, FITS[mode](picture, height, width))
        assert np.array_equal(found, python.fit(picture)) or mode != "letterbox"
    before = frame.copy()
    wrong = image([picture.reshape(shape[0], -1)], shape[1], 0, RGB)
    assert size(model, ctypes.byref(wrong)) == size(None, ctypes.byref(given)) == size(model, None) == 0
    for arguments in (
        (None, ctypes.byref(given), address(frame), address(scratch)),
        (model, ctypes.byref(wrong), address(frame), address(scratch)),
        (model, None, address(frame), address(scratch)),
        (model, ctypes.byref(given), None, address(scratch)),
        (model, ctypes.byref(given), address(frame), None),
    ):
        assert c.lcr_fit(*arguments) == ARGUMENT
    assert np.array_equal(frame, before)
    c.lcr_close(model)
