"""In which format a run multiplies matrices: bfloat16 where the processor has instructions for it, else float32.

Without them bfloat16 is computed by way of float32, which costs more than it saves: on an x86-64 server with AVX2 a
run of lcr_pico takes about twice as long (docs/training.md).
"""

from __future__ import annotations

from pathlib import Path

import torch

from lcr_edge.training.processes import World

PRECISIONS = ("auto", "bf16", "fp32")
# What Linux calls the instructions: on x86 (AVX-512 and AMX) and on ARM.
_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_CPU = Path("/proc/cpuinfo")


def float32_wanted(precision: str, world: World) -> bool:
    """What ``--precision`` comes to. All processes must call this: one without the instructions decides for all."""
    if precision != "auto":
        return precision == "fp32"
    slow = torch.tensor(float(not multiplies_bf16(world.device)), device=world.device)
    return bool(world.sum(slow) > 0)


def multiplies_bf16(device: torch.device, cpu: Path = _CPU) -> bool:
    """Whether the device has instructions that multiply bfloat16. cpu: what Linux says of the processor; where there is
    no such file, no."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        text = cpu.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    names = (line.partition(":") for line in text.splitlines())
    return any(_FLAGS & set(value.split()) for name, _, value in names if name.strip() in ("flags", "Features"))
