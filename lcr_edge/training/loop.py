"""The training loop: batches in, a network and a record of the run out."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lcr_edge.checkpoint import save, write_tensors
from lcr_edge.data.batches import Batch, Plan, batches
from lcr_edge.data.faults import FaultCounter
from lcr_edge.data.pack import PackFile
from lcr_edge.data.sets import ClipSet
from lcr_edge.errors import LcrError, UsageError
from lcr_edge.kernels.compilers import find_cxx
from lcr_edge.model.network import LCR
from lcr_edge.progress import Bar, bar, watched
from lcr_edge.training import run_state
from lcr_edge.training.carried import Streams
from lcr_edge.training.heldout import HeldOut, Look
from lcr_edge.training.loss import Learner, Losses
from lcr_edge.training.metrics import CURVE, METRICS, MetricsLog
from lcr_edge.training.optimiser import Average, make_optimisers, restore_state, set_rate, state_tensors
from lcr_edge.training.processes import World
from lcr_edge.training.readiness import Readiness
from lcr_edge.training.run_state import RunState
from lcr_edge.training.schedule import CALM_EMA, DAMPING, ROUNDS, Schedule
from lcr_edge.training.settings import Conduct, Settings
from lcr_edge.training.stopping import StopRequest

LOG_EVERY = 20  # steps
FEW_CLIPS = 1000
LOOKS = 10  # at held-out clips in a run, unless told otherwise
BEST = "-best"  # of the name of the network's file


class Best(NamedTuple):
    """The best look at the held-out clips, after which step it was taken, and how many looks came since."""

    look: Look
    step: int
    since: int = 0


class Outcome(NamedTuple):
    """How a run ended, or was left.

    loss: cross entropy in the last line of the log, None where this process wrote none. trained: False if there was
    nothing left to do. stopped: the signal that ended it early, or None; the run is saved and can go on. look, best:
    the last and the best look at held-out clips, None without any. patient: False if too many looks were no better.
    ready: how ready the network is to export, None if that was not measured. looked: the step of the last look, None if
    this process took none.
    """

    step: int
    loss: float | None
    trained: bool
    stopped: int | None = None
    look: Look | None = None
    best: Best | None = None
    patient: bool = True
    ready: Readiness | None = None
    looked: int | None = None


class Trainer:
    """One run, from its first step or from where an earlier process left it.

    folder: where rank 0 writes. about: what the run's checkpoint says besides the settings (config, data, fit); a
    resumed run must say the same. origin: what the weights started from, for the record. heldout: clips to look at from
    time to time, or None. judge: those on which the network is judged at the end, or None.

    pack: the judge pack in the folder, or None; to be set before ``run``.
    """

    def __init__(
        self,
        model: LCR,
        data: ClipSet,
        settings: Settings,
        conduct: Conduct,
        world: World,
        folder: Path,
        about: dict[str, Any],
        origin: str,
        heldout: HeldOut | None = None,
        judge: HeldOut | None = None,
    ) -> None:
        self.data, self.settings, self.conduct, self.world, self.folder = data, settings, conduct, world, folder
        self.identity, self.origin = {**settings.to_dict(), **about}, origin
        self.learner = Learner(
            model.to(world.device).train(),
            joints=data.reversible,  # rendered gestures come with joints
            world=world,
            smoothing=settings.label_smoothing,
            placement=settings.loss,
            joint_weight=settings.joint_weight,
            limit_weight=settings.limit_weight,
            calm_weight=settings.calm_weight,
        ).to(world.device)
        self.model = model
        self.optimisers = make_optimisers(self.learner, settings.optimiser, settings.weight_decay)
        self.average = Average(model, settings.ema)
        self.streams = Streams(
            model.config,
            settings.batch,
            carry=settings.carry_state,
            tube_mask=settings.tube_mask,
            seed=settings.seed,
            world=world,
        )
        self.plan = Plan(
            settings.batch,
            settings.frames,
            model.config.train_fps,
            (model.config.height, model.config.width),
            settings.seed,
            settings.steps,
            settings.full_rate,
            world.rank,
            world.size,
            settings.augment,
            settings.balance,
        )
        self.schedule = Schedule(settings)
        self.heldout = heldout
        self.best: Best | None = None
        # Of the last line of the log and the last look in this process.
        self._loss: float | None = None
        self._look: Look | None = None
        self._looked: int | None = None
        self._looks = False
        self.judge = judge
        self.pack: PackFile | None = None
        self.ready: Readiness | None = None
        self.judged = False
        self.step = 0
        self._saved = False  # whether the folder holds a state of this run
        # Since the last line of the log, of all processes: sum of the cross entropies, clips decided rightly, clips.
        self.loss, self.hits, self.seen = 0.0, 0, 0
        self.faults = FaultCounter()

    def resume(self) -> None:
        """Go on from the last complete checkpoint in the folder. Raises UsageError, CheckpointError."""
        saved = run_state.read(self.folder)
        run_state.check_same(saved.settings, self.identity)
        self._saved = True
        self.learner.load_state_dict({k: v.to(self.world.device) for k, v in saved.tensors["learner"].items()})
        for name, value in saved.tensors["average"].items():
            self.average.tensors[name].copy_(value)
        restore_state(self.optimisers, self.learner, saved.tensors.get("optimiser", {}))
        self.streams.restore(saved.tensors.get("streams", {}))
        self.step, self.origin = saved.step, str(saved.progress["origin"])
        self.loss, self.hits, self.seen = (saved.progress[name] for name in ("loss", "hits", "seen"))
        self.schedule.rounds, self.schedule.cut = saved.progress["rounds"], saved.progress["cut"]
        if saved.progress.get("ready"):
            self.ready = Readiness(*saved.progress["ready"])
        self.judged = saved.progress["judged"]
        if saved.progress.get("best"):
            look, *rest = saved.progress["best"]
            self.best = Best(Look(*look), *rest)

    def run(self) -> Outcome:
        """Train to the end, until ``stop_after``, or until a signal asks to stop (see ``stopping``).

        Raises LcrError: NaN, bad data, no memory, a full disk.
        """
        if self.step >= self._stop and (self.judged or self.step < self.schedule.goal):
            self._complete()
            return self._outcome(False)
        module = self._module()
        # One process looks; the others must know, for they sum up the figures of the same lines of the log.
        self._looks = bool(self.world.sum(torch.tensor(int(self.heldout is not None), device=self.world.device)))
        begun, asked = (self.step, self.judged), False
        request = StopRequest()
        with request, self._log() as log:
            while not asked and not self.judged:
                if self.step < self._stop:
                    asked = self._run_to(self._stop, module, request, log)
                elif self.step < self.schedule.goal:
                    break
                else:
                    self._judge()
        # The signal of another process, where this one got none, was most likely the system's.
        return self._outcome((self.step, self.judged) != begun, (request.signal or signal.SIGTERM) if asked else None)

    def _outcome(self, trained: bool, by: int | None = None) -> Outcome:
        ready, patient = self.ready if self.judged else None, self.schedule.cut is None
        return Outcome(self.step, self._loss, trained, by, self._look, self.best, patient, ready, self._looked)

    def _complete(self) -> None:
        """What a run lacks that was killed right after its last save."""
        if not self.world.leads:
            return
        if not self._network().is_file():
            self.save_network()
        curve, metrics = self.folder / CURVE, self.folder / METRICS
        if metrics.is_file() and not (curve.is_file() and curve.stat().st_mtime >= metrics.stat().st_mtime):
            with MetricsLog(self.folder, self.step, tensorboard=False):
                pass

    @property
    def _stop(self) -> int:
        """The step to which this process trains."""
        return min(self.schedule.goal, self.conduct.stop_after or self.schedule.goal)

    def _run_to(self, stop: int, module: nn.Module, request: StopRequest, log: MetricsLog | None) -> bool:
        """Train up to a step, or to where patience ends the learning; returns whether a signal asked to stop."""
        world, asked = self.world, False
        title = "training" if self.step < self.schedule.learning else "calming"
        with bar(title, stop, "step", world.leads, start=self.step) as moved:
            for batch in self._batches(stop, request):
                self._count_faults(batch, moved)
                losses, asked = self._step(module, batch, request)
                self.step += 1
                moved.update()
                cut = self._record(losses, log, moved)
                due = self.step % self.conduct.save_every == 0 or self.step == stop
                # The first state early: a run that is killed before it can only be started again.
                if asked or cut or due or not self._saved:
                    self.save()
                    if world.leads and not watched():  # a log file instead of a terminal
                        loss = "" if self._loss is None else f": loss {self._loss:.3f}"
                        moved.say(f"step {self.step} of {stop}{loss}")
                if asked or cut:
                    break
            if request.signal is not None and not asked and self.step < stop:
                self.save()
                asked = True
        return asked

    def _judge(self) -> None:
        """At the end: is the network ready to export? If not, and there is a round of calming left, add one."""
        more = False
        if self.judge is not None and self.world.leads and self.settings.calm_steps:
            self.ready = self.judge.readiness(self.model, self.average.tensors)
            more = self.ready is not None and bool(self.ready.complaints) and self.schedule.rounds < ROUNDS
        # The process that judges decides for all.
        if int(self.world.sum(torch.tensor(int(more), device=self.world.device))):
            self.schedule.rounds += 1
            if self.ready is not None:
                why = "; ".join(self.ready.complaints)
                print(f"not ready to export: {why}. {self.settings.calm_steps} more steps of calming", flush=True)
        else:
            self.judged = True
        self.save()

    def _module(self) -> nn.Module:
        """The learner as it is called in a step: compiled if asked for, and shared between the processes."""
        if self.conduct.compile:
            compile_layers(self.model)
        if self.world.size == 1:
            return self.learner
        # Buffers are equal at the start, and _after brings the running averages together.
        switch = "forward_sync_buffers"  # its name since torch 2.13
        names = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        options: dict[str, Any] = {switch if switch in names else "broadcast_buffers": False}
        if self.world.device.type == "cuda":
            options["device_ids"] = [self.world.device.index]
        return nn.parallel.DistributedDataParallel(self.learner, **options)

    def _count_faults(self, batch: Batch, moved: Bar) -> None:
        """Name the batch's unreadable clips. Raises LcrError for too many."""
        for message in self.faults.add(batch):
            moved.say(f"left out: {message}")
        # A share of the first few clips says little, so count as if a thousand (or all) had been tried.
        self.faults.check(self.conduct.max_corrupt, max(self.faults.tried, min(len(self.data), FEW_CLIPS)))

    def _record(self, losses: Losses, log: MetricsLog | None, moved: Bar) -> bool:
        """After some steps: a look at the held-out clips, a line of the log. Whether patience ends the learning."""
        last = self.step == self.schedule.goal
        due = self._looks and (last or self.step % self.look_every == 0)
        if not (due or last or self.step % LOG_EVERY == 0):
            return False
        if due:
            self._look = self._look_now()
            self._looked = None if self._look is None else self.step
        figures = self._figures(losses, self._look if due else None)
        self._loss = figures["loss"]
        if log is not None:
            log.write(self.step, figures)
        shown = {name: figures[name] for name in ("loss", "accuracy")}
        moved.show(shown if self._look is None else {**shown, "held out": self._look.accuracy})
        return due and self._cut(moved)

    @property
    def look_every(self) -> int:
        """Steps between two looks at the held-out clips."""
        return self.conduct.look_every or max(LOG_EVERY, self.settings.steps // LOOKS)

    def _look_now(self) -> Look | None:
        """How the averaged weights do on the held-out clips now, by the process that writes; keeps the best."""
        if self.heldout is None or not self.world.leads:
            return None
        look = self.heldout.look(self.model, self.average.tensors)
        # A network that was not calmed may be refused by an export: as good on the clips, the calmed one is better.
        best = self.best
        calmer = best is not None and best.step <= self.schedule.learning < self.step
        if look.better_than(best.look if best else None) or (calmer and best and look.accuracy >= best.look.accuracy):
            self.best = Best(look, self.step)
            self.save_network(BEST)
        elif self.best is not None:
            self.best = self.best._replace(since=self.best.since + 1)
        return look

    def _cut(self, moved: Bar) -> bool:
        """After a look: end the learning if ``patience`` looks were no better than the best. Whether it has ended."""
        if self.conduct.patience is None or self.step >= self.schedule.learning:
            return False
        # The process that looks decides for all: the others know the best look of a resumed run only.
        since = self.best.since if self.best is not None and self.world.leads else 0
        if int(self.world.sum(torch.tensor(since, device=self.world.device))) < self.conduct.patience:
            return False
        self.schedule.cut = self.step
        calm = self.settings.calm_steps
        if self.world.leads:
            then = f"{calm} steps of calming follow" if calm else "without --calm-share the run ends"
            moved.say(f"step {self.step}: {since} looks at held-out clips were no better (--patience); {then}")
        return True

    def _batches(self, stop: int, request: StopRequest) -> Iterator[Batch]:
        """The batches from here to ``stop``; fewer if a signal has ended a process that reads them."""
        try:
            yield from batches(self.data, self.plan, self.step, stop, self.conduct.workers)
        except LcrError:
            if request.signal is None or self.world.size > 1:  # others wait for the next step of this process
                raise

    def _figures(self, losses: Losses, look: Look | None) -> dict[str, float]:
        """The next line of the log: loss and accuracy are means since the last line, the others are of this step.

        look: at the held-out clips now; NaN stands in lines without one.
        """
        terms = torch.stack([losses.joints, losses.excess, losses.expansion])
        joints, excess, expansion = self.world.mean(terms).tolist()
        clips = self.settings.batch
        figures = {
            "loss": self.loss * clips / self.seen,
            "accuracy": self.hits / self.seen,
            "joint_loss": joints,
            "size_penalty": excess,
            "expansion": expansion,
            "learning_rate": self.schedule.at(self.step - 1).rate,
        }
        self.loss, self.hits, self.seen = 0.0, 0, 0
        if self.heldout is not None:
            figures["heldout_loss"], figures["heldout_accuracy"] = look or (math.nan, math.nan)
        return figures

    def _step(self, module: nn.Module, batch: Batch, request: StopRequest) -> tuple[Losses, bool]:
        """One step of the optimiser; returns its losses, and whether a process was asked to stop."""
        settings, device = self.settings, self.world.device
        moment = self.schedule.at(self.step)
        if moment.starts:
            self.model.load_state_dict(self.average.tensors)
        if moment.damps:
            self.model.damp(DAMPING)
            # In a short round the average would still consist of the old weights for the most part.
            self.average.follow(self.model, self.step, most=0.0)
        if moment.calm:
            # The directions in which the network probes its growth: as everything else, a function of seed and step.
            torch.manual_seed((settings.seed * 1_000_003 + self.step) * self.world.size + self.world.rank)
        set_rate(self.optimisers, moment.rate)
        state, keep = self.streams.begin(self.step)
        frames, edges, labels = (self.world.take(x) for x in (batch.frames, batch.edges, batch.labels))
        joints = None if batch.joints is None else self.world.take(batch.joints)
        with torch.autocast(device.type, torch.bfloat16, enabled=not (settings.fp32 or moment.calm)):
            losses: Losses = module(frames, edges, labels, joints, state, keep, moment.calm)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        torch.autograd.backward(losses.total)
        norm = nn.utils.clip_grad_norm_(self.learner.parameters(), settings.clip_gradient)
        hits = (losses.logits[:, -1].argmax(-1) == labels).sum()
        bad = ~(torch.isfinite(losses.total) & torch.isfinite(norm))
        asked = torch.tensor(request.signal is not None, device=device)
        # The only place in a step that waits for a GPU. All processes must agree to stop after the same step.
        sums = self.world.sum(torch.stack([x.detach().double() for x in (losses.named, hits, bad, asked)])).tolist()
        if sums[2]:
            self._refuse(losses, float(norm), batch, state, keep)
        self.loss += sums[0] / self.world.size
        self.hits += int(sums[1])
        self.seen += settings.batch
        for optimiser in self.optimisers:
            optimiser.step()
        self._after(losses, moment.calm)
        return losses, sums[3] > 0

    def _after(self, losses: Losses, calm: bool) -> None:
        """Work after the optimiser's step: running averages of norms and weights, the carried states."""
        norms = self.model.steady_norms()
        for norm, seen in zip(norms, self.world.sum(torch.stack([norm.seen for norm in norms]))):
            norm.seen.copy_(seen)
            norm.follow()
        self.average.follow(self.model, self.step, CALM_EMA if calm else 1.0)
        self.streams.end(losses.state)

    def _refuse(self, losses: Losses, norm: float, batch: Batch, state: Any, keep: Tensor | None) -> None:
        """Stop before a NaN or Inf gets into the weights; each process saves its batch."""
        path = self.folder / f"nan-step{self.step}-rank{self.world.rank}.safetensors"
        tensors = {"frames": batch.frames, "edges": batch.edges, "labels": batch.labels}
        tensors |= {f"model:{name}": value for name, value in self.model.state_dict().items()}
        if state is not None:
            tensors |= {"state_h": state[0], "state_c": state[1]}
        if keep is not None:
            tensors["keep"] = keep
        write_tensors(path, tensors, {"step": str(self.step), "clips": " ".join(map(str, batch.clips))})
        elsewhere = math.isfinite(losses.total.item()) and math.isfinite(norm)
        raise LcrError(
            f"at step {self.step} the loss is {losses.total.item():.3g} and the gradient's norm {norm:.3g}"
            f"{' here, not finite in another process' if elsewhere else ''}; batch and weights are in {path}. "
            "Start in another --out with a lower --lr or --precision fp32; --init takes this run's last checkpoint"
        )

    def save(self) -> None:
        """Write the run's state, and the averaged network as a checkpoint. Every process must call this."""
        streams = self.streams.tensors()
        first, self._saved = not self._saved, True
        if not self.world.leads:
            return
        tensors = {
            "learner": self.learner.state_dict(),
            "average": self.average.tensors,
            "optimiser": state_tensors(self.optimisers, self.learner),
            "streams": streams,
        }
        progress: dict[str, Any] = {"loss": self.loss, "hits": self.hits, "seen": self.seen, "origin": self.origin}
        progress |= {"best": self.best, "rounds": self.schedule.rounds, "cut": self.schedule.cut, "judged": self.judged}
        progress["ready"] = None if self.ready is None else dataclasses.astuple(self.ready)
        state = RunState(self.step, self.identity, progress, tensors)
        # The network first: a run that is killed between the two goes on from the older state and writes it again. But
        # without an older state the network alone could be neither resumed nor started again.
        if not first:
            self.save_network()
        run_state.write(self.folder, state)
        if first:
            self.save_network()

    @property
    def course(self) -> dict[str, Any]:
        """What a checkpoint says besides :attr:`identity`: from which data and weights it came, and how far."""
        return {"data_name": self.data.name, "init": self.origin, "step": self.step}

    def save_network(self, suffix: str = "") -> None:
        """Write the averaged weights as the checkpoint that export and evaluate take."""
        training = {**self.identity, **self.course}
        save(
            self._network(suffix),
            self.model,
            self.data.labels,
            training,
            fit=self.data.fit,
            weights=self.average.tensors,
            judge=self.pack,
        )

    def _network(self, suffix: str = "") -> Path:
        return self.folder / f"{self.model.config.name}{suffix}.safetensors"

    def _log(self) -> contextlib.AbstractContextManager[MetricsLog | None]:
        if not self.world.leads:
            return contextlib.nullcontext()
        return MetricsLog(self.folder, self.step if self.step else None, self.conduct.tensorboard)


def compile_layers(model: LCR) -> None:
    """Let torch.compile fuse the operations of each layer. Raises UsageError without a C++ compiler."""
    if find_cxx() is None:
        raise UsageError("--compile needs a compiler (Debian, Ubuntu: apt-get install g++ python3-dev)")
    # Layers differ in how they cut the WKV into chunks, and each is compiled for first and later frames.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for layer in model.blocks():
        layer.compile(dynamic=False)
