"""What the documents tell a reader to type works: every block is run or at least checked, every link leads somewhere.

The blocks of a page run in one scratch folder, from top to bottom. It holds what the pages speak of: ``video.mp4``, the
folder ``videos/`` and, where a page starts from a bundle that another page exported, that bundle.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lcr_edge.cli import COMMANDS
from tests.data.made import gesture, make_folder, write_video
from tests.docs.blocks import PAGES, ROOT, Block, all_blocks, blocks_of, commands, lcr_arguments
from tests.export import made

LANGUAGES = {"sh", "python", "yaml", "text", "toml", "ini", "json"}
NO_CI_FILES = {"camera-service.md"}  # pages whose yaml is for something else
# So few of all blocks may go unrun; each says why.
MOST_NOT_RUN = 18
# What takes more than a moment: such commands, and bundles that have to be made first.
HEAVY = re.compile(r"lcr-edge (export --(?!list)|train|evaluate|compare|sensitivity)|out/lcr_")
# Bundles that a page may start from.
BUNDLE = re.compile(r"out/(lcr_nano)-(onnx|openvino|tflite)-(fp32|int8)\b")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@functools.cache
def footage() -> Path:
    """``video.mp4`` and ``videos/``, made once in a test process."""
    folder = made.folder()
    clips = [gesture(label, 0, "heldout", 96) for label in ("Thumb Up", "Swiping Left")]
    write_video(folder / "video.mp4", np.concatenate(clips))
    make_folder(folder / "videos", classes=2, clips=6)
    return folder


def scratch(folder: Path, page: Path) -> Path:
    """The folder in which a page's blocks run, with the bundles that the page uses and does not export itself."""
    shutil.copytree(footage(), folder, dirs_exist_ok=True)
    text = "".join(block.text for block in runnable(page))
    for config, target, precision in sorted(set(BUNDLE.findall(text))):
        if not re.search(rf"lcr-edge export --target ({target}|all)\b(?!.*--precision)", text):
            bundle = made.bundle(made.PACKAGED, target, precision)
            shutil.copytree(bundle, folder / "out" / f"{config}-{target}-{precision}")
    return folder


def run(block: Block, folder: Path) -> None:
    """Run a block as a reader would, and fail with its place and what it printed."""
    here = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default",
    }
    call = ["bash", "-euo", "pipefail"] if block.language == "sh" else [sys.executable, "-"]
    done = subprocess.run(call, input=block.text, cwd=folder, env=here, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, (
        f"{block.place} ends with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    )


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language in ("sh", "python") and not block.not_run]


def pages_to_run() -> list[Any]:
    """The pages with something to run, as parameters; slow where that exports, trains or steps a bundle."""
    found = []
    for page in PAGES:
        blocks = runnable(page)
        marks = [pytest.mark.slow] if any(HEAVY.search(block.text) for block in blocks) else []
        if blocks:
            found.append(pytest.param(page, id=name(page), marks=marks))
    return found


@pytest.mark.parametrize("page", pages_to_run())
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    if any(re.search("^cmake ", block.text, re.MULTILINE) for block in runnable(page)) and not shutil.which("cmake"):
        pytest.skip("there is no cmake: make headers, or apt-get install cmake")
    folder = scratch(tmp_path, page)
    for block in runnable(page):
        run(block, folder)


def test_every_block_has_a_known_language_and_few_go_unrun() -> None:
    blocks = all_blocks()
    assert {block.language for block in blocks} <= LANGUAGES
    unrun = [block.place for block in blocks if block.not_run]
    assert len(unrun) <= MOST_NOT_RUN, unrun
    for page in PAGES:
        # A comment that is not right before a block would leave the block unmarked, or mark nothing.
        marks = re.findall(r"<!--", page.read_text())
        assert len(marks) == sum(bool(block.not_run) for block in blocks_of(page)), page


def accepts(arguments: list[str], place: str) -> None:
    """The command's own parser takes these arguments."""
    assert arguments, f"{place}: lcr-edge without a command"
    assert arguments[0] in COMMANDS, f"{place}: no command {arguments[0]!r}"
    if {"--help", "--version"} & set(arguments):
        return
    parser = argparse.ArgumentParser(prog=arguments[0])
    importlib.import_module(COMMANDS[arguments[0]][0]).add_arguments(parser)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            parser.parse_args(arguments[1:])
        except SystemExit:
            pytest.fail(f"{place}: {said.getvalue()}")


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_script(script: str, place: str) -> None:
    """Every command of ours in a script exists and takes its options; every make target exists."""
    for words in commands(script):
        arguments = lcr_arguments(words)
        if arguments is not None:
            accepts(arguments, place)
        elif words[0] == "make" and "-C" not in words:  # a bundle has a Makefile of its own
            targets = [word for word in words[1:] if "=" not in word]
            assert set(targets) <= targets_of_make(), f"{place}: make {targets}"


@pytest.mark.parametrize("block", [b for b in all_blocks() if b.language == "sh"], ids=lambda b: str(b.place))
def test_commands_take_their_options(block: Block) -> None:
    check_script(block.text, block.place)


@pytest.mark.parametrize("page", ["raspberry-pi", "jetson"])
def test_commands_for_a_board_take_their_options(page: str) -> None:
    """What is typed on a board stands in blocks of text, also in lists, because no test can run it."""
    lines = (ROOT / "docs" / f"{page}.md").read_text().splitlines()
    ours = [line.strip().partition("  #")[0] for line in lines if line.strip().startswith("lcr-edge ")]
    assert len(ours) >= 3
    check_script("\n".join(ours), page)


@pytest.mark.parametrize("block", [b for b in all_blocks() if b.language == "ini"], ids=lambda b: str(b.place))
def test_units_call_what_there_is(block: Block, tmp_path: Path) -> None:
    calls = re.findall(r"^Exec\w+=\S*/lcr-edge (.+)$", block.text, re.MULTILINE)
    assert calls
    for call in calls:
        accepts(call.split(), block.place)
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:  # not everywhere; what is called need not be there
        unit = tmp_path / "unit.service"
        unit.write_text(re.sub(r"=\S*/lcr-edge ", f"={shutil.which('true')} ", block.text))
        done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
        assert not [line for line in done.stderr.splitlines() if unit.name in line], done.stderr


def test_make_targets_and_commands_in_sentences_exist() -> None:
    known = targets_of_make()
    for page in (*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"):
        text = page.read_text()
        assert set(re.findall(r"`make ([a-z][a-z0-9-]*)", text)) <= known, page
        assert set(re.findall(r"`lcr-edge ([a-z][a-z-]*)", text)) <= set(COMMANDS), page


def scripts_of(document: Any) -> Iterator[str]:
    """The shell scripts of a CI file: every ``run`` of GitHub, every line of a ``script`` of GitLab."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "run" and isinstance(value, str):
                yield value
            elif key in ("script", "before_script") and isinstance(value, list):
                yield "\n".join(value)
            else:
                yield from scripts_of(value)
    elif isinstance(document, list):
        for value in document:
            yield from scripts_of(value)


@pytest.mark.parametrize(
    "block",
    [b for b in all_blocks() if b.language == "yaml" and b.page.name not in NO_CI_FILES],
    ids=lambda b: str(b.place),
)
def test_ci_files_call_what_there_is(block: Block) -> None:
    scripts = list(scripts_of(yaml.safe_load(block.text)))
    ours = 0
    for script in scripts:
        plain = re.sub(r"\$\{\{.*?\}\}|\$[A-Za-z_]+", "7", script)
        check_script(plain, block.place)
        ours += sum(lcr_arguments(words) is not None for words in commands(plain))
    assert ours >= 2, "a CI file of ours exports and verifies"


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / f"{n}.md" for n in ("ARCHITECTURE", "CONTRIBUTING", "CHANGELOG"))], ids=name
)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http", "#", "mailto:")):
            path, _, anchor = target.partition("#")
            found = page.parent / path
            assert found.exists(), f"{name(page)}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}, (
                    target
                )


def test_paths_of_the_repository_in_the_documents_exist() -> None:
    """Names of files and folders in backticks, such as `lcr_edge/contract.py`, are those of this tree."""
    tops = "lcr_edge|export|runtimes|calibration|tests|docs"
    for page in (*PAGES, ROOT / "ARCHITECTURE.md"):
        for path in re.findall(rf"`((?:{tops})/[\w/.]*\w)`", page.read_text()):
            assert (ROOT / path).exists() or "ncnn" in path, f"{name(page)}: {path}"


def test_a_broken_block_is_found(tmp_path: Path) -> None:
    page = PAGES[0]
    with pytest.raises(AssertionError, match=r"README.md:7 ends with"):
        run(Block(page, 7, "sh", "lcr-edge inspect lcr_pico\nlcr-edge inspect nothing_like_it\n", ""), tmp_path)
    with pytest.raises(AssertionError, match=r"README.md:7 ends with"):
        run(Block(page, 7, "python", "raise SystemExit(3)\n", ""), tmp_path)
    with pytest.raises(pytest.fail.Exception, match="unrecognized arguments"):
        check_script("set -e\nFRAMES=3 lcr-edge inspect lcr_pico --no-such-option | cat", "here")
    with pytest.raises(AssertionError, match="no command 'exprot'"):
        check_script("for t in a b; do\n  lcr-edge exprot \\\n --target $t || failed=1\ndone", "here")
