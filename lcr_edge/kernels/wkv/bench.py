"""Time the WKV kernel on a CUDA GPU against the portable form, plain and compiled, and flash-linear-attention.

    python -m lcr_edge.kernels.wkv.bench [--json FILE|-]

Bytes are the fewest that must move: forward reads r, k, v and writes y; backward reads those three and dy and writes
three gradients. They are compared with a device-to-device copy timed in the same run. ``--device cpu`` times only the
portable form, with the CPU's clock.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lcr_edge.cli import run_command
from lcr_edge.errors import UsageError
from lcr_edge.kernels.wkv.matmul import choose_chunk, make_tables, wkv_matmul, wkv_with_tables
from lcr_edge.kernels.wkv.op import kernel_works, wkv
from lcr_edge.options import add_json, check_least, text_stream, write_json

# batch (frames at once), heads, tokens, head size: lcr_tiny in training with clips in the batch, then other head sizes
# at the same width, then lcr_nano's and a long frame.
SHAPES = (
    (1, 6, 197, 32),
    (16, 6, 197, 32),
    (64, 6, 197, 32),
    (256, 6, 197, 32),
    (1024, 6, 197, 32),
    (64, 12, 197, 16),
    (64, 3, 197, 64),
    (256, 4, 50, 32),
    (4, 6, 3137, 32),
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Together the input sets are at least this large, so that a round does not find its inputs in the cache.
ROTATED_BYTES = 256 * 2**20
COPY_BYTES = 2**30
Form = Callable[..., Tensor]


def median_ms(device: torch.device, calls: list[Callable[[], object]], rounds: int) -> float:
    """Median milliseconds of one call; the calls take turns. CUDA events on a GPU, the wall clock elsewhere."""
    for call in [*calls[:3], calls[0], calls[0]]:
        call()
    if device.type != "cuda":
        times = []
        for n in range(rounds):
            start = time.perf_counter()
            calls[n % len(calls)]()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)
    torch.cuda.synchronize(device)
    event: Any = torch.cuda.Event
    events = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(rounds)]
    for n, (begin, end) in enumerate(events):
        begin.record()
        calls[n % len(calls)]()
        end.record()
    torch.cuda.synchronize(device)
    return float(statistics.median(begin.elapsed_time(end) for begin, end in events))


def copy_bytes_per_second(device: torch.device, size: int, rounds: int) -> float:
    """Bytes read plus bytes written per second by a copy of ``size`` bytes within the device."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / (median_ms(device, [lambda: target.copy_(source)], rounds) / 1e3)


def make_inputs(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """r, k, v, dy [B, h, N, d] laid out as the network has them (memory order [B, N, h, d]), log_w, u [h, d]."""
    batch, heads, tokens, width = shape
    four = [torch.randn(batch, tokens, heads, width, device=device).to(dtype).transpose(1, 2) for _ in range(4)]
    log_w = -torch.exp(torch.linspace(-5.0, 0.5, width, device=device).repeat(heads, 1))
    return [*four, log_w, torch.full((heads, width), 0.5, device=device)]


def forms(device: torch.device, log_w: Tensor, tokens: int, compiled: bool) -> dict[str, Form]:
    """The forms to time, by name; each takes r, k, v, log_w, u."""
    chunk = choose_chunk(log_w, tokens)

    def portable(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
        return wkv_matmul(r.float(), k.float(), v.float(), log_w, u, chunk).to(r.dtype)

    found: dict[str, Form] = {"portable": portable}
    if device.type == "cuda":
        found = {"kernel": wkv, **found}
    if compiled:
        fast: Any = torch.compile(wkv_with_tables, dynamic=False)

        def compiled_form(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
            y: Tensor = fast(r.float(), k.float(), v.float(), make_tables(log_w, u, tokens, chunk))
            return y.to(r.dtype)

        found["portable, compiled"] = compiled_form
    fla = _fla() if device.type == "cuda" else None
    if fla is not None:
        found["fla chunk_gla, one direction"] = fla
    return found


def _fla() -> Form | None:
    """The nearest kernel of flash-linear-attention: gated linear attention, one direction, without the u term."""
    try:
        chunk_gla = importlib.import_module("fla.ops.gla").chunk_gla
    except ImportError:
        return None

    def form(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:  # noqa: ARG001
        gates = log_w.to(r.dtype).expand(r.shape[0], r.shape[2], *log_w.shape)
        y: Tensor = chunk_gla(*(x.transpose(1, 2) for x in (r, k, v)), gates, scale=1.0)[0]
        return y.transpose(1, 2)

    return form


def time_shape(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device, rounds: int, compiled: bool
) -> list[dict[str, Any]]:
    """One row per form: median ms of forward, and of forward with backward; bytes per second of each."""
    numbers = shape[0] * shape[1] * shape[2] * shape[3] * dtype.itemsize
    count = max(1, min(8, ROTATED_BYTES // (4 * numbers)))
    sets = [make_inputs(shape, dtype, device) for _ in range(count)]
    rows = []
    for name, form in forms(device, sets[0][4], shape[2], compiled).items():
        row: dict[str, Any] = {"shape": list(shape), "dtype": str(dtype).split(".")[-1], "form": name}
        try:
            row.update(_time_form(form, sets, device, rounds))
            row["forward_bytes_per_s"] = 4 * numbers / (row["forward_ms"] / 1e3)
            row["both_bytes_per_s"] = 11 * numbers / (row["both_ms"] / 1e3)
        except Exception as error:  # one form that cannot run here must not hide the others
            row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
        rows.append(row)
    return rows


def _time_form(form: Form, sets: list[list[Tensor]], device: torch.device, rounds: int) -> dict[str, float]:
    def forward(inputs: list[Tensor]) -> None:
        r, k, v, _, log_w, u = inputs
        with torch.no_grad():
            form(r, k, v, log_w, u)

    def both(inputs: list[Tensor]) -> None:
        r, k, v, dy, log_w, u = inputs
        leaves = [x.detach().requires_grad_() for x in (r, k, v, log_w, u)]
        torch.autograd.grad(form(*leaves), leaves, dy, allow_unused=True)

    return {
        "forward_ms": median_ms(device, [lambda inputs=inputs: forward(inputs) for inputs in sets], rounds),  # type: ignore[misc]
        "both_ms": median_ms(device, [lambda inputs=inputs: both(inputs) for inputs in sets], rounds),  # type: ignore[misc]
    }


def table(rows: list[dict[str, Any]], copy_rate: float) -> str:
    """The rows as text. A share is bytes per second over those of the device copy."""
    lines = [f"{'B h N d':20} {'dtype':9} {'form':30} {'forward':>12} {'share':>7} {'fwd + bwd':>12} {'share':>7}"]
    for row in rows:
        start = f"{' '.join(map(str, row['shape'])):20} {row['dtype']:9} {row['form']:30}"
        if "failed" in row:
            lines.append(f"{start} {row['failed']}")
            continue
        shares = [row[key] / copy_rate for key in ("forward_bytes_per_s", "both_bytes_per_s")]
        lines.append(f"{start} {row['forward_ms']:9.3f} ms {shares[0]:7.1%} {row['both_ms']:9.3f} ms {shares[1]:7.1%}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the bench."""
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for the portable form (default: cuda)")
    parser.add_argument(
        "--shape", action="append", metavar="B,h,N,d", help="time this shape instead; may be given several times"
    )
    parser.add_argument(
        "--dtype", action="append", choices=DTYPES, help="may be given several times (default: float32, bfloat16)"
    )
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="timed calls per form (default: 50)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Time the forms and print a table. Raises UsageError, OutputError."""
    device, text = _device(args.device), text_stream(args.json)
    shapes = [_shape(text) for text in args.shape] if args.shape else list(SHAPES)
    check_least("--rounds", args.rounds, 1)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "torch sees no CUDA device here, so there is nothing to time; --device cpu times the portable form"
        )
    facts: dict[str, Any] = {"torch": torch.__version__, "device": "cpu", "rounds": args.rounds}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        way, error = kernel_works(torch.cuda.current_device())
        facts.update(device=torch.cuda.get_device_name(device), kernel=way, kernel_error=error)
    size = COPY_BYTES if device.type == "cuda" else COPY_BYTES // 64
    facts["copy_bytes_per_s"] = copy_bytes_per_second(device, size, args.rounds)
    rate = facts["copy_bytes_per_s"] / 1e9
    print(f"{facts['device']}, torch {facts['torch']}, device copy {rate:.0f} GB/s", file=text)
    rows = []
    for shape in shapes:
        for dtype in args.dtype or ("float32", "bfloat16"):
            rows += time_shape(shape, DTYPES[dtype], device, args.rounds, not args.no_compile)
    print(table(rows, facts["copy_bytes_per_s"]), file=text)
    write_json(args.json, {**facts, "rows": rows})
    return 0


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"torch does not know --device {name}; give cuda, cuda:N or cpu") from error


def _shape(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--shape {text}: four positive numbers are needed, such as 64,6,197,32")
    batch, heads, tokens, width = map(int, parts)
    return batch, heads, tokens, width


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__], "python -m lcr_edge.kernels.wkv.bench"))
