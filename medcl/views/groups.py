"""Which cases form an item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcl.errors import TrainingFailed


def different_cases(cases: Sequence[str], count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw `count` cases, none twice; TrainingFailed if there are fewer."""
    if len(cases) < count:
        raise TrainingFailed(
            f"an item compares {count} cases, and the pool has {len(cases)}; use more cases, "
            "lower `volumes` where the objective has it, or use one that compares fewer"
        )
    return tuple(cases[int(case)] for case in rng.choice(len(cases), count, replace=False))
