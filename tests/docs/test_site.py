"""The documents as a site, as ``make docs`` builds it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.blocks import ROOT

PACKAGE = ("lcr_edge", "export", "runtimes", "calibration", "pyproject.toml", "README.md", "LICENSE")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    source, installed, site = tmp_path / "source", tmp_path / "installed", tmp_path / "site"
    source.mkdir()
    for part in PACKAGE:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(installed), str(source)], check=True)
    here = {**os.environ, "LCR_EDGE_INSTALLED": str(installed), "NO_MKDOCS_2_WARNING": "1"}
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(build, cwd=ROOT, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in site.rglob("*.html"):
        outside = re.findall(r'(?:src="|<link[^>]*href=")(?:https?:)?//[^"]*', page.read_text())
        assert not outside, f"{page.name}: {outside}"
    reference = (site / "reference.html").read_text()
    for thing in ("lcr_edge.runtimes.api.load", "lcr_edge.export.exporter.Exporter", "lcr_edge.build"):
        assert f'id="{thing}"' in reference
    assert ":func:" not in reference


@pytest.mark.parametrize("picture", ["step", "cell", "bundle", "flow"])
def test_pictures_are_readable_in_light_and_dark(picture: str) -> None:
    text = (ROOT / "docs" / "img" / f"{picture}.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"(?:href|src)=\"http", text)


def test_the_animation_is_small() -> None:
    assert (ROOT / "docs" / "img" / "demo.webp").stat().st_size < 700_000
