"""Print what this machine has for lcr_edge; with BUNDLE, whether that bundle will work here.

``lcr-edge doctor`` shows the machine (``lcr_edge.doctor``). ``lcr-edge doctor BUNDLE`` looks at one bundle: contract,
files, Python, numpy, the engine, the processor, OpenCV, memory; then loads it, steps it once beside its golden clip
and says what came of it. Exit codes, for scripts: 0 it works here, 1 it will not, 2 the call was wrong.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lcr_edge import doctor as of_machine
from lcr_edge import options
from lcr_edge.errors import BundleError, UsageError, how_to_install
from lcr_edge.kernels.compilers import find_cc
from lcr_edge.machine import available_bytes, features, how_to_get, processor, this_machine
from lcr_edge.runtimes.bundle import MANIFEST, Bundle, read_bundle
from lcr_edge.runtimes.engines import ENGINES
from lcr_edge.runtimes.trial import Trial, try_out

OK, NOTE, FAILED = "ok", "note", "FAILED"
# Instructions that add products of int8 in int32.
_DOT = ("avx512_vnni", "avx_vnni", "asimddp", "i8mm")
_LITTLE = 100e6  # bytes of memory left, below which the next program may be one too many
_OTHER_TFLITE = "tflite-runtime"
_BENCH = "lcr-edge bench says whether it is faster than fp32 here"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. state: OK, NOTE (works, but should be known) or FAILED. fix: a command, or how to
    mend it in words; empty where there is nothing to mend."""

    what: str
    state: str
    text: str
    fix: str = ""


def examine_bundle(path: str) -> list[Finding]:
    """Everything about one bundle on this machine, in the order of printing.

    Raises BundleError where there is no bundle at ``path``. A damaged one, or one that this lcr_edge does not know, is
    a finding.
    """
    if not (Path(path) / MANIFEST).is_file():
        read_bundle(path)  # says what is there instead
    try:
        bundle = read_bundle(path)
    except BundleError as error:
        return [Finding("bundle", FAILED, str(error))]
    return list(_findings(bundle))


def _findings(bundle: Bundle) -> Iterator[Finding]:
    files = len(bundle.manifest["files"])
    what = f"{bundle.config.name} for {bundle.target}, {bundle.precision}"
    version = bundle.manifest["contract_version"]
    yield Finding("bundle", OK, f"{what}: contract version {version}, {files} files whole")
    yield Finding("python", OK, f"{platform.python_version()} of {this_machine().bits} bits")
    package, installed = _engine_here(bundle.target)
    yield _numpy(package)
    yield _engine(bundle, package, installed)
    if bundle.precision == "int8":
        yield _int8(bundle)
    yield _opencv(bundle)
    if installed is not None or (not package and find_cc()):
        trial = try_out(bundle.folder)
        yield _memory(trial)
        yield _step(trial, bundle, package)


def _engine_here(target: str) -> tuple[str, str | None]:
    """The package that runs a target here, and its version; None where there is none."""
    package = ENGINES[target].package
    if not package:
        return package, None
    installed = of_machine.version_of(package)
    if installed is None and target == "tflite" and of_machine.version_of(_OTHER_TFLITE):
        package, installed = _OTHER_TFLITE, of_machine.version_of(_OTHER_TFLITE)
    if installed is None and target == "onnx":  # its builds for GPUs are packages of their own
        for other in ("onnxruntime-gpu", "onnxruntime-openvino"):
            if of_machine.version_of(other):
                return other, of_machine.version_of(other)
    return package, installed


def _numpy(package: str) -> Finding:
    version = importlib.import_module("numpy").__version__
    if package == _OTHER_TFLITE and numbers(version) >= (2,):
        return Finding("numpy", FAILED, f"{version}, but {package} was built for numpy 1", 'pip install "numpy<2"')
    return Finding("numpy", OK, version)


def _engine(bundle: Bundle, package: str, installed: str | None) -> Finding:
    machine = this_machine()
    if not package:
        return _compiler()
    if installed is None:
        fix = how_to_get(package, machine)
        if package == "ai-edge-litert" and fix.startswith("not "):
            fix = how_to_get(_OTHER_TFLITE, machine)
        if fix.startswith("not "):
            return Finding("engine", FAILED, f"{package} is not installed, and has no wheel {fix[len('not ') :]}")
        return Finding("engine", FAILED, f"{package} is not installed", fix)
    made = bundle.producer(ENGINES[bundle.target].package)
    text = f"{package} {installed}, the bundle was made with {ENGINES[bundle.target].package} {made}"
    if package != _OTHER_TFLITE and numbers(installed) < numbers(made):
        return Finding("engine", NOTE, f"{text}: this one is older", f'pip install --upgrade "{package}>={made}"')
    return Finding("engine", OK, text)


def _compiler() -> Finding:
    """What builds the C step here."""
    found = find_cc()
    if not found:
        return Finding("engine", FAILED, "there is no C compiler, which builds the C step", "apt-get install gcc")
    return Finding("engine", OK, f"{shlex.join(found)} builds the C step once and keeps it")


def _int8(bundle: Bundle) -> Finding:
    """What int8 is worth on this processor."""
    here = features()
    found = [name for name in _DOT if name in here]
    name = processor().partition(",")[0]
    if found:
        return Finding("processor", OK, f"{name}, with {found[0]}: int8 is computed in int8")
    if platform.machine() not in ("x86_64", "AMD64"):
        return Finding("processor", NOTE, f"{name}, without dot products of int8: int8 is right; {_BENCH}")
    how = {
        "openvino": "OpenVINO computes the int8 products in float, which is right and slower",
        "onnx": "onnxruntime takes products that cannot overflow, which are slower",
    }.get(bundle.target, "int8 is right")
    return Finding("processor", NOTE, f"{name}, without VNNI: {how}; {_BENCH}")


def _opencv(bundle: Bundle) -> Finding:
    try:
        version = importlib.import_module("cv2").__version__
    except ImportError as error:
        fix = how_to_install("video")
        if this_machine().arm32:  # as for numpy, there is no wheel for it
            fix = "apt-get install python3-opencv, in an environment with --system-site-packages"
        if importlib.util.find_spec("cv2") is not None:
            return Finding("opencv", NOTE, f"it is installed, but cannot be imported: {error}", fix)
        edges = ", and the edges are computed by numpy, slower" if bundle.edges == "host" else ""
        return Finding("opencv", NOTE, f"not installed: no cameras and no video files (run, record){edges}", fix)
    return Finding("opencv", OK, version)


def _memory(trial: Trial) -> Finding:
    left = available_bytes()
    if not trial.peak_bytes or left is None:
        return Finding("memory", OK, "not known" if left is None else f"{left / 1e6:.0f} MB available")
    text = f"took {trial.peak_bytes / 1e6:.0f} MB, {left / 1e6:.0f} MB available"
    if left < trial.peak_bytes + _LITTLE:
        return Finding("memory", NOTE, text, "end other programs, or add swap")
    return Finding("memory", OK, text)


def _step(trial: Trial, bundle: Bundle, package: str) -> Finding:
    if trial.error:
        return Finding("step", FAILED, trial.error, _remedy(trial, bundle, package))
    if trial.off:
        text = f"{trial.engine} computes something else here: {trial.off[0]}"
        return Finding("step", FAILED, text, f"lcr-edge selftest {bundle.folder} says more; take another version of it")
    each = "a step" if bundle.batch == 1 else f"a call for up to {bundle.batch} streams"
    text = f"{trial.engine}: loads in {trial.load_s:.1f} s, {trial.step_ms:.1f} ms {each}, within what is promised"
    return Finding("step", OK, text)


def _remedy(trial: Trial, bundle: Bundle, package: str) -> str:
    if trial.killed == "SIGILL":
        return "take another engine (lcr-edge export --target ...), or an older version of this one"
    if trial.killed == "SIGKILL":
        return "end other programs, or add swap"
    if package and (trial.killed or "cannot load" in trial.error):
        made = bundle.producer(ENGINES[bundle.target].package)
        return f'pip install --upgrade "{package}{"" if package == _OTHER_TFLITE else f">={made}"}"'
    return ""


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that can be compared: "1.31.1" is (1, 31, 1). What is no number ends it."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge doctor``."""
    parser.add_argument("bundle", nargs="?", help="a bundle folder: will it work here? (exit code 0 yes, 1 no)")
    of_machine.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print findings and verdict; without a bundle, the machine. Raises BundleError, UsageError and OutputError."""
    if args.bundle is None:
        return of_machine.run(args)
    if args.require_cuda_kernel:
        raise UsageError("--require-cuda-kernel is about the machine: leave out the bundle")
    options.check_json(args.json)
    out = options.text_stream(args.json)
    findings = examine_bundle(args.bundle)
    for finding in findings:
        print(f"{finding.state:7} {finding.what:10} {finding.text}", file=out)
        if finding.fix:
            print(f"{'':18} {finding.fix}", file=out)
    failed = [finding for finding in findings if finding.state == FAILED]
    print(verdict(args.bundle, failed), file=out)
    options.write_json(
        args.json,
        {
            "bundle": args.bundle,
            "works": not failed,
            "processor": processor(),
            "python": platform.python_version(),
            "findings": [asdict(finding) for finding in findings],
        },
    )
    return 1 if failed else 0


def verdict(bundle: str, failed: list[Finding]) -> str:
    """The last line."""
    if not failed:
        return f"{bundle} works here"
    first = failed[0]
    mend = f"To mend it: {first.fix}" if first.fix else first.text
    return f"{bundle} will not work here, because of its {first.what}. {mend}"
