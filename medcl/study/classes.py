"""What became of each class: its values, where it was lost, and where it was found without being.

A class is lost in a run whose mean Dice of it, over the test cases that have it, is below 1 point.
A false find is a test case without the class in whose prediction it is: such a case enters no score
of the class, and is counted here instead.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from medcl.study.prose import listed
from medcl.study.results import OK, Results, Run

LOST_BELOW = 0.01
LOST = "mean Dice below 1 point"


class FalseFinds(NamedTuple):
    """Of `absent` test cases without the class, summed over runs, it was predicted in `found`."""

    found: int
    absent: int


def class_values(run: Run, name: str, *, weights: str, metric: str = "dice") -> list[float]:
    """Value of each test case for a class, nan where undefined; empty for a run that is not ok."""
    if run.status != OK:
        return []
    table = run.scores.get((weights, metric), {})
    return [value for (_, of), value in table.items() if of == name]


def lost_classes(results: Results, arm: str, labelled: int) -> dict[str, list[int]]:
    """Classes that are lost -> the replicates in which they are."""
    found: dict[str, list[int]] = {}
    weights = results.study.primary.weights
    for name in results.study.dataset.classes:
        for run in results.runs_of(arm, labelled):
            values = [v for v in class_values(run, name, weights=weights) if not math.isnan(v)]
            if values and math.fsum(values) / len(values) < LOST_BELOW:
                found.setdefault(name, []).append(run.replicate)
    return found


def collapsed(results: Results) -> list[tuple[str, int, str, list[int]]]:
    """Lost classes of the whole study: arm, labelled, class, replicates."""
    return [
        (arm, labelled, name, lost)
        for arm in results.study.arms
        for labelled in results.study.labelled
        for name, lost in lost_classes(results, arm, labelled).items()
    ]


def false_finds(results: Results, arm: str, labelled: int, name: str) -> FalseFinds:
    """Count the finds of a class in test cases without it, over the replicates that finished."""
    weights, found, absent = results.study.primary.weights, 0, 0
    for run in results.runs_of(arm, labelled):
        there = class_values(run, name, weights=weights, metric="reference_mm3")
        predicted = class_values(run, name, weights=weights, metric="predicted_mm3")
        pairs = [mine for mine, true in zip(predicted, there, strict=True) if true == 0]
        found, absent = found + sum(mine > 0 for mine in pairs), absent + len(pairs)
    return FalseFinds(found, absent)


def false_find_words(results: Results) -> str:
    """`spleen, most often by voco with 1 labelled (in 3 of 20 predictions of cases without it)`.

    Empty where there is none.
    """
    study, said = results.study, []
    for name in study.dataset.classes:
        counts = {
            (arm, n): false_finds(results, arm, n, name)
            for n in study.labelled
            for arm in study.arms
        }
        arm, n = max(counts, key=lambda key: counts[key].found)
        most = counts[arm, n]
        if most.found:
            often = f"in {most.found} of {most.absent} predictions of cases without it"
            said.append(f"{name}, most often by {arm} with {n} labelled ({often})")
    return listed(said)
