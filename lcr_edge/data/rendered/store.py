"""Rendered gestures and their joints as arrays: drawn once into files that are then mapped, or kept in memory.

    CACHE/rendered-{height}-{per_class}-seed{seed}.npy          uint8 [n, 16, S, S, 3]
    CACHE/rendered-joints-{per_class}-seed{seed}.npy            float32 [n, 16, 21, 2]

Clips of another number of frames have ``-{frames}frames`` before the suffix, pictures before other backdrops
``behind{digest}-`` before their size. A file is written under another name and
renamed when it is whole, so that a run that is killed leaves none; only one process writes at a time. A file that is
found is used when its shape and its first clip are those that would be drawn now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from lcr_edge.config import CLIP_FRAMES
from lcr_edge.data.rendered.clips import ROUNDS, clip_joints, clip_seed, each_clip, each_joints, render_clip, render_set
from lcr_edge.errors import OutputError, UsageError
from lcr_edge.files import make_folder, written_atomically

if TYPE_CHECKING:
    from lcr_edge.data.rendered.backdrop import Backdrops

JOINTS = 21
# Another OpenCV or machine may change a picture by single grey levels; another rate or renderer by far more.
_SAME_PICTURE = 1.0


class Store:
    """clips: uint8 [n, T, S, S, 3]. joints: float32 [n, T, 21, 2]. Files are mapped anew in another process."""

    def __init__(
        self, clips: NDArray[np.uint8] | Path, joints: NDArray[np.float32] | Path, shape: tuple[int, ...]
    ) -> None:
        self._source: tuple[Any, Any, tuple[int, ...]] = (clips, joints, shape)
        self.clips = cast("NDArray[np.uint8]", _array(clips, shape, np.uint8))
        self.joints = cast("NDArray[np.float32]", _array(joints, (*shape[:2], JOINTS, 2), np.float32))

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, self._source


def train_store(
    cache: Path | None,
    per_class: int,
    *,
    size: int,
    frames: int,
    fps: float,
    seed: int,
    workers: int,
    backdrops: Backdrops | None = None,
    labels: tuple[int, ...] = ROUNDS["train"],
) -> Store:
    """The train split in rounds of these labels, from ``cache`` or drawn into it; in memory when that is None.

    Raises OutputError, UsageError.
    """
    shape = (per_class * len(labels), frames, size, size, 3)
    how: dict[str, Any] = {"frames": frames, "fps": fps, "labels": labels, "workers": workers, "progress": True}
    if cache is None:
        clips, _ = render_set(per_class, seed, size=size, backdrops=backdrops, **how)
        return Store(clips, np.stack(list(each_joints(per_class, seed, **how))), shape)
    tail = f"{per_class}-seed{seed}{'' if frames == CLIP_FRAMES else f'-{frames}frames'}.npy"
    behind = "" if backdrops is None else f"behind{backdrops.digest}-"
    clip_path, joint_path = cache / f"rendered-{behind}{size}-{tail}", cache / f"rendered-joints-{tail}"
    try:
        make_folder(cache)
        with _alone(cache):
            if not joint_path.is_file():
                found = each_joints(per_class, seed, **how)
                _write(joint_path, (*shape[:2], JOINTS, 2), np.dtype(np.float32), found)
            if not clip_path.is_file():
                _write(
                    clip_path,
                    shape,
                    np.dtype(np.uint8),
                    each_clip(per_class, seed, size=size, backdrops=backdrops, **how),
                )
    except OSError as error:
        raise OutputError(f"cannot write rendered clips to {cache}: {error}; choose another --out") from error
    store = Store(clip_path, joint_path, shape)
    first: dict[str, Any] = {"frames": frames, "fps": fps}
    if not np.allclose(store.joints[0], clip_joints(0, clip_seed(seed, 0), **first), atol=1e-4):
        raise _other(joint_path)
    again = render_clip(0, clip_seed(seed, 0), size=size, backdrops=backdrops, **first).astype(np.int16)
    if np.abs(again - store.clips[0]).mean() > _SAME_PICTURE:
        raise _other(clip_path)
    return store


def heldout_store(per_class: int, *, size: int, frames: int, fps: float, seed: int, workers: int) -> Store:
    """The held-out split, in memory. Raises UsageError."""
    how: dict[str, Any] = {"split": "heldout", "frames": frames, "fps": fps, "workers": workers}
    how["progress"] = True
    clips, _ = render_set(per_class, seed, size=size, **how)
    return Store(clips, np.stack(list(each_joints(per_class, seed, **how))), clips.shape)


def _other(path: Path) -> UsageError:
    return UsageError(f"{path} was drawn at another frame rate or by another version; delete it to draw it again")


def _array(source: NDArray[Any] | Path, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    if not isinstance(source, Path):
        return source
    try:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{source} is not a whole .npy file ({error}); delete it to draw it again") from error
    if array.shape != shape or array.dtype != dtype:
        raise UsageError(
            f"{source} holds {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(shape)}; delete it to "
            "draw it again"
        )
    return cast("NDArray[Any]", array)


def _write(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], rows: Iterable[NDArray[Any]]) -> None:
    """A .npy file of the rows, one after the other, so that the set need not fit into memory.

    The caller holds the folder, so other files with a temporary name were left by a run that was killed.
    """
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink()
    with written_atomically(path) as temporary, temporary.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            file.write(np.ascontiguousarray(row, dtype).tobytes())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process holds ``folder``. The system releases the folder when a process is killed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
