"""Items of a pretraining: groups of pool cases, cropped and augmented by the objective's views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from medcl.data.store import Store
from medcl.objectives.base import Objective, Views
from medcl.training.sampler import Batch


@dataclass(frozen=True)
class PretextItems:
    """cases: the pool cases of `store`. Labels are read by an objective that says so alone."""

    store: Store
    cases: Sequence[str]
    views: Views

    def for_step(self, rng: np.random.Generator, index: int) -> PretextItems:
        return replace(self, views=self.views.for_step(rng, index))

    def refreshed(self, objective: Objective, step: int) -> PretextItems:
        """The items of the steps from `step` on."""
        return replace(
            self, views=objective.refresh([self.store[case] for case in self.cases], step)
        )

    def item(self, rng: np.random.Generator) -> Batch:
        group = self.views.groups(self.cases, rng)
        return self.views.crop(tuple(self.store[case] for case in group), rng)

    def augment(self, batch: Batch, rng: torch.Generator) -> Batch:
        return self.views.augment(batch, rng)
