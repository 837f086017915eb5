"""Where a training runs: CPU threads, a GPU, or several processes with one device each."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Place:
    """The device of this process and its rank among `world` processes."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0


def place(threads: int) -> Place:
    """Set up this process: threads, denormals, device and, under torchrun, the process group.

    Few-label soft targets make denormals on the CPU, which slow a step several times: flushed.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo")
    return Place(device, rank, world)


def relaunch(devices: int, arguments: list[str]) -> None:
    """Run this command again as `devices` processes, wait, and exit with their status.

    Does nothing for one device or inside such a process.
    """
    if devices <= 1 or "RANK" in os.environ:
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(devices), "-m", "medcl", *arguments]
    raise SystemExit(subprocess.run(command, check=False).returncode)


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory of this process: of the GPU where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
