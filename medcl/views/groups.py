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


def cases_in_turn(cases: Sequence[str], count: int, turn: tuple[int, int]) -> tuple[str, ...]:
    """The `count` cases of an item in an order that the items of a step share.

    turn: the seed of that order and the number of the item: each goes on where the one before
    ended, and from the first case on again where the cases end.
    """
    seed, item = turn
    order = np.random.default_rng(seed).permutation(len(cases))
    places = np.arange(item * count, (item + 1) * count) % len(cases)
    return tuple(cases[int(case)] for case in order[places])
