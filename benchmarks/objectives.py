"""Contrastive losses against their peers, at equal value: time, memory, and a batch of 16 384.

    python benchmarks/objectives.py --json            # all of it, about two minutes on one core

Both sides of a comparison run in turn in one process, and the medians are compared, so that a busy
machine slows both. Memory is what the operators of one forward and backward pass hold at most, as
torch's profiler counts it, without the inputs. `--threads` sets the threads of both sides.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from medcl.contrast.similarity import nt_xent
from medcl.objectives.voco_losses import cell_regulariser, position_logits, position_loss

EPSILON = 1e-6
TEMPERATURE = 0.1
MIB = 2**20

Step = Callable[[], Tensor]


def interleaved(ours: Step, theirs: Step, repeats: int) -> dict[str, float]:
    """Median seconds of a forward and backward pass of each, in turn after one of each."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for repeat in range(repeats + 1):
        for name, step in (("ours", ours), ("theirs", theirs)):
            start = time.perf_counter()
            step().backward()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds_medcl": medians["ours"],
        "seconds_peer": medians["theirs"],
        "times_as_fast": medians["theirs"] / medians["ours"],
    }


def peak_bytes(step: Step) -> int:
    """Most bytes that the operators of a forward and backward pass hold at a time."""
    step().backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step().backward()
    held = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def contrastive(batch: int, dimension: int, repeats: int) -> dict[str, float]:
    """NT-Xent against MONAI's ContrastiveLoss."""
    from monai.losses import ContrastiveLoss

    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, batch, dimension, generator=generator)
    first.requires_grad_()
    peer = ContrastiveLoss(temperature=TEMPERATURE)

    def ours() -> Tensor:
        return nt_xent(first, second, temperature=TEMPERATURE)

    def theirs() -> Tensor:
        return peer(first, second)

    memory, memory_peer = peak_bytes(ours), peak_bytes(theirs)
    return {
        "batch": batch,
        "dimension": dimension,
        "value_medcl": float(ours().detach()),
        "value_peer": float(theirs().detach()),
        **interleaved(ours, theirs, repeats),
        "mib_medcl": memory / MIB,
        "mib_peer": memory_peer / MIB,
        "times_less_memory": memory_peer / memory,
    }


def contrastive_large(batch: int, dimension: int) -> dict[str, float]:
    """One pass of a batch that nobody compares pair by pair."""
    first, second = torch.randn(2, batch, dimension, generator=torch.Generator().manual_seed(0))
    first.requires_grad_()
    start = time.perf_counter()
    loss = nt_xent(first, second, temperature=TEMPERATURE)
    loss.backward()
    return {
        "batch": batch,
        "dimension": dimension,
        "value_medcl": float(loss.detach()),
        "seconds_medcl": time.perf_counter() - start,
        "process_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def voco_by_pairs(student: Tensor, teacher: Tensor, overlaps: Tensor, targets: int) -> Tensor:
    """VoCo's v1 loss, one volume, one crop and one cell at a time."""
    total = student.new_zeros(())
    for s, t, labels in zip(student, teacher, overlaps, strict=True):
        positive, negative = student.new_zeros(()), student.new_zeros(())
        zeros, shares = 0.0, 0.0
        cells = range(len(s) - targets)
        for n in range(targets):
            for k in cells:
                cell = targets + k
                forth = F.cosine_similarity(s[n], t[cell], dim=0).relu()
                back = F.cosine_similarity(t[n], s[cell], dim=0).relu()
                p, share = (forth + back) / 2, labels[n, k]
                positive = positive - share * torch.log(1 - (share - p).abs() + EPSILON)
                shares += float(share)
                if share == 0:
                    negative = negative + p.square()
                    zeros += 1
        regular = student.new_zeros(())
        for a in cells:
            for b in range(a + 1, len(cells)):
                one, other = s[targets + a], s[targets + b].detach()
                regular = regular + F.cosine_similarity(one, other, dim=0).relu().square()
        pairs = len(cells) * (len(cells) - 1) / 2
        total = total + positive / (shares + EPSILON) + negative / (zeros + EPSILON)
        total = total + regular / pairs
    return total / len(student)


def voco(volumes: int, targets: int, cells: int, dimension: int, repeats: int) -> dict[str, float]:
    """VoCo's v1 loss against a loop over pairs."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, volumes, targets + cells, dimension, generator=generator)
    student.requires_grad_()
    overlaps = torch.rand(volumes, targets, cells, generator=generator)
    overlaps = overlaps * (overlaps > 0.7)
    overlaps = overlaps / overlaps.sum(2, keepdim=True).clamp_min(EPSILON)

    def ours() -> Tensor:
        mine, theirs_ = student[:, :targets], student[:, targets:]
        p = position_logits(mine, theirs_, teacher[:, :targets], teacher[:, targets:])
        return torch.stack([*position_loss(p, overlaps), cell_regulariser(theirs_)]).sum()

    def theirs() -> Tensor:
        return voco_by_pairs(student, teacher, overlaps, targets)

    return {
        "volumes": volumes,
        "targets": targets,
        "cells": cells,
        "dimension": dimension,
        "value_medcl": float(ours().detach()),
        "value_peer": float(theirs().detach()),
        **interleaved(ours, theirs, repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    # The large batch first: what it held at most is then the most of the process so far.
    found = {
        "contrastive_16384": contrastive_large(16384, 128),
        "contrastive": contrastive(512, 128, args.repeats),
        "voco": voco(8, 2, 16, 1152, args.repeats),
    }
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for name, values in found.items():
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
