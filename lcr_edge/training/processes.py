"""The processes that train together (torchrun), or the single one; and the device of this one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from lcr_edge.errors import UsageError

DEVICES = ("auto", "cpu", "cuda")
# Below this, current PyTorch builds carry no code for the GPU.
OLDEST_CAPABILITY = (7, 5)
PATIENCE = timedelta(hours=6)  # of a process that waits for the others: the first may have to draw clips for long


class World:
    """Rank and size of this process's group, its device, and the few sums that cross it."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    @classmethod
    def start(cls, device: str) -> World:
        """Join the group that torchrun made (nccl on GPUs, gloo on CPUs), or be alone. Raises UsageError."""
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if size > 1 and missing:
            raise UsageError(f"WORLD_SIZE is {size} but {', '.join(missing)} not set: start with torchrun, or unset it")
        chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(rank, size, chosen)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def take(self, rows: Tensor) -> Tensor:
        """A batch's tensor on this process's device; the copy to a GPU is asynchronous."""
        return rows.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else rows

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes; no gradient flows through it."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes; no gradient flows through it."""
        return self.sum(value) / self.size

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks: [B, ...] each to [B * size, ...]."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def own(self, rows: Tensor) -> Tensor:
        """This process's share of rows [B * size, ...]."""
        share = len(rows) // self.size
        return rows[self.rank * share : (self.rank + 1) * share]

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """A block that rank 0 leaves before the others enter it."""
        if self.size > 1 and not self.leads:
            dist.barrier()
        yield
        if self.size > 1 and self.leads:
            dist.barrier()

    def close(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """cpu, or the GPU of this rank; auto takes a GPU where there is a usable one. Raises UsageError."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no usable GPU (lcr-edge doctor says why); use --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"process {local_rank} has no GPU of its own: this machine has {torch.cuda.device_count()}; "
            "lower torchrun's --nproc-per-node, or use --device cpu"
        )
    capability = torch.cuda.get_device_capability(local_rank)
    if capability < OLDEST_CAPABILITY:
        raise UsageError(
            f"{torch.cuda.get_device_name(local_rank)} has compute capability {capability[0]}.{capability[1]}, below "
            f"{OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]}, which this PyTorch needs; use --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
