"""What ``lcr-edge run`` prints and writes: steps, events, lost sources and the summary, as text and as JSON lines."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from lcr_edge import options
from lcr_edge.errors import LcrError, OutputError, SourceLostError, StateError
from lcr_edge.runtimes.api import clip_decision
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.stream import Step, Stream
from lcr_edge.runtimes.video import Tick, VideoSource


class JsonLines:
    """The lines of ``--json``: on stdout ("-"), in a file or device, or nowhere (None). Raises OutputError.

    Unlike other results they are written as they come, not all or nothing, so that a reader can follow the run.
    """

    def __init__(self, destination: str | None) -> None:
        self._destination = destination
        self._file: IO[str] | None = None
        try:
            if destination == options.STDOUT:
                self._file = sys.stdout
            elif destination is not None:
                self._file = Path(destination).open("w", encoding="utf-8")  # noqa: SIM115 - see close
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            raise self._failed(error) from error

    def write(self, record: dict[str, Any]) -> None:
        """Write one line and flush it. Raises OutputError."""
        if self._file is None:
            return
        try:
            print(json.dumps(record, ensure_ascii=False), file=self._file, flush=True)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file; stdout stays open."""
        if self._file is not None and self._file is not sys.stdout:
            with contextlib.suppress(OSError):  # every line was flushed, or its error was raised
                self._file.close()

    def _failed(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or error
        return OutputError(f"cannot write {self._destination}: {reason}; give --json another file, or -")


class Shown:
    """What is printed and written, by one thread at a time.

    top: classes of a step. every_step: print steps too, not events and summaries alone. several: each line says which
    source it is about. All methods may raise OutputError.
    """

    def __init__(
        self, lines: JsonLines, out: IO[str], labels: Sequence[str], *, top: int, every_step: bool, several: bool
    ) -> None:
        self._lines, self._out, self._labels, self._several = lines, out, labels, several
        self._top, self._every_step = top, every_step
        self._lock = threading.Lock()

    def state(self, name: str, state: str, what: str) -> None:
        """A source was lost, or is back."""
        with self._lock:
            print(f"{name}: {what}", file=sys.stderr, flush=True)
            self._write(name, {"state": state, "reason": what})

    def failed(self, name: str, error: LcrError) -> None:
        """A source is over. The error of the only one is printed at the end."""
        with self._lock:
            if self._several:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
            state = "lost" if isinstance(error, SourceLostError) else "failed"
            self._write(name, {"state": state, "reason": str(error)})

    def step(self, name: str, step: Step) -> None:
        """A step."""
        timed, probabilities = step.tick.timed, step.probabilities
        best = np.argsort(-probabilities, kind="stable")[: self._top]
        top = [{"label": self._labels[i], "probability": round(float(probabilities[i]), 6)} for i in best]
        with self._lock:
            if step.tick.gap:
                reset = f"state reset at {timed.time_s:.3f} s: {step.tick.gap}"
                print(self._about(name) + reset, file=sys.stderr, flush=True)
            self._write(
                name,
                {
                    "time_s": round(timed.time_s, 4),
                    "frame": timed.index,
                    "top": top,
                    "latency_ms": round(step.latency_ms, 3),
                    "reset": step.tick.gap is not None,
                    **({"skipped": step.skipped} if step.skipped else {}),
                    **({} if step.lag_s is None else {"lag_ms": round(step.lag_s * 1e3, 3)}),
                },
            )
            if self._every_step:
                shown = "  ".join(f"{self._labels[i]} {probabilities[i]:.2f}" for i in best)
                self._print(name, f"{timed.time_s:9.3f} s  frame {timed.index:6d}  {step.latency_ms:7.2f} ms  {shown}")

    def left_out(self, _name: str, _tick: Tick) -> None:
        """Nothing: the next step says how many were."""

    def events(self, name: str, events: Sequence[Event]) -> None:
        """Events began or ended."""
        with self._lock:
            for event in events:
                self._write(name, event.to_dict())
                if event.end_s is None:
                    self._print(name, f"{event.start_s:9.3f} s  {event.label} begins ({event.confidence:.2f})")
                else:
                    lasted = f"after {event.end_s - event.start_s:.2f} s ({event.confidence:.2f})"
                    self._print(name, f"{event.end_s:9.3f} s  {event.label} ends {lasted}{', cut' * event.cut}")

    def ended(self, name: str, stream: Stream) -> None:
        """The last lines about a source."""
        totals, source = stream.totals, stream.source
        counts = f"{source.seen} frames seen, {totals.steps} stepped, {totals.resets} resets"
        if stream.gate is not None:
            counts += f", {totals.skipped} steps skipped"
        if stream.live is not None:
            again, behind = stream.live.connections - 1, totals.largest_lag_s * 1e3
            counts += f", {again} reconnections, at most {behind:.0f} ms behind"
        if stream.finder is not None:
            counts += f", {stream.finder.count} event{'s' * (stream.finder.count != 1)}"
        engine = stream.model.engine.name
        decision = self._labels[clip_decision(np.stack(totals.logits))] if totals.logits else None
        shortfall = source.shortfall() if isinstance(source, VideoSource) else None
        summary: dict[str, Any] = {
            "seen": source.seen,
            "steps": totals.steps,
            "resets": totals.resets,
            "missed": totals.missed,
            "largest_state": _largest(stream),
            "decision": decision,
            "shortfall": shortfall,
            "engine": engine,
        }
        if stream.finder is not None:
            summary["events"] = stream.finder.count
            summary["rules"] = asdict(stream.finder.rules)
        if stream.gate is not None:
            summary["skipped"] = totals.skipped
        if stream.live is not None:
            summary["reconnections"] = stream.live.connections - 1
            summary["largest_lag_ms"] = round(totals.largest_lag_s * 1e3, 3)
        with self._lock:
            self._print(name, f"{counts}, on {engine}")
            if stream.finder is not None:
                self._print(name, f"events: {stream.finder.rules}")
            if decision is not None:
                self._print(name, f"clip{' since the last reset' if totals.resets else ''}: {decision}")
            if totals.missed:
                rate = f"{stream.fps:g} per second, the trained rate"
                missed = f"warning: {totals.missed} frames came too late for {rate}"
                print(self._about(name) + missed, file=sys.stderr)
            if shortfall:
                print(f"{self._about(name)}warning: {shortfall}", file=sys.stderr)
            self._write(name, {"summary": summary})

    def close(self) -> None:
        """Close the file of the JSON lines."""
        self._lines.close()

    def _about(self, name: str) -> str:
        return f"{name}: " if self._several else ""

    def _print(self, name: str, line: str) -> None:
        print(self._about(name) + line, file=self._out, flush=True)

    def _write(self, name: str, record: dict[str, Any]) -> None:
        self._lines.write({"source": name, **record} if self._several else record)


def _largest(stream: Stream) -> float | None:
    """The largest state; None where it is not finite, which JSON cannot say."""
    try:
        return round(stream.look(), 4)
    except StateError:
        return None
