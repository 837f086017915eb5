"""Items as functions of (seed, step, index), so that a resumed run draws the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Tensor]


@runtime_checkable
class Items(Protocol):
    """What a training learns from.

    `for_step(rng, index)`, where there is one, gives the items for one place of a step; all places
    of the step get an equal `rng`, for what they have in common. `refreshed(model, step)`, where
    there is one, gives the items of the steps from `step` on.
    """

    def item(self, rng: np.random.Generator) -> Batch:
        """Draw one item; runs in a loader worker and reads only what it needs."""

    def augment(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Change a batch on its device; `rng` lives on the CPU."""


def item_rng(seed: int, step: int, index: int) -> np.random.Generator:
    """Generator of one item; `index` is its place in the global batch."""
    return np.random.default_rng(np.random.SeedSequence([seed, step, index]))


def common_rng(seed: int, step: int) -> np.random.Generator:
    """Generator of what all items of a step have in common."""
    return np.random.default_rng(np.random.SeedSequence([seed, step, 0, 2]))


def step_rng(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Generator of one step's augmentation on one rank."""
    state = np.random.SeedSequence([seed, step, rank, 1]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class _Drawn(Dataset[Batch]):
    def __init__(self, items: Items, seed: int) -> None:
        self.items = items
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Batch:  # type: ignore[override]
        step, index = place
        for_step: Callable[..., Items] | None = getattr(self.items, "for_step", None)
        items = for_step(common_rng(self.seed, step), index) if for_step else self.items
        return items.item(item_rng(self.seed, step, index))


class _Places:
    """For each step, the (step, index) pairs of one rank."""

    def __init__(self, first: int, steps: int, batch: int, rank: int, world: int) -> None:
        self.range = range(first, steps)
        self.indices = range(rank, batch, world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.range:
            yield [(step, index) for index in self.indices]

    def __len__(self) -> int:
        return len(self.range)


def loader(
    items: Items,
    *,
    seed: int,
    first: int,
    steps: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> DataLoader[Batch]:
    """Batches of the steps from `first` on; `batch` is the global batch."""
    if batch % world:
        raise ValueError(
            f"a batch of {batch} cannot be shared by {world} devices; choose a multiple"
        )
    return DataLoader(
        _Drawn(items, seed),
        batch_sampler=_Places(first, steps, batch, rank, world),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )
