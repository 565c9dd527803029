"""A verification as one HTML page that needs no other file and no script, and is readable on a phone."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcr_edge.export.verify.chart import Series, chart
from lcr_edge.export.verify.phases import Curve
from lcr_edge.files import make_folder, write_atomically
from lcr_edge.runtimes.tallies import TENSORS, Line
from lcr_edge.tolerances import Promise

if TYPE_CHECKING:
    from lcr_edge.export.verify.decisions import Clips
    from lcr_edge.export.verify.report import Report

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --paper: #fff; --soft: #68707a; --rule: #d8dce1; --good: #1a7f37;
  --bad: #c4231b; --s0: #2a6fdb; --s1: #d9730d; --s2: #16866f; --limit: #c4231b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171a; --soft: #9aa3ad; --rule: #353b42;
  --good: #4ac26b; --bad: #ff7b72; --s0: #6ea8ff; --s1: #f2a45c; --s2: #5bc8ae; --limit: #ff7b72; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p, li { overflow-wrap: anywhere; } .soft { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; }
td, th { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } th { font-weight: 600; }
.met { color: var(--good); font-weight: 600; } .missed { color: var(--bad); font-weight: 600; }
.confusion td, .confusion th { padding: .1rem .3rem; text-align: center; }
.confusion td:first-child { text-align: left; } .same { color: var(--soft); }
.other { background: var(--bad); color: var(--paper); }
.promises td, .promises th { white-space: normal; text-align: left; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
@media (max-width: 40rem) { svg { font-size: 18px; } }
""".strip()


def write_page(report: Report, path: Path, manifest: Mapping[str, Any]) -> Path:
    """Write :func:`page` to ``path``, whole or not at all, and return the path. Raises OutputError."""
    make_folder(path.parent, "--report")
    write_atomically(path, page(report, manifest).encode())
    return path


def page(report: Report, manifest: Mapping[str, Any]) -> str:
    """The page as text. manifest: the bundle's manifest.json, which has the sizes and the origin."""
    title = f"{report.bundle}: {'every promise met' if report.passed else 'promises MISSED'}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        _paragraph(f"{report.engine}, {report.frames} frames of {report.clip}, against the float PyTorch cell."),
        "".join(f'<p class="missed">{_text(sentence)}</p>' for sentence in report.failures),
        _promises(report),
        *_modes(report),
        "" if report.clips is None else _clips(report.clips),
        _sensitivity(report.sensitivity) if report.sensitivity or report.precision == "int8" else "",
        _sizes(manifest),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _promises(report: Report) -> str:
    rows = []
    for check in report.every_check:
        verdict = {True: ("met", "met"), False: ("missed", "MISSED"), None: ("soft", "not judged")}[check.met]
        measured = "" if check.measured is None else check.shown(check.measured)
        cells = [_text(check.name), _text(measured), _text(check.bound())]
        # The verdict first: on a phone the end of a wide table is out of sight.
        rows.append([f'<span class="{verdict[0]}">{verdict[1]}</span>', *cells, _text(check.remark)])
    return _section("Promises", _table(["", "promise", "measured", "promised", ""], rows, "promises"))


def _modes(report: Report) -> Iterable[str]:
    """Curves and tables of one step, the stream, and the long streams."""
    parts = [("One step from the reference's state", report.one_step_curve, report.one_step)]
    parts += [("Stream: the bundle's own state fed back", report.stream_curve, report.stream)]
    for streams in (report.streams, report.video):
        if streams is not None:
            title = f"{streams.streams} streams of {streams.data}, no reset"
            parts.append((title, streams.curve, streams.lines))
    for index, (title, curve, lines) in enumerate(parts):
        limit = report.promise.step_relative if index == 0 else None
        yield _section(title, _curve(curve, limit, report.promise) + _lines(lines))


def _curve(curve: Curve, limit: float | None, promise: Promise) -> str:
    points = curve.thinned()
    series = [Series(name, points["frame"], points["rms_over_std"][name]) for name in TENSORS]
    drawn = chart(series, x_title="frame", y_title="rms error / std", limit=limit)
    why = f" The line is what is promised as a mean from frame {promise.settled} on." if limit is not None else ""
    return drawn + _paragraph(f"Error by frame; the reference's standard deviation is that of all frames.{why}")


def _lines(lines: Mapping[str, Line]) -> str:
    head = ["frames", *(f"{name} {what}" for name in TENSORS for what in ("max abs", "rms / std")), "same class"]
    rows = []
    for phase, line in lines.items():
        errors = [_text(text) for t in line.tensors.values() for text in (f"{t.max_abs:.1e}", f"{t.relative:.1e}")]
        rows.append([_text(phase), *errors, f"{line.top1:.2%}"])
    return _table(head, rows)


def _clips(clips: Clips) -> str:
    said = f"{clips.clips} clips of {clips.data}: the same decision on {clips.agreement:.2%}."
    if clips.float_top1 is not None and clips.bundle_top1 is not None:
        said += f" Right: float {clips.float_top1:.2f} %, bundle {clips.bundle_top1:.2f} %."
    body = _paragraph(said, "") + (_paragraph(clips.note) if clips.note else "")
    changed = [[_text(was), _text(now), str(count)] for was, now, count in clips.changed()]
    if changed:
        body += _table(["float decided", "the bundle", "clips"], changed)
    numbers = range(1, len(clips.labels) + 1)
    rows = []
    for number, name, counts in zip(numbers, clips.labels, clips.confusion):
        cells = [_count(count, column == number) for column, count in zip(numbers, counts)]
        rows.append([_text(f"{number} {name}"), *cells])
    body += _paragraph("Clips by float's class (down) and the bundle's (across).")
    return _section("Decisions", body + _table(["", *map(str, numbers)], rows, "confusion"))


def _count(count: int, same: bool) -> str:
    return f'<span class="{"same" if same else "other"}">&nbsp;{count}&nbsp;</span>' if count else ""


def _sensitivity(rows: Sequence[tuple[str, float]]) -> str:
    title = "What quantising each layer alone costs"
    if not rows:
        how = "lcr-edge export --report measures it by kind of layer, lcr-edge sensitivity layer by layer."
        return _section(title, _paragraph(f"Not measured: {how}"))
    worst = max((cost for _, cost in rows if math.isfinite(cost)), default=0.0)
    cells = []
    for name, cost in sorted(rows, key=lambda row: -row[1] if math.isfinite(row[1]) else -math.inf):
        width = 0.0 if worst <= 0 or not math.isfinite(cost) else 100 * max(cost, 0.0) / worst
        bar = (
            f'<svg viewBox="0 0 100 8" preserveAspectRatio="none" style="width:8rem;height:.6rem" aria-hidden="true">'
            f'<rect width="{width:.1f}" height="8" fill="var(--s0)"/></svg>'
        )
        cells.append([_text(name), f"{cost:.3g}", bar])
    what = _paragraph("rms error / std in a stream, the largest of logits and states, with all other layers in float.")
    return _section(title, _table(["layer", "cost", ""], cells) + what)


def _sizes(manifest: Mapping[str, Any]) -> str:
    files: Mapping[str, Any] = manifest.get("files", {})
    rows = [[_text(name), f"{record['bytes']:,}"] for name, record in files.items()]
    total = sum(record["bytes"] for record in files.values())
    judged = (manifest.get("judged_on") or {}).get("data", "no clips of the network's kind")
    origin = (
        f"Checkpoint {manifest.get('checkpoint_sha256')}, exported {manifest.get('created')}, then judged on {judged}."
    )
    return _section("Sizes", _table(["file", "bytes"], [*rows, ["all", f"{total:,}"]]) + _paragraph(origin))


def _section(title: str, body: str) -> str:
    return f"<h2>{_text(title)}</h2>\n{body}"


def _paragraph(text: str, style: str = "soft") -> str:
    return f'<p class="{style}">{_text(text)}</p>\n'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """head: plain text; rows: cells that are already HTML."""
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{style}">\n<tr>{top}</tr>\n{body}\n</table></div>\n'


def _text(value: str) -> str:
    return html.escape(value)
