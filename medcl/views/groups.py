"""Which cases form an item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcl.errors import MedclError


def different_cases(cases: Sequence[str], count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw `count` cases, none twice; MedclError if there are fewer."""
    if len(cases) < count:
        raise MedclError(
            f"an item compares {count} cases, and the pool has {len(cases)}; use more cases, or an "
            "objective that compares fewer"
        )
    return tuple(cases[int(case)] for case in rng.choice(len(cases), count, replace=False))
