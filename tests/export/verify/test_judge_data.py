"""``--judge-data``: which clips judge a network, which are refused, and where they are named."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.calibration.collect import collect
from lcr_edge.checkpoint import Checkpoint, load, random_checkpoint, save
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.data.layouts.folder import list_folder
from lcr_edge.data.pack import SUFFIX, Pack, PackFile, choose, write
from lcr_edge.data.sets import open_set
from lcr_edge.errors import CheckpointError, UsageError
from lcr_edge.export.compare.measure import reusable
from lcr_edge.export.exporter import Exporter, Gate
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.clips import own_clips, own_stream
from lcr_edge.export.verify.decisions import UNLABELLED, measure_clips
from lcr_edge.export.verify.judge_data import with_judge_data
from lcr_edge.export.verify.page import page
from lcr_edge.runtimes import load as load_bundle
from lcr_edge.runtimes.bundle import read_bundle
from tests.data.made import LABELS, gesture, make_folder, write_video

LENGTH, FPS = 8, 8.0
CLASSES = tuple(sorted(LABELS[:3]))
CONFIG = dataclasses.replace(get_config("lcr_pico", classes=3), height=32, width=32)
SIZE = CONFIG.height, CONFIG.width


def pack_of(root: Path) -> Pack:
    return choose(
        open_set(f"folder:{root}", split="heldout", size=SIZE, fps=FPS, frames=LENGTH, cache=None), SIZE, FPS, LENGTH
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "films", classes=3, clips=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Path:
    """A network that says that it was trained on films of three classes, with its judge pack beside it."""
    folder = tmp_path_factory.mktemp("network")
    made = random_checkpoint(CONFIG, 3)
    path = folder / f"lcr_pico{SUFFIX}"
    judge = PackFile(path, write(path, pack_of(films)))
    training = {"data_name": f"folder:{films}", "frames": LENGTH}
    save(folder / "net.safetensors", made.model, CLASSES, training, judge=judge)
    return folder


@pytest.fixture(scope="module")
def network(folder: Path) -> Checkpoint:
    return load(folder / "net.safetensors")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other clips of two of the classes; the network's order of these is another one."""
    root = tmp_path_factory.mktemp("data") / "others"
    for name in CLASSES[:0:-1]:
        for seed in range(4):
            part = "val" if seed else "train"
            write_video(root / part / name / f"{seed}.mp4", gesture(name, 40 + seed, "heldout"))
    return root


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos in a folder, without classes."""
    root = tmp_path_factory.mktemp("data") / "videos"
    for seed in range(3):
        write_video(root / f"{seed}.mp4", gesture(LABELS[3], seed))
    return root


def test_the_held_out_clips_of_a_folder_judge(network: Checkpoint, others: Path) -> None:
    judged = with_judge_data(network, str(others), decided=True)
    clips, classes = own_clips(judged, 20, 1, False)
    assert len(clips) == len(list_folder(others, "heldout").paths) == 6  # all of them
    assert sorted(classes.tolist()) == [1, 1, 1, 2, 2, 2]
    for clip, target in zip(clips, classes):
        again = open_set(str(others), split="heldout", size=SIZE, fps=FPS, frames=LENGTH, cache=None, classes=CLASSES)
        wanted = choose(again, SIZE, FPS, LENGTH)
        assert any(np.array_equal(clip, own) and target == mine for own, mine in zip(wanted.clips, wanted.targets))
    seen = np.stack(list(itertools.islice(own_stream(judged), LENGTH)))
    np.testing.assert_array_equal(seen, clips[0])
    assert judged.judge == network.judge  # int8 is calibrated on the network's own
    assert collect(judged, None, clips=8, samples=8).source == "judge pack: folder:films"


def test_without_held_out_clips_the_training_clips_judge(
    network: Checkpoint, others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(others / "val", tmp_path / "all" / "train")
    judged = with_judge_data(network, f"folder:{tmp_path / 'all'}", decided=True)
    assert judged.judged_on is not None
    assert len(judged.judged_on.clips) == 6
    assert judged.judged_on.name.endswith(", training clips")
    assert "no held-out clips" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["", "folder:"])
def test_videos_without_classes_judge_streams(
    kind: str, network: Checkpoint, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = with_judge_data(network, f"{kind}{videos}", decided=True)
    clips, classes = own_clips(judged, 20, 1, False)
    assert len(clips) == 3
    assert set(classes.tolist()) == {-1}
    assert "no classes: streams are judged, and accuracy is not" in capsys.readouterr().err


def test_unknown_classes_are_refused_where_decisions_count(network: Checkpoint, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", classes=4, clips=2)
    with pytest.raises(UsageError) as error:
        with_judge_data(network, str(root), decided=True)
    assert f"does not know: {LABELS[3]}. It knows {', '.join(CLASSES)}. Give clips of these" in str(error.value)
    judged = with_judge_data(network, str(root), decided=False)
    assert judged.judged_on is not None
    known = judged.judged_on.targets >= 0
    assert known.any()
    assert not known.all()


def test_a_pack_of_another_network_is_taken_by_its_labels(
    network: Checkpoint, folder: Path, films: Path, tmp_path: Path
) -> None:
    mine = pack_of(films)
    path = tmp_path / f"other{SUFFIX}"
    # The same classes in another order, and other clips than the network's pack: the digest differs.
    backwards = dataclasses.replace(mine, targets=2 - mine.targets, labels=mine.labels[::-1], name="folder:mirror")
    write(path, backwards)
    judged = with_judge_data(network, str(path), decided=True)
    assert judged.judged_on is not None
    np.testing.assert_array_equal(judged.judged_on.targets, mine.targets)
    # Beside the network, the same file is refused, and the message says what to do.
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    shutil.copy(path, copied / f"lcr_pico{SUFFIX}")
    found = load(copied / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"another network, or was altered: copy .* --judge-data"):
        next(own_stream(found))
    next(own_stream(with_judge_data(found, str(copied / f"lcr_pico{SUFFIX}"), decided=True)))


def test_the_networks_own_pack_is_known_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "net.safetensors", tmp_path)
    alone = load(tmp_path / "net.safetensors")
    assert alone.judge is None
    judged = with_judge_data(alone, str(folder / f"lcr_pico{SUFFIX}"), decided=True)
    assert judged.judged_on is None
    assert judged.judge is not None
    assert judged.judge.read().name == "folder:films"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ()}, "does not name its classes"),
        ({"labels": ("a", "b", "c")}, "does not know: a, b, c"),
        ({"clips": np.zeros((3, 2, 48, 32, 3), np.uint8), "targets": np.arange(3)}, "48 x 32 pixels"),
        ({"clips": np.zeros((0, 2, 32, 32, 3), np.uint8), "targets": np.arange(0)}, "holds no clips"),
    ],
)
def test_packs_that_do_not_fit_are_refused(
    change: dict[str, object], said: str, network: Checkpoint, films: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"other{SUFFIX}"
    write(path, dataclasses.replace(pack_of(films), **change))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        with_judge_data(network, str(path), decided=True)


def test_what_is_no_data_is_refused(network: Checkpoint, videos: Path, tmp_path: Path) -> None:
    broken = tmp_path / f"broken{SUFFIX}"
    broken.write_bytes(b"no pack")
    empty = tmp_path / "empty"
    empty.mkdir()
    unreadable = tmp_path / "unreadable"
    unreadable.mkdir()
    (unreadable / "1.mp4").write_bytes(b"no video")
    for spec, error, said in (
        (str(tmp_path / "gone"), UsageError, "neither a folder nor a kind of data"),
        (str(videos / "0.mp4"), UsageError, "verify --clip"),
        (str(broken), CheckpointError, "cannot be read"),
        (str(empty), UsageError, "is empty"),
        (str(unreadable), UsageError, "none of its 1 clips can be read"),
    ):
        with pytest.raises(error, match=said):
            with_judge_data(network, spec, decided=True)


@pytest.mark.slow
def test_decisions_are_those_on_the_clips_that_were_named(
    network: Checkpoint, others: Path, videos: Path, tmp_path: Path
) -> None:
    made = Exporter(network, tmp_path).export(Request(CONFIG, "onnx", "fp32"), Gate(frames=6))
    model = load_bundle(read_bundle(made.folder).folder, threads=1)
    judged, unlabelled = (with_judge_data(network, str(data), decided=True) for data in (others, videos))
    # As many clips of the same length: what was kept for one set must not serve the other.
    half = (
        dataclasses.replace(judged.judged_on, clips=judged.judged_on.clips[::2], targets=judged.judged_on.targets[::2])
        if judged.judged_on
        else None
    )
    rest = (
        dataclasses.replace(
            judged.judged_on, clips=judged.judged_on.clips[1::2], targets=judged.judged_on.targets[1::2]
        )
        if judged.judged_on
        else None
    )
    for part in (half, rest):
        found = measure_clips(model, dataclasses.replace(network, judged_on=part))
        assert (found.agreement, found.clips) == (1.0, 3)
        assert found.float_top1 is not None
    alike = measure_clips(model, unlabelled)
    assert (alike.float_top1, alike.note, alike.checks) == (None, UNLABELLED, ())


@pytest.mark.slow
def test_an_export_names_the_data_it_was_judged_on(network: Checkpoint, others: Path, tmp_path: Path) -> None:
    judged = with_judge_data(network, str(others), decided=False)
    exporter = Exporter(judged, tmp_path, pages=tmp_path / "pages")
    request = Request(CONFIG, "onnx", "fp32")
    gate = Gate(frames=6, streams=6, decisions=True)
    exported = exporter.export(request, gate)
    name = "clips of folder:others (--judge-data)"
    bundle = read_bundle(exported.folder)
    assert judged.judged_on is not None
    assert bundle.manifest["judged_on"] == {"data": name, "sha256": judged.judged_on.sha256}
    assert json.loads((exported.folder / "parity.json").read_text())["clip"] == name
    assert exported.page is not None
    assert exported.page.read_text().count(name) == 4  # the two modes, streams, decisions, origin
    assert name in page(exported.report, bundle.manifest)
    with np.load(exported.folder / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["frames"][0], judged.judged_on.clips[0, 0])
    # A comparison of decisions does not use a bundle again that was judged on other clips.
    assert reusable(Exporter(network, tmp_path), request, gate, True)[1] == "it was judged on other clips"
    assert reusable(Exporter(network, tmp_path), request, gate, False)[1] == ""
    assert reusable(exporter, request, gate, True)[1] == ""


@pytest.mark.slow
def test_the_commands(
    folder: Path, others: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network whose pack was left behind is exported and verified on data that are named."""
    shutil.copy(folder / "net.safetensors", tmp_path)
    checkpoint = ["--checkpoint", str(tmp_path / "net.safetensors")]
    out = tmp_path / "out"
    assert main(["export", "--target", "onnx", *checkpoint, "--out", str(out)]) == 0
    bundle = str(out / "lcr_pico-onnx-fp32")
    assert read_bundle(bundle).manifest["judged_on"] is None
    capsys.readouterr()
    assert main(["verify", bundle, *checkpoint, "--frames", "8"]) == 0
    assert "not judged: no clips of its own data are at hand" in (said := capsys.readouterr().out)
    assert "--judge-data" in said

    named = ["--judge-data", str(others)]
    report = tmp_path / "verify.json"
    assert main(["verify", bundle, *checkpoint, *named, "--frames", "8", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["clip"] == "clips of folder:others (--judge-data)"
    assert "not judged" not in capsys.readouterr().out
    golden = tmp_path / "golden.npz"
    assert main(["verify", bundle, *checkpoint, *named, "--frames", "8", "--save-golden", str(golden)]) == 0
    with np.load(golden) as saved:
        wanted = with_judge_data(load(tmp_path / "net.safetensors"), str(others), decided=False)
        np.testing.assert_array_equal(saved["frames"][:LENGTH], own_clips(wanted, 1, 1, False)[0][0])
    clip = str(videos / "0.mp4")
    assert main(["verify", bundle, *checkpoint, *named, "--clip", clip]) == 2
    assert "--judge-data would not be used" in capsys.readouterr().err

    # int8 compares decisions: unknown classes are refused before anything is written.
    strange = make_folder(tmp_path / "strange", classes=4, clips=2)
    call = ["export", "--target", "onnx", *checkpoint, "--out", str(tmp_path / "none"), "--precision", "int8"]
    assert main([*call, "--judge-data", str(strange)]) == 2
    assert LABELS[3] in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
