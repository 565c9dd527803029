"""Feeds the C library with hostile input, under sanitizers: make fuzz FUZZ_SECONDS=60.

Prints a row for each harness. Exit code 1: something was found; the input is kept, and the command that replays it is
printed. 2: the harnesses cannot be built or the options are wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from lcr_edge.runtimes.c_library import SOURCES
from tests.c.fuzz.harnesses import AFL, COMPILERS, HARNESSES, LIBFUZZER, BuildError, build, covered_lines, fuzz

_ROOT = Path(__file__).parents[3]
_TOLD = re.compile(r"ERROR: |runtime error: |this is not so: ")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.c.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="of all harnesses together (default: 60)")
    parser.add_argument("--only", nargs="+", choices=list(HARNESSES), default=list(HARNESSES), metavar="NAME")
    parser.add_argument("--engine", choices=[LIBFUZZER, AFL], default=LIBFUZZER)
    parser.add_argument("--out", type=Path, default=_ROOT / "out" / "fuzz", help="programs, corpora and what was found")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="of the library")
    parser.add_argument("--lines", action="store_true", help="fuzz nothing: which lines do the kept corpora reach?")
    options = parser.parse_args(arguments)
    names = list(dict.fromkeys(options.only))
    if options.seconds < len(names):
        parser.error(f"--seconds {options.seconds} is less than a second for each of {len(names)} harnesses")
    if not (options.sources / "lcr_edge.h").is_file():
        parser.error(f"--sources {options.sources} has no lcr_edge.h: name a folder like runtimes/c")
    try:
        if options.lines:
            return _print_lines(covered_lines(names, options.out, options.sources))
        programs = build(names, options.out / options.engine, options.engine, sources=options.sources)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{COMPILERS[options.engine][0]}\n")
    print("| harness | runs | seconds | runs a second | branches | found |\n|---|---|---|---|---|---|")
    found: list[str] = []
    for name in names:
        outcome = fuzz(programs[name], options.out, options.seconds // len(names), options.engine)
        rate = outcome.runs / max(outcome.seconds, 1.0)
        row = f"{name} | {outcome.runs} | {outcome.seconds:.0f} | {rate:.0f} | {outcome.reached} | {len(outcome.found)}"
        print(f"| {row} |", flush=True)
        told = [line.strip() for line in outcome.log.splitlines() if _TOLD.search(line)]
        found += [f"{programs[name]} {path}  # {told[0] if told else 'it stopped'}" for path in outcome.found]
    print("\nnothing was found" if not found else "\nfound; to see it again:")
    for line in found:
        print(line)
    return 1 if found else 0


def _print_lines(files: dict[str, tuple[int, int]]) -> int:
    print("| file | lines reached | of | |\n|---|---|---|---|")
    for name, (reached, all_lines) in files.items():
        print(f"| {name} | {reached} | {all_lines} | {100 * reached / max(all_lines, 1):.0f} % |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
