"""Bags as training items: which bag, and which of its instances, at each place of a step.

Every draw is a function of the generators `fit` gives for (seed, step, place), so that a resumed
run draws the same. The bags of a step differ from one another as long as there are enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from medcl.errors import MedclError

Batch = dict[str, Tensor]


@runtime_checkable
class Features(Protocol):
    """Where the features of bags are; read in a loader worker."""

    def count(self, bag: str) -> int:
        """Number of instances N."""

    def read(self, bag: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Features (N, D) of a bag, or of these instances only; `rows` are in ascending order."""


class Bags:
    """The bags of a training; see the module's text.

    names, labels: of the bags. cap: instances of a bag drawn at a time, without replacement; all
    of a bag that has no more. balanced: every class equally often in a batch, and in a random
    order, where a batch is no multiple of the classes.

    Raises MedclError for no bag, labels that do not match, and bags without an instance.
    """

    def __init__(
        self,
        names: Sequence[str],
        labels: Sequence[int],
        features: Features,
        *,
        cap: int = 4096,
        balanced: bool = False,
    ) -> None:
        if not names:
            raise MedclError("no bag to train on")
        if len(names) != len(labels):
            raise MedclError(f"{len(names)} bags, but {len(labels)} labels")
        counts = [features.count(name) for name in names]
        if empty := [name for name, n in zip(names, counts, strict=True) if n == 0]:
            raise MedclError(f"bags without an instance: {', '.join(empty)}; leave them out")
        self.names, self.labels, self.features = names, np.asarray(labels), features
        self.cap, self.balanced = cap, balanced
        self.counts, self.longest = counts, max(counts)
        self.first = [0, *itertools.accumulate(counts)]
        self.of_class = [np.flatnonzero(self.labels == kind) for kind in np.unique(self.labels)]

    @property
    def instances(self) -> int:
        """Instances of all bags."""
        return self.first[-1]

    def for_step(self, rng: np.random.Generator, index: int) -> OneBag:
        """The bag for place `index` of a step whose places share `rng`."""
        bags, turn = np.arange(len(self.names)), index
        if self.balanced:
            turn, kind = divmod(index, len(self.of_class))
            bags = self.of_class[rng.permutation(len(self.of_class))[kind]]
        return OneBag(self, int(rng.permutation(bags)[turn % len(bags)]))

    def item(self, rng: np.random.Generator) -> Batch:
        """Any bag."""
        return self.read(int(rng.integers(len(self.names))), rng)

    def read(self, bag: int, rng: np.random.Generator) -> Batch:
        """A bag filled up to the largest that can come, so that a loader can stack them."""
        count, first = self.counts[bag], self.first[bag]
        rows = None
        if count > self.cap:
            rows = np.sort(rng.choice(count, self.cap, replace=False))
        read = torch.from_numpy(np.ascontiguousarray(self.features.read(self.names[bag], rows)))
        length = min(self.cap, self.longest)
        features = torch.zeros(length, read.shape[1], dtype=read.dtype)
        features[: len(read)] = read
        instance = torch.full((length,), -1)
        numbers = np.arange(count) if rows is None else rows
        instance[: len(read)] = torch.from_numpy(first + numbers)
        return {
            "features": features,
            "mask": instance >= 0,
            "label": torch.tensor(int(self.labels[bag])),
            "instance": instance,
        }

    def augment(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Cut off what no bag of the batch fills."""
        length = int(batch["mask"].sum(1).max())
        short = {name: batch[name][:, :length] for name in ("features", "mask", "instance")}
        return {**batch, **short}


@dataclass(frozen=True)
class OneBag:
    """The items of one place of a step."""

    bags: Bags
    number: int

    def item(self, rng: np.random.Generator) -> Batch:
        return self.bags.read(self.number, rng)


def balanced_weights(labels: Sequence[int], classes: int) -> list[float]:
    """Weights of the classes with which each counts equally, of mean 1 over the bags.

    Raises MedclError for a class without a bag.
    """
    counts = np.bincount(np.asarray(labels), minlength=classes)
    if missing := np.flatnonzero(counts == 0).tolist():
        raise MedclError(f"no bag of class {missing[0]}: classes cannot be weighted by their bags")
    return [float(len(labels) / (classes * n)) for n in counts]
