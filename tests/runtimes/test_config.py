"""``lcr-edge run --config``: a file says what the command line says, and its mistakes are found with their lines."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcr_edge.cli import main
from lcr_edge.runtimes.live.arguments import add_arguments
from lcr_edge.runtimes.live.config import merged
from tests.fuzz.damage import bounded, changed_bytes
from tests.runtimes.test_run import write_video
from tests.runtimes.toy import make_bundle

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and two films, for files that name them relative to themselves."""
    folder = tmp_path_factory.mktemp("config")
    make_bundle(folder / "toy", "onnx")
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, 20, 25.0)
    return folder


def call(place: Path, text: str | bytes, *more: str) -> int:
    (place / "camera.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return main(["run", "--config", str(place / "camera.toml"), *more])


GOOD = 'bundle = "toy"\nsource = ["a.mp4"]\n'


def test_a_file_says_what_the_command_line_says(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
        bundle = "toy"
        frames = 4
        top = 2
        threads = 1
        retry = inf
        events = true
        enter = 0.5
        min-seconds = 0
        ignore = ["right",
                  "none"]
        [source]
        door = "a.mp4"
        "the yard" = "b.mp4"
        [enters]
        left = 0.01
    """
    assert call(place, text) == 0
    from_file = capsys.readouterr()
    line = ["run", str(place / "toy"), "--frames", "4", "--top", "2", "--threads", "1", "--retry", "inf", "--events"]
    line += ["--enter", "0.5", "--min-seconds", "0", "--ignore", "right", "--ignore", "none", "--enters", "left=0.01"]
    sources = ["--source", str(place / "a.mp4"), "--source", str(place / "b.mp4")]
    assert main([*line, *sources, "--source-name", "door", "--source-name", "the yard"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(from_file.out.splitlines())
    assert "door: " in from_file.out
    assert "left begins" in from_file.out
    assert "a.mp4" not in from_file.out + from_file.err


def test_the_command_line_counts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'bundle = "none"\nframes = 3\nevents = true\n[source]\ndoor = "a.mp4"\nyard = "b.mp4"\n'
    assert call(place, text, "--frames", "2", "--source", str(place / "b.mp4"), str(place / "toy")) == 0
    out = capsys.readouterr().out
    assert ", 2 stepped" in out
    assert "door" not in out


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--webhook", "http://127.0.0.1/"], "add --events"),
        (["--events", "--webhook", "ftp://x"], "--webhook"),
        (["--events", "--mqtt", "nonsense"], "--mqtt"),
        (["--metrics", "abc"], "--metrics 'abc' is not"),
        (["--web", "0.0.0.0:8088"], "add --web-token-file"),
        (["--web-token-file", "x"], "add --web PORT"),
        (["--loop", "--as-camera"], "exclude each other"),
        (["--events", "--webhook", "http://127.0.0.1/", "--webhook-token-file", "/none"], "/none"),
        (["--provider", "cuda"], "--provider cuda is for ONNX bundles"),
    ],
)
def test_check_refuses_what_the_run_would(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], hint: str
) -> None:
    bundle = make_bundle(tmp_path / "bundle", "openvino") if "--provider" in more else place / "toy"
    keys = "".join(f"{name[2:]} = true\n" for name in more if name in ("--loop", "--as-camera"))
    more = [] if keys else more  # which the parser of the command line refuses by itself
    for check in (["--check"], []):
        assert call(place, f'bundle = "{bundle}"\nsource = ["a.mp4"]\n{keys}', *more, *check) == 2
        assert hint in capsys.readouterr().err


def test_a_secret_stays_with_its_address(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The token in the file is for the receiver in the file."""
    (place / "token").write_text("secret-of-the-receiver")
    receiver = 'events = true\nwebhook = ["https://127.0.0.1/"]\nwebhook-token-file = ["token"]\n'
    args = argparse.Namespace(config=str(place / "camera.toml"), parser=argparse.ArgumentParser())
    add_arguments(args.parser)
    (place / "camera.toml").write_text(GOOD + receiver)
    for words, expected in (([], [str(place / "token")]), (["--webhook", "http://127.0.0.1:9/"], None)):
        typed = args.parser.parse_args(["--config", args.config, *words])
        typed.words = ["--config", args.config, *words]
        assert merged(typed)[0].webhook_token_file == expected
    assert call(place, GOOD + "as-camera = true\n", "--loop", "--frames", "20") == 0
    assert "reconnections" not in capsys.readouterr().out
    assert call(place, GOOD + 'events = true\nmqtt = "mqtt://127.0.0.1"\nmqtt-discovery = ""\n', "--check") == 0
    assert call(place, 'bundle = "toy"\nsource = ["gst:"]\n') == 2
    assert "camera.toml:2: " in capsys.readouterr().err


def test_check_opens_no_camera_and_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = f'json = "{place}/new/lines"\nstate-file = "{place}/new/state"\nrecord = "{place}/new"\nevents = true\n'
    text = 'bundle = "toy"\nsource = ["rtsp://me:secret@127.0.0.1:9/", "97", "a.mp4"]\n' + outputs
    assert call(place, text, "--check") == 0
    captured = capsys.readouterr()
    assert "rtsp://me:***@127.0.0.1:9/, camera 97" in captured.out
    assert "secret" not in captured.out + captured.err
    assert not (place / "new").exists()
    assert main(["run", str(place / "toy"), "--source", str(place / "none.mp4"), "--check"]) == 2


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        (GOOD + "\nretri = 3\n", 4, "unknown key 'retri'; did you mean 'retry'?"),
        (GOOD + "min_seconds = 3\n", 3, "did you mean 'min-seconds'?"),
        (GOOD + "config = 'x'\n", 3, "unknown key 'config'"),
        (GOOD + "[camera]\n", 3, "unknown key 'camera'"),
        (GOOD + "retry = 'x'\n", 3, "retry must be a number, not a string"),
        (GOOD + "threads = true\n", 3, "threads must be a whole number, not true or false"),
        (GOOD + "frames = 2.5\n", 3, "frames must be a whole number, not a number"),
        (GOOD + "events = 1\n", 3, "events must be true or false, not a whole number"),
        (GOOD + "json = 1979-05-27\n", 3, "json must be a string, not a date"),
        (GOOD + "json = ''\n", 3, "json is empty"),
        (GOOD + 'json = "a\\u0000b"\n', 3, "json is a string with control characters"),
        (GOOD + "ignore = 'none'\n", 3, "ignore must be a list, also for one value, not a string"),
        (GOOD + "enters = 0.5\n", 3, "must be a table, [enters]"),
        (GOOD + "events = true\n[enters]\nleft = 'x'\n", 5, "'left' must be a number, not a string"),
        (GOOD + "events = true\n[enters]\nleft = 1.5\n", 5, "left is 1.5: give a probability"),
        (GOOD + "events = true\n[enters]\nup = 0.5\n", 5, "the network has no class 'up'"),
        (GOOD + "events = true\nignore = [\n 'up']\n", 4, "the network has no class 'up'"),
        (GOOD + "retry = -1\n", 3, "retry must be 0 or more seconds"),
        (GOOD + "retry = nan\n", 3, "retry must be 0 or more seconds"),
        (GOOD + f"retry = 1{'0' * 400}\n", 3, "retry is too large a number"),
        (GOOD + "frames = 0\n", 3, "frames must be at least 1, got 0"),
        (GOOD + "enter = 0.5\n", 3, "enter is about events: add --events"),
        (GOOD + "events = true\nenter = 2\n", 4, "enter is 2: give a probability"),
        (GOOD + "state-seconds = 0\n", 3, "state-seconds must be from 0.1 to 86400"),
        (GOOD + "record = 'x'\n", 3, "record is about events"),
        (GOOD + "text = '''\nretry = 1\n'''\nretry = 3\nretry = 4\n", 7, "this key or table is there twice"),
        (GOOD + "ignore = ['''\nretry = 1''']\nretry = -3\n", 5, "retry must be 0 or more"),
        (GOOD + "retry 3\n", 3, "not TOML"),
        (GOOD + "json = \n", 3, "not TOML: invalid value; a string needs quotes"),
        (GOOD + "ignore = ['a'\n", 3, "not TOML"),
        (GOOD.encode() + b"# \xff\n", 3, "not UTF-8"),
        ("bundle = 'toy'\nsource = ['none.mp4']\n", 2, "none.mp4 does not exist"),
        ("bundle = 'toy'\n[source]\nd = 'a.mp4'\ne = 'none.mp4'\n", 4, "none.mp4 does not exist"),
        ("bundle = 'toy'\n[source]\n", 2, "the table has no source"),
        ("bundle = 'toy'\n[source]\nd = 7\n", 3, "d must be a string, not a whole number"),
        ("bundle = 'toy'\nsource = 'a.mp4'\n", 2, "source must be a list, also for one value or a table"),
        ("bundle = 'toy'\nsource = {d = ''}\n", 2, "d is empty"),
        ("bundle = 'toy'\nsource-name = ['x']\nsource = {d = 'a.mp4'}\n", 2, "leave source-name out"),
        ("bundle = 'toy'\nthreads = 1\nsource = ['97']\n", 3, "there is no camera 97"),
        ("bundle = 'toy'\nretry = 0\n[source]\ndoor='http://a:secret@127.0.0.1:9/'\n", 4, "cannot open door"),
        ("bundle = 'none'\nsource = ['a.mp4']\n", 1, "does not exist"),
    ],
)
def test_mistakes_have_their_lines(
    place: Path, capsys: pytest.CaptureFixture[str], text: str | bytes, line: int, hint: str
) -> None:
    opens = "97" in str(text) or "http" in str(text)  # which --check does not
    for more in ((),) if opens else ((), ("--check",)):
        assert call(place, text, *more) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {place / 'camera.toml'}:{line}: "), captured.err
        assert hint in captured.err
        assert "secret" not in captured.err
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("bundle = 'toy'\n", "give a source"),
        ("source = ['a.mp4']\n", "give a bundle"),
        ("", "give a bundle"),
        ("# " + "x" * 64_000, "longer than 64000 bytes"),
        ("x = " + "[" * 5000, "camera.toml"),
    ],
)
def test_files_that_say_too_little_or_too_much(
    place: Path, capsys: pytest.CaptureFixture[str], text: str, hint: str
) -> None:
    assert call(place, text) == 2
    captured = capsys.readouterr()
    assert hint in captured.err
    assert captured.err.count("\n") == 1


def test_what_is_no_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(place / "pipe")
    for path, hint in ((place, "is a folder"), (place / "none", "No such file"), (place / "pipe", "is no file")):
        assert main(["run", "--config", str(path)]) == 2
        assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--source-name", "a", "--source-name", "b"], "1 sources have 2 of --source-name"),
        (["--source-name", "a\nb"], "give each source one name"),
        (["--state-file", "{}"], "is the source itself"),
        (["--json", "x", "--state-file", "x"], "is the file of --json"),
    ],
)
def test_names_and_files_that_do_not_fit(
    place: Path, capsys: pytest.CaptureFixture[str], more: list[str], hint: str
) -> None:
    film = str(place / "a.mp4")
    assert main(["run", str(place / "toy"), "--source", film, *(word.format(film) for word in more)]) == 2
    assert hint in capsys.readouterr().err


WHOLE = b"""bundle = "toy"
frames = 3
retry = 1.5
events = true
ignore = ["right", 'none']
state-file = "state"
[source]
door = "a.mp4"
[enters]
left = 0.5
"""


@settings(bounded, max_examples=40)
@given(data=st.data())
def test_damaged_files(data: st.DataObject, place: Path) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = call(place, data.draw(changed_bytes(WHOLE)), "--check")
    assert code in (0, 2)
    assert said.getvalue().startswith("error: ") == (code == 2)
    assert said.getvalue().count("\n") == (code == 2)
