"""The harnesses of fuzz/ find nothing in the library, and find what is planted in it. make fuzz takes longer."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lcr_edge.runtimes.c_library import SOURCES
from tests.c.fuzz.__main__ import main
from tests.c.fuzz.harnesses import FOLDER, HARNESSES, SANITIZERS, build, replay, seeds

RUNS = 400
# Of each harness: the file, what stands there, and what a mistake would leave.
FAULTS = {
    "weights": ("lcr_weights.c", "place > file->size || count > (file->size - place) / size", "count > 99999"),
    "golden": ("lcr_selftest.c", "return 2 * unit(lcr_state_size(model))", "return unit(lcr_state_size(model))"),
    "step": ("lcr_checks.c", "(state_in, lcr_state_floats(info))", "(state_in, 16)"),
    "fit": ("lcr_fit.c", "3 * ((size_t)image->width + 2)", "2 * ((size_t)image->width + 2)"),
    "edges": ("lcr_edges.c", "9 * (w + 2) * sizeof(int16_t)", "8 * (w + 2) * sizeof(int16_t)"),
    "events": ("lcr_events.c", "    events->number = 0;\n", ""),
}


@pytest.fixture(autouse=True)
def _clang() -> None:
    if not shutil.which("clang"):
        pytest.skip("there is no clang: apt-get install clang")


def test_the_harnesses_are_strict_c() -> None:
    strict = ["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-pedantic", "-DLCR_FUZZ_FORMAT=1"]
    for source in sorted(FOLDER.glob("*.c")):
        call = ["clang", *strict, f"-I{SOURCES}", f"-I{FOLDER}", "-fsyntax-only", str(source)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), source.name


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", [SANITIZERS, "memory"])
def test_nothing_is_found(sanitizers: str, tmp_path: Path) -> None:
    programs = build(list(HARNESSES), tmp_path / "programs", sanitizers=sanitizers)
    for name, program in programs.items():
        done = replay(program, seeds(name, tmp_path / name), RUNS)
        assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"
        ran = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
        assert ran is not None
        assert int(ran[1]) >= RUNS


@pytest.mark.slow
def test_what_is_planted_is_found(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(SOURCES, sources)
    for file, right, wrong in FAULTS.values():
        text = (sources / file).read_text(encoding="utf-8")
        assert right in text, file
        (sources / file).write_text(text.replace(right, wrong), encoding="utf-8")
    programs = build(list(HARNESSES), tmp_path / "programs", sources=sources)
    for name, program in programs.items():
        inputs = seeds(name, tmp_path / name)
        done = replay(program, inputs, 20 * RUNS)
        assert done.returncode != 0, name
        assert list(inputs.glob("crash-*")), done.stderr[-3000:]


def test_memory_that_was_never_written(tmp_path: Path) -> None:
    """MemorySanitizer, where the pixels beside the last column are not cleared."""
    sources = tmp_path / "sources"
    shutil.copytree(SOURCES, sources)
    text = (sources / "lcr_edges.c").read_text(encoding="utf-8")
    assert "row.magnitude[width + 1] = 0;" in text
    (sources / "lcr_edges.c").write_text(text.replace("row.magnitude[width + 1] = 0;", ""), encoding="utf-8")
    programs = build(["edges"], tmp_path / "programs", sanitizers="memory", sources=sources)
    done = replay(programs["edges"], seeds("edges", tmp_path / "edges"), RUNS)
    assert done.returncode != 0
    assert "use-of-uninitialized-value" in done.stderr


def test_a_row_for_each_harness_and_the_input_that_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, out = tmp_path / "sources", tmp_path / "out"
    shutil.copytree(SOURCES, sources)
    assert main(["--seconds", "1", "--only", "events", "--out", str(out)]) == 0
    assert "| events | " in (said := capsys.readouterr().out)
    assert said.endswith("nothing was found\n")
    if shutil.which("llvm-cov"):
        assert main(["--lines", "--only", "events", "--out", str(out)]) == 0
        assert re.search(r"^\| lcr_events.c \| \d+ \| \d+ \| (9\d|100) % \|$", capsys.readouterr().out, re.MULTILINE)
    file, right, wrong = FAULTS["events"]
    (sources / file).write_text((sources / file).read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    call = ["--seconds", "60", "--only", "events", "--out", str(out), "--sources", str(sources)]
    assert main(call) == 1
    (kept,) = (out / "found" / "events").iterdir()
    assert f"{out}/libfuzzer/events {kept}  # " in capsys.readouterr().out
    (sources / file).write_text("no C", encoding="utf-8")
    assert main(call) == 2
    assert "error: clang cannot make lcr_events.o: " in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(call) == 2
    assert capsys.readouterr().err == "error: fuzzing takes clang: apt-get install clang\n"


@pytest.mark.slow
def test_the_other_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("afl-fuzz"):
        pytest.skip("there is no AFL++: apt-get install afl++")
    assert main(["--engine", "afl", "--seconds", "2", "--only", "events", "--out", str(tmp_path)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| events | ")]
    assert int(row.split(" | ")[1]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--seconds", "5"], "less than a second for each of 6"), (["--sources", "/"], "has no lcr_edge.h")],
)
def test_options_that_cannot_be(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert message in capsys.readouterr().err
