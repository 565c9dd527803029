"""Frames of recorded clips: those that the device would take, from every container; damaged files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lcr_edge import tolerances
from lcr_edge.data.decode import read_jpegs, read_video
from lcr_edge.data.sampling import Sample, frame_indices
from lcr_edge.errors import UsageError, VideoError
from lcr_edge.frames import letterbox
from lcr_edge.runtimes.video import TimedFrame, resample
from tests.clips import CLIPS, frames, real_clip
from tests.data import made

SIZE = (64, 64)
WHOLE = Sample(made.FRAMES, made.FPS, 0.0)


@pytest.mark.parametrize(
    ("native", "fps"), [(12.0, 8.0), (30.0, 8.0), (12.0, 4.0), (5.0, 8.0), (29.97, 10.0), (30.3, 10.0)]
)
def test_frames_are_those_that_the_device_would_take(native: float, fps: float) -> None:
    picture = np.zeros((1, 1, 3), np.uint8)
    source = (TimedFrame(picture, i / native, i) for i in range(60))
    device = [tick.timed.index for tick in resample(source, fps)][:12]
    assert frame_indices(60, native, Sample(12, fps, 0.0)).tolist() == device


def test_windows_stay_in_the_clip_and_reach_its_ends() -> None:
    starts = [int(frame_indices(24, 12.0, Sample(4, 8.0, o))[0]) for o in np.linspace(0, 0.999, 200)]
    assert (min(starts), max(starts)) == (0, 24 - 1 - 5)
    assert frame_indices(3, 8.0, Sample(6, 8.0, 0.9)).tolist() == [0, 1, 2, 2, 2, 2]
    for bad in (Sample(0, 8.0, 0.0), Sample(4, 0.0, 0.0), Sample(4, 8.0, 1.0)):
        with pytest.raises(UsageError, match="a sample needs"):
            frame_indices(10, 8.0, bad)


@pytest.mark.parametrize("suffix", made.CODECS)
def test_every_container_gives_the_frames_asked_for(suffix: str, tmp_path: Path) -> None:
    clip = made.gesture("Swiping Down", 1)
    fps = 24.0 if suffix in (".mpg", ".mpeg") else made.FPS  # MPEG-1 knows few rates
    path = made.write_video(tmp_path / f"clip{suffix}", clip, fps)
    sample = Sample(5, fps / 3, 0.6)
    picked = frame_indices(made.FRAMES, fps, sample)
    seen = read_video(path, sample, SIZE)
    assert made.difference(seen, clip[picked]) < tolerances.DECODED
    for k, index in enumerate(picked):  # nearer to its own frame than to any other
        distances = [made.difference(seen[k], other) for other in clip]
        assert distances[int(index)] == min(distances)


@pytest.mark.parametrize("name", CLIPS)
def test_real_files_are_read_as_the_device_reads_them(name: str) -> None:
    path = real_clip(name)
    seen = read_video(path, Sample(6, 10.0, 0.0), (48, 64))
    everything = [letterbox(frame, 48, 64) for frame in frames(path, 60)]
    for frame in seen:
        assert any(np.array_equal(frame, other) for other in everything)
    assert not np.array_equal(seen[0], seen[-1])


def test_a_short_clip_repeats_its_last_frame(tmp_path: Path) -> None:
    folder = made.write_jpegs(tmp_path / "short", made.gesture("Thumb Up", 0)[:3])
    seen = read_jpegs(folder, Sample(6, 12.0, 0.7), SIZE, fps=12.0)
    assert not np.array_equal(seen[1], seen[2])
    assert all(np.array_equal(seen[2], seen[k]) for k in (3, 4, 5))


def test_what_a_file_leaves_open(tmp_path: Path) -> None:
    """An absurd frame rate gives way to the fallback; frames that are not announced are counted."""
    clip = made.gesture("Swiping Down", 1)
    fast = made.write_video(tmp_path / "fast.avi", clip, fps=600.0)
    seen = read_video(fast, Sample(6, 6.0, 0.0), SIZE, fallback_fps=12.0)
    assert made.difference(seen, clip[:12:2]) < tolerances.DECODED
    frames_only = made.write_jpegs(tmp_path / "frames", clip)
    raw = tmp_path / "raw.avi"  # pictures without a container: FFmpeg takes 25 a second and announces no number
    raw.write_bytes(b"".join(path.read_bytes() for path in sorted(frames_only.iterdir())))
    seen = read_video(raw, Sample(2, 12.5, 0.999), SIZE)
    assert made.difference(seen, clip[[-3, -1]]) < tolerances.DECODED


def test_unreadable_clips_name_their_file(tmp_path: Path) -> None:
    clip = made.gesture("Swiping Left", 0)
    broken = {
        "cut.mp4": made.truncate(made.write_video(tmp_path / "cut.mp4", clip)),
        "cut.avi": made.truncate(made.write_video(tmp_path / "cut.avi", clip)),
        "cut.webm": made.truncate(made.write_video(tmp_path / "cut.webm", clip)),
        "text_0001.mp4": tmp_path / "text_0001.mp4",
        "empty.mp4": tmp_path / "empty.mp4",
        "gone.mp4": tmp_path / "gone.mp4",
    }
    broken["text_0001.mp4"].write_text("not a video")
    broken["empty.mp4"].write_bytes(b"")
    for name, path in broken.items():
        with pytest.raises(VideoError, match=name.replace(".", r"\.")):
            read_video(path, WHOLE, SIZE)
    folder = made.write_jpegs(tmp_path / "frames", clip)
    made.truncate(folder / "00007.jpg", 0.8)
    with pytest.raises(VideoError, match=r"00007\.jpg is not a whole JPEG"):
        read_jpegs(folder, WHOLE, SIZE, fps=12.0)
    assert read_jpegs(folder, Sample(6, 12.0, 0.0), SIZE, fps=12.0).shape[0] == 6
    (tmp_path / "none").mkdir()
    for empty in (tmp_path / "none", tmp_path / "nowhere"):
        with pytest.raises(VideoError, match=str(empty)):
            read_jpegs(empty, WHOLE, SIZE, fps=12.0)
