"""The accuracy cost of int8 per kind of layer, for an export's report page and for --keep-float auto."""

from __future__ import annotations

from typing import Callable

from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint
from lcr_edge.export.int8.layers import kinds_of
from lcr_edge.export.int8.trials import Trials
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.clips import stream
from lcr_edge.export.verify.reference import roll
from lcr_edge.progress import step

COST_FRAMES = 200  # frames over which kinds of layers are compared


class Costs:
    """Trials and costs of one network's int8 requests, each computed once.

    samples: returns the checkpoint's samples; called when they are needed. threads: CPU threads of the engine.
    """

    def __init__(self, checkpoint: Checkpoint, samples: Callable[[], Samples], threads: int = 1) -> None:
        self.checkpoint = checkpoint
        self.threads = threads
        self._samples = samples
        self._trials: dict[Request, Trials] = {}
        self._found: dict[Request, tuple[tuple[str, float], ...]] = {}

    def trials(self, request: Request) -> Trials:
        """Trials of an int8 request. Raises what ``samples`` raises."""
        if request not in self._trials:
            with step(f"{request.name}: observing layer inputs"):
                self._trials[request] = Trials(self.checkpoint, self._samples(), request, self.threads)
        return self._trials[request]

    def of(self, request: Request) -> tuple[tuple[str, float], ...]:
        """The cost of quantising each kind of layer alone over COST_FRAMES frames, costliest first: (kind,
        rms error / std in the stream, of logits or states, whichever is largest). Takes one conversion per kind.
        Empty if the request has no layers to choose from."""
        if request.precision != "int8" or request.io == "int8":
            return ()
        if request not in self._found:
            trials = self.trials(request)
            reference = roll(self.checkpoint.model, stream(None, self.checkpoint, COST_FRAMES))
            groups = kinds_of(trials.cell.linears())
            found = [(kind, trials.cost(reference, f"{kind} alone", group).total) for kind, group in groups.items()]
            self._found[request] = tuple(sorted(found, key=lambda row: -row[1]))
        return self._found[request]
