"""Check bundles on emulated ARM boards: the selftest, the answers beside those on this machine, the device's own tests.

    tests/boards/lane                         lcr_pico on all boards, the packaged network on the first
    tests/boards/lane --full                  the packaged network on all boards, and more of the device's tests
    tests/boards/lane --bundles out           bundles of your own, the folders in out, on all boards

Each row of the table is a bundle on a board. One more bundle, whose golden answers are wrong on purpose, must fail. The
exit code is 1 if anything failed, and 0 where no board can be emulated, which is said; --require makes that 1 too.
Emulated times say nothing about a board.
"""

from __future__ import annotations

import argparse
import atexit
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import numpy as np

from lcr_edge.export.pack import DEVICES, PackError, own_wheel, pack
from lcr_edge.runtimes.bundle import MANIFEST, file_record, seal
from lcr_edge.runtimes.golden import GOLDEN
from lcr_edge.tolerances import ACROSS_CPUS, ACROSS_CPUS_INT8, COARSE_ACTIVATIONS, PROMISES
from tests.boards.boards import ARM64, BOARDS, Board
from tests.boards.machine import ROOT, Machine, Unavailable, last_line, need_tools, nested

PROGRAM = Path(__file__).with_name("answers.py")
PRECISIONS = ("fp32", "fp16", "int8")
TIMEOUT = 900.0  # seconds for one program; a quiet core takes 30
ALL_TESTS = ("tests/runtimes",)
# Those in which an engine computes something; the others test Python alone.
ENGINE_TESTS = tuple(f"tests/runtimes/test_{name}.py" for name in ("step", "selftest"))
SIZES = {"to download": 60e6, "on disk": 130e6}  # of lcr-edge[tflite], bytes at most
COLUMNS = (
    "board",
    "network",
    "engine",
    "precision",
    "result",
    "selftest: nearest to its promise",
    "off x86-64, of what may be",
)
PASSED, FAILED, SKIPPED = "passed", "FAILED", "SKIPPED"


Array = np.ndarray[Any, Any]
Answers = tuple[dict[str, Any], dict[str, Array]]


class Failed(Exception):
    """A program failed, and its last words."""


@dataclass
class Row:
    """What came of one bundle, or of the tests, on one board. why: what failed, or could not be had."""

    board: str
    network: str
    engine: str
    precision: str
    result: str
    nearest: str = "-"
    off: str = "-"
    why: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        return self.board, self.network, self.engine, self.precision, self.result, self.nearest, self.off


def main(argv: Sequence[str] | None = None) -> int:
    """The whole script; the exit code."""
    args = _parser().parse_args(argv)
    boards = [board for board in BOARDS if not args.boards or board.cpu in args.boards]
    with tempfile.TemporaryDirectory(prefix="lcr_edge_boards_") as folder:
        try:
            lane = Lane(boards, args.out, Path(folder), args.jobs)
            lane.prepare()
            if args.prepare:
                return 0
            rows = list(lane.rows(args.bundles, full=args.full, tests=not args.no_tests))
        except Unavailable as reason:
            rows = [Row(board.name, "-", "all", "all", SKIPPED, why=[str(reason)]) for board in boards]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return verdict(rows, require=args.require)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/boards/lane", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundles", type=Path, metavar="DIR", help="folder of bundles (default: exports)")
    parser.add_argument("--full", action="store_true", help="the packaged network on all boards, in all precisions")
    parser.add_argument(
        "--boards", nargs="+", metavar="CPU", choices=[board.cpu for board in BOARDS], help="(default: all)"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="programs at a time (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "boards", metavar="DIR", help="where the machines are kept"
    )
    parser.add_argument("--prepare", action="store_true", help="make the machines, and check nothing")
    parser.add_argument("--no-tests", action="store_true", help="bundles only, not the device's own tests")
    parser.add_argument("--require", action="store_true", help="what cannot be emulated here counts as failed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    return parser


class Lane:
    """The checks on ``boards``. out: where the machines are kept. folder: for what is needed during the checks."""

    def __init__(self, boards: Sequence[Board], out: Path, folder: Path, jobs: int) -> None:
        self.boards, self.out, self.folder, self.jobs = boards, out, folder, jobs
        self.machines: dict[str, Machine] = {}
        self.here: dict[Path, Future[dict[Path, Answers | Failed]]] = {}

    def prepare(self) -> None:
        """Make the machines, or see that they are there. Raises Unavailable."""
        need_tools()
        say("making the machines")
        (self.folder / "wheel").mkdir()
        wheel = own_wheel(self.folder / "wheel")
        self.machines = {board.arch.debian: Machine(board.arch, self.out) for board in self.boards}
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(lambda machine: machine.prepare(wheel), self.machines.values()))

    def rows(self, bundles: Path | None, *, full: bool, tests: bool) -> Iterator[Row]:
        """All rows, in the order of the boards; after :meth:`prepare`."""
        say("exporting bundles" if bundles is None else f"reading {bundles}")
        if bundles is None:
            found = exports(full=full)
        else:
            found = [(path.parent.resolve(), False) for path in sorted(bundles.glob(f"*/{MANIFEST}"))]
        if not found:
            raise SystemExit(f"there is no bundle in {bundles}: name the folder that --out of lcr-edge export wrote to")
        groups = by_engine(bundle for bundle, _ in found)
        work: list[Callable[[], list[Row]]] = []
        for board in self.boards:
            for target, bundles_of in groups.items():
                here = [one for one in bundles_of if board is self.boards[0] or (one, True) not in found]
                if target in board.arch.engines and here:
                    work.append(lambda board=board, here=here: self._rows(board, here))  # type: ignore[misc]
        work.append(lambda: [self._planted(self.boards[0], [bundle for bundle, _ in found])])
        if ARM64.debian in self.machines:
            work.append(lambda: [self._packed([bundle for bundle, _ in found])])
        with ThreadPoolExecutor(self.jobs) as pool:
            # The longest one first, or the others wait for it at the end; its row is the last all the same.
            last = []
            if tests and ARM64.debian in self.machines:
                last.append(pool.submit(self._tests, ALL_TESTS if full else ENGINE_TESTS))
            for group in groups.values():
                answered = pool.submit(self._answers, group)
                self.here.update(dict.fromkeys(group, answered))
            for rows in pool.map(lambda do: do(), work):
                yield from rows
            yield from (one.result() for one in last)

    def _rows(self, board: Board, bundles: Sequence[Path]) -> list[Row]:
        """Bundles of one engine on a board, beside their answers here."""
        say(f"{board.name}: {', '.join(bundle.name for bundle in bundles)}")
        there = self._answers(bundles, board)
        return [self._row(board, bundle, there[bundle]) for bundle in bundles]

    def _row(self, board: Board, bundle: Path, there: Answers | Failed) -> Row:
        manifest = _manifest(bundle)
        row = Row(board.name, manifest["config"]["name"], manifest["target"], manifest["precision"], FAILED)
        here = self.here[bundle].result()[bundle]
        for found in (there, here):
            if isinstance(found, Failed):
                row.why.append(str(found))
                return row
        assert not isinstance(there, Failed)
        assert not isinstance(here, Failed)
        report, answers = there
        row.why += report["failures"]
        row.nearest = nearest(report["checks"])
        off, promised, name = difference(bundle, report, answers, here[1])
        row.off = f"{off:.1e} of {promised:.1e}"
        if not off <= promised:
            row.why.append(f"{name} is {off:.1e} off the answers on x86-64 after one step, promised {promised:.1e}")
        row.result = FAILED if row.why else PASSED
        return row

    def _answers(self, bundles: Sequence[Path], board: Board | None = None) -> dict[Path, Answers | Failed]:
        """The selftest's report and the answers of each bundle, here or on a board, or why there are none."""
        places = {
            bundle: self.folder / f"{bundle.name}-{'here' if board is None else board.cpu}.npz" for bundle in bundles
        }
        call = [str(PROGRAM), *(str(name) for pair in places.items() for name in pair)]
        limit = TIMEOUT * len(bundles)
        try:
            if board is None:
                done = subprocess.run(
                    [sys.executable, *call], capture_output=True, text=True, check=False, timeout=limit
                )
            else:
                done = self.machines[board.arch.debian].run(board, *call, timeout=limit)
        except subprocess.TimeoutExpired:
            return dict.fromkeys(bundles, Failed(f"no answer within {limit:.0f} s"))
        # A bundle that ends the program ends it for those after it.
        reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        failed = Failed(f"exit code {done.returncode}: {last_line(done.stderr)}")
        answers: dict[Path, Answers | Failed] = dict.fromkeys(bundles, failed)
        for bundle, report in zip(bundles, reports):
            with np.load(places[bundle]) as arrays:
                answers[bundle] = report, dict(arrays)
        if done.returncode and len(reports) == len(bundles):  # all are answered, and then it crashed
            answers[bundles[-1]] = failed
        return answers

    def _planted(self, board: Board, bundles: Sequence[Path]) -> Row:
        """A bundle whose golden logits are wrong has to fail, or this script finds nothing."""
        bundle = next(one for one in bundles if _manifest(one)["target"] in board.arch.engines)
        wrong = self.folder / f"{bundle.name}-planted"
        shutil.copytree(bundle, wrong)
        plant(wrong)
        say(f"{board.name}: {bundle.name} with a planted fault")
        answered = self.here[bundle].result()[bundle]
        self.here[wrong] = Future()
        self.here[wrong].set_result({wrong: answered})
        (row,) = self._rows(board, [wrong])
        caught = any("logits" in why for why in row.why)
        result = PASSED if caught else FAILED
        return Row(
            board.name,
            row.network,
            row.engine,
            f"{row.precision}, planted fault",
            result,
            "caught" if caught else row.nearest,
            row.off,
            [] if caught else ["a bundle with wrong golden answers was accepted", *row.why],
        )

    def _packed(self, bundles: Sequence[Path]) -> Row:
        """An archive of ``lcr-edge pack``: what it takes, and whether the selftest passes with nothing else."""
        board = next(one for one in self.boards if one.arch is ARM64)
        bundle = next(one for one in bundles if _manifest(one)["target"] == "tflite")
        say(f"{board.name}: lcr-edge pack {bundle.name}")
        row = Row(board.name, _manifest(bundle)["config"]["name"], "tflite", "packed", FAILED)
        place, name = self.folder / "packed", f"{bundle.name}-pi5"
        place.mkdir()
        try:
            pack(bundle, DEVICES["pi5"], place / "packed.tar.gz", video=False, name=name)
        except PackError as error:
            row.result, row.why = SKIPPED, [str(error)]
            return row
        with tarfile.open(place / "packed.tar.gz") as archive:
            archive.extractall(place, filter="data")
        machine = self.machines[ARM64.debian]
        site = machine.installed_from(place / name / "wheels", "lcr-edge[tflite]", place / "site")
        unpacked = place / name / "bundles" / bundle.name
        done = machine.run(board, "-m", "lcr_edge", "selftest", str(unpacked), timeout=TIMEOUT, site=site)
        if done.returncode:
            row.why.append(f"exit code {done.returncode}: {last_line(done.stderr)}")
        found = (size_of(place / name / "wheels"), size_of(site))
        row.nearest = ", ".join(
            f"{size / 1e6:.0f} MB {what} ({most / 1e6:.0f} allowed)"
            for what, size, most in zip(SIZES, found, SIZES.values())
        )
        row.why += [f"{size} bytes {what}" for what, size, most in zip(SIZES, found, SIZES.values()) if size > most]
        row.result = FAILED if row.why else PASSED
        return row

    def _tests(self, tests: Sequence[str]) -> Row:
        """The tests of the runtimes, in the boards' own Python."""
        board = next(one for one in self.boards if one.arch is ARM64)
        row = Row(board.name, "-", "all", "tests", SKIPPED)
        say(f"{board.name}: {' '.join(tests)}")
        try:
            python, environment = nested(self.machines[ARM64.debian], board)
        except Unavailable as reason:
            row.why.append(str(reason))
            return row
        toys = self.folder / "shared"
        toys.mkdir()
        environment["LCR_TEST_SHARED"] = str(toys)
        made = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.runtimes.toy"],
            cwd=ROOT, env={**environment, "PYTHONPATH": ""}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            row.result, row.why = FAILED, [f"the toy models cannot be made: {last_line(made.stderr)}"]
            return row
        call = [*python, "-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider", "-rf", *tests]
        done = subprocess.run(
            call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
        row.result = FAILED if done.returncode else PASSED
        row.nearest = last_line(done.stdout)
        row.why += [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        if done.returncode and not row.why:
            row.why.append(last_line(done.stderr))
        return row


def exports(*, full: bool) -> list[tuple[Path, bool]]:
    """Bundles of each engine, and whether each is for the first board alone."""
    from lcr_edge.export.targets.table import TARGETS
    from tests import shared
    from tests.export import made

    made_now = shared.open_folder()
    if made_now is not None:
        atexit.register(shutil.rmtree, made_now, ignore_errors=True)
    network, others = (made.PACKAGED, []) if full else ("lcr_pico", [(made.PACKAGED, "fp32"), (made.PACKAGED, "int8")])
    # Those with wheels; C has to be compiled for a board.
    targets = [name for name, row in TARGETS.items() if row.engine.package]
    everywhere = [(made.bundle(network, target, precision), False) for target in targets for precision in PRECISIONS]
    return everywhere + [
        (made.bundle(name, target, precision), True) for name, precision in others for target in targets
    ]


def by_engine(bundles: Iterable[Path]) -> dict[str, list[Path]]:
    """Bundles by their target, in their order."""
    groups: dict[str, list[Path]] = {}
    for bundle in bundles:
        groups.setdefault(_manifest(bundle)["target"], []).append(bundle)
    return groups


def difference(
    bundle: Path, report: dict[str, Any], there: dict[str, Array], here: dict[str, Array]
) -> tuple[float, float, str]:
    """How far the answers of two machines are apart, how far they may be, and in which tensor they are farthest."""
    if report["precision"] == "int8":
        settled = PROMISES["int8"].settled
        with np.load(bundle / GOLDEN) as golden:
            deviation = {name: float(golden[name][settled:].std(dtype=np.float64)) for name in there}
        apart = {name: there[name][settled:].astype(np.float64) - here[name][settled:] for name in there}
        off = {name: float(np.sqrt(np.square(apart[name]).mean())) / deviation[name] for name in there}
        promised = ACROSS_CPUS_INT8
    else:
        off = {name: float(np.abs(there[name] - here[name]).max()) for name in there}
        promised = COARSE_ACTIVATIONS.step_abs or 0.0 if report["coarse_activations"] else ACROSS_CPUS
    name = max(off, key=lambda one: off[one])
    return off[name], promised, name


def plant(bundle: Path) -> None:
    """Change the golden logits of a bundle by as much as they vary, so that the digests still fit."""
    with np.load(bundle / GOLDEN) as file:
        arrays = dict(file)
    arrays["logits"] = arrays["logits"] + arrays["logits"].std(dtype=np.float64).astype(np.float32)
    np.savez_compressed(bundle / GOLDEN, **arrays)
    manifest = _manifest(bundle)
    manifest["files"][GOLDEN] = file_record(bundle / GOLDEN)
    (bundle / MANIFEST).write_bytes(seal(manifest))


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def nearest(checks: Sequence[dict[str, Any]]) -> str:
    """The selftest's figure that comes nearest to what it may be at most."""
    judged = [check for check in checks if check["kind"] in ("error", "ratio") and check["measured"] is not None]
    worst = max(judged, key=lambda check: float(check["measured"]) / check["promised"])
    measured = float(worst["measured"])
    shown = f"{measured:.1e}" if worst["kind"] == "error" else f"{measured:.3f}"
    return f"{worst['name']} {shown}, {measured / worst['promised']:.0%}"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown, and below them what failed or was skipped."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *(row.cells() for row in rows)]
    text = ["", *("| " + " | ".join(line) + " |" for line in lines), ""]
    text += [
        f"{row.result}: {row.board}, {row.network}, {row.engine}, {row.precision}: {'; '.join(row.why)}"
        for row in rows
        if row.why
    ]
    count = {result: sum(row.result == result for row in rows) for result in (PASSED, FAILED, SKIPPED)}
    return "\n".join([*text, ", ".join(f"{count[result]} {result}" for result in count)])


def verdict(rows: Sequence[Row], *, require: bool) -> int:
    """The exit code."""
    return int(any(row.result == FAILED or (require and row.result == SKIPPED) for row in rows))


def say(what: str) -> None:
    """Progress, for people."""
    print(what, file=sys.stderr, flush=True)


def _manifest(bundle: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    return manifest
