"""Checkpoints: safetensors files that hold the weights, the config and the labels, and nothing that runs code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcr_edge.config import CLIP_FRAMES, MAX_CLIP_FRAMES, MIN_CLIP_FRAMES, Config, get_config
from lcr_edge.data.labels import JESTER, check_labels
from lcr_edge.data.pack import SUFFIX as PACK_SUFFIX
from lcr_edge.data.pack import Pack, PackFile
from lcr_edge.errors import CheckpointError, MissingExtraError, UsageError
from lcr_edge.files import make_folder, write_atomically
from lcr_edge.frames import DEFAULT_FIT, FITS

if TYPE_CHECKING:
    from torch import Tensor

    from lcr_edge.model.network import LCR

FORMAT = "lcr_edge checkpoint 1"
PACKAGED = Path(__file__).resolve().parent / "checkpoints" / "lcr_nano.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A network, and what its users need to know about it.

    sha256: of the file, or of random weights. fit: how camera frames are brought to the network's size, a name of
    ``frames.FITS``. judge: the clips that its exports are judged and calibrated on, None where there are none.
    pack_sha256: of the judge pack that training wrote beside it, also where that was left behind. judged_on: clips, all
    of which judge in place of those, and none of which calibrate (``--judge-data``).
    """

    model: LCR
    config: Config
    labels: tuple[str, ...]
    sha256: str
    training: dict[str, Any]
    path: Path | None = None
    fit: str = DEFAULT_FIT
    judge: PackFile | Pack | None = None
    pack_sha256: str | None = None
    judged_on: Pack | None = None

    @property
    def strange_to_gestures(self) -> bool:
        """Whether it was trained on other data than rendered gestures, so that they say nothing about it."""
        data = self.training.get("data_name")
        return isinstance(data, str) and data.partition(":")[0] != "rendered"


def build_model(config: str | Config, *, classes: int | None = None, variant: str = "default") -> LCR:
    """A freshly initialised network. Raises UsageError, or MissingExtraError without torch."""
    if isinstance(config, str):
        config = get_config(config, classes=classes, variant=variant)
    _require_torch()
    from lcr_edge.model.network import LCR

    return LCR(config)


def random_checkpoint(config: Config, seed: int) -> Checkpoint:
    """A network with random parameters, including those that training starts at zero or one.

    For tests and benchmarks: it decides nothing useful, but no part of it is trivially zero, and its sizes are those of
    a network that could be trained: larger ones make the recurrence chaotic. Deterministic per seed.
    """
    _require_torch()
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("decay"):
                parameter.add_(0.1 * noise)
            elif parameter.ndim == 2 and not name.endswith("bonus"):
                parameter.copy_(0.35 * noise / parameter.shape[1] ** 0.5)
            else:
                parameter.add_(0.1 * noise)
    # Running averages as if trained: of a few random frames.
    shape = (1, 2, *config.frame_shape)
    clip = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        model.train()(clip)
        for norm in model.steady_norms():
            norm.follow(momentum=1.0)
            norm.typical.copy_(norm.typical.log2().round().exp2())  # the last bits depend on the number of threads
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    training = {"random_seed": seed}
    return Checkpoint(model.eval(), config, default_labels(config.classes), digest.hexdigest(), training)


def default_labels(classes: int) -> tuple[str, ...]:
    """The Jester names for 27 classes, else numbered ones."""
    return JESTER if classes == len(JESTER) else tuple(f"class {i}" for i in range(classes))


def save(
    path: str | Path,
    model: LCR,
    labels: tuple[str, ...],
    training: dict[str, Any],
    *,
    fit: str = DEFAULT_FIT,
    weights: dict[str, Tensor] | None = None,
    judge: PackFile | None = None,
) -> None:
    """Write atomically: the old file stays whole until the new one is complete. Raises OutputError, UsageError.

    training: how the weights were made, as values that JSON can hold; stored in the file's metadata. fit: how the
    frames that the network was trained on were fitted, a name of ``frames.FITS``. weights: tensors to write instead of
    the model's own, with the same names (their average, for example). judge: a pack in the same folder.
    """
    if fit not in FITS:
        raise UsageError(f"unknown fit {fit!r}; choose one of {', '.join(FITS)}")
    metadata = {
        "format": FORMAT,
        "config": json.dumps(model.config.to_dict()),
        "labels": json.dumps(list(labels)),
        "fit": fit,
        "training": json.dumps(training),
    }
    if judge is not None:
        metadata["judge"] = json.dumps({"file": judge.path.name, "sha256": judge.sha256})
    write_tensors(Path(path), model.state_dict() if weights is None else weights, metadata)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file of tensors and metadata, written atomically. Raises OutputError."""
    from safetensors.torch import save as to_bytes

    own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    make_folder(path.parent, None)
    # safetensors' own writer has one error for everything. Here only what the system refuses becomes an OutputError.
    write_atomically(path, _in_order(to_bytes(own, metadata)))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted. safetensors writes them in another order in every process, and equal
    networks should be equal files."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + memoryview(content)[8 + size :]


def load(path: str | Path | None = None) -> Checkpoint:
    """Read and check a checkpoint; the packaged lcr_nano without ``path``.

    Raises CheckpointError (missing, truncated, not safetensors, not ours, a name, label or fit that is refused, tensors
    that do not fit, NaN or Inf) or MissingExtraError.
    """
    _require_torch()
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "train", "Reading checkpoints") from error

    source = PACKAGED if path is None else Path(path)
    if not source.is_file():
        raise CheckpointError(f"checkpoint {source} does not exist; give the path of a .safetensors file")
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{source} is not a whole safetensors file ({error}); copy it again, or train one with lcr-edge train"
        ) from error
    return _assemble(source, metadata, tensors, digest)


def _assemble(source: Path, metadata: dict[str, str], tensors: dict[str, Any], digest: str) -> Checkpoint:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{source} is a safetensors file but not a checkpoint of this lcr_edge (its format says "
            f"{metadata.get('format')!r}, expected {FORMAT!r}); train one with lcr-edge train"
        )
    try:
        config = Config.from_dict(dict(json.loads(metadata["config"])))
        labels = tuple(json.loads(metadata["labels"]))
        check_labels(labels)
        training = dict(json.loads(metadata["training"]))
        _check_length(training.get("frames", CLIP_FRAMES))
    except (KeyError, TypeError, ValueError, RecursionError, UsageError) as error:
        raise CheckpointError(f"{source}: its metadata cannot be read ({error}); the file was altered") from error
    judge, pack_sha256 = _judge(source, metadata)
    fit = metadata.get("fit", DEFAULT_FIT)
    if fit not in FITS:
        raise CheckpointError(
            f"{source}: its frames are fitted by {fit!r}, this lcr_edge knows {', '.join(FITS)}: upgrade lcr-edge"
        )
    model = build_model(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != found:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"{source}: tensors do not fit config {config.name}: {', '.join(odd[:3])}"
            f"{' ...' if len(odd) > 3 else ''} (expected {expected.get(odd[0])}, found {found.get(odd[0])})"
        )
    broken = sorted(name for name, value in tensors.items() if not bool(value.isfinite().all()))
    if broken:
        raise CheckpointError(f"{source}: NaN or Inf in {', '.join(broken[:3])}; use an earlier checkpoint")
    if len(labels) != config.classes:
        raise CheckpointError(f"{source}: {len(labels)} labels for {config.classes} classes; the file was altered")
    model.load_state_dict(tensors)
    return Checkpoint(model.eval(), config, labels, digest, training, source, fit, judge, pack_sha256)


def _judge(source: Path, metadata: dict[str, str]) -> tuple[PackFile | None, str | None]:
    """The judge pack beside a checkpoint, None if there is none or it was left behind, and its SHA-256.

    Raises CheckpointError.
    """
    if "judge" not in metadata:
        return None, None
    try:
        about = json.loads(metadata["judge"])
        name, digest = str(about["file"]), str(about["sha256"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: its metadata cannot be read ({error}); the file was altered") from error
    if not name.endswith(PACK_SUFFIX) or Path(name).name != name:
        raise CheckpointError(f"{source}: {name!r:.80} is no name of a judge pack; the file was altered")
    path = source.with_name(name)
    return PackFile(path, digest) if path.is_file() else None, digest


def _check_length(frames: object) -> None:
    """UsageError unless this can be the length of the clips that the network was trained on."""
    if isinstance(frames, bool) or not isinstance(frames, int) or not MIN_CLIP_FRAMES <= frames <= MAX_CLIP_FRAMES:
        raise UsageError(
            f"training frames must be a number from {MIN_CLIP_FRAMES} to {MAX_CLIP_FRAMES}, found {frames!r:.40}"
        )


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("torch", "train", "Building or loading the network") from error
