"""The terms of INS and what it remembers of a step; the equations are in ins.py."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from medcl.contrast.similarity import contrast

PROTOTYPE_MOMENTUM = 0.9
SATURATED = 0.95  # share of the instances of positive bags that are called positive
BLIND = 0.5  # the same of negative bags


def candidates(label: Int[Tensor, " M"], classes: int) -> Int[Tensor, "M C"]:
    """Y of instances with their bag's label."""
    allowed = F.one_hot(label, classes)
    allowed[:, 0] = 1
    return allowed


def start(allowed: Tensor) -> Float[Tensor, "M C"]:
    """Soft labels at first: all candidates alike."""
    return allowed / allowed.sum(1, keepdim=True)


def moved(
    labels: Float[Tensor, "M C"],
    prototype_scores: Float[Tensor, "M C"],
    allowed: Tensor,
    phi: float,
) -> Float[Tensor, "M C"]:
    """The soft labels s after a step; an instance with one candidate has that one."""
    z = F.one_hot((prototype_scores * allowed).argmax(1), labels.shape[1]).float()
    certain = (allowed.sum(1) == 1)[:, None]
    return torch.where(certain, allowed.to(labels), phi * labels + (1 - phi) * z)


def soft_cross_entropy(
    logits: Float[Tensor, "M C"], labels: Float[Tensor, "M C"]
) -> Float[Tensor, " M"]:
    """Cross-entropy of each row with its soft label."""
    return -(labels * logits.log_softmax(1)).sum(1)


def falling(step: int, steps: int, first: float, last: float) -> float:
    """A line from `first` at step 0 to `last` after `steps`."""
    return first + (last - first) * step / steps


def equal_shares(label: Int[Tensor, " M"], classes: int) -> Float[Tensor, " M"]:
    """Weights of mean 1 with which each class that is there weighs as much as every other."""
    counts = torch.bincount(label, minlength=classes)
    return len(label) / ((counts > 0).sum() * counts)[label]


def follow(
    prototypes: Float[Tensor, "C P"], queries: Float[Tensor, "M P"], classes: Int[Tensor, " M"]
) -> Float[Tensor, "C P"]:
    """The prototypes after the rows of a batch, one after the other, then of length 1."""
    after = prototypes.clone()
    for c in range(len(prototypes)):
        rows = queries[classes == c].to(prototypes)
        ages = torch.arange(len(rows) - 1, -1, -1, device=rows.device, dtype=rows.dtype)
        shares = (1 - PROTOTYPE_MOMENTUM) * PROTOTYPE_MOMENTUM**ages
        after[c] = PROTOTYPE_MOMENTUM ** len(rows) * prototypes[c] + shares @ rows
    return F.normalize(after, dim=1)


def same_class(
    rows: Float[Tensor, "A P"],
    classes: Int[Tensor, " A"],
    there: Bool[Tensor, " A"],
    queries: int,
    temperature: float,
) -> Float[Tensor, ""]:
    """Supervised contrast of the first `queries` rows with all rows that are there."""
    places = torch.arange(len(rows), device=rows.device)
    ids = torch.where(there, places, -1)
    own = places[:queries, None] == places
    positives = (classes[:queries, None] == classes) & there & ~own
    weights = positives.to(rows.dtype) / positives.sum(1, keepdim=True)
    return contrast(
        rows[:queries],
        rows,
        weights,
        temperature=temperature,
        ids=ids[:queries],
        key_ids=ids,
        cosine=False,
    ).mean()


def own_key(
    rows: Float[Tensor, "A P"], there: Bool[Tensor, " A"], queries: int, temperature: float
) -> Float[Tensor, ""]:
    """Contrast of the first `queries` rows with their key, as many rows on, and the queue."""
    keys = rows[queries:]
    places = torch.arange(queries, device=rows.device)
    batch = torch.zeros_like(places)  # one id for all: other keys of the batch are no negatives
    ids = torch.cat([batch, torch.where(there[2 * queries :], 1, -1)])
    return contrast(
        rows[:queries],
        keys,
        places,
        temperature=temperature,
        ids=batch,
        key_ids=ids,
        cosine=False,
    ).mean()


def counts_called(positive: Bool[Tensor, " M"], of_positive: Bool[Tensor, " M"]) -> Tensor:
    """Instances of negative and of positive bags (rows) called negative and positive (columns)."""
    cells = 2 * of_positive.long() + positive.long()
    return torch.bincount(cells, minlength=4).view(2, 2)


def uncalibrated(in_negative: float, in_positive: float) -> str | None:
    """Why pseudo-labels cannot start, from the shares of instances called positive in both kinds
    of bags; None if they can.
    """
    if in_positive == 0:
        return "it finds no positive instance"
    if in_positive > SATURATED and in_negative > BLIND:
        return "it tells nothing yet"
    return None
