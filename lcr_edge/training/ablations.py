"""Compare variants of the network and its training: ``python -m lcr_edge.training.ablations --out runs/variants``.

Every row of VARIANTS is trained on the same rendered clips with the same budget, with several seeds, and evaluated on
the same held-out clips: each clip from a zero state, and all of them as one stream without reset. The task is small on
purpose (64 pixels, 8 classes): one training takes some minutes on one core. Differences of a few points between two
seeds are noise. Finished runs are not repeated, so the command can be interrupted. Prints the table of
docs/variants.md; each run's folder keeps its result.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any, NamedTuple

import torch

from lcr_edge.checkpoint import build_model, load
from lcr_edge.cli import run_command
from lcr_edge.config import CLIP_FRAMES, get_config
from lcr_edge.data.sets import ClipSet, open_set
from lcr_edge.data.subset import Subset
from lcr_edge.errors import LcrError, UsageError
from lcr_edge.evaluate import evaluate
from lcr_edge.files import write_atomically
from lcr_edge.options import Number, add_out, add_threads, check_least, check_numbers
from lcr_edge.training import run_state
from lcr_edge.training.loop import Trainer
from lcr_edge.training.processes import World
from lcr_edge.training.settings import Conduct, Settings

CLASSES = (
    "Drumming Fingers",
    "No gesture",
    "Pulling Hand In",
    "Pushing Hand Away",
    "Shaking Hand",
    "Swiping Left",
    "Swiping Right",
    "Thumb Up",
)
STREAM_FRAMES = 2000
_NUMBERS = (
    Number("seeds", "trainings per row", default=2),
    Number("steps", "steps of each training", default=1000),
    Number("clips", "training clips per class", default=200),
)


class Variant(NamedTuple):
    """What differs from the default: fields of the config and of the settings."""

    what: str
    config: dict[str, Any]
    settings: dict[str, Any]


VARIANTS: dict[str, Variant] = {
    "default": Variant("the defaults, with `--optimiser muon`", {}, {}),
    "kv-edge": Variant("K, V from the edges alone (`kv`)", {"kv": "edge"}, {}),
    "head-cls": Variant("logits from the class token (`head`)", {"head": "cls"}, {}),
    "cell-residual": Variant("C = f (tanh A + C) + C (`cell`)", {"cell": "residual"}, {}),
    "paper": Variant("these three together (`--variant paper`)", {"kv": "edge", "head": "cls", "cell": "residual"}, {}),
    "skip": Variant("a layer hands on x + H (`skip`)", {"skip": True}, {}),
    "fmax-0.99": Variant("forget gate up to 0.99 (`fmax`)", {"fmax": 0.99}, {}),
    "loss-last": Variant("loss at the last frame only (`--loss last`)", {}, {"loss": "last"}),
    "no-carry": Variant("every clip from a zero state (`--carry-state 0`)", {}, {"carry_state": 0.0}),
    "tube-0.3": Variant("`--tube-mask 0.3`", {}, {"tube_mask": 0.3}),
    "tube-0.5": Variant("`--tube-mask 0.5`", {}, {"tube_mask": 0.5}),
    "no-joints": Variant("without the joints' loss (`--joint-weight 0`)", {}, {"joint_weight": 0.0}),
    "adamw": Variant("AdamW for all (`--optimiser adamw`)", {}, {"optimiser": "adamw"}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the comparison."""
    add_out(parser, "folder of all runs", required=True)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), metavar="NAME", help="train these rows only")
    for row in _NUMBERS:
        row.add(parser)
    add_threads(parser, 1, "CPU threads of torch")


def run(args: argparse.Namespace) -> int:
    unknown = sorted(set(args.only) - set(VARIANTS))
    if unknown:
        raise UsageError(f"unknown variant {', '.join(unknown)}; choose from {', '.join(VARIANTS)}")
    check_numbers(_NUMBERS, args)
    check_least("--threads", args.threads, 1)
    torch.set_num_threads(args.threads)
    base = get_config("lcr_pico", classes=len(CLASSES))
    shape: dict[str, Any] = {"size": (base.height, base.width), "fps": base.train_fps, "frames": 16, "workers": 2}
    train_set = Subset(open_set(f"rendered:{args.clips}", split="train", cache=args.out, **shape), CLASSES, "train")
    heldout = Subset(open_set("rendered:20", split="heldout", cache=None, **shape), CLASSES, "heldout")
    results = {
        name: [_one(args, name, seed, train_set, heldout) for seed in range(args.seeds)]
        for name in VARIANTS
        if name in args.only
    }
    print(table(results))
    return 0


def _one(args: argparse.Namespace, name: str, seed: int, train_set: ClipSet, heldout: ClipSet) -> dict[str, Any]:
    folder = args.out / f"{name}-seed{seed}"
    done = folder / "result.json"
    variant = VARIANTS[name]
    config = dataclasses.replace(get_config("lcr_pico", classes=len(CLASSES)), **variant.config)
    settings = Settings(steps=args.steps, seed=seed, **{"optimiser": "muon", "calm_share": 0.0, **variant.settings})
    about = {"config": config.to_dict(), "data": train_set.fingerprint}
    identity = {**settings.to_dict(), **about}
    if done.is_file():
        result: dict[str, Any] = json.loads(done.read_text())
        run_state.check_same(result["settings"], identity)
        return result
    torch.manual_seed(seed)
    conduct = Conduct(workers=0, save_every=max(1, args.steps // 3), tensorboard=False)
    world = World(0, 1, torch.device("cpu"))
    trainer = Trainer(build_model(config), train_set, settings, conduct, world, folder, about, "random")
    if (folder / run_state.NAME).is_file():
        trainer.resume()
    print(f"{name}, seed {seed}", file=sys.stderr)
    try:
        outcome = trainer.run()
    except LcrError as error:  # a loss that is not a number is a result too
        print(f"{name}, seed {seed}: {error}", file=sys.stderr)
        return {"failed": str(error)}
    if outcome.stopped is not None:
        raise KeyboardInterrupt
    checkpoint = load(folder / f"{config.name}.safetensors")
    found = evaluate(checkpoint, heldout, frames=CLIP_FRAMES, stream_frames=STREAM_FRAMES, seed=0)
    result = {
        "settings": identity,
        "loss": outcome.loss,
        "clip_top1": found.clip_top1,
        "stream_top1": found.stream_top1,
        "stream_clips_reset_top1": found.stream_clips_reset_top1,
        "stream_max_c": found.stream_max_c,
    }
    write_atomically(done, (json.dumps(result, indent=2) + "\n").encode())
    return result


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A Markdown table: for each figure the mean over the seeds, and each seed's figure."""
    lines = ["| variant | clips, top-1 | stream with reset | stream without | largest C |", "|---|---|---|---|---|"]
    for name, seeds in results.items():
        cells = [VARIANTS[name].what]
        failed = sum("failed" in result for result in seeds)
        if failed:
            lines.append(f"| {cells[0]} | training stopped in {failed} of {len(seeds)}: not finite | | | |")
            continue
        for key in ("clip_top1", "stream_clips_reset_top1", "stream_top1"):
            values = [result[key] for result in seeds]
            mean = sum(values) / len(values)
            cells.append(f"{mean:.1f} ({', '.join(f'{value:.1f}' for value in values)})")
        largest = [result["stream_max_c"] for result in seeds]
        cells.append("overflows" if None in largest else f"{max(largest):.3g}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if __package__ != "lcr_edge.training":
        raise ImportError("run this as python -m lcr_edge.training.ablations")
    sys.exit(run_command(sys.modules[__name__], "python -m lcr_edge.training.ablations"))
