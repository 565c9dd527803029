"""What the bench reads of the machine, on made folders, and the products and floors of a step."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lcr_edge.runtimes.speed.machine as machine_module
from lcr_edge.config import CONFIGS, Config, get_config
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.inspect import count_flops
from lcr_edge.runtimes.speed.energy import find_meter
from lcr_edge.runtimes.speed.floor import factors, open_floor, work_of
from lcr_edge.runtimes.speed.machine import condition, sentences
from lcr_edge.runtimes.speed.products import products
from tests.runtimes.toy import make_bundle

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 {}\n\nprocessor\t: 1\nmodel name\t: Some CPU\n"
MANY = Config("many", height=160, width=160, dim=32, layers=2, classes=3)  # 101 tokens: the WKV goes by chunks
CPU, HWMON, RAPL = "sys/devices/system/cpu/cpu0", "sys/class/hwmon", "sys/class/powercap"


def write(root: Path, **files: object) -> Path:
    """Files under ``root``; ``__`` stands for / in their names."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (X86.format("avx512_vnni avx_vnni"), "Some CPU (avx512_vnni, avx_vnni)"),
        (X86.format("avx512_vnniw"), "Some CPU (no int8 dot product)"),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", "(asimddp)"),
    ],
)
def test_the_machine_in_words(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_CPU", tmp_path / "cpuinfo")
    assert "dot product" not in machine_module.machine()  # unknown is not absent
    (tmp_path / "cpuinfo").write_text(text)
    assert words in machine_module.machine()
    assert "hardware threads" in machine_module.machine()


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    found = condition(tmp_path)
    assert {name for name, value in found.items() if value is not None} <= {"load"}
    lines = sentences(found, found)
    assert len([line for line in lines if "does not tell" in line or "no sensor" in line]) == 3


def test_a_raspberry_pi(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        **{
            f"{CPU}/cpufreq/scaling_governor": "ondemand",
            f"{CPU}/cpufreq/scaling_cur_freq": 2400000,
            f"{CPU}/cpufreq/cpuinfo_max_freq": 2400000,
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": 61750,
            "sys/class/thermal/thermal_zone1/temp": "broken",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005",
        },
    )
    found = condition(root)
    assert (found["governor"], found["mhz"], found["max_mhz"]) == ("ondemand", 2400.0, 2400.0)
    assert (found["celsius"], found["sensor"]) == (61.75, "cpu-thermal")
    assert found["throttled"] == "under-voltage now, throttled now, under-voltage since boot, throttled since boot"
    assert "governor ondemand, 2400 of at most 2400 MHz" in "\n".join(sentences(found, found))
    (root / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text("0\n")
    assert condition(root)["throttled"] == "no"


def test_throttling_during_a_run_on_x86(tmp_path: Path) -> None:
    root = write(tmp_path, **{f"{CPU}/thermal_throttle/core_throttle_count": 3})
    before = condition(root)
    write(root, **{f"{CPU}/thermal_throttle/core_throttle_count": 5})
    assert "Throttling: 5 times since boot, 2 times during this run." in sentences(before, condition(root))


def test_the_counter_of_a_processor_that_begins_again(tmp_path: Path) -> None:
    zone = f"{RAPL}/intel-rapl:0"
    root = write(tmp_path, **{f"{zone}/name": "package-0", f"{zone}/energy_uj": 1000000})
    write(root, **{f"{zone}/max_energy_range_uj": 9000000, f"{RAPL}/intel-rapl:0:0/energy_uj": 1})
    write(root, **{f"{RAPL}/intel-rapl:1/name": "psys", f"{RAPL}/intel-rapl:1/energy_uj": 7})
    meter, _ = find_meter(root)
    assert meter is not None
    assert "package-0" in meter.name
    assert meter.joules(lambda: write(root, **{f"{zone}/energy_uj": 3500000})) == pytest.approx(2.5)
    assert meter.joules(lambda: write(root, **{f"{zone}/energy_uj": 500000})) == pytest.approx(6.0)
    assert meter.joules(lambda: (root / zone / "energy_uj").unlink()) is None
    meter, why = find_meter(root)
    assert meter is None
    assert "only root may read" in why


@pytest.mark.parametrize("labelled", [True, False])
def test_sensors_of_a_board(labelled: bool, tmp_path: Path) -> None:
    root = write(tmp_path, **{f"{HWMON}/hwmon0/name": "nvme", f"{HWMON}/hwmon1/name": "ina3221"})
    for number, label, volts, amperes in ((1, "VDD_IN", 5000, 2000), (2, "VDD_CPU", 5000, 600)):
        write(root, **{f"{HWMON}/hwmon1/in{number}_input": volts, f"{HWMON}/hwmon1/curr{number}_input": amperes})
        # Shunt voltages in microvolts, and the sum of the currents: no rails.
        write(root, **{f"{HWMON}/hwmon1/in{number + 3}_input": volts, f"{HWMON}/hwmon1/curr4_input": 2600})
        if labelled:
            write(root, **{f"{HWMON}/hwmon1/in{number}_label": label})
    meter, _ = find_meter(root)
    assert meter is not None
    inner: list[float] = []

    def work() -> None:
        begin = time.perf_counter()
        time.sleep(0.05)
        inner.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    joules = meter.joules(work)
    outer = time.perf_counter() - begin
    assert joules is not None
    # 10 W enter the board; without labels nobody knows that the second rail is fed by the first.
    watts = 10.0 if labelled else 13.0
    assert watts * inner[0] <= joules * (1 + 1e-9)
    assert joules <= watts * outer * (1 + 1e-9)
    (root / HWMON / "hwmon1/in1_input").unlink()
    assert meter.joules(work) is None


def test_a_sensor_of_power(tmp_path: Path) -> None:
    root = write(tmp_path, **{f"{HWMON}/hwmon0/name": "ina260", f"{HWMON}/hwmon0/power1_input": 12500000})
    meter, _ = find_meter(root)
    assert meter is not None
    joules = meter.joules(lambda: time.sleep(0.02))
    assert joules is not None
    assert joules >= 12.5 * 0.02


def test_no_meter(tmp_path: Path) -> None:
    meter, why = find_meter(tmp_path)
    assert meter is None
    assert "no counter" in why


@pytest.mark.parametrize("config", [*CONFIGS.values(), MANY, get_config("lcr_pico", variant="paper")], ids=str)
def test_products_with_weights_are_those_that_inspect_counts(config: Config) -> None:
    found = sum(item.multiply_adds for item in products(config) if item.weights)
    wkv = config.layers * config.tokens * (4 * config.dim * config.head_dim + 2 * config.dim)
    assert 2 * (found + wkv) == count_flops(config)


@pytest.mark.parametrize("config", [CONFIGS["lcr_pico"], MANY], ids=str)
def test_products_are_those_of_the_exported_step(config: Config) -> None:
    pytest.importorskip("torch")
    from lcr_edge.model.network import LCR
    from lcr_edge.model.step_cell import INTEGER_CHUNK, StepCell

    model = LCR(config)
    for io, chunk in (("float", None), ("int8", INTEGER_CHUNK)):
        cell, found = StepCell(model, chunk=chunk), {item.name: item for item in products(config, io)}
        wanted = {name: (linear.in_features, linear.out_features) for name, linear in cell.linears().items()}
        assert {name: (item.inner, item.columns) for name, item in found.items() if item.weights} == wanted
        layer: Any = cell.layers[0]
        heads, size, _ = layer.wkv_lead.shape
        chunks = layer.wkv_chunks.shape[-1]
        before = found["layers.0.wkv.before"]
        assert (before.batch, before.rows, before.columns) == (heads * chunks, size, size)
        assert (f"layers.{config.layers - 1}.wkv.up.carried" in found) == (chunks > 1)


@pytest.mark.parametrize("target", ["onnx", "openvino", "tflite"])
def test_a_floor_computes_the_products(target: str, tmp_path: Path) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "toy", target))
    floor, why = open_floor(bundle, 1)
    assert floor is not None, why
    floor.compute()
    work = work_of(bundle)
    inputs, constants, pairs = factors(work)
    values = {**inputs, **constants}
    for (item, _), (first, second), found in zip(work, pairs, floor.results()):
        wanted = values[first].astype(np.float64) @ values[second].astype(np.float64)
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max(), item


@pytest.mark.parametrize("target", ["onnx", "openvino", "tflite"])
def test_the_floor_of_int8_multiplies_integers(target: str, tmp_path: Path) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "toy", target))
    manifest: dict[str, Any] = {**bundle.manifest, "quant": "static", "float_layers": ["layers.0.rg"]}
    whole = dataclasses.replace(bundle, precision="int8", manifest=manifest)
    work = work_of(whole)
    in_float = {item.name for item, integer in work if not integer}
    assert "layers.0.rg" in in_float
    assert "layers.1.rg" not in in_float
    assert "layers.0.wkv.read" in in_float
    weights_only = dataclasses.replace(whole, manifest={**manifest, "quant": "weight-only"})
    assert not any(integer for _, integer in work_of(weights_only))
    floor, why = open_floor(whole, 1)
    assert floor is not None, why
    inputs, constants, pairs = factors(work)
    values = {**inputs, **constants}
    scale = 1.0 if target == "onnx" else 1 / 127
    for (item, integer), (first, second), found in zip(work, pairs, floor.results()):
        wanted = values[first].astype(np.float64) @ values[second].astype(np.float64)
        off = np.abs(found - wanted * (scale if integer else 1.0)).max()
        # TFLite rounds its inputs to a grid of its own.
        assert off < (1e-2 if integer and target == "tflite" else 1e-4) * np.abs(wanted).max(), item


def test_a_floor_that_cannot_be_had_has_a_reason(tmp_path: Path) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "toy", "onnx"))
    floor, why = open_floor(dataclasses.replace(bundle, target="ncnn"), 1)
    assert floor is None
    assert "ncnn" in why
