"""Start from Vision-RWKV: ImageNet weights of VRWKV and VRWKV6 (arXiv 2403.02308) mapped onto an LCR network.

Files are ``.pth`` (tensors only, nothing is unpickled) or ``.safetensors``, with the tensor names of Vision-RWKV's
public code. The two networks are relatives, not the same. What is taken over, C channels, x the frame's tokens:

    theirs                                       here
    patch_embed.projection                       embed.projection, ImageNet mean and deviation folded in
    layers.0.ln0                                 embed.norm, the norm behind the patch embedding
    ln1                                          norm_kv, and the x half of norm_rg
    att.key, att.value                           kv_projection, W_k over W_v
    att.receptance                               the x half of W_r; in VRWKV of W_g too: there it is the output's gate
    att.gate (VRWKV6)                            the x half of W_g
    att.output                                   attend, W_a
    att.spatial_decay / T, att.time_decay (v6)   decay
    exp(att.spatial_first / T), time_faaaa (v6)  bonus u
    att.key_norm (some), att.ln_x (v6)           weight and bias of norm_y
    ln2; ffn.receptance, ffn.key; ffn.value      norm_mix; mix_in = W_rc over W_kc; mix_out = W_vc

The H halves of W_r and W_g are set to zero: a mapped network begins without a past in its gates and learns it. With
more layers there than here, evenly spaced ones are taken, first and last included; with fewer, the first layers here
are mapped and the others stay as they were.

Decay: a token at distance n counts exp(-(n - 1) spatial_decay / T) there, T the number of patches of the image at hand,
so log w = -spatial_decay / T with T the patches of our frame. Theirs may be negative (farther tokens count more), ours
may not: rates are clamped to [exp(SLOWEST), exp(FASTEST)] per token, and the report counts how many were.

What does not carry over: their token shift (each projection sees a blend of a token and its neighbours in the image);
the position embedding (positions are rotary here); in VRWKV the form of the attention, a per-channel average weighted
by exp(k), where here it is R K^T V per head; in VRWKV6 the decay's dependence on the input, and heads of 64 where ours
are smaller; the stream of residuals, which here passes the LSTM cell between two layers; the classifier. So a mapped
network does not classify ImageNet: it is a starting point, and training has to pay for the differences. Prompts, edge
embedding, cell and head start fresh.

This was checked on random tensors of the real names and shapes. The ImageNet files themselves were not at hand: what
the start is worth in accuracy was not measured.
"""

from __future__ import annotations

import pickle
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lcr_edge.config import CONFIGS
from lcr_edge.errors import CheckpointError
from lcr_edge.model.network import LCR

# RGB mean and standard deviation of pixels in 0..255 that Vision-RWKV normalises with.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
# Range of log(-log w): from next to no decay over a frame of 14 x 14 patches to the fastest that training starts with.
SLOWEST, FASTEST = -7.0, 0.5
# The public files of ImageNet-1k, by channels.
FILES = {dim: f"vrwkv_{x}_in1k_224.pth or vrwkv6_{x}_in1k_224.pth" for dim, x in ((192, "t"), (384, "s"), (768, "b"))}
_PATCHES = "patch_embed.projection.weight"
_LAYER = re.compile(r"layers\.(\d+)\.")

# (pattern of the name, why it has no place here), first match counts.
_NO_PLACE = (
    (r"head\.", "their classifier"),
    (r"pos_embed$", "positions are rotary here"),
    (r"cls_token$", "theirs stands behind the patches and is normed with them"),
    (r"ln1\.\w+$", "their last norm, over C channels: here the last one is over [H ; C]"),
    (r".*\.(spatial_mix_|time_maa_)\w+$", "token shift: there is none here"),
    (r".*\.att\.time_decay_w[12]$", "decay from the input: here it is one number a channel"),
    (r".*\.(gamma[12]|ln[12]\.\w+)$", "scale and norm behind the sublayer: here the norm is in front of it"),
    (r".*\.key_norm\.\w+$", "an additional norm: there is none at this place here"),
)


@dataclass
class Report:
    """What happened to every tensor of the file and of the network.

    mapped: "name there [shape] -> name here[rows, columns]", more places joined by "and". unused: "name there [shape]:
    why". fresh: names here that were left as they were. notes: what was changed on the way.
    """

    source: str
    mapped: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report as text; lines that differ only in the layer are joined: layers.{0,2,3}."""
        parts = [f"initial weights from {self.source}", *(f"note: {note}" for note in _joined(self.notes))]
        for title, lines in (("mapped", self.mapped), ("of no use here", self.unused), ("left fresh", self.fresh)):
            parts += [f"{title}, {len(lines)} tensors:", *(f"  {line}" for line in _joined(lines))]
        return "\n".join(parts)


def load_vrwkv(path: Path, model: LCR) -> Report:
    """Copy what fits of a Vision-RWKV file into ``model``, in place: everything or, with an error, nothing.

    Raises CheckpointError: file missing, damaged, not Vision-RWKV, of other dim or patch, with NaN or pickled objects.
    """
    tensors = _backbone(path, _read(path))
    new = _Mapping(path, tensors, model)
    new.embedding()
    selected = select_layers(new.depth, model.config.layers)
    for ours, theirs in enumerate(selected):
        new.layer(ours, theirs)
    idle = {name: list(value.shape) for name, value in tensors.items() if name not in new.used}
    new.report.unused = [f"{name} {shape}: {_why(name, selected, new.depth)}" for name, shape in idle.items()]
    new.report.fresh = [name for name in new.state if name not in new.values]
    with torch.no_grad():
        for name, value in new.values.items():
            new.state[name].copy_(value)
    return new.report


def select_layers(there: int, here: int) -> list[int]:
    """Which of their layers become ours, in order: evenly spaced with both ends, or all where they have fewer."""
    if there <= here:
        return list(range(there))
    return [int(i * (there - 1) / max(here - 1, 1) + 0.5) for i in range(here)]


class _Mapping:
    """New values for a network's tensors, float64, gathered before any of the network's own is touched."""

    def __init__(self, path: Path, tensors: dict[str, Tensor], model: LCR) -> None:
        self.path, self.tensors, self.config = path, tensors, model.config
        self.state = model.state_dict()
        self.values: dict[str, Tensor] = {}
        self.used: set[str] = set()
        self.six = "layers.0.att.time_decay" in tensors
        if not self.six and "layers.0.att.spatial_decay" not in tensors:
            raise CheckpointError(f"{path} is not a Vision-RWKV file: layers.0.att has no spatial_decay or time_decay")
        self.post_norm = "layers.0.gamma1" in tensors
        self.depth = 1 + max(int(match[1]) for match in map(_LAYER.match, tensors) if match)
        self._check_width()
        self.report = Report(f"{path}: {'VRWKV6' if self.six else 'VRWKV'}, dim {self.config.dim}, {self.depth} layers")
        self.report.notes.append("the columns of H in layers.*.rg.weight are set to zero")
        if self.post_norm:
            self.report.notes.append("it normalises behind its sublayers: norm_kv, norm_rg, norm_mix stay as they were")

    def _check_width(self) -> None:
        config, shape = self.config, list(self.tensors[_PATCHES].shape)
        if len(shape) == 4 and shape[0] != config.dim:
            configs = ", ".join(c.name for c in CONFIGS.values() if c.dim == shape[0]) or "none of the named ones"
            files = FILES.get(config.dim, f"no public file has dim {config.dim}")
            raise CheckpointError(
                f"{self.path} has dim {shape[0]}, config {config.name} has dim {config.dim}. Files that fit "
                f"{config.name}: {files}. Configs that fit this file: {configs}"
            )

    def take(self, name: str, *shape: int) -> Tensor:
        """Their tensor as float64, of this very shape."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} lacks {name}: damaged, or not a Vision-RWKV backbone; copy it again")
        if (found := list(self.tensors[name].shape)) != list(shape):
            raise CheckpointError(f"{self.path}: {name} is {found}, config {self.config.name} takes {list(shape)}")
        return self.tensors[name].double()

    def put(self, name: str, value: Tensor, *places: tuple[str, tuple[slice, ...]], how: str = "") -> None:
        """Write a value made from their tensor ``name`` to one or more places here, and say so."""
        for ours, index in places:
            whole = self.values.setdefault(ours, self.state[ours].detach().cpu().double().clone())
            whole[index or ...] = value.reshape(whole[index or ...].shape)
        self.used.add(name)
        here = " and ".join(ours + _brackets(index) for ours, index in places) + (f" ({how})" if how else "")
        self.report.mapped.append(f"{name} {list(self.tensors[name].shape)} -> {here}")

    def embedding(self) -> None:
        """W (pixel - mean) / std + b in 0..255 becomes W' p + b', p = pixel / 127.5 - 1, patches [row, column, RGB]."""
        dim, patch = self.config.dim, self.config.patch
        weight = self.take(_PATCHES, dim, 3, patch, patch)
        mean, std = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        bias = self.take("patch_embed.projection.bias", dim) + (weight * (127.5 - mean) / std).sum((1, 2, 3))
        weight = (weight * 127.5 / std).permute(0, 2, 3, 1)
        self.put(_PATCHES, weight, ("embed.projection.weight", ()), how="pixel scale folded in")
        self.put("patch_embed.projection.bias", bias, ("embed.projection.bias", ()), how="pixel mean folded in")
        for part in ("weight", "bias"):
            self.put(f"layers.0.ln0.{part}", self.take(f"layers.0.ln0.{part}", dim), (f"embed.norm.{part}", ()))

    def layer(self, ours: int, theirs: int) -> None:
        """Everything of their layer ``theirs`` that our layer ``ours`` has a place for."""
        dim, here, there = self.config.dim, f"layers.{ours}.", f"layers.{theirs}."
        hidden = dim * self.config.ffn_mult
        first, second = slice(None, dim), slice(dim, None)

        def move(name: str, shape: tuple[int, ...], *places: tuple[str, tuple[slice, ...]]) -> None:
            new = ((here + place, index) for place, index in places)
            self.put(there + name, self.take(there + name, *shape), *new)

        x_of_r, x_of_g = ("rg.weight", (first, first)), ("rg.weight", (second, first))
        move("att.receptance.weight", (dim, dim), x_of_r, *(() if self.six else (x_of_g,)))
        if self.six:
            move("att.gate.weight", (dim, dim), x_of_g)
        self.values[f"{here}rg.weight"][:, dim:] = 0.0
        move("att.key.weight", (dim, dim), ("kv_projection.weight", (first,)))
        move("att.value.weight", (dim, dim), ("kv_projection.weight", (second,)))
        move("att.output.weight", (dim, dim), ("attend.weight", ()))
        self.decays(here, there)
        move("ffn.receptance.weight", (dim, dim), ("mix_in.weight", (first,)))
        move("ffn.key.weight", (hidden, dim), ("mix_in.weight", (second,)))
        move("ffn.value.weight", (dim, hidden), ("mix_out.weight", ()))
        behind = "att.ln_x" if self.six else "att.key_norm"
        for part in ("weight", "bias"):
            if not self.post_norm:
                move(f"ln1.{part}", (dim,), (f"norm_kv.{part}", ()), (f"norm_rg.{part}", (first,)))
                move(f"ln2.{part}", (dim,), (f"norm_mix.{part}", ()))
            if self.six or there + f"{behind}.{part}" in self.tensors:
                move(f"{behind}.{part}", (dim,), (f"norm_y.{part}", ()))

    def decays(self, here: str, there: str) -> None:
        """decay and bonus: what a token at a distance, and the token itself, count."""
        dim, patches = self.config.dim, self.config.grid[0] * self.config.grid[1]
        if self.six:
            names, hows = (f"{there}att.time_decay", f"{there}att.time_faaaa"), ("", "")
            decay, bonus = self.take(names[0], 1, 1, dim).flatten(), self.take(names[1], dim // 64, 64)
        else:
            names = (f"{there}att.spatial_decay", f"{there}att.spatial_first")
            hows = (f"log of it / {patches}", f"exp of it / {patches}")
            # The clamp before the logarithm: zero and negative rates become the slowest decay.
            decay = (self.take(names[0], dim) / patches).clamp(min=torch.finfo(torch.float64).tiny).log()
            bonus = (self.take(names[1], dim) / patches).exp()
        clamped = decay.clamp(SLOWEST, FASTEST)
        if changed := int((clamped != decay).sum()):
            self.report.notes.append(f"{names[0]}: {changed} of {dim} clamped to [{SLOWEST:g}, {FASTEST:g}]")
        self.put(names[0], clamped, (f"{here}decay", ()), how=hows[0])
        self.put(names[1], bonus, (f"{here}bonus", ()), how=hows[1])


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU, without the dictionary around them; checked for NaN and Inf."""
    if not path.is_file():
        raise CheckpointError(f"Vision-RWKV file {path} does not exist; give the path of a .pth or .safetensors file")
    try:
        safe = path.suffix == ".safetensors"
        found: object = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds pickled objects beside its tensors, and nothing is unpickled here. If you trust where it "
            f"comes from, convert it once: {conversion(path)}"
        ) from error
    except Exception as error:  # damaged files raise nearly anything: KeyError, EOFError, SafetensorError, ...
        kind = type(error).__name__
        raise CheckpointError(f"{path} is not a whole .pth or .safetensors file ({kind}); copy it again") from error
    entries = found if isinstance(found, dict) else {}
    entries = next((entries[key] for key in ("state_dict", "model") if isinstance(entries.get(key), dict)), entries)
    tensors = {str(name): value for name, value in entries.items() if isinstance(value, Tensor)}
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(f"{path}: NaN or Inf in {broken[0]}; take another copy of the file")
    return tensors


def conversion(path: Path) -> str:
    """The command that turns a .pth file with pickled objects into .safetensors; it runs code from the file."""
    code = (
        "import sys, torch; from safetensors.torch import save_file; "
        'd = torch.load(sys.argv[1], map_location="cpu", weights_only=False); '
        'd = d.get("state_dict", d.get("model", d)); '
        "save_file({k: v.clone() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])"
    )
    return shlex.join(["python", "-c", code, str(path), str(path.with_suffix(".safetensors"))])


def _backbone(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors, the prefix cut off the names of the backbone's."""
    if "layers.0.kv_projection.weight" in tensors:
        raise CheckpointError(f"{path} is a checkpoint of lcr_edge itself: give it without the vrwkv: in front")
    prefixes = sorted((name[: -len(_PATCHES)] for name in tensors if name.endswith(_PATCHES)), key=len)
    if not prefixes:
        raise CheckpointError(f"{path} is not a Vision-RWKV file: it has no {_PATCHES}; use e.g. {FILES[192]}")
    return {name.removeprefix(prefixes[0]): value for name, value in tensors.items()}


def _why(name: str, selected: list[int], depth: int) -> str:
    if (layer := _LAYER.match(name)) and int(layer[1]) not in selected:
        return f"layer left out, {len(selected)} of {depth} are taken"
    return next((why for pattern, why in _NO_PLACE if re.match(pattern, name)), "no counterpart here")


def _brackets(index: tuple[slice, ...]) -> str:
    ends = (["" if end is None else str(end) for end in (part.start, part.stop)] for part in index)
    return f"[{', '.join(map(':'.join, ends))}]" if index else ""


def _joined(lines: Iterable[str]) -> list[str]:
    """Join lines that differ only in their layer numbers."""
    numbers: dict[str, list[list[str]]] = {}
    for line in lines:
        numbers.setdefault(_LAYER.sub("layers.#.", line), []).append(_LAYER.findall(line))
    joined = []
    for pattern, rows in numbers.items():
        for column in zip(*rows):
            pattern = pattern.replace("#", column[0] if len(rows) == 1 else "{" + ",".join(column) + "}", 1)
        joined.append(pattern)
    return joined
