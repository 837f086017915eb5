"""Every arm at every label count, beside the arm that starts from scratch: comparison.csv.

A case scores the mean over the classes that are defined for it. Replicate r of an arm is paired
with replicate r of the control: same labelled subset, same fine-tuning seed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medcl.files import replacing
from medcl.study.cost import seconds_of
from medcl.study.results import OK, Results, Run
from medcl.study.statistics import Estimate, estimate

COLUMNS = [
    "arm", "labelled", "replicates", "dice", "difference", "low", "high", "p", "cases", "seconds",
    "status",
]  # fmt: skip
CLASS_COLUMNS = [
    "arm", "labelled", "class", "metric", "mean", "replicates", "values", "undefined",
]  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """An arm at a label count; `difference` is None for the control and for a lone arm.

    status: ok, partial (some replicates of the arm or of the control are missing) or failed (the
    arm has no result). `seeds` counts the pretrainings behind the compared replicates.
    """

    arm: str
    labelled: int
    mean: Estimate
    difference: Estimate | None
    status: str
    seeds: int
    seconds: float | None
    missing: tuple[Run, ...]

    @property
    def replicates(self) -> int:
        return (self.difference or self.mean).replicates

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the difference."""
        found = self.difference
        if found is None or found.low is None or found.high is None:
            return None
        return found.low, found.high


def compare(results: Results) -> list[Comparison]:
    """One comparison per label count and arm, the control first."""
    arms = sorted(results.study.arms, key=lambda arm: arm != results.control)
    return [_compare(results, arm, n) for n in results.study.labelled for arm in arms]


def _compare(results: Results, arm: str, labelled: int) -> Comparison:
    runs = results.runs_of(arm, labelled)
    missing = [run for run in runs if run.status != OK]
    values = dice_table(results, arm, labelled)
    subjects = [results.splits.subject_of[c] for c in results.test_cases] if results.splits else []
    mean = estimate(values, subjects)
    difference = None
    compared = runs
    if results.control is not None and arm != results.control:
        beside = results.runs_of(results.control, labelled)
        missing += [run for run in beside if run.status != OK]
        control = dice_table(results, results.control, labelled)
        difference = estimate(values - control, subjects)
        compared = [
            run for run, other in zip(runs, beside, strict=True) if run.status == other.status == OK
        ]
    seeds = {results.seed_of(arm, run.replicate) for run in compared if run.status == OK}
    status = "failed" if mean.mean is None else "partial" if missing else "ok"
    return Comparison(
        arm,
        labelled,
        mean,
        difference,
        status,
        len(seeds - {None}),
        seconds_of(results, arm, labelled),
        tuple(missing),
    )


def dice_table(
    results: Results, arm: str, labelled: int, *, weights: str = "last", metric: str = "dice"
) -> Float[np.ndarray, "R C"]:
    """Value of each replicate and test case, mean over defined classes; nan where there is none."""
    runs = results.runs_of(arm, labelled)
    rows = [case_values(run, results.test_cases, weights=weights, metric=metric) for run in runs]
    return np.array(rows, dtype=float).reshape(len(runs), len(results.test_cases))


def case_values(
    run: Run, cases: Sequence[str], *, weights: str = "last", metric: str = "dice"
) -> list[float]:
    """Mean over the defined classes of each case; nan throughout for a run that is not ok."""
    defined: dict[str, list[float]] = {case: [] for case in cases}
    if run.status == OK:
        for (case, _), value in run.scores.get((weights, metric), {}).items():
            if case in defined and not math.isnan(value):
                defined[case].append(value)
    return [math.fsum(values) / len(values) if values else math.nan for values in defined.values()]


def class_values(
    run: Run, name: str, *, weights: str = "last", metric: str = "dice"
) -> list[float]:
    """Value of each test case for a class, nan where undefined; empty for a run that is not ok."""
    if run.status != OK:
        return []
    table = run.scores.get((weights, metric), {})
    return [value for (_, of), value in table.items() if of == name]


def collapsed(results: Results) -> list[tuple[str, int, str, list[int]]]:
    """Classes with a mean Dice of 0 in some replicate: arm, labelled, class, replicates."""
    found = []
    for arm in results.study.arms:
        for labelled in results.study.labelled:
            for name in results.study.dataset.classes:
                lost = []
                for run in results.runs_of(arm, labelled):
                    values = [v for v in class_values(run, name) if not math.isnan(v)]
                    if values and max(values) == 0:
                        lost.append(run.replicate)
                if lost:
                    found.append((arm, labelled, name, lost))
    return found


def write_comparison(path: str | Path, comparisons: Sequence[Comparison]) -> None:
    """Write comparison.csv: Dice and differences as fractions, empty where there is none."""
    rows = []
    for item in comparisons:
        other = item.difference
        change = (other.mean, other.low, other.high, other.p) if other else (None,) * 4
        rows.append(
            [
                item.arm,
                item.labelled,
                item.replicates,
                *map(_text, (item.mean.mean, *change)),
                (other or item.mean).cases,
                _text(item.seconds, ".1f"),
                item.status,
            ]
        )
    _write(path, COLUMNS, rows)


def write_classes(path: str | Path, results: Results) -> None:
    """Write metrics_per_class.csv: means over replicates and test cases, of the last weights."""
    rows: list[list[Any]] = []
    for arm in results.study.arms:
        for labelled in results.study.labelled:
            done = [run for run in results.runs_of(arm, labelled) if run.status == OK]
            metrics = sorted({m for run in done for w, m in run.scores if w == "last"})
            for name in results.study.dataset.classes:
                for metric in metrics:
                    values = [v for run in done for v in class_values(run, name, metric=metric)]
                    known = [v for v in values if not math.isnan(v)]
                    mean = math.fsum(known) / len(known) if known else None
                    counts = [len(done), len(known), len(values) - len(known)]
                    rows.append([arm, labelled, name, metric, _text(mean), *counts])
    _write(path, CLASS_COLUMNS, rows)


def _text(value: float | None, form: str = ".6g") -> str:
    return "" if value is None else f"{value:{form}}"


def _write(path: str | Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
