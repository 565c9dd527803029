"""What a run starts from: random weights, a checkpoint (the packaged one has a name), or Vision-RWKV weights."""

from __future__ import annotations

from pathlib import Path

from lcr_edge.checkpoint import Checkpoint, build_model, load
from lcr_edge.config import Config
from lcr_edge.data.sets import ClipSet
from lcr_edge.errors import CheckpointError
from lcr_edge.model.network import LCR

VRWKV = "vrwkv:"
PACKAGED = "packaged"


class Start:
    """The value of ``--init``, checked before any work: a checkpoint's path, "packaged", ``vrwkv:PATH``, or None.

    config: of the network to train; its number of classes may still change. Raises CheckpointError for a file that is
    missing or does not fit.
    """

    def __init__(self, init: str | None, config: Config) -> None:
        self.init = init
        self._imagenet: Path | None = None
        self._source: Checkpoint | None = None
        if init is None:
            return
        if init.startswith(VRWKV):
            self._imagenet = Path(init[len(VRWKV) :])
            if not self._imagenet.is_file():
                raise CheckpointError(f"{self._imagenet} does not exist; give the path of Vision-RWKV weights")
            return
        self._source = load(None if init == PACKAGED else init)
        _check_config(init, self._source.config, config)

    @property
    def origin(self) -> str:
        """For the record of the run."""
        return self.init or "random"

    @property
    def fit(self) -> str | None:
        """How the checkpoint's training fitted frames, a name of ``frames.FITS``; None without a checkpoint."""
        return self._source.fit if self._source else None

    def network(self, config: Config, data: ClipSet, new_head: bool) -> tuple[LCR, str]:
        """The network to train, and what there is to say about weights that were taken over ("" for nothing).

        Random weights come from torch's global generator. Raises CheckpointError where the classes differ.
        """
        if self._source is not None:
            said = []
            if data.fit != self.fit:
                said.append(f"{self.init} was trained with --fit {self.fit}; this run uses {data.fit}")
            if self.init == PACKAGED and not new_head and self._source.labels != data.labels:
                new_head = True
                said.append("the packaged network has other classes: a new classifier is learned (--new-head)")
            return _adapted(str(self.init), self._source, config, data, new_head), "\n".join(said)
        model = build_model(config)
        if self._imagenet is None:
            return model, ""
        from lcr_edge.training.vrwkv import load_vrwkv

        return model, load_vrwkv(self._imagenet, model).text()


def _check_config(path: str, found: Config, wanted: Config) -> None:
    """CheckpointError unless the two configs differ in the number of classes only."""
    if {**found.to_dict(), "classes": wanted.classes} != wanted.to_dict():
        raise CheckpointError(
            f"{path} has the config {found.name}, not the {wanted.name} that was asked for, or another variant of it: "
            f"use --config {found.name}"
        )


def _adapted(path: str, source: Checkpoint, config: Config, data: ClipSet, new_head: bool) -> LCR:
    """The network of a checkpoint, for the classes of the data. Raises CheckpointError where they differ."""
    if new_head:
        model = build_model(config)
        kept = {k: v for k, v in source.model.state_dict().items() if not k.startswith("classify.")}
        model.load_state_dict(kept, strict=False)
        return model
    if source.labels != data.labels:
        raise CheckpointError(
            f"the {len(source.labels)} classes of {path} are not the {len(data.labels)} classes of {data.name}: add "
            "--new-head to learn a new classifier"
        )
    return source.model
