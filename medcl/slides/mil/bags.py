"""Bags as training items: which bag, and which of its instances, at each place of a step.

Every draw is a function of the generators `fit` gives for (seed, step, place), so that a resumed
run draws the same. The bags of a step differ from one another as long as there are enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medcl.errors import MedclError

Batch = dict[str, Tensor]


class Features(Protocol):
    """Where the features of bags are; read in a loader worker."""

    def count(self, bag: str) -> int:
        """Number of instances N."""

    def read(self, bag: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Features (N, D) of a bag, or of these instances only; `rows` are in ascending order."""


class InMemory:
    """Features given as one array (N, D) of each bag."""

    def __init__(self, bags: Mapping[str, np.ndarray]) -> None:
        self.bags = bags

    def count(self, bag: str) -> int:
        return len(self.bags[bag])

    def read(self, bag: str, rows: np.ndarray | None = None) -> np.ndarray:
        return self.bags[bag] if rows is None else self.bags[bag][rows]


@dataclass(frozen=True)
class Bags:
    """The bags of a training; see the module's text.

    names, labels: of the bags. cap: instances of a bag drawn at a time, without replacement; all
    of a bag that has no more. balanced: every class equally often in a batch, its classes in a
    random order where they do not divide it.

    Raises MedclError for no bag, labels that do not match, and bags without an instance.
    """

    names: Sequence[str]
    labels: Sequence[int]
    features: Features
    cap: int = 4096
    balanced: bool = False
    chosen: int | None = None
    first: np.ndarray = field(default=None, repr=False)  # type: ignore[assignment]
    of_class: tuple[np.ndarray, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.first is not None:
            return
        if not self.names:
            raise MedclError("no bag to train on")
        if len(self.names) != len(self.labels):
            raise MedclError(f"{len(self.names)} bags, but {len(self.labels)} labels")
        counts = [self.features.count(name) for name in self.names]
        if empty := [name for name, n in zip(self.names, counts, strict=True) if n == 0]:
            raise MedclError(f"bags without an instance: {', '.join(empty)}; leave them out")
        object.__setattr__(self, "first", np.concatenate([[0], np.cumsum(counts)]))
        labels = np.asarray(self.labels)
        kinds = tuple(np.flatnonzero(labels == kind) for kind in np.unique(labels))
        object.__setattr__(self, "of_class", kinds)

    @property
    def instances(self) -> int:
        """Instances of all bags."""
        return int(self.first[-1])

    def for_step(self, rng: np.random.Generator, index: int) -> Bags:
        """The bag for place `index` of a step whose places share `rng`."""
        if self.balanced:
            order = rng.permutation(len(self.of_class))
            turn, kind = divmod(index, len(order))
            shuffled = [rng.permutation(bags) for bags in self.of_class]
            bags = shuffled[order[kind]]
        else:
            bags, turn = rng.permutation(len(self.names)), index
        return replace(self, chosen=int(bags[turn % len(bags)]))

    def item(self, rng: np.random.Generator) -> Batch:
        """A bag filled up to the largest that can come, so that a loader can stack them."""
        bag = int(rng.integers(len(self.names))) if self.chosen is None else self.chosen
        name, first = self.names[bag], int(self.first[bag])
        count = int(self.first[bag + 1]) - first
        rows = np.arange(count)
        if count > self.cap:
            rows = np.sort(rng.choice(count, self.cap, replace=False))
        read = self.features.read(name, rows if count > self.cap else None)
        length = min(self.cap, int(np.diff(self.first).max()))
        features = torch.zeros(length, read.shape[1], dtype=torch.from_numpy(read[:0]).dtype)
        features[: len(rows)] = torch.from_numpy(np.ascontiguousarray(read))
        instance = torch.full((length,), -1)
        instance[: len(rows)] = torch.from_numpy(first + rows)
        return {
            "features": features,
            "mask": instance >= 0,
            "label": torch.tensor(int(self.labels[bag])),
            "instance": instance,
        }

    def augment(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Cut off what no bag of the batch fills; widen features of half precision."""
        length = int(batch["mask"].sum(1).max())
        short = {name: batch[name][:, :length] for name in ("features", "mask", "instance")}
        features = short["features"]
        if features.dtype == torch.float16:
            short["features"] = features.float()
        return {**batch, **short}


def whole(bags: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Features (B, N, D) and mask (B, N) of whole bags, filled up to the longest."""
    features = [torch.from_numpy(np.ascontiguousarray(bag)) for bag in bags]
    lengths = torch.tensor([len(bag) for bag in bags])
    padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def balanced_weights(labels: Sequence[int], classes: int) -> list[float]:
    """Weights of the classes with which each counts equally, of mean 1 over the bags.

    Raises MedclError for a class without a bag.
    """
    counts = np.bincount(np.asarray(labels), minlength=classes)
    if missing := np.flatnonzero(counts == 0).tolist():
        raise MedclError(f"no bag of class {missing[0]}: classes cannot be weighted by their bags")
    return [float(len(labels) / (classes * n)) for n in counts]
