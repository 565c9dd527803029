"""The journey of one network through the command line: train, export to every engine and precision, run.

Every step is a process of its own with the command's defaults. What came of it is one line of OUT/results.jsonl, and a
step that has a line is not done again:

    {"network": "films-lcr_pico-0", "step": "train" | "fp32" | "fp16" | "int8", "seconds": ..., ...}
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("onnx", "openvino", "tflite")
PRECISIONS = ("fp32", "fp16", "int8")
RESULTS = "results.jsonl"
_READY = re.compile(r"^(not )?ready to export: (.*)$", re.MULTILINE)
_RIGHT = re.compile(r"^held-out clips: .*$", re.MULTILINE)
_FIGURES = re.compile(r"float32 (\S+) from .* grow (\S+) times.* forecast (\S+)% of .*\(error (\S+)\)")


@dataclass(frozen=True)
class Network:
    """One network to be made. data: what ``--data`` takes. kind: a short name of that. clip: a video to run on."""

    kind: str
    data: str
    clip: Path
    config: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.config}-{self.seed}"


class Journey:
    """The journeys of any number of networks in one folder, ``out``.

    gate: exports are refused as they are by default; without, a bundle that misses its promise is written all the
    same, so that its figures are known. keep: do not delete the bundles.
    """

    def __init__(self, out: Path, *, gate: bool = True, keep: bool = False) -> None:
        self.out, self.gate, self.keep = out, gate, keep
        out.mkdir(parents=True, exist_ok=True)
        self.done: dict[tuple[str, str], dict[str, Any]] = {}
        for record in _read(out / RESULTS):
            self.done[record["network"], record["step"]] = record

    def follow(self, network: Network, *, healthy: bool = False) -> None:
        """Train the network, and export and run it in all precisions. healthy: only if training calls it ready."""
        trained = self._step(network, "train", self._train)
        if trained["code"] or (healthy and not trained["ready"]):
            return
        for precision in PRECISIONS:
            self._step(network, precision, functools.partial(self._export, precision))

    def of(self, network: Network, step: str) -> dict[str, Any] | None:
        """What came of a step; None where it was not done."""
        return self.done.get((network.name, step))

    def _step(self, network: Network, step: str, do: Callable[[Network], dict[str, Any]]) -> dict[str, Any]:
        known = self.of(network, step)
        if known is not None and known["steps"] == network.steps:
            return known
        begin = time.monotonic()
        print(f"{network.name}: {step} ...", file=sys.stderr, flush=True)
        found = {"network": network.name, "steps": network.steps, "step": step, **do(network)}
        found["seconds"] = round(time.monotonic() - begin, 1)
        with (self.out / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        self.done[network.name, step] = found
        return found

    def _folder(self, network: Network) -> Path:
        return self.out / network.name

    def _train(self, network: Network) -> dict[str, Any]:
        folder = self._folder(network)
        call = ["train", "--data", network.data, "--config", network.config, "--out", str(folder / "run")]
        call += ["--steps", str(network.steps), "--seed", str(network.seed)]
        if network.data.startswith("rendered"):
            call += ["--cache", str(self.out / "cache")]
        resumed = (folder / "run" / "run.safetensors").is_file()  # of a journey that was stopped
        code, said, errors = lcr_edge(*call, "--resume") if resumed else (1, "", "")
        if code or not _READY.search(said):  # nothing to go on with, other --steps, or it had ended without a word
            shutil.rmtree(folder, ignore_errors=True)
            code, said, errors = lcr_edge(*call)
        ready = next(reversed(list(_READY.finditer(said))), None)  # the last one: calming may have gone on before
        measured = _FIGURES.search(said)
        right = _RIGHT.search(said)
        return {
            "code": code,
            "ready": ready is not None and ready[1] is None,
            "said": ready[0] if ready else "",
            "figures": [float(figure) for figure in measured.groups()] if measured else [],
            "heldout": right[0] if right else "",
            "error": errors.strip().splitlines()[-1] if code and errors.strip() else "",
        }

    def _export(self, precision: str, network: Network) -> dict[str, Any]:
        """One call of export for all engines, and a run of each bundle that was written."""
        folder = self._folder(network)
        out, document = folder / precision, folder / f"{precision}.json"
        shutil.rmtree(out, ignore_errors=True)
        document.unlink(missing_ok=True)
        call = ["export", "--target", "all", "--checkpoint", str(folder / "run" / f"{network.config}.safetensors")]
        call += ["--precision", precision, "--out", str(out), "--json", str(document)]
        code, _, errors = lcr_edge(*call, *(() if self.gate else ("--no-gate",)))
        found = json.loads(document.read_text()) if document.is_file() else {"bundles": [], "refused": {}}
        rows = {}
        for engine in ENGINES:
            name = f"{network.config}-{engine}-{precision}"
            bundle = next((one for one in found["bundles"] if Path(one["folder"]).name == name), None)
            parity = {} if bundle is None else bundle["parity"]
            refused = "; ".join(parity.get("failures", ())) or found["refused"].get(name, "")
            if bundle is None and not refused:
                refused = f"nothing was written: {(errors.strip().splitlines() or ['no message'])[-1]}"
            ran = None if bundle is None else lcr_edge("run", str(out / name), "--source", str(network.clip))
            rows[engine] = {
                "refused": refused,
                "clip": parity.get("clip"),
                "checks": parity.get("checks", []),
                "run": None if ran is None else ran[0] == 0 and bool(ran[1].strip()),
            }
        if not self.keep:
            shutil.rmtree(out, ignore_errors=True)
        return {"code": code, "engines": rows}


def lcr_edge(*arguments: str) -> tuple[int, str, str]:
    """Call the command in a process of its own. Returns exit code, stdout and stderr."""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    call = [sys.executable, "-m", "lcr_edge", *arguments]
    ended = subprocess.run(call, env=here, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def exports(journey: Journey, networks: list[Network]) -> Iterator[tuple[Network, str, str, dict[str, Any]]]:
    """Network, precision, engine and what came of it, of all exports that were done."""
    for network in networks:
        for precision in PRECISIONS:
            done = journey.of(network, precision)
            for engine, row in ({} if done is None else done["engines"]).items():
                yield network, precision, engine, row


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file; the last one may have been cut by a kill."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            print(f"{path}: a line is damaged; its step is done again", file=sys.stderr)
    return found
