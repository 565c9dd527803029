"""Data sets from files: every layout is read, frames are the right ones, and bad input ends in a message."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from lcr_edge import tolerances
from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered.clips import clip_joints, clip_seed, render_clip
from lcr_edge.data.sampling import Sample
from lcr_edge.data.sets import ClipSet, open_set
from lcr_edge.errors import OutputError, UsageError
from tests.data import made

SIZE = (64, 64)
NOBODY, OTHER = JESTER.index("No gesture"), JESTER.index("Doing other things")
WHOLE = Sample(made.FRAMES, made.FPS, 0.0)
MAKERS: dict[str, Callable[..., Path]] = {
    "jester": made.make_jester,
    "ssv2": made.make_ssv2,
    "kinetics": made.make_kinetics,
    "folder": made.make_folder,
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One made data set of each layout. Tests must not change them; they copy."""
    return {kind: make(tmp_path_factory.mktemp(kind), clips=2) for kind, make in MAKERS.items()}


def opened(spec: str, split: str = "train", classes: tuple[str, ...] | None = None) -> ClipSet:
    return open_set(spec, split=split, size=SIZE, fps=8.0, frames=16, cache=None, classes=classes)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_layout_gives_its_clips_and_labels(kind: str, sets: dict[str, Path]) -> None:
    for split, count in (("train", 4), ("heldout", 2)):
        data = opened(f"{kind}:{sets[kind]}", split)
        assert len(data) == count
        assert sorted(data.labels) == sorted(made.LABELS[:2])
        assert data.name == f"{kind}:{sets[kind]}"
        assert not data.reversible
        for index in range(count):
            clip, joints = data.read(index, WHOLE, SIZE)
            assert clip.shape == (made.FRAMES, *SIZE, 3)
            assert joints is None
            name = data.labels[data.targets[index]]
            true = [made.difference(clip, made.gesture(name, seed, split)) for seed in range(count // 2)]
            other = made.LABELS[1 - made.LABELS.index(name)]
            false = [made.difference(clip, made.gesture(other, seed, split)) for seed in range(count // 2)]
            assert min(true) < tolerances.DECODED < min(false), f"{name}: {true}, {false}"


def test_class_order_is_the_label_files_or_sorted(sets: dict[str, Path], tmp_path: Path) -> None:
    assert opened(f"ssv2:{sets['ssv2']}").labels == ("Swiping Right", "Swiping Left")
    for kind in ("jester", "kinetics", "folder"):
        assert opened(f"{kind}:{sets[kind]}").labels == ("Swiping Left", "Swiping Right")
    root = shutil.copytree(sets["jester"], tmp_path / "jester")
    (root / "jester-v1-labels.csv").write_text("Swiping Right\nStop Sign\nSwiping Left\n")
    data = opened(f"jester:{root}")
    assert data.labels == ("Swiping Right", "Stop Sign", "Swiping Left")
    assert data.targets.tolist() == [2, 0, 2, 0]


def test_classes_of_a_network_set_the_order_or_refuse(sets: dict[str, Path]) -> None:
    data = opened(f"folder:{sets['folder']}", classes=JESTER)
    assert data.labels == JESTER
    assert {JESTER[i] for i in data.targets} == set(made.LABELS[:2])
    with pytest.raises(UsageError, match=r"1 are not among the network's 2: Swiping Right"):
        opened(f"folder:{sets['folder']}", classes=("Swiping Left", "Thumb Up"))


@pytest.mark.parametrize("kind", MAKERS)
def test_fingerprints_name_the_data(kind: str, sets: dict[str, Path], tmp_path: Path) -> None:
    train, heldout = (opened(f"{kind}:{sets[kind]}", split).fingerprint for split in ("train", "heldout"))
    moved = shutil.copytree(sets[kind], tmp_path / "moved")
    assert opened(f"{kind}:{moved}").fingerprint == train != heldout
    victim = sorted(moved.glob("20bn*/1000*")) or sorted(moved.rglob("*1000*.mp4"))
    assert len(victim) == 1
    shutil.rmtree(victim[0]) if victim[0].is_dir() else victim[0].unlink()
    assert opened(f"{kind}:{moved}").fingerprint != train


def test_missing_clips_are_told(sets: dict[str, Path], tmp_path: Path) -> None:
    assert opened(f"kinetics:{sets['kinetics']}").notes == (
        "kinetics: 1 of the 5 clips in train.csv have no file and are left out",
    )
    root = shutil.copytree(sets["ssv2"], tmp_path / "ssv2")
    (root / "20bn-something-something-v2" / "1001.webm").unlink()
    assert "1 of the 4 clips" in opened(f"ssv2:{root}").notes[0]
    assert opened(f"jester:{sets['jester']}").notes == ()


@pytest.mark.slow
def test_rendered_samples_are_exact_and_cached_once(tmp_path: Path) -> None:
    def rendered(cache: Path | None) -> ClipSet:
        return open_set("rendered:1", size=SIZE, fps=8.0, frames=16, cache=cache, seed=3)

    data = rendered(tmp_path / "new")
    file = tmp_path / "new" / "rendered-64-1-seed3.npy"
    assert file.is_file()
    assert data.labels == JESTER
    assert data.reversible
    assert data.targets.tolist() == [*range(27), NOBODY, OTHER, OTHER]
    stamp = file.stat().st_mtime_ns
    again: ClipSet = pickle.loads(pickle.dumps(rendered(tmp_path / "new")))
    assert file.stat().st_mtime_ns == stamp
    assert again.fingerprint == data.fingerprint == rendered(None).fingerprint
    assert len(pickle.dumps(data)) < 20_000, "the mapped file travels as its path"
    label, seed = 16, clip_seed(3, 0)
    clip, joints = render_clip(label, seed, size=64), clip_joints(label, seed)
    for stride, start, count in ((1, 0, 16), (2, 0, 8), (2, 1, 8), (1, 2, 14), (2, 1, 7)):
        slack = 16 - stride * (count - 1)
        seen, points = again.read(label, Sample(count, 8.0 / stride, (start + 0.5) / slack), SIZE)
        window = slice(start, start + stride * (count - 1) + 1, stride)
        assert np.array_equal(seen, clip[window])
        assert points is not None
        assert np.array_equal(points, joints[window])


@pytest.mark.slow
def test_a_cache_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    def rendered(fps: float = 8.0, frames: int = 16) -> ClipSet:
        return open_set("rendered:1", size=SIZE, fps=fps, frames=frames, cache=tmp_path)

    rendered()
    with pytest.raises(UsageError, match="drawn at another frame rate"):
        rendered(fps=12.0)
    assert len(rendered(frames=8)) == 30
    path = made.truncate(tmp_path / "rendered-64-1-seed0.npy")
    with pytest.raises(UsageError, match=r"not a whole \.npy file.*delete it"):
        rendered()
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="it is a folder; give the name of a file"):
        rendered()


@pytest.mark.slow
def test_classes_of_many_kinds_of_scenes_have_more_training_clips() -> None:
    """Twice and three times as many, none of them twice; of a held-out split as many as of the others."""
    data, heldout = (
        open_set("rendered:2", split=split, size=(32, 32), fps=8.0, frames=4, cache=None)
        for split in ("train", "heldout")
    )
    counts = np.bincount(data.targets, minlength=27)
    assert (counts[NOBODY], counts[OTHER]) == (4, 6)
    assert set(np.delete(counts, [NOBODY, OTHER])) == {2}
    assert set(np.bincount(heldout.targets)) == {2}
    even = open_set("rendered:2", size=(32, 32), fps=8.0, frames=4, cache=None, even=True)  # what int8 is calibrated on
    assert set(np.bincount(even.targets)) == {2}
    assert even.targets.tolist() == 2 * list(range(27))
    seeds: dict[int, list[int]] = {0: [], NOBODY: [], OTHER: []}
    for index, target in enumerate(data.targets.tolist()):
        clip, _ = data.read(index, Sample(4, 8.0, 0.0), (32, 32))
        if target in seeds:
            of_clip = [seed for seed in range(6) if np.array_equal(clip, render_clip(target, seed, size=32, frames=4))]
            seeds[target] += of_clip
    assert {label: sorted(found) for label, found in seeds.items()} == {
        0: [0, 1],
        NOBODY: [0, 1, 2, 3],
        OTHER: [0, 1, 2, 3, 4, 5],
    }


@pytest.mark.slow
def test_heldout_rendered_clips_are_other_clips() -> None:
    train, heldout = (
        open_set("rendered:1", split=split, size=SIZE, fps=8.0, frames=16, cache=None) for split in ("train", "heldout")
    )
    sample = Sample(16, 8.0, 0.0)
    assert np.array_equal(heldout.read(4, sample, SIZE)[0], render_clip(4, 0, split="heldout", size=64))
    assert not np.array_equal(heldout.read(4, sample, SIZE)[0], train.read(4, sample, SIZE)[0])
    assert train.fingerprint != heldout.fingerprint


def test_the_part_of_an_uncut_recording(tmp_path: Path) -> None:
    parts = [made.gesture(name, 0) for name in made.LABELS]  # 2 s each
    made.write_video(tmp_path / "train" / "abc.mp4", np.concatenate(parts))
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end,split\nx,abc,4,6,train\n")
    clip, _ = opened(f"kinetics:{tmp_path}").read(0, WHOLE, SIZE)
    assert made.difference(clip, parts[2]) < tolerances.DECODED < made.difference(clip, parts[1])


def test_a_folder_without_split_holds_out_a_stable_tenth(tmp_path: Path) -> None:
    video = made.write_video(tmp_path / "one.mp4", made.gesture("Thumb Up", 0)[:2])
    for name, count in (("many", 200), ("few", 4), ("single", 1)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(count):
            shutil.copy(video, tmp_path / "set" / name / f"clip{i}.mp4")

    def ids(split: str) -> set[str]:
        listing = opened(f"folder:{tmp_path / 'set'}", split)
        assert listing.labels == ("few", "many", "single")
        assert any("1 classes with a single clip are in train only: single" in note for note in listing.notes)
        return {str(path) for path in listing._paths}  # type: ignore[attr-defined]

    train, heldout = ids("train"), ids("heldout")
    assert not train & heldout
    assert len(train | heldout) == 205
    assert sum("many" in path for path in heldout) in range(10, 31)
    assert sum("few" in path for path in heldout) == 1
    for i in range(200, 210):
        shutil.copy(video, tmp_path / "set" / "many" / f"clip{i}.mp4")
    assert train <= ids("train")
    assert heldout <= ids("heldout")


@pytest.mark.parametrize("kind", MAKERS)
def test_the_layout_of_a_folder_is_recognised(kind: str, sets: dict[str, Path]) -> None:
    found, named = opened(str(sets[kind])), opened(f"{kind}:{sets[kind]}")
    assert found.name == named.name
    assert found.fingerprint == named.fingerprint


@pytest.mark.parametrize("split", [True, False])
def test_what_is_no_video_is_named(split: bool, tmp_path: Path) -> None:
    root = made.make_folder(tmp_path / "data", clips=2) if split else tmp_path / "data"
    top = root / "train" if split else root
    for name in made.LABELS[:2]:
        made.write_video(top / name / "more.mp4", made.gesture(name, 0))
        (top / name / ".hidden").touch()
        (top / name / "upper.MP4").write_bytes((top / name / "more.mp4").read_bytes())
    for number in range(7):
        (top / made.LABELS[0] / f"notes{number}.txt").touch()
    (top / "nothing").mkdir()
    data = opened(str(root))
    assert data.labels == made.LABELS[:2]
    text = "\n".join(data.notes)
    assert "no videos in" in text
    assert "/nothing: not classes" in text
    assert f"{made.LABELS[0]}/notes0.txt, " in text
    assert text.endswith("and 2 more") or "and 2 more\n" in text
    assert "hidden" not in text
    assert "MP4" not in text


BAD: dict[str, tuple[str, str]] = {
    "unknown kind": (
        "imagenet:/x",
        "neither a folder nor a kind of data; give a folder, rendered, or one of jester:FOLDER, ssv2",
    ),
    "no folder given": ("jester", "needs a folder: jester:/path"),
    "folder missing": ("ssv2:{root}/nowhere", "does not exist"),
    "folder empty": ("kinetics:{root}/empty", "is empty"),
    "folder is a file": ("folder:{root}/file", "is a file"),
    "no labels file (jester)": ("jester:{root}", r"no train labels; expected jester-v1-train\.csv"),
    "no labels file (ssv2)": ("ssv2:{root}", r"has no labels\.json"),
    "no labels file (kinetics)": ("kinetics:{root}", r"has no train\*\.csv"),
    "no class folder": ("folder:{root}", "has no videos in a folder per class"),
    "rendered count": ("rendered:many", "CLIPS_PER_CLASS, a number of 1 or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_arguments_are_named(case: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    spec, message = BAD[case]
    with pytest.raises(UsageError, match=message):
        opened(spec.format(root=tmp_path))


def test_labels_files_that_do_not_fit_are_named(sets: dict[str, Path], tmp_path: Path) -> None:
    def broken(kind: str, file: str, text: str, message: str, split: str = "train") -> None:
        root = shutil.copytree(sets[kind], tmp_path / "set")
        (root / file).write_text(text)
        with pytest.raises(UsageError, match=message):
            opened(f"{kind}:{root}", split)
        shutil.rmtree(root)

    broken("jester", "jester-v1-train.csv", "1000;Swiping Left\n77\n", r"train\.csv line 2: expected id;label")
    broken("jester", "jester-v1-train.csv", "77;Swiping Left\n", r"none of the 1 clips .*77 is missing")
    broken("jester", "jester-v1-train.csv", "", "lists no clip")
    broken("jester", "train.csv", "x", "several files that fit")
    broken("jester", "jester-v1-labels.csv", "Swiping Left\n", r"train\.csv line 2: unknown label 'Swiping Right'")
    broken("jester", "jester-v1-labels.csv", "A\nA\n", "must name every class once")
    broken("ssv2", "labels/labels.json", '{"Swiping Left": "0"}', r"train\.json entry 2: unknown label 'Swiping Right'")
    broken("ssv2", "labels/labels.json", '{"Swiping Left": "1"}', "indices must be 0, 1, 2")
    broken("ssv2", "labels/labels.json", "{", "cannot read the labels file")
    broken("ssv2", "labels/train.json", json.dumps([{"id": "1"}]), r"train\.json entry 1 has no id or no template")
    broken(
        "ssv2", "labels/train.json", json.dumps([{"id": "9", "template": "Swiping [Left]"}]), r"9\.webm .* is missing"
    )
    header = "label,youtube_id,time_start,time_end,split\n"
    broken("kinetics", "train.csv", "a,b\n", "first line must name the columns")
    broken("kinetics", "train.csv", header + "x,abc,zero,10,train\n", r"train\.csv line 2: expected label,")
    broken("kinetics", "train.csv", header + "x,abc,9,3,train\n", r"line 2: needs a label, .* time_start < time_end")
    broken("kinetics", "train.csv", header + "x,abc,0,10,train\n", r"abc_000000_000010\.mp4 or abc\.mp4")


@pytest.mark.parametrize(
    ("kind", "gone"),
    [("jester", "*validation*"), ("ssv2", "labels/val*"), ("kinetics", "val.csv"), ("folder", "val")],
)
def test_a_missing_split_is_named(kind: str, gone: str, sets: dict[str, Path], tmp_path: Path) -> None:
    root = shutil.copytree(sets[kind], tmp_path / kind)
    victim = next(root.glob(gone))
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    with pytest.raises(UsageError, match=r"has no val|no validation labels|none of val, valid"):
        opened(f"{kind}:{root}", "heldout")
    assert len(opened(f"{kind}:{root}")) == 4
