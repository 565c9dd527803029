"""What stands behind rendered people: films, photos and noise, in some clips of the train split."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered import backdrop
from lcr_edge.data.rendered.backdrop import Backdrops
from lcr_edge.data.rendered.clips import render_clip
from lcr_edge.data.sets import open_set
from lcr_edge.errors import UsageError, VideoError
from lcr_edge.frames import letterbox
from tests.clips import frames, real_clip

BIKES = real_clip("bikes.mp4")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "street.png"
    cv2.imwrite(str(path), cv2.cvtColor(frames(BIKES, 1)[0], cv2.COLOR_RGB2BGR))
    return path


def test_the_same_seed_stands_before_the_same_film_in_every_process(photo: Path) -> None:
    backdrops = Backdrops((BIKES, photo))
    again = pickle.loads(pickle.dumps(backdrops))
    assert again.digest == backdrops.digest != Backdrops((photo,)).digest
    for seed in range(6):
        one, two = (render_clip(5, seed, size=32, frames=4, backdrops=found) for found in (backdrops, again))
        np.testing.assert_array_equal(one, two)


def test_some_clips_keep_their_room_and_the_others_differ_from_it_behind_the_person(photo: Path) -> None:
    backdrops = Backdrops((BIKES, photo))
    kept = 0
    for seed in range(24):
        plain, other = (render_clip(20, seed, size=32, frames=4, backdrops=found) for found in (None, backdrops))
        if np.array_equal(plain, other):
            kept += 1
            continue
        # The upper corners show what is behind, the middle of the lower edge shows the person's clothes.
        behind = np.abs(plain[:, :8].astype(int) - other[:, :8])
        corners = [behind[:, :, :8].mean(), behind[:, :, 24:].mean()]
        chest = np.abs(plain[:, 28:, 13:19].astype(int) - other[:, 28:, 13:19]).mean()
        assert max(corners) > chest
    assert 6 <= kept <= 18


def test_a_film_moves_and_a_photo_is_panned_over(photo: Path) -> None:
    for path in (BIKES, photo):
        backdrops = Backdrops((path,))
        found = [backdrops.choose(np.random.default_rng(seed), 48) for seed in range(20)]
        assert not any(one.empty or one.inside is not None for one in found if one is not None)
        plays = [one.play for one in found if one is not None]
        assert 0 < len(plays) < 20
        for behind in plays:
            assert behind(0.0).shape == (48, 48, 3)
            assert behind(0.0).dtype == np.uint8
            np.testing.assert_array_equal(behind(0.5), behind(0.5))
        assert sum(not np.array_equal(behind(0.0), behind(1.0)) for behind in plays) > len(plays) / 2


def test_a_film_plays_as_often_as_all_photos(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[bool] = []
    whole = backdrop._play

    def play(film: NDArray[np.uint8], rate: float, *rest: Any) -> backdrop.Backdrop:
        played.append(rate > 0)
        return whole(film, rate, *rest)

    monkeypatch.setattr(backdrop, "_play", play)
    backdrops = Backdrops((BIKES, photo, photo, photo))
    for seed in range(300):
        backdrops.choose(np.random.default_rng(seed), 8)
    assert 80 < len(played) < 130  # a drawn room or noise stands behind the others
    assert 0.4 < np.mean(played) < 0.6


def test_no_gesture_may_show_nobody(photo: Path) -> None:
    """Neither a person nor a hand: the scene alone differs from the person in a room at the chest, too."""
    backdrops, nobody = Backdrops((photo,)), JESTER.index("No gesture")
    for may, least, most in ((True, 35, 70), (False, 0, 0)):
        found = [backdrops.choose(np.random.default_rng(seed), 32, may) for seed in range(100)]
        assert least <= sum(one is not None and one.empty for one in found) <= most
    empty = 0
    for seed in range(24):
        plain, other = (render_clip(nobody, seed, size=32, frames=4, backdrops=found) for found in (None, backdrops))
        empty += bool(np.abs(plain[0, 24:, 14:18].astype(int) - other[0, 24:, 14:18]).mean() > 12)
    assert 0 < empty < 24


def test_an_empty_scene_may_be_letterboxed_as_a_cameras_frame(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backdrop, "HELD", 0.0)
    picture = np.asarray(cv2.imread(str(photo)), np.uint8)
    inside = letterbox(np.full_like(picture, 255), 48, 48) > 0
    barred = _barred(Backdrops((photo,)))
    assert 10 < len(barred) < 50
    wanted = letterbox(picture[:, :, ::-1], 48, 48).astype(int)
    for one in barred:
        assert one.empty
        assert np.array_equal(np.asarray(one.inside, bool), inside)
        shown = one.play(0.3)
        assert min(np.abs(view - wanted).mean() for view in (shown, shown[:, ::-1])) < 6
        assert not shown[~inside].any()


def test_a_camera_in_a_hand_moves_the_picture_and_not_the_bars(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backdrop, "HELD", 1.0)
    for one in _barred(Backdrops((photo,))):
        inside = np.asarray(one.inside, bool)
        views = [one.play(time) for time in (0.0, 0.4, 0.9)]
        assert not any(view[~inside].any() for view in views)
        assert not np.array_equal(views[0], views[1])
        assert not np.array_equal(views[0], views[2])
    nobody, rows = JESTER.index("No gesture"), np.flatnonzero(~inside.any(axis=(1, 2)))
    clips = [render_clip(nobody, seed, size=48, frames=4, backdrops=Backdrops((photo,))) for seed in range(40)]
    assert any(not clip[:, rows].any() for clip in clips), "noise of the camera lies on the bars"


def _barred(backdrops: Backdrops) -> list[backdrop.Backdrop]:
    found = (backdrops.choose(np.random.default_rng(seed), 48, True) for seed in range(100))
    return [one for one in found if one is not None and one.inside is not None]


@pytest.mark.slow
def test_the_set_says_what_stands_behind_and_the_heldout_split_stays_as_it_is(photo: Path, tmp_path: Path) -> None:
    def opened(split: str, *backdrops: Path) -> str:
        where = {"size": (32, 32), "fps": 8.0, "frames": 4, "cache": tmp_path}
        return open_set("rendered:1", split=split, backdrops=backdrops, **where).fingerprint  # type: ignore[arg-type]

    assert opened("train") != opened("train", photo)
    assert opened("heldout") == opened("heldout", photo)
    names = sorted(path.name for path in tmp_path.glob("*.npy"))
    assert len(names) == 3  # one file of joints, two of clips
    assert sum(f"behind{Backdrops((photo,)).digest}" in name for name in names) == 1


def test_files_that_are_neither_photo_nor_video_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    for name in ("notes.txt", "missing.mp4"):
        with pytest.raises(VideoError, match=name):
            Backdrops((tmp_path / name,))
    with pytest.raises(UsageError, match="leave them out"):
        open_set(f"folder:{tmp_path}", size=(32, 32), fps=8.0, frames=4, cache=None, backdrops=[BIKES])
