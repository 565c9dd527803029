"""A verification as one HTML page that needs no other file and no script, and is readable on a phone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcr_edge.charts import Series, chart
from lcr_edge.export.verify.phases import Curve
from lcr_edge.files import make_folder, write_atomically
from lcr_edge.pages import document, paragraph, section, share_bar, table, text
from lcr_edge.runtimes.tallies import TENSORS, Line
from lcr_edge.tolerances import Promise

if TYPE_CHECKING:
    from lcr_edge.export.verify.decisions import Clips
    from lcr_edge.export.verify.report import Report


def write_page(report: Report, path: Path, manifest: Mapping[str, Any]) -> Path:
    """Write :func:`page` to ``path``, whole or not at all, and return the path. Raises OutputError."""
    make_folder(path.parent, "--report")
    write_atomically(path, page(report, manifest).encode())
    return path


def page(report: Report, manifest: Mapping[str, Any]) -> str:
    """The page as text. manifest: the bundle's manifest.json, which has the sizes and the origin."""
    title = f"{report.bundle}: {'every promise met' if report.passed else 'promises MISSED'}"
    parts = [
        f"<h1>{text(title)}</h1>",
        paragraph(f"{report.engine}, {report.frames} frames of {report.clip}, against the float PyTorch cell."),
        "".join(f'<p class="missed">{text(sentence)}</p>' for sentence in report.failures),
        _promises(report),
        *_modes(report),
        "" if report.clips is None else _clips(report.clips),
        _sensitivity(report.sensitivity) if report.sensitivity or report.precision == "int8" else "",
        _sizes(manifest),
    ]
    return document(title, parts)


def _promises(report: Report) -> str:
    rows = []
    for check in report.every_check:
        verdict = {True: ("met", "met"), False: ("missed", "MISSED"), None: ("soft", "not judged")}[check.met]
        measured = "" if check.measured is None else check.shown(check.measured)
        cells = [text(check.name), text(measured), text(check.bound())]
        # The verdict first: on a phone the end of a wide table is out of sight.
        rows.append([f'<span class="{verdict[0]}">{verdict[1]}</span>', *cells, text(check.remark)])
    return section("Promises", table(["", "promise", "measured", "promised", ""], rows, "promises"))


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
        yield section(title, _curve(curve, limit, report.promise) + _lines(lines))


def _curve(curve: Curve, limit: float | None, promise: Promise) -> str:
    points = curve.thinned()
    series = [Series(name, points["frame"], points["rms_over_std"][name]) for name in TENSORS]
    drawn = chart(series, x_title="frame", y_title="rms error / std", limit=limit)
    why = f" The line is what is promised as a mean from frame {promise.settled} on." if limit is not None else ""
    return drawn + paragraph(f"Error by frame; the reference's standard deviation is that of all frames.{why}")


def _lines(lines: Mapping[str, Line]) -> str:
    head = ["frames", *(f"{name} {what}" for name in TENSORS for what in ("max abs", "rms / std")), "same class"]
    rows = []
    for phase, line in lines.items():
        errors = [error for t in line.tensors.values() for error in (f"{t.max_abs:.1e}", f"{t.relative:.1e}")]
        rows.append([text(phase), *errors, f"{line.top1:.2%}"])
    return table(head, rows)


def _clips(clips: Clips) -> str:
    said = f"{clips.clips} clips of {clips.data}: the same decision on {clips.agreement:.2%}."
    if clips.float_top1 is not None and clips.bundle_top1 is not None:
        said += f" Right: float {clips.float_top1:.2f} %, bundle {clips.bundle_top1:.2f} %."
    body = paragraph(said, "") + (paragraph(clips.note) if clips.note else "")
    changed = [[text(was), text(now), str(count)] for was, now, count in clips.changed()]
    if changed:
        body += table(["float decided", "the bundle", "clips"], changed)
    numbers = range(1, len(clips.labels) + 1)
    rows = []
    for number, name, counts in zip(numbers, clips.labels, clips.confusion):
        cells = [_count(count, column == number) for column, count in zip(numbers, counts)]
        rows.append([text(f"{number} {name}"), *cells])
    body += paragraph("Clips by float's class (down) and the bundle's (across).")
    return section("Decisions", body + table(["", *map(str, numbers)], rows, "confusion"))


def _count(count: int, same: bool) -> str:
    return f'<span class="{"same" if same else "other"}">&nbsp;{count}&nbsp;</span>' if count else ""


def _sensitivity(rows: Sequence[tuple[str, float]]) -> str:
    title = "What quantising each layer alone costs"
    if not rows:
        how = "lcr-edge export --report measures it by kind of layer, lcr-edge sensitivity layer by layer."
        return section(title, paragraph(f"Not measured: {how}"))
    worst = max((cost for _, cost in rows if math.isfinite(cost)), default=0.0)
    cells = []
    for name, cost in sorted(rows, key=lambda row: -row[1] if math.isfinite(row[1]) else -math.inf):
        width = 0.0 if worst <= 0 or not math.isfinite(cost) else max(cost, 0.0) / worst
        cells.append([text(name), f"{cost:.3g}", share_bar(width)])
    what = paragraph("rms error / std in a stream, the largest of logits and states, with all other layers in float.")
    return section(title, table(["layer", "cost", ""], cells) + what)


def _sizes(manifest: Mapping[str, Any]) -> str:
    files: Mapping[str, Any] = manifest.get("files", {})
    rows = [[text(name), f"{record['bytes']:,}"] for name, record in files.items()]
    total = sum(record["bytes"] for record in files.values())
    origin = f"Checkpoint {manifest.get('checkpoint_sha256')}, exported {manifest.get('created')}"
    if "judged_on" in manifest:  # not in bundles of earlier versions
        judged = manifest["judged_on"]
        where = judged.get("data") if isinstance(judged, dict) else "no clips of the network's kind"
        origin += f", then judged on {where}"
    origin += "."
    return section("Sizes", table(["file", "bytes"], [*rows, ["all", f"{total:,}"]]) + paragraph(origin))
