"""What Prometheus reads, over HTTP, beside what a run says."""

from __future__ import annotations

import importlib
import json
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cv2")
pytest.importorskip("prometheus_client")
from lcr_edge.cli import main
from lcr_edge.errors import SourceLostError
from lcr_edge.runtimes.api import load
from lcr_edge.runtimes.live.events import EventFinder, EventRules
from lcr_edge.runtimes.live.follow import follow
from lcr_edge.runtimes.live.messages import Messages
from lcr_edge.runtimes.live.metrics import Metrics
from lcr_edge.runtimes.live.outbox import Outbox
from lcr_edge.runtimes.live.stream import Stream
from lcr_edge.runtimes.video import VideoSource
from tests.clips import real_clip
from tests.runtimes.receivers import free_port
from tests.runtimes.test_sinks import event
from tests.runtimes.toy import LABELS, make_bundle

prometheus_parser: Any = importlib.import_module("prometheus_client.parser")


def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in prometheus_parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_in_figures(tmp_path: Path) -> None:
    model = load(make_bundle(tmp_path / "bundle", "onnx"), threads=1)
    outbox = Outbox("box", limit=1)
    metrics = Metrics(["film", "other"], LABELS, [outbox])
    metrics.listen("127.0.0.1", 0)
    try:
        before = scrape(metrics.port)
        with VideoSource(str(real_clip("bikes.mp4"))) as source:
            stream = Stream(model, source, EventFinder(LABELS, EventRules(enter=0.34, leave=0.1)))
            assert follow({"film": stream}, metrics, 20) is None
            during = scrape(metrics.port)
            metrics.ended("film", stream)
        for number in range(2):
            outbox.put(Messages().event("film", event(number)))
        metrics.state("other", "live", "")  # opened late: not back
        metrics.state("film", "waiting", "")
        metrics.state("film", "live", "")
        metrics.failed("other", SourceLostError("lost"))
        after = scrape(metrics.port)
    finally:
        metrics.close()
    film: Any = (("source", "film"),)
    other: Any = (("source", "other"),)
    box: Any = (("sink", "box"),)
    assert before[("lcr_edge_steps_total", film)] == 0
    assert during[("lcr_edge_steps_total", film)] == 20
    assert during[("lcr_edge_step_seconds_count", film)] == 20
    assert during[("lcr_edge_step_seconds_sum", film)] > 0
    assert during[("lcr_edge_source_up", film)] == 1
    assert sum(during[("lcr_edge_events_total", (("label", label), ("source", "film")))] for label in LABELS) == 1
    assert after[("lcr_edge_frames_total", film)] == source.seen
    assert after[("lcr_edge_source_up", film)] == 1
    assert after[("lcr_edge_reconnections_total", film)] == 1
    assert after[("lcr_edge_reconnections_total", other)] == 0
    assert after[("lcr_edge_source_up", other)] == 0
    assert after[("lcr_edge_sink_waiting", box)] == after[("lcr_edge_sink_dropped_total", box)] == 1
    # All series are there from the start: none is added while cameras run.
    gone = {key for key in before if key[0].endswith("_created")}
    assert {key for key in after if not key[0].endswith("_created")} == set(before) - gone
    with pytest.raises(OSError, match="refused"):
        scrape(metrics.port)


def test_a_port_in_use_is_an_error_and_loses_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, clip, old = make_bundle(tmp_path / "bundle", "onnx"), str(real_clip("bikes.mp4")), tmp_path / "old.json"
    old.write_text("old")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["run", str(bundle), "--source", clip, "--metrics", port, "--json", str(old)]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        f"error: --metrics: cannot listen at 127.0.0.1, port {port}: Address already in use; choose another port\n"
    )
    assert old.read_text() == "old"
    assert main(["run", str(bundle), "--source", clip, "--metrics", "0.0.0.0.0:9464"]) == 2
    assert capsys.readouterr().err.startswith("error: --metrics: cannot listen at 0.0.0.0.0, port 9464: ")


def test_the_port_is_free_again_after_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, clip, port = make_bundle(tmp_path / "bundle", "onnx"), str(real_clip("bikes.mp4")), str(free_port())
    before = threading.active_count()
    for _ in range(2):
        call = ["run", str(bundle), "--source", clip, "--frames", "2", "--metrics", f"127.0.0.1:{port}", "--json", "-"]
        assert main(call) == 0
    assert threading.active_count() <= before
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]["steps"] == 2
