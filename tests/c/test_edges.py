"""The edges that C finds are those of the host, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcr_edge.edges.host import numpy_edges
from tests.c.image_library import U8, find_edges, library
from tests.clips import CLIPS, frames, real_clip
from tests.fuzz.damage import bounded

MOST_SIDE = 8192


def same(frame: U8) -> bool:
    return np.array_equal(find_edges(frame), numpy_edges(frame))


def gray(levels: object) -> U8:
    """uint8 [H, W, 3] of levels [H, W]."""
    return np.repeat(np.asarray(levels, np.uint8)[..., None], 3, axis=2)


def labyrinth(size: int, light: int) -> U8:
    """One long path of faint edges, strong at its start only, so that one pixel makes all the others edges."""
    levels = np.full((size, size), 40)
    for number, row in enumerate(range(2, size - 6, 8)):
        levels[row : row + 4, 2 : size - 2] = light
        column = size - 6 if number % 2 == 0 else 2
        levels[row : row + 12, column : column + 4] = light
    levels[:6, :6] = 255
    return gray(levels)


@pytest.mark.parametrize("clip", CLIPS)
def test_real_video(clip: str) -> None:
    cv2 = pytest.importorskip("cv2")
    for number, picture in enumerate(frames(real_clip(clip), 24)[::6]):
        side = (112, 224, 64, 96)[number % 4]
        frame = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        assert same(frame), side
        assert same(picture[:145, :203])
        assert 0.01 < find_edges(frame).mean() < 0.5


@bounded
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    levels=st.sampled_from([[0, 255], [0, 1], [10, 11, 12], [0, 1, 40, 255], list(range(256))]),
    coarse=st.integers(1, 6),
)
def test_random_frames(height: int, width: int, seed: int, levels: list[int], coarse: int) -> None:
    """Few levels make ties of the threshold and of magnitudes; blocks of pixels make edges of every direction."""
    random = np.random.default_rng(seed)
    small = random.choice(np.asarray(levels, np.uint8), (height // coarse + 1, width // coarse + 1, 3))
    frame = small.repeat(coarse, axis=0).repeat(coarse, axis=1)[:height, :width]
    assert same(frame)


@pytest.mark.parametrize("coarse", [1, 3, 7])
def test_many_random_frames(coarse: int, rng: np.random.Generator) -> None:
    for _ in range(60):
        small = rng.integers(0, 256, (112 // coarse + 1, 112 // coarse + 1, 3), dtype=np.uint8)
        assert same(small.repeat(coarse, axis=0).repeat(coarse, axis=1)[:112, :112])


def test_flat_frames() -> None:
    for level in (0, 1, 128, 255):
        frame = gray(np.full((9, 17), level))
        assert same(frame)
        assert not find_edges(frame).any()


def test_a_gap_in_the_histogram_makes_levels_tie() -> None:
    for low, high in ((0, 255), (0, 2), (100, 200), (254, 255)):
        levels = np.full((24, 24), low)
        levels[8:16, 8:16] = high
        assert same(gray(levels)), (low, high)
        levels[::2] = low
        assert same(gray(levels)), (low, high)


def test_magnitudes_that_tie() -> None:
    """A ramp, a ridge two pixels wide and stripes in eight directions: neighbours are equal, and the rules decide."""
    rows, columns = np.mgrid[:48, :40]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1)):
        along = down * rows + across * columns
        for levels in (along % 5 * 50, (along // 2 % 2) * 200, np.abs(along) * 4 % 256, (along > 20) * 255):
            assert same(gray(levels)), (down, across)


def test_every_direction_at_every_strength() -> None:
    """Planes whose derivatives are all pairs near the bounds between directions."""
    rows, columns = np.mgrid[:6, :6]
    for down in range(-24, 25, 3):
        for across in range(-24, 25, 2):
            plane = 128 + down * (rows - 3) + across * (columns - 3)
            assert same(gray(np.clip(plane, 0, 255))), (down, across)


@pytest.mark.parametrize("size", [48, 120])
def test_one_strong_pixel_reaches_all_of_a_long_path(size: int) -> None:
    faint = sum(find_edges(labyrinth(size, light)).mean() > 0.1 for light in range(60, 200, 10))
    assert faint > 0
    assert all(same(labyrinth(size, light)) for light in range(60, 200, 10))


def test_small_and_thin_frames(rng: np.random.Generator) -> None:
    sizes = [(height, width) for height in range(1, 8) for width in range(1, 8)]
    for size in (*sizes, (1, 50), (50, 1), (5, 33), (8, 250)):
        for levels in (256, 2):
            for _ in range(6):
                assert same(rng.integers(0, levels, (*size, 3), dtype=np.uint8)), size


def test_scratch_memory_of_sizes_out_of_range() -> None:
    scratch = library().lcr_edges_scratch
    for height, width in ((0, 5), (5, 0), (-1, 5), (5, -(2**31)), (MOST_SIDE + 1, 5), (5, 2**31 - 1)):
        assert scratch(height, width) == 0
    assert scratch(MOST_SIDE, MOST_SIDE) > 4 * MOST_SIDE**2
