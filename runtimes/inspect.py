"""Print parameters, FLOPs per frame and per clip, and state bytes of a config or a bundle.

Needs no torch. A multiply-add counts as two FLOPs. Matrix products are counted, and the WKV in its linear form: one
update of a [d, d] state and one read per token and direction. Norms, activations and edge extraction are left out, as
is usual.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lcr_edge.config import CLIP_FRAMES, CONFIGS, VARIANTS, Config, get_config
from lcr_edge.contract import STATE_DTYPES
from lcr_edge.errors import UsageError
from lcr_edge.options import add_json, text_stream, write_json
from lcr_edge.runtimes.bundle import read_bundle

_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
# Fields found only in the manifests of int8 bundles.
_OF_INT8 = ("quant", "activations", "calibration_digest", "float_layers")


def count_parameters(config: Config) -> int:
    """Number of trained parameters of this config; a test compares it with the real module."""
    dim, hidden = config.dim, config.dim * config.ffn_mult
    pixels = config.patch * config.patch
    embed = (3 * pixels + 1) * dim + 2 * dim + (pixels + 1) * dim  # RGB with its norm, edges
    embed += 2 * dim  # class tokens
    prompt = (dim + 1) * config.layers * dim
    matrices = 2 * dim * 2 * dim + dim * 2 * dim + dim * dim + dim * (dim + hidden) + hidden * dim
    vectors = 4 * dim + 2 * dim + 2 * dim + 2 * dim  # the affine parts of the norms: rg, kv, heads, mix
    vectors += dim + dim + dim  # decay, bonus, forget bias
    head = 4 * dim + (2 * dim + 1) * config.classes
    return embed + prompt + config.layers * (matrices + vectors) + head


def count_flops(config: Config) -> int:
    """FLOPs of one frame."""
    dim, hidden, tokens = config.dim, config.dim * config.ffn_mult, config.tokens
    patches, pixels = tokens - 1, config.patch * config.patch
    multiply_adds = patches * 4 * pixels * dim  # RGB and edge patches
    multiply_adds += tokens * dim * config.layers * dim  # prompts
    matrices = 2 * dim * 2 * dim + dim * 2 * dim + dim * dim + dim * (dim + hidden) + hidden * dim
    wkv = 2 * 2 * dim * config.head_dim + 2 * dim  # update and read, two directions; the token itself
    multiply_adds += config.layers * tokens * (matrices + wkv)
    multiply_adds += 2 * dim * config.classes
    return 2 * multiply_adds


def describe(config: Config, state_precision: str = "fp32") -> dict[str, Any]:
    """All figures of a config as plain values. state_precision: precision of the states between steps."""
    return {
        "config": config.name,
        "frame": list(config.frame_shape),
        "tokens": config.tokens,
        "dim": config.dim,
        "layers": config.layers,
        "heads": config.heads,
        "classes": config.classes,
        "kv": config.kv,
        "head": config.head,
        "cell": config.cell,
        "parameters": count_parameters(config),
        "flops_per_frame": count_flops(config),
        f"flops_per_{CLIP_FRAMES}_frame_clip": CLIP_FRAMES * count_flops(config),
        "state_shape": list(config.state_shape),
        "state_dtype": STATE_DTYPES[state_precision],
        "state_bytes": 2 * _BYTES[state_precision] * config.layers * config.tokens * config.dim,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge inspect``."""
    parser.add_argument("what", metavar="WHAT", help=f"a config ({', '.join(CONFIGS)}) or a bundle folder")
    parser.add_argument(
        "--variant",
        default="default",
        metavar="NAME",
        help=f"variant of a config: {' or '.join(VARIANTS)} (default: default)",
    )
    parser.add_argument("--classes", type=int, metavar="N", help="number of classes of a config (default: 27)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the figures. Raises UsageError, BundleError, OutputError."""
    facts: dict[str, Any]
    if args.what in CONFIGS:
        facts = describe(get_config(args.what, classes=args.classes, variant=args.variant))
    elif Path(args.what).is_dir():
        if args.variant != "default" or args.classes is not None:
            raise UsageError("--variant and --classes are for configs; a bundle has its own")
        bundle = read_bundle(args.what)
        manifest = bundle.manifest
        facts = describe(bundle.config, bundle.state_precision)
        facts.update({key: manifest[key] for key in ("target", "precision")})
        facts.update({key: manifest[key] for key in _OF_INT8 if manifest.get(key)})
        facts.update(edges=bundle.edges, state_mode=bundle.state_mode, io=bundle.io, fit=bundle.fit)
        facts["streams_per_call"] = bundle.batch
        judged = manifest.get("judged_on")
        if isinstance(judged, dict):
            facts["judged_on"] = judged.get("data")
        facts["contract_version"] = manifest["contract_version"]
        facts["files"] = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    else:
        raise UsageError(f"{args.what!r} is neither a config ({', '.join(CONFIGS)}) nor a bundle folder")
    for key, value in facts.items():
        print(f"{key.replace('_', ' '):26} {_readable(key, value)}", file=text_stream(args.json))
    write_json(args.json, facts)
    return 0


def _readable(key: str, value: Any) -> str:
    if key == "parameters":
        return f"{value:,} ({value / 1e6:.2f} M)"
    if key.startswith("flops"):
        return f"{value:,} ({value / 1e9:.3f} G)"
    if key == "state_bytes":
        return f"{value:,} ({value / 1024:.0f} KiB, H and C)"
    if key == "files":
        return ", ".join(f"{name} {size:,} bytes" for name, size in value.items())
    if key == "float_layers":
        return ", ".join(value)
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)
