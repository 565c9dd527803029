"""Vision-RWKV weights on an LCR network: what was mapped computes what it computed there, and bad files are refused.

The tensors are random, their names and shapes are those of the public VRWKV-T and VRWKV6-T.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lcr_edge import tolerances
from lcr_edge.checkpoint import build_model, random_checkpoint, save
from lcr_edge.config import Config, get_config
from lcr_edge.errors import CheckpointError
from lcr_edge.kernels.wkv import wkv_scan
from lcr_edge.model.network import LCR
from lcr_edge.model.norm import NORM_EPS, SteadyNorm
from lcr_edge.training.vrwkv import FASTEST, SLOWEST, Report, load_vrwkv, select_layers

Tensors = dict[str, Tensor]
DIM, DEPTH, PATCHES = 192, 12, 196
TINY = get_config("lcr_tiny")
SMALL = dataclasses.replace(TINY, height=64, width=64)
CHOSEN = [0, 2, 3, 5, 6, 8, 9, 11]


def shapes(six: bool, depth: int = DEPTH, dim: int = DIM) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a classifier checkpoint, as trained with Vision-RWKV's public code."""
    yield "backbone.pos_embed", (1, PATCHES, dim)
    yield "backbone.patch_embed.projection.weight", (dim, 3, 16, 16)
    yield "backbone.patch_embed.projection.bias", (dim,)
    square, row = (dim, dim), (1, 1, dim)
    for index in range(depth):
        layer = f"backbone.layers.{index}."
        for norm in ("ln0", "ln1", "ln2") if index == 0 else ("ln1", "ln2"):
            yield f"{layer}{norm}.weight", (dim,)
            yield f"{layer}{norm}.bias", (dim,)
        for name in ("key", "value", "receptance", "output"):
            yield f"{layer}att.{name}.weight", square
        if six:
            yield f"{layer}att.gate.weight", square
            for letter in "xwkvrg":
                yield f"{layer}att.time_maa_{letter}", row
            yield f"{layer}att.time_maa_w1", (dim, 160)
            yield f"{layer}att.time_maa_w2", (5, 32, dim)
            yield f"{layer}att.time_decay", row
            yield f"{layer}att.time_decay_w1", (dim, 64)
            yield f"{layer}att.time_decay_w2", (64, dim)
            yield f"{layer}att.time_faaaa", (dim // 64, 64)
            yield f"{layer}att.ln_x.weight", (dim,)
            yield f"{layer}att.ln_x.bias", (dim,)
        else:
            yield f"{layer}att.spatial_decay", (dim,)
            yield f"{layer}att.spatial_first", (dim,)
            for letter in "kvr":
                yield f"{layer}att.spatial_mix_{letter}", row
        yield f"{layer}ffn.spatial_mix_k", row
        yield f"{layer}ffn.spatial_mix_r", row
        yield f"{layer}ffn.key.weight", (4 * dim, dim)
        yield f"{layer}ffn.receptance.weight", square
        yield f"{layer}ffn.value.weight", (dim, 4 * dim)
    yield "backbone.ln1.weight", (dim,)
    yield "backbone.ln1.bias", (dim,)
    yield "head.fc.weight", (1000, dim)
    yield "head.fc.bias", (1000,)


def made(six: bool = False, depth: int = DEPTH, dim: int = DIM) -> Tensors:
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name, shape in shapes(six, depth, dim):
        value = torch.randn(shape, generator=generator)
        if name.endswith(("decay", "first", "faaaa")):
            tensors[name] = 2.0 * value
        elif re.search(r"ln\w*\.weight", name):
            tensors[name] = 1.0 + 0.1 * value
        else:
            tensors[name] = value * (0.5 / shape[-1] ** 0.5 if len(shape) == 2 else 0.1)
    return tensors


def saved(path: Path, tensors: Tensors) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"meta": {"epoch": 300, "CLASSES": ["tench"]}, "state_dict": tensors}, path)
    return path


def double(config: Config) -> LCR:
    torch.manual_seed(1)
    return build_model(config).double()


def mapped(path: Path, tensors: Tensors, config: Config = TINY) -> tuple[LCR, Report]:
    model = double(config)
    return model, load_vrwkv(saved(path, tensors), model)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensors, LCR, Report]:
    tensors = made()
    model, report = mapped(tmp_path_factory.mktemp("vrwkv") / "vrwkv_t.pth", tensors)
    return {name.removeprefix("backbone."): value.double() for name, value in tensors.items()}, model.eval(), report


def close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and float((found - expected).detach().abs().max()) <= tolerances.VRWKV


@pytest.mark.parametrize(("six", "millions"), [(False, 6.2), (True, 7.6)])
def test_the_made_files_have_the_published_sizes(six: bool, millions: float) -> None:
    count = sum(torch.Size(shape).numel() for _, shape in shapes(six))
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("six", [False, True])
def test_every_tensor_is_in_exactly_one_list(six: bool, tmp_path: Path) -> None:
    tensors = made(six)
    model, report = mapped(tmp_path / "v.pth", tensors)
    theirs = [line.split(" [")[0] for line in report.mapped + report.unused]
    assert sorted(theirs) == sorted(name.removeprefix("backbone.") for name in tensors)
    filled = {name for line in report.mapped for name in re.findall(r"(?:->|and) ([\w.]+)", line)}
    before, after = double(TINY).state_dict(), model.state_dict()
    assert filled.isdisjoint(report.fresh)
    assert filled | set(report.fresh) == set(after)
    assert len(report.fresh) == len(set(report.fresh))
    assert all(torch.equal(before[name], after[name]) for name in report.fresh)
    assert not any(torch.equal(before[name], after[name]) for name in filled)
    assert "layers.0.ffn.key.weight [768, 192] -> layers.0.mix_in.weight[192:]" in report.mapped
    assert "layers.1.att.key.weight [192, 192]: layer left out, 8 of 12 are taken" in report.unused
    text = report.text()
    assert "layers.{0,2,3,5,6,8,9,11}.ffn.value.weight [192, 768] -> layers.{0,1,2,3,4,5,6,7}.mix_out.weight" in text
    assert "pos_embed [1, 196, 192]: positions are rotary here" in text
    assert len(text.splitlines()) < 100


def test_both_formats_and_half_precision_give_the_same(tiny: tuple[Tensors, LCR, Report], tmp_path: Path) -> None:
    tensors, reference, _ = tiny
    plain, _ = mapped(tmp_path / "v.safetensors", {name: value.float() for name, value in tensors.items()})
    for name, value in plain.state_dict().items():
        assert torch.equal(value, reference.state_dict()[name]), name
    halves = {name: value.half() for name, value in tensors.items()}
    one, _ = mapped(tmp_path / "half.safetensors", halves)
    two, _ = mapped(tmp_path / "whole.safetensors", {name: value.float() for name, value in halves.items()})
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_patch_embedding_is_theirs_on_normalised_pixels(tiny: tuple[Tensors, LCR, Report]) -> None:
    tensors, model, _ = tiny
    frames = torch.randint(0, 256, (2, 224, 224, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    mean = torch.tensor([123.675, 116.28, 103.53], dtype=torch.float64)
    std = torch.tensor([58.395, 57.12, 57.375], dtype=torch.float64)
    normal = ((frames.double() - mean) / std).permute(0, 3, 1, 2)
    weight, bias = tensors["patch_embed.projection.weight"], tensors["patch_embed.projection.bias"]
    expected = F.conv2d(normal, weight, bias, stride=16).flatten(2).transpose(1, 2)
    ours: list[Tensor] = []
    hook = model.embed.projection.register_forward_hook(lambda *call: ours.append(call[2]))
    tokens, _, _ = model.tokens(frames, torch.zeros(2, 224, 224))
    hook.remove()
    assert close(ours[0], expected)
    assert isinstance(model.embed.norm, SteadyNorm)
    scale, shift = tensors["layers.0.ln0.weight"], tensors["layers.0.ln0.bias"]
    assert close(tokens[:, 1:], F.layer_norm(expected, (DIM,), scale, shift, model.embed.norm.eps))


@pytest.mark.parametrize("ours", [0, 3, 7])
def test_layers_compute_their_formulas(tiny: tuple[Tensors, LCR, Report], ours: int) -> None:
    tensors, model, _ = tiny
    layer, there = model.blocks()[ours], f"layers.{CHOSEN[ours]}."
    generator = torch.Generator().manual_seed(3)
    x, h = (0.3 * torch.randn(1, 5, DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    still = (torch.ones(5, 32, dtype=torch.float64), torch.zeros(5, 32, dtype=torch.float64))  # no rotation

    def theirs(name: str, value: Tensor) -> Tensor:
        return value @ tensors[there + name].T

    def norm(name: str) -> Tensor:
        weight, bias = tensors[f"{there}{name}.weight"], tensors[f"{there}{name}.bias"]
        return F.layer_norm(x, (DIM,), weight, bias, NORM_EPS)

    k, v = (part.transpose(1, 2).flatten(2) for part in layer.keys_values(x, torch.zeros_like(x), *still))
    assert close(k, theirs("att.key.weight", norm("ln1")))
    assert close(v, theirs("att.value.weight", norm("ln1")))

    r, g = layer.rg(torch.cat([norm("ln1"), h], dim=-1)).chunk(2, dim=-1)
    assert close(r, theirs("att.receptance.weight", norm("ln1")))
    assert close(g, theirs("att.receptance.weight", norm("ln1")))
    assert torch.equal(layer.norm_rg.weight[:DIM], tensors[f"{there}ln1.weight"])
    assert torch.equal(layer.norm_rg.weight[DIM:], torch.ones(DIM, dtype=torch.float64))
    assert close(layer.attend(x), theirs("att.output.weight", x))

    # The channel mix is inside forward. Without attention A = x + mix, and from zero states C = f tanh(A).
    attend = layer.attend.weight.detach().clone()
    with torch.no_grad():
        layer.attend.weight.zero_()
        zeros = torch.zeros_like(x)
        heads = tuple(part.reshape(1, 5, 6, 32).transpose(1, 2) for part in (k, v))
        cell = layer(x, (heads[0], heads[1]), zeros, (zeros, zeros), still, layer.tables(5))[1]
        layer.attend.weight.copy_(attend)
    mix = torch.atanh(cell / (TINY.fmax * torch.sigmoid(layer.forget_bias))) - x
    gate = torch.sigmoid(theirs("ffn.receptance.weight", norm("ln2")))
    expected = gate * theirs("ffn.value.weight", torch.relu(theirs("ffn.key.weight", norm("ln2"))).square())
    assert float(expected.abs().max()) > 1000 * tolerances.VRWKV
    assert close(mix, expected)


def test_decay_and_bonus_weigh_tokens_as_theirs(tiny: tuple[Tensors, LCR, Report]) -> None:
    tensors, model, report = tiny
    for ours, theirs in enumerate(CHOSEN):
        layer = model.blocks()[ours]
        rate = tensors[f"layers.{theirs}.att.spatial_decay"] / PATCHES
        floor = torch.tensor(SLOWEST, dtype=torch.float64).exp()
        kept = rate > floor
        assert 0 < int(kept.sum()) < DIM
        weight = (layer.log_decay() * 13).exp().flatten()  # of a token 14 patches away
        assert close(weight[kept], (-13 * rate[kept]).exp())
        assert close(weight[~kept], (-13 * floor).exp().expand(int((~kept).sum())))
        assert close(layer.bonus.flatten(), (tensors[f"layers.{theirs}.att.spatial_first"] / PATCHES).exp())
        note = f"layers.{theirs}.att.spatial_decay: {int((~kept).sum())} of 192 clamped to [-7, 0.5]"
        assert note in report.notes


def test_decay_follows_the_number_of_patches(tmp_path: Path) -> None:
    tensors = made()
    tensors["backbone.layers.0.att.spatial_decay"].fill_(4.0)
    model, _ = mapped(tmp_path / "v.safetensors", tensors, SMALL)
    assert close(model.blocks()[0].log_decay(), torch.full((6, 32), -4.0 / 16, dtype=torch.float64))


def test_vrwkv6_mixes_tokens_as_theirs_without_shift(tmp_path: Path) -> None:
    """With heads of their size the whole token mixing is the same: bidirectional state, norm, gate, output."""
    tensors = made(six=True)
    config = dataclasses.replace(TINY, head_dim=64)
    model, _ = mapped(tmp_path / "v6.pth", tensors, config)
    layer, heads, tokens = model.eval().blocks()[1], 3, 9
    att = {
        name.removeprefix("backbone.layers.2.att."): value.double()
        for name, value in tensors.items()
        if name.startswith("backbone.layers.2.att.")
    }
    x = torch.randn(1, tokens, DIM, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    r, k, v, g = ((x[0] @ att[f"{n}.weight"].T) for n in ("receptance", "key", "value", "gate"))
    r, k, v = (part.reshape(tokens, heads, 64) for part in (r, k, v))
    w = torch.exp(-torch.exp(att["time_decay"].clamp(SLOWEST, FASTEST))).reshape(heads, 64, 1)
    outer = k.unsqueeze(-1) * v.unsqueeze(-2)
    y = torch.einsum("thi,hi,thij->thj", r, att["time_faaaa"], outer)
    for order in (range(tokens), range(tokens - 1, -1, -1)):
        state = torch.zeros(heads, 64, 64, dtype=torch.float64)
        for t in order:
            y[t] += torch.einsum("hi,hij->hj", r[t], state)
            state = w * state + outer[t]
    normed = F.group_norm(y.reshape(tokens, DIM), heads, att["ln_x.weight"], att["ln_x.bias"], 1e-5)
    expected = (normed * F.silu(g)) @ att["output.weight"].T

    layer.norm_y.typical.zero_()
    our_r, our_g = layer.rg(torch.cat([x, torch.randn_like(x)], dim=-1)).chunk(2, dim=-1)
    our_k, our_v = layer.kv_projection(x).chunk(2, dim=-1)
    split = [layer.split_heads(part) for part in (our_r, our_k, our_v)]
    ours = layer.norm_heads(wkv_scan(split[0], split[1], split[2], layer.log_decay(), layer.bonus))
    assert close(layer.attend(F.silu(our_g) * ours)[0], expected)


def test_layers_are_chosen_evenly() -> None:
    assert select_layers(12, 8) == CHOSEN
    assert select_layers(12, 1) == [0]
    assert select_layers(12, 2) == [0, 11]
    assert select_layers(12, 12) == list(range(12))
    assert select_layers(3, 8) == [0, 1, 2]


def test_a_shallower_file_leaves_the_upper_layers_fresh(tmp_path: Path) -> None:
    _, report = mapped(tmp_path / "v.pth", made(depth=3), SMALL)
    assert "layers.3.mix_out.weight" in report.fresh
    assert "layers.2.mix_out.weight" not in report.fresh
    assert not any("left out" in line for line in report.unused)


def test_norms_behind_the_sublayers_are_not_mistaken_for_ours(tmp_path: Path) -> None:
    tensors = made(depth=2)
    for layer in range(2):
        for gamma in ("gamma1", "gamma2"):
            tensors[f"backbone.layers.{layer}.{gamma}"] = torch.ones(DIM)
        tensors[f"backbone.layers.{layer}.att.key_norm.weight"] = torch.full((DIM,), 1.5)
        tensors[f"backbone.layers.{layer}.att.key_norm.bias"] = torch.full((DIM,), 0.5)
        tensors[f"backbone.layers.{layer}.ffn.key_norm.weight"] = torch.ones(4 * DIM)
    model, report = mapped(tmp_path / "v.pth", tensors, SMALL)
    assert {"layers.0.norm_kv.weight", "layers.0.norm_rg.weight", "layers.1.norm_mix.bias"} <= set(report.fresh)
    assert any(line.startswith("layers.0.ln1.weight [192]: scale and norm behind") for line in report.unused)
    assert any(line.startswith("layers.1.ffn.key_norm.weight [768]: an additional") for line in report.unused)
    assert bool((model.blocks()[1].norm_y.weight == 1.5).all())
    assert "normalises behind its sublayers" in report.text()


def test_a_mapped_network_runs_and_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(SMALL)
    load_vrwkv(saved(tmp_path / "v.pth", made()), model)
    clip = torch.randint(0, 256, (1, 3, 64, 64, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    torch.nn.init.normal_(model.classify.weight, std=0.1)  # zero at the start: nothing below would get a gradient
    logits, _ = model.train()(clip, edges=torch.zeros(1, 3, 64, 64))
    logits.logsumexp(-1).sum().backward()
    for block in model.blocks():
        past = block.rg.weight.grad
        assert past is not None
        assert bool(past.isfinite().all())
        assert bool(past[:, DIM:].any())  # the H halves, zero at first, do learn


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "does not exist"),
        ("folder", "does not exist"),
        ("text", "not a whole .pth or .safetensors file"),
        ("truncated", "not a whole .pth or .safetensors file"),
        ("truncated safetensors", "not a whole .pth or .safetensors file"),
        ("a tensor", "not a Vision-RWKV file"),
        ("other network", "not a Vision-RWKV file: it has no patch_embed.projection.weight"),
        ("transformer", "layers.0.att has no spatial_decay or time_decay"),
        ("own", "without the vrwkv: in front"),
        ("small", "has dim 384, config lcr_tiny has dim 192. Files that fit lcr_tiny: vrwkv_t_in1k_224.pth"),
        ("nano", "has dim 192, config lcr_nano has dim 96. Files that fit lcr_nano: no public file has dim 96"),
        ("patch", r"is [192, 3, 8, 8], config lcr_tiny takes [192, 3, 16, 16]"),
        ("lost", "lacks layers.11.ffn.value.weight"),
        ("shape", "layers.11.ffn.value.weight is [192, 384], config lcr_tiny takes [192, 768]"),
        ("nan", "NaN or Inf in backbone.layers.4.att.key.weight"),
    ],
)
def test_bad_files_are_refused_and_change_nothing(tmp_path: Path, damage: str, message: str) -> None:
    path = tmp_path / ("bad.safetensors" if damage in ("truncated safetensors", "own") else "bad.pth")
    tensors, last = made(dim=384 if damage == "small" else DIM), "backbone.layers.11.ffn.value.weight"
    if damage == "folder":
        path.mkdir()
    elif damage == "text":
        path.write_text("hello, this is no checkpoint")
    elif damage.startswith("truncated"):
        path.write_bytes(saved(path, tensors).read_bytes()[:-500])
    elif damage == "a tensor":
        torch.save(torch.ones(3), path)
    elif damage == "own":
        checkpoint = random_checkpoint(get_config("lcr_pico"), 0)
        save(path, checkpoint.model, checkpoint.labels, {})
    elif damage != "missing":
        if damage == "other network":
            tensors = {"conv1.weight": torch.ones(3)}
        elif damage == "transformer":
            tensors = {name: value for name, value in tensors.items() if "att." not in name}
        elif damage == "patch":
            tensors["backbone.patch_embed.projection.weight"] = torch.ones(DIM, 3, 8, 8)
        elif damage == "lost":
            del tensors[last]
        elif damage == "shape":
            tensors[last] = torch.ones(DIM, 384)
        elif damage == "nan":
            tensors["backbone.layers.4.att.key.weight"][3, 4] = torch.nan
        saved(path, tensors)
    model = build_model(get_config("lcr_nano") if damage == "nano" else TINY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_vrwkv(path, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class _Touch:
    """Pickled, it is a call that makes a file: what a hostile checkpoint might do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": made(depth=1), "meta": _Touch(tmp_path / "ran")}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="nothing is unpickled here"):
        load_vrwkv(tmp_path / "bad.pth", build_model(SMALL))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_conversion_that_the_message_names_works(tmp_path: Path) -> None:
    tensors, path = made(depth=2), tmp_path / "it's pickled.pth"
    torch.save({"model": tensors, "args": argparse.Namespace(lr=0.001)}, path)
    with pytest.raises(CheckpointError) as caught:
        load_vrwkv(path, build_model(SMALL))
    command = shlex.split(str(caught.value).split("convert it once: ")[1])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=120)
    report = load_vrwkv(path.with_suffix(".safetensors"), build_model(SMALL))
    assert len(report.mapped) + len(report.unused) == len(tensors)
