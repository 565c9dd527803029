"""Network configurations: frozen, validated, torch-free."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

from lcr_edge.errors import UsageError

# Frames of a clip, in rendered gestures, training, calibration and evaluation: two seconds of the packaged network.
CLIP_FRAMES = 16
MIN_CLIP_FRAMES, MAX_CLIP_FRAMES = 2, 10_000
KV_SOURCES = ("edge+frame", "edge")
HEADS = ("mean", "cls")
CELLS = ("bounded", "residual")
# A config's name becomes the name of files and folders, so it must not be a path.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {"kv": "edge+frame", "head": "mean", "cell": "bounded"},
    # Our reading of the paper's text (docs/model.md says what is known of it).
    "paper": {"kv": "edge", "head": "cls", "cell": "residual"},
}


@dataclass(frozen=True)
class Config:
    """Everything that fixes the network's shapes and equations.

    name: letters, digits, "_", "-" and ".", at most 64, no "." first. height, width: frame size in pixels, multiples of
    ``patch``. dim: channels C, a multiple of ``head_dim``.
    kv: what keys and values are made from. head: which token the classifier reads. cell: ``bounded`` is
    C_t = f (C_{t-1} + tanh A), ``residual`` C_t = f (tanh A + C_{t-1}) + C_{t-1}. skip: whether
    a layer hands x + H to the next one, or H alone. fmax: upper end of the forget
    gate in (0, 1), so that |C| <= fmax / (1 - fmax) in the bounded cell. train_fps: frames per second of training.
    """

    name: str
    height: int
    width: int
    dim: int
    layers: int
    classes: int = 27
    patch: int = 16
    head_dim: int = 32
    ffn_mult: int = 4
    kv: str = "edge+frame"
    head: str = "mean"
    cell: str = "bounded"
    skip: bool = False
    fmax: float = 0.9
    train_fps: float = 8.0

    def __post_init__(self) -> None:
        name: object = self.name  # from a file, it may be anything
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(
                f"config name {self.name!r:.90} cannot be the name of a file: use at most 64 letters, digits, '_', '-' "
                "and '.', and no '.' first"
            )
        for field in ("height", "width", "dim", "layers", "classes", "patch", "head_dim", "ffn_mult"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"config {self.name!r}: {field} must be a positive integer, got {value!r}")
        if self.height % self.patch or self.width % self.patch:
            raise UsageError(
                f"config {self.name!r}: frame {self.height}x{self.width} must be a multiple of patch {self.patch}"
            )
        if self.dim % self.head_dim:
            raise UsageError(f"config {self.name!r}: dim {self.dim} must be a multiple of head_dim {self.head_dim}")
        if self.head_dim % 4:
            raise UsageError(
                f"config {self.name!r}: head_dim {self.head_dim} must be a multiple of 4 (2-D rotary position pairs)"
            )
        for field, allowed in (("kv", KV_SOURCES), ("head", HEADS), ("cell", CELLS)):
            if getattr(self, field) not in allowed:
                raise UsageError(
                    f"config {self.name!r}: {field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}"
                )
        if not isinstance(self.skip, bool):
            raise UsageError(f"config {self.name!r}: skip must be true or false, got {self.skip!r}")
        fmax, train_fps = _number(self.fmax), _number(self.train_fps)
        if not 0.0 < fmax < 1.0:
            raise UsageError(f"config {self.name!r}: fmax must lie between 0 and 1, got {self.fmax!r}")
        if not 0.0 < train_fps < math.inf:
            raise UsageError(f"config {self.name!r}: train_fps must be a positive number, got {self.train_fps!r}")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.height // self.patch, self.width // self.patch

    @property
    def tokens(self) -> int:
        """N + 1: all patches and the class token."""
        return self.grid[0] * self.grid[1] + 1

    @property
    def heads(self) -> int:
        return self.dim // self.head_dim

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """Shape [L, N+1, C] of each of the two states of one stream."""
        return self.layers, self.tokens, self.dim

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Inverse of :meth:`to_dict`. UsageError names unknown or missing fields."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        missing = sorted(name for name, f in fields.items() if f.default is dataclasses.MISSING and name not in values)
        if unknown or missing:
            raise UsageError(
                f"config does not fit this lcr_edge: unknown fields {unknown}, missing fields {missing}; "
                "it was written by another version"
            )
        return cls(**values)


def _number(value: object) -> float:
    """The value as a float; NaN for what is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value) if abs(value) < 1e300 else math.inf


CONFIGS: dict[str, Config] = {
    c.name: c
    for c in (
        Config("lcr_pico", height=64, width=64, dim=64, layers=3),
        Config("lcr_nano", height=112, width=112, dim=96, layers=4),
        Config("lcr_tiny", height=224, width=224, dim=192, layers=8),
    )
}


def get_config(name: str, *, classes: int | None = None, variant: str = "default") -> Config:
    """The named config, optionally with another class count or variant. UsageError lists the valid names."""
    if name not in CONFIGS:
        raise UsageError(f"unknown config {name!r}; choose one of {', '.join(CONFIGS)}")
    if variant not in VARIANTS:
        raise UsageError(f"unknown variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    changes: dict[str, Any] = dict(VARIANTS[variant])
    if classes is not None:
        changes["classes"] = classes
    return dataclasses.replace(CONFIGS[name], **changes)
