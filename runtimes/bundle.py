"""The bundle on disk: its manifest, sealed by the exporter and checked by every loader."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcr_edge.config import Config
from lcr_edge.contract import (
    CONTRACT_VERSION,
    EDGE_MODES,
    IO_MODES,
    MAX_BATCH,
    STATE_DTYPES,
    STATE_MODES,
    Boundary,
    TensorSpec,
    input_specs,
    output_specs,
)
from lcr_edge.errors import BundleError, UsageError
from lcr_edge.frames import DEFAULT_FIT, FITS
from lcr_edge.runtimes.engines import ENGINES
from lcr_edge.runtimes.tensors import REEXPORT, compare_specs, read_boundary, read_specs

MANIFEST = "manifest.json"
_SEAL = "manifest_sha256"
_BLANK = "0" * 64
# What make builds in the folder of a C bundle, which has this header. Nothing here reads it.
_HEADER = "lcr_edge.h"
_BUILT = re.compile(r"\.built_with|selftest|cortex_m\d+\.elf|.+\.(o|a|so|so\.\d+)")


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. ``manifest`` is the parsed manifest.json; the other fields are its parts, typed.

    state_precision, io: see ``lcr_edge.contract``. boundary: (scale, zero point) of each int8 tensor by name; empty
    unless io is "int8". batch: streams that one call of the engine steps; inputs and outputs are those of the call.
    fit: how camera frames are resized for the model, a name in ``frames.FITS``.
    """

    folder: Path
    manifest: dict[str, Any]
    config: Config
    target: str
    precision: str
    edges: str
    state_mode: str
    state_precision: str
    io: str
    boundary: Boundary
    batch: int
    fit: str
    labels: tuple[str, ...]
    model_files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def producer(self, package: str) -> str:
        """Version of a package that made the bundle, "unknown" if the manifest does not say."""
        return str(self.manifest["producer"].get(package, "unknown"))


def file_record(path: Path) -> dict[str, Any]:
    """``{"sha256": hex digest, "bytes": size}`` of one file, as in the manifest's table ``files``."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return {"sha256": digest.hexdigest(), "bytes": size}


def seal(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of manifest.json with ``manifest_sha256`` filled in.

    The value is the sha256 of these same bytes with 64 zeros in its place, so any changed byte is noticed.
    A ``manifest_sha256`` already in ``manifest`` is replaced. Raises ValueError for NaN or Inf (not JSON).
    """
    content = {key: value for key, value in manifest.items() if key != _SEAL}
    content[_SEAL] = _BLANK
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    # The seal is the last key, so the last blank is the seal's even if another value is 64 zeros too.
    head, tail = text.rsplit(_BLANK, 1)
    return (head + digest + tail).encode()


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle folder: version, digests, sizes, names and shapes. Nothing is unpickled or executed.

    Raises BundleError; its message names the file and the fix.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file; give the bundle's folder" if folder.exists() else "does not exist"
        raise BundleError(
            f"bundle {folder} {what}. Make one with: python -m lcr_edge.export --target {{{','.join(ENGINES)}}}"
        )
    manifest = _read_manifest(folder / MANIFEST)
    bundle = _typed(folder, manifest)
    _check_files(folder, manifest["files"])
    return bundle


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{path.parent} has no {MANIFEST}: not a bundle, or partly copied; {REEXPORT}") from None
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    try:
        manifest = json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise BundleError(f"{path} is not JSON: damaged or edited; {REEXPORT}") from None
    version = manifest.get("contract_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleError(f"{path} has no contract version: not an lcr_edge manifest, or damaged; {REEXPORT}")
    # Checked before the seal: a future version may seal differently, and its user should be told to upgrade.
    if version != CONTRACT_VERSION:
        way_out = "upgrade lcr-edge on this device" if version > CONTRACT_VERSION else "export it again"
        raise BundleError(f"{path}: contract version {version}; this lcr_edge supports {CONTRACT_VERSION}: {way_out}")
    value = manifest.get(_SEAL)
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise BundleError(f"{path} is not sealed ({_SEAL} is missing or damaged); {REEXPORT}")
    head, _, tail = raw.rpartition(value.encode())
    if hashlib.sha256(head + _BLANK.encode() + tail).hexdigest() != value:
        raise BundleError(f"{path} was changed after the export (its digest differs); {REEXPORT}")
    return dict(manifest)


def _typed(folder: Path, manifest: dict[str, Any]) -> Bundle:
    where = folder / MANIFEST
    try:
        config = Config.from_dict(dict(_field(manifest, "config", dict, where)))
    except (UsageError, TypeError) as error:
        raise BundleError(f"{where}: {error}; {REEXPORT}") from error
    target = _choice(manifest, "target", tuple(ENGINES), where)
    edges = _choice(manifest, "edges", EDGE_MODES, where)
    state_mode = _choice(manifest, "state_mode", STATE_MODES, where)
    if state_mode not in ENGINES[target].state_modes:
        raise BundleError(f"{where}: bundles for {target} cannot keep their state inside; {REEXPORT}")
    # Bundles made before these two fields existed are float.
    state_precision = _choice({"state_precision": "fp32", **manifest}, "state_precision", tuple(STATE_DTYPES), where)
    io = _choice({"io": "float", **manifest}, "io", IO_MODES, where)
    if (state_precision == "int8") != (io == "int8"):
        raise BundleError(f"{where}: io is {io!r}, but the states are {state_precision!r}; {REEXPORT}")
    tables = [*_field(manifest, "inputs", list, where), *_field(manifest, "outputs", list, where)]
    boundary = read_boundary(tables, where) if io == "int8" else {}
    batch = manifest.get("batch", 1)  # bundles made before it existed step one stream
    if type(batch) is not int or not 1 <= batch <= MAX_BATCH:
        raise BundleError(f"{where}: batch must be a whole number from 1 to {MAX_BATCH}, found {batch!r}; {REEXPORT}")
    if batch > 1 and (state_mode, io) != ("explicit", "float"):
        raise BundleError(f"{where}: a model with its states inside or of integers steps one stream; {REEXPORT}")
    inputs = input_specs(config, edges, state_mode, state_precision, boundary, batch)
    outputs = output_specs(config, state_mode, state_precision, boundary, batch)
    for key, specs in (("inputs", inputs), ("outputs", outputs)):
        compare_specs(read_specs(_field(manifest, key, list, where), where), specs, f"{where}, {key}")
    labels = _field(manifest, "labels", list, where)
    if len(labels) != config.classes or not all(isinstance(label, str) for label in labels):
        raise BundleError(f"{where}: labels must be {config.classes} strings, found {len(labels)} entries; {REEXPORT}")
    frame = _field(manifest, "frame", dict, where)
    wanted = {"height": config.height, "width": config.width, "colour": "RGB", "layout": "NHWC"}
    wrong = [key for key, value in wanted.items() if frame.get(key) != value]
    fps = frame.get("train_fps")
    if wrong or isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < 1e6:
        raise BundleError(f"{where}: frame does not fit the config ({', '.join(wrong) or 'train_fps'}); {REEXPORT}")
    # Bundles made before this entry existed are letterboxed.
    fit = _choice({"fit": DEFAULT_FIT, **frame}, "fit", tuple(FITS), where)
    model_files = _field(manifest, "model_files", list, where)
    files = _field(manifest, "files", dict, where)
    if not model_files or any(name not in files for name in map(str, model_files)):
        raise BundleError(f"{where}: model_files must name files of the bundle, found {model_files}; {REEXPORT}")
    _field(manifest, "producer", dict, where)
    return Bundle(
        folder=folder,
        manifest=manifest,
        config=config,
        target=target,
        precision=_field(manifest, "precision", str, where),
        edges=edges,
        state_mode=state_mode,
        state_precision=state_precision,
        io=io,
        boundary=boundary,
        batch=batch,
        fit=fit,
        labels=tuple(labels),
        model_files=tuple(map(str, model_files)),
        inputs=inputs,
        outputs=outputs,
    )


def _field(manifest: Mapping[str, Any], key: str, kind: type, where: Path) -> Any:
    value = manifest.get(key)
    if not isinstance(value, kind):
        raise BundleError(f"{where}: {key!r} is missing or not a JSON {kind.__name__}; {REEXPORT}")
    return value


def _choice(manifest: Mapping[str, Any], key: str, allowed: Sequence[str], where: Path) -> str:
    value = manifest.get(key)
    if not isinstance(value, str) or value not in allowed:
        raise BundleError(f"{where}: {key} must be one of {', '.join(allowed)}, found {value!r}; upgrade lcr-edge")
    return value


def _check_files(folder: Path, files: Mapping[str, Any]) -> None:
    found = {entry.name for entry in folder.iterdir()} - {MANIFEST}
    built = {name for name in found if _HEADER in files and _BUILT.fullmatch(name)}
    missing, extra = sorted(set(files) - found), sorted(found - set(files) - built)
    if missing:
        raise BundleError(f"bundle {folder} is missing {', '.join(missing)}; {REEXPORT}")
    if extra:
        raise BundleError(f"bundle {folder} has files that its manifest does not list: {', '.join(extra)}; remove them")
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path} is not a file; {REEXPORT}")
        try:
            actual = file_record(path)
        except OSError as error:
            raise BundleError(f"cannot read {path}: {error.strerror}; check its permissions") from error
        if actual != record:
            raise BundleError(
                f"{path} differs from what was exported ({actual['bytes']} bytes, "
                f"sha256 {actual['sha256'][:12]}...): changed, truncated or half copied; {REEXPORT}"
            )
