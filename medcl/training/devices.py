"""Where a training runs: CPU threads, a GPU, or several processes with one device each."""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import distributed, nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
LARGEST_KEPT = 2**30  # bytes


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
    keep_freed_memory()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cpu")
    if cuda:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        gpus = torch.cuda.device_count()
        if world == 1 and (gpus > 1 or "CUDA_VISIBLE_DEVICES" not in os.environ):
            local = claim(gpus)
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo")
        atexit.register(distributed.destroy_process_group)
    return Place(device, rank, world)


_claims: list[IO[str]] = []


def claim(gpus: int, folder: str | Path | None = None) -> int:
    """Number of a GPU no other medcl process on this machine uses; waits if all are taken.

    Snakemake only counts GPUs and would start every job on the first. Several GPUs named by
    CUDA_VISIBLE_DEVICES are locked by those names. The lock goes with the process.
    """
    names = Path(folder or tempfile.gettempdir())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    for number in [*range(gpus), None]:
        label = visible[number or 0] if len(visible) == gpus else str(number or 0)
        file = (names / f"medcl-{os.getuid()}-gpu-{label or 0}.lock").open("a")
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
    """Become `devices` processes that run this command; nothing for one, or inside such a one."""
    if devices <= 1 or "RANK" in os.environ:
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(devices), "-m", "medcl", *arguments]
    os.execv(sys.executable, command)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next ones of their size.

    It would give every large one back, and the next step would have all its pages cleared again: a
    tenth of a training step on the CPU (measured). Elsewhere, nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(option, LARGEST_KEPT)


def channels_last(model: nn.Module) -> nn.Module:
    """Lay the convolutions of `model` out with their channels last, in place.

    Feature maps follow. A U-Net's training step is a fifth faster so, on the CPU (measured).
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if (form := formats.get(parameter.ndim)) is not None:
            parameter.data = parameter.data.contiguous(memory_format=form)
    return model


def workers(place: Place) -> int:
    """Loader processes: a GPU waits for its batches, a CPU computes them itself."""
    cores = len(os.sched_getaffinity(0)) // place.world
    return max(1, min(8, cores - 1)) if place.device.type == "cuda" else 0


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory of this process: of the GPU where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
