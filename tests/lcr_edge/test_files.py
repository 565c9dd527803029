"""The one writer: what a path names stays what it is, and a file is whole or not there."""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.errors import OutputError, UsageError
from lcr_edge.files import check_writable, make_folder, write_atomically, written_atomically
from lcr_edge.runtimes.state import State

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 40


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_new_file_follows_the_umask(tmp_path: Path, umask: None) -> None:  # noqa: ARG001
    write_atomically(tmp_path / "new", b"data")
    with written_atomically(tmp_path / "other") as temporary:
        temporary.write_bytes(b"more")
    assert [_mode(tmp_path / name) for name in ("new", "other")] == [0o640, 0o640]
    assert (tmp_path / "other").read_bytes() == b"more"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_a_file_keeps_its_permissions(tmp_path: Path, mode: int, umask: None) -> None:  # noqa: ARG001
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomically(path, b"new")
    assert (path.read_bytes(), _mode(path)) == (b"new", mode)


def test_a_secret_file_is_never_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with written_atomically(path) as temporary:
        assert _mode(temporary) == 0o600


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"old")
    link.symlink_to(Path("far", "target"))
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert (_names(tmp_path), _names(target.parent)) == (["far", "link"], ["target"])


def test_a_hard_link_keeps_the_old_content(tmp_path: Path) -> None:
    """The file is replaced, not written into: who has the old one open or linked sees no half of the new one."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"old")
    other.hardlink_to(path)
    write_atomically(path, b"new")
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"old")


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    write_atomically(path, b"data")
    reader.join(timeout=10)
    assert received == [b"data"]
    assert stat.S_ISFIFO(path.stat().st_mode)
    with pytest.raises(OutputError, match="not the name of a regular file"), written_atomically(path):
        pass
    assert _names(tmp_path) == ["pipe"]


def test_a_device_is_written_to(tmp_path: Path) -> None:
    write_atomically(Path(os.devnull), b"data")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(Path("/dev/full"), b"data")
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.open("wb").close()
    except OSError:
        pytest.skip("devices cannot be made or opened here")
    write_atomically(path, b"data")
    assert stat.S_ISCHR(path.stat().st_mode)
    assert _names(tmp_path) == ["null"]


def test_stdout_that_a_shell_has_opened_is_appended_to(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from lcr_edge.files import write_atomically; print('text', flush=True); "
        "write_atomically(Path('/dev/stdout'), b'data'); print('end')"
    )
    with (tmp_path / "log").open("ab") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True, cwd=ROOT)
    assert (tmp_path / "log").read_bytes() == b"text\ndataend\n"
    assert _names(tmp_path) == ["log"]


def test_the_temporary_name_cannot_be_planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, victim = tmp_path / "out.json", tmp_path / "victim"
    names = set()
    for _ in range(20):
        with written_atomically(path) as temporary:
            names.add(temporary.name)
            assert temporary.suffix == ".json"
            assert temporary.parent == tmp_path
    assert len(names) == 20
    # Even one that was guessed is not followed.
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    with written_atomically(path) as temporary:
        planted = temporary
    victim.write_bytes(b"precious")
    planted.symlink_to(victim)
    with pytest.raises(OutputError, match="File exists"):
        write_atomically(path, b"data")
    assert victim.read_bytes() == b"precious"
    assert planted.is_symlink()


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 200 + "." + "y" * 54, "a." + "é" * 126])
def test_names_as_long_as_the_file_system_allows(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"data")
    assert _names(tmp_path) == [name]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), KeyboardInterrupt(), UsageError("told")])
def test_errors_of_the_body_pass_and_leave_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as raised, written_atomically(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise error
    assert raised.value is error
    assert (_names(tmp_path), path.read_bytes()) == (["file"], b"old")


def test_what_the_system_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for path, message in (
        (tmp_path / "folder", "it is a folder"),
        (tmp_path / "none" / "x", "No such file or directory"),
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path / "a\0b", "not the name of a regular file"),
        (tmp_path / ("x" * 300), "name too long"),
    ):
        with pytest.raises(OutputError, match=message):
            write_atomically(path, b"data")
    assert _names(tmp_path) == ["file", "folder"]
    for folder in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(OutputError, match="choose another --report"):
            make_folder(folder, "--report")
        with pytest.raises(OutputError, match="choose another --out"):
            check_writable(folder)
    check_writable(tmp_path / "new" / "folder")
    assert _names(tmp_path / "new" / "folder") == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import resource, sys; from pathlib import Path; from lcr_edge.errors import OutputError; "
        "from lcr_edge.files import write_atomically; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try: write_atomically(Path(sys.argv[1]), bytes(100_000))\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=ROOT, capture_output=True, text=True)
    assert "free some space" in done.stdout
    assert "unchanged" in done.stdout
    assert (_names(tmp_path), path.read_bytes()) == (["file"], b"old")


def test_threads_never_tear_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = {bytes([n]) * (50_000 + n) for n in range(16)}

    def write(data: bytes) -> None:
        for _ in range(ROUNDS // 4):
            write_atomically(path, data)

    threads = [threading.Thread(target=write, args=(data,)) for data in whole]
    for thread in threads:
        thread.start()
    seen = 0
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert path.read_bytes() in whole
            seen += 1
    for thread in threads:
        thread.join()
    assert seen > 10
    assert path.read_bytes() in whole
    assert _names(tmp_path) == ["file"]


def test_a_state_is_whole_while_two_threads_save_it(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    shape = (3, 17, 64)
    states = [State(np.full(shape, n, np.float32), np.full(shape, -n, np.float32)) for n in (1, 2)]
    states[0].save(path)

    def save(state: State) -> None:
        for _ in range(ROUNDS):
            state.save(path)

    threads = [threading.Thread(target=save, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    loads = 0
    while loads < ROUNDS or any(thread.is_alive() for thread in threads):
        found = State.load(path)
        (value,) = np.unique(found.h)
        assert value in (1, 2)
        assert np.array_equal(found.c, np.full(shape, -value, np.float32))
        loads += 1
    for thread in threads:
        thread.join()
    assert _names(tmp_path) == ["state.npz"]
