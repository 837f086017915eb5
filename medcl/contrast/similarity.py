r"""Contrast of embeddings by their cosines, in little memory and at any temperature.

Row i is compared with the keys j that may stand in its denominator, S_i, and its targets w_i (a
positive, or weights that sum to 1) are among them. With s_ij = u(q_i) . u(k_j) / t:

    loss_i = log sum_{j in S_i} exp(s_ij) - sum_j w_ij s_ij        = -sum_j w_ij log softmax_j(s_ij)

Who stands in S_i is said by ids, which stand for cases: a key of the row's own id is left out
unless it is a target, so neither the row itself nor another view of its case is ever a negative.
The id -1 is a row or a key that is not there.

NT-Xent (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML
2020, arXiv:2002.05709) takes the other view of a case as positive:

    L = 1/(2n) sum_i loss_i over the 2n rows of both views

The sum of exponentials is a log-sum-exp whose masked entries are -inf, in float32 at least. The
similarities of all rows are kept for the backward pass where they are few; else they are computed
block by block of rows, and again in the backward pass, so that memory grows with the rows and not
with their square. Which of the two depends on the machine's memory, not on what is free of it just
now: a resumed run must do what the uninterrupted one did.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

KEPT_SHARE = 1 / 32  # of the device's memory that similarities kept for the backward pass may take
KEPT_LARGEST = 2**26  # bytes; beyond, computing them again costs less than fetching them
BLOCK = 2**22  # bytes of similarities at a time; what a processor's cache holds
TIE = 8  # rounding errors within which two cosines are equal


def contrast(
    queries: Float[Tensor, "N D"],
    keys: Float[Tensor, "M D"],
    targets: Int[Tensor, " N"] | Float[Tensor, "N M"],
    *,
    temperature: float,
    ids: Int[Tensor, " N"],
    key_ids: Int[Tensor, " M"],
    kept: bool | None = None,
    cosine: bool = True,
) -> Float[Tensor, " N"]:
    """Loss of each row; 0, and no gradient, for a row that is not there or has no target.

    `targets`: the place of each row's positive among the keys, -1 for none; or weights, whose rows
    sum to 1, or to 0 for none. `kept`: whether similarities are kept for the backward pass; chosen
    by their size if None. Without `cosine` the rows are compared by their products as they are.
    """
    q, k = (unit(queries), unit(keys)) if cosine else (full(queries), full(keys))
    if kept is None:
        size = len(q) * len(k) * q.element_size()
        kept = size <= min(KEPT_LARGEST, KEPT_SHARE * _memory(q.device))
    with torch.autocast(q.device.type, enabled=False):
        scaled = q / temperature  # spares a division of every similarity
        total = _LogSumExp.apply(scaled, k, targets, ids, key_ids, kept)
        if targets.is_floating_point():
            counts = (ids >= 0) & (targets.sum(1) > 0)
            positive = (scaled * (targets.to(q.dtype) @ k)).sum(1)
        else:
            counts = (ids >= 0) & (targets >= 0)
            positive = (scaled * k[targets.clamp_min(0)]).sum(1)
        return torch.where(counts, total - positive, 0.0)


def mean_over(losses: Float[Tensor, " N"], counted: Bool[Tensor, " N"]) -> Float[Tensor, ""]:
    """Mean over the counted rows; 0 with zero gradient if there are none."""
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp_min(1)


def nt_xent(
    first: Float[Tensor, "n D"],
    second: Float[Tensor, "n D"],
    *,
    temperature: float,
    cases: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """NT-Xent of two views of n samples; samples of one case are no negatives of each other."""
    rows = torch.cat([first, second])
    places = torch.arange(len(first), device=rows.device)
    ids = (places if cases is None else cases).repeat(2)
    targets = torch.cat([places + len(first), places])
    return contrast(rows, rows, targets, temperature=temperature, ids=ids, key_ids=ids).mean()


@torch.no_grad()
def accuracy(
    queries: Float[Tensor, "N D"],
    keys: Float[Tensor, "M D"],
    positives: Int[Tensor, " N"],
    *,
    ids: Int[Tensor, " N"],
    key_ids: Int[Tensor, " M"],
    ties: Literal["share", "right"] = "share",
) -> Float[Tensor, ""]:
    """Share of the rows whose positive is the nearest key.

    A row whose positive is one of n nearest counts 1/n, so that equal vectors score by chance; with
    `ties: right` it counts as right, as in nnssl's NT-Xent.
    """
    q, k = unit(queries), unit(keys)
    counted = (ids >= 0) & (positives >= 0)
    slack = TIE * torch.finfo(q.dtype).eps
    right = q.new_zeros(())
    for rows in _blocks(len(q), len(k), q.element_size()):
        there = _compared(positives[rows], ids[rows], key_ids)
        cosines = q[rows] @ k.T
        own = cosines.gather(1, positives[rows].clamp_min(0)[:, None])[:, 0]
        ahead = cosines.masked_fill_(~there, -torch.inf).sub_(own[:, None])
        nearest = (ahead.amax(1) <= slack) & counted[rows]
        tied = (ahead >= -slack).sum(1).clamp_min(1)  # the positive among them
        right = right + (nearest.to(q) / (tied if ties == "share" else 1)).sum()
    return right / counted.sum().clamp_min(1)


def unit(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """Divide each row by its length, in float32 at least; a zero stays zero."""
    return F.normalize(full(x), dim=-1)


def full(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Widen half precision to float32; leave the rest as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _LogSumExp(torch.autograd.Function):
    """Logarithm of the summed exponentials of a row's similarities; 0 for a row of none."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, targets: Tensor, ids: Tensor, key_ids: Tensor, kept: bool
    ) -> Tensor:
        # One piece of memory for all blocks: new ones of each block would leave holes in the heap.
        total, block = q.new_empty(len(q)), _block(q, k, kept)
        for rows in _blocks(len(q), len(k), q.element_size()):
            similarities = _similarities(q, k, targets, ids, key_ids, rows, block)
            total[rows] = similarities.logsumexp(1)
            total[rows].masked_fill_(total[rows].isneginf(), 0.0)
            if kept:
                similarities.sub_(total[rows, None]).exp_()
        ctx.kept = kept
        ctx.save_for_backward(q, k, targets, ids, key_ids, total, *([block] if kept else []))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, targets, ids, key_ids, total, *kept = ctx.saved_tensors
        if ctx.kept:
            share = kept[0] * gradient[:, None]
            return share @ k, share.T @ q, None, None, None, None
        to_q, to_k, block = torch.empty_like(q), torch.zeros_like(k), _block(q, k, False)
        for rows in _blocks(len(q), len(k), q.element_size()):
            share = _similarities(q, k, targets, ids, key_ids, rows, block)
            share.sub_(total[rows, None]).exp_().mul_(gradient[rows, None])
            torch.mm(share, k, out=to_q[rows])
            to_k.addmm_(share.T, q[rows])
        return to_q, to_k, None, None, None, None


def _block(q: Tensor, k: Tensor, whole: bool) -> Tensor:
    """Room for the similarities of all rows, or of the rows of a block."""
    rows = len(q) if whole else min(len(q), _block_rows(len(k), q.element_size()))
    return q.new_empty(rows, len(k))


def _similarities(
    q: Tensor,
    k: Tensor,
    targets: Tensor,
    ids: Tensor,
    key_ids: Tensor,
    rows: slice,
    room: Tensor,
) -> Tensor:
    """Similarities of some rows, -inf where a key is not compared, in their part of `room`."""
    out = room[rows] if len(room) == len(q) else room[: rows.stop - rows.start]
    torch.mm(q[rows], k.T, out=out)
    return out.masked_fill_(~_compared(targets[rows], ids[rows], key_ids), -torch.inf)


def _block_rows(columns: int, bytes_each: int) -> int:
    return max(1, BLOCK // max(1, columns * bytes_each))


def _blocks(rows: int, columns: int, bytes_each: int) -> Iterator[slice]:
    """Slices of rows of about `BLOCK` bytes of similarities."""
    step = _block_rows(columns, bytes_each)
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


def _compared(targets: Tensor, ids: Tensor, key_ids: Tensor) -> Bool[Tensor, "N M"]:
    """Tell which keys stand in the denominator of each row."""
    there = ids[:, None] != key_ids
    if targets.is_floating_point():
        there |= targets > 0
    else:
        # A row without a positive gets a key too many, and counts for nothing.
        there.scatter_(1, targets.clamp_min(0)[:, None], True)
    return there & (key_ids >= 0)


@cache
def _memory(device: torch.device) -> int:
    """Bytes of memory of the device, used or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
