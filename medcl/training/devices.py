"""Where a training runs: CPU threads, a GPU, or several processes with one device each."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if world == 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
            local = claim(torch.cuda.device_count())
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo")
    return Place(device, rank, world)


_claims: list[IO[str]] = []


def claim(gpus: int, folder: str | Path | None = None) -> int:
    """Number of a GPU no other medcl process on this machine uses; waits if all are taken.

    A scheduler that sets CUDA_VISIBLE_DEVICES has chosen already; Snakemake alone only counts
    GPUs and would start every job on the first. The lock goes with the process.
    """
    names = Path(folder or tempfile.gettempdir())
    for number in [*range(gpus), None]:
        file = (names / f"medcl-gpu-{number or 0}.lock").open("a")
        if number is None:
            print(f"all {gpus} GPUs are taken by other runs; waiting for the first", flush=True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if number is None else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            continue
        _claims.append(file)
        return number or 0
    raise AssertionError("unreachable: the last lock waits")


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
