"""Builds the harnesses of this folder for a fuzzer, runs them, and says what came of it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lcr_edge.runtimes.c_library import FORMAT_VERSION, SOURCES
from tests.c.tiny import tiny

FOLDER = Path(__file__).parent
# Each with the files of the library that it calls; none named: all.
HARNESSES: dict[str, tuple[str, ...]] = {
    "weights": (),
    "golden": (),
    "step": (),
    "fit": ("lcr_fit.c",),
    "edges": ("lcr_edges.c",),
    "events": ("lcr_events.c",),
}
SANITIZERS = "address,undefined,float-cast-overflow"
LIBFUZZER, AFL = "libfuzzer", "afl"
# Of each engine, the compiler and the package that has it.
COMPILERS = {LIBFUZZER: ("clang", "clang"), AFL: ("afl-clang-fast", "afl++")}
_FLAGS = ("-std=gnu99", "-O2", "-g", "-fno-omit-frame-pointer", "-ffp-contract=off", "-fno-math-errno")
_MOST_BYTES, _LIMIT_S, _SEEDS = 4096, 20, 24


class BuildError(Exception):
    """A compiler is missing or cannot build a harness."""


@dataclass(frozen=True)
class Outcome:
    """reached: branches of the library, as the engine counts them, with those of the sanitizers. found: inputs that it
    stopped at."""

    name: str
    runs: int
    seconds: float
    reached: int
    found: tuple[Path, ...]
    log: str


def build(
    names: Sequence[str],
    folder: Path,
    engine: str = LIBFUZZER,
    sanitizers: str = SANITIZERS,
    sources: Path = SOURCES,
    flags: Sequence[str] = _FLAGS,
) -> dict[str, Path]:
    """The programs, in ``folder``. sources: of the library. Raises BuildError."""
    compiler, package = COMPILERS[engine]
    if shutil.which(compiler) is None:
        raise BuildError(f"fuzzing takes {compiler}: apt-get install {package}")
    folder.mkdir(parents=True, exist_ok=True)
    common = [*flags, f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-I{sources}", f"-I{FOLDER}"]
    common.append(f"-DLCR_FUZZ_FORMAT={FORMAT_VERSION}")
    watched = ["-fsanitize=fuzzer-no-link"]

    def compiled(source: Path, *more: str) -> Path:
        made = folder / f"{source.stem}.o"
        _call([compiler, *common, *more, "-c", str(source), "-o", str(made)])
        return made

    wanted = sorted({path for name in names for path in _library(name, sources)})
    # A digest has nothing to discover, and to watch it takes most of the time.
    library = {path: compiled(path, *([] if path.name == "lcr_sha256.c" else watched)) for path in wanted}
    shared = [compiled(FOLDER / "fuzz.c")]
    network = [compiled(FOLDER / "network.c")] if any(not HARNESSES[name] for name in names) else []
    programs = {}
    for name in names:
        objects = [compiled(FOLDER / f"{name}.c"), *shared, *(library[path] for path in _library(name, sources))]
        objects += [] if HARNESSES[name] else network
        programs[name] = folder / name
        link = [compiler, *common, "-fsanitize=fuzzer", *map(str, objects), "-lm", "-o", str(programs[name])]
        _call(link)
    return programs


def _library(name: str, sources: Path) -> list[Path]:
    return [sources / file for file in HARNESSES[name]] or sorted(sources.glob("lcr_*.c"))


def _call(command: list[str]) -> str:
    """What it prints. Raises BuildError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise BuildError(f"{command[0]} cannot make {Path(command[-1]).name}: {lines[0]}")
    return done.stdout


def seeds(name: str, folder: Path) -> Path:
    """A folder of inputs to begin with: always the same bytes, of which the harness makes cases; a whole small file."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = random.Random(name)
    for number in range(_SEEDS):
        content = bytes(noise.choices(range(256), k=noise.randrange(1, 400)))
        (folder / f"noise{number:02}").write_bytes(content)
    if name == "weights":  # one thread, vector kernels, "the input is the file"
        (folder / "file").write_bytes(bytes([1, 0, 0]) + tiny(height=2, width=2, patch=1))
    return folder


def replay(program: Path, inputs: Path, runs: int) -> subprocess.CompletedProcess[str]:
    """The seeds and then ``runs`` cases made of them, always the same: for tests. inputs: a folder."""
    # What was compared may be an address, which differs from run to run: not used.
    call = [str(program), f"-runs={runs}", "-seed=1", "-use_cmp=0", f"-max_len={_MOST_BYTES}", "-len_control=0"]
    call += [f"-artifact_prefix={inputs}/", str(inputs)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def fuzz(program: Path, folder: Path, seconds: int, engine: str = LIBFUZZER) -> Outcome:
    """A program of ``build``, for so long. What it finds is kept under ``folder``, and so is its corpus."""
    begin = seeds(program.name, folder / "seeds" / program.name)
    if engine == AFL:
        return _afl(program, begin, folder / "afl-runs" / program.name, seconds)
    corpus, found = folder / "corpus" / program.name, folder / "found" / program.name
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    call = [str(program), f"-max_total_time={seconds}", f"-max_len={_MOST_BYTES}", f"-timeout={_LIMIT_S}"]
    call += ["-len_control=0", "-print_final_stats=1", f"-artifact_prefix={found}/", str(corpus), str(begin)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, errors="replace")
    log = done.stderr
    runs = re.search(r"stat::number_of_executed_units: (\d+)", log)
    took = re.search(r"in (\d+) second", log)
    branches = re.findall(r"cov: (\d+)", log)
    inputs = tuple(sorted(set(found.iterdir()) - before))
    if done.returncode and not inputs:
        inputs = (found,)
    return Outcome(
        program.name,
        int(runs[1]) if runs else 0,
        float(took[1]) if took else 0.0,
        int(branches[-1]) if branches else 0,
        inputs,
        log,
    )


def _environment() -> dict[str, str]:
    """AFL++ without its screen, and without advice about the machine."""
    names = ("SKIP_CPUFREQ", "NO_AFFINITY", "NO_UI", "QUIET", "I_DONT_CARE_ABOUT_MISSING_CRASHES")
    return {**os.environ, **dict.fromkeys([f"AFL_{name}" for name in names], "1")}


def _afl(program: Path, begin: Path, out: Path, seconds: int) -> Outcome:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    call = ["afl-fuzz", "-V", str(seconds), "-i", str(begin), "-o", str(out), "-m", "none", "-t", str(_LIMIT_S * 1000)]
    done = subprocess.run(
        [*call, "--", str(program)], capture_output=True, text=True, check=False, env=_environment(), errors="replace"
    )
    log = done.stdout + done.stderr
    stats = out / "default" / "fuzzer_stats"
    if not stats.is_file():
        return Outcome(program.name, 0, 0.0, 0, (out,), log)
    said = dict(re.findall(r"^(\w+) *: (.*)$", stats.read_text(encoding="utf-8"), re.MULTILINE))
    found = [path for kind in ("crashes", "hangs") for path in (out / "default" / kind).glob("id*")]
    runs, took, reached = int(said["execs_done"]), float(said["run_time"]), int(said["edges_found"])
    return Outcome(program.name, runs, took, reached, tuple(sorted(found)), log)


def covered_lines(names: Sequence[str], out: Path, sources: Path = SOURCES) -> dict[str, tuple[int, int]]:
    """Of each file of the library, the lines that the kept corpora of ``fuzz`` reach, and all. Raises BuildError."""
    for tool in ("llvm-profdata", "llvm-cov"):
        if shutil.which(tool) is None:
            raise BuildError(f"counting lines takes {tool}: apt-get install llvm")
    profiled = (*_FLAGS, "-O0", "-fprofile-instr-generate", "-fcoverage-mapping")
    programs = build(names, out / "lines", sanitizers="address", sources=sources, flags=profiled)
    for name, program in programs.items():
        inputs = [str(folder / name) for folder in (out / "seeds", out / "corpus") if (folder / name).is_dir()]
        environment = {**os.environ, "LLVM_PROFILE_FILE": str(out / "lines" / f"{name}.profraw")}
        subprocess.run([str(program), "-runs=0", *inputs], env=environment, capture_output=True, check=False)
    merged = out / "lines" / "all.profdata"
    _call(["llvm-profdata", "merge", *(str(out / "lines" / f"{name}.profraw") for name in names), "-o", str(merged)])
    first, *others = map(str, programs.values())
    call = ["llvm-cov", "export", "-summary-only", f"-instr-profile={merged}", first]
    files = json.loads(_call([*call, *(f"-object={path}" for path in others)]))["data"][0]["files"]
    counts = {Path(file["filename"]): file["summary"]["lines"] for file in files}
    return {
        path.name: (lines["covered"], lines["count"])
        for path, lines in sorted(counts.items())
        if path.parent == sources and lines["count"]
    }
