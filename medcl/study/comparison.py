"""Every arm at every label count, beside the arm that starts from scratch: comparison.csv.

A case scores the mean over the classes that are defined for it: for overlaps those of its
reference, which are the same in every arm, so that a difference of means is the mean of the
differences. Replicate r of an arm is paired with replicate r of the control: same labelled subset,
same fine-tuning seed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medcl.config import primary_pairs, tuned_unlike
from medcl.files import replacing
from medcl.study import protocol
from medcl.study.cost import seconds_of
from medcl.study.measures import DICE, MEASURES, Measure
from medcl.study.results import OK, Results, Run
from medcl.study.statistics import LEVEL, Estimate, detectable_difference, estimate, holm

COLUMNS = [
    "arm", "labelled", "replicates", "dice", "difference", "low", "high", "p", "cases", "seconds",
    "status", "p_holm", "detectable", "primary", "metric", "weights",
]  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """An arm at a label count; `difference` is None for the control and for a lone arm.

    status: ok, partial (some replicates of the arm or of the control are missing) or failed (the
    arm has no result). `seeds` counts the encoders (of pretrainings, or given) behind the compared
    replicates. `family` is the number of primary comparisons this one is corrected for; 0 makes it
    a secondary one.
    """

    arm: str
    labelled: int
    control: str | None
    measure: Measure
    mean: Estimate
    difference: Estimate | None
    status: str
    seeds: int
    seconds: float | None
    missing: tuple[Run, ...]
    family: int = 0
    p_holm: float | None = None

    @property
    def primary(self) -> bool:
        return self.family > 0

    @property
    def replicates(self) -> int:
        return (self.difference or self.mean).replicates

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the difference."""
        return self.difference.interval if self.difference else None


def compare(results: Results) -> list[Comparison]:
    """One comparison with the control per label count and arm, the control first.

    The primary ones are corrected after Holm, and the difference each could have seen is that at
    the level of the correction's first step.
    """
    against = results.control
    names = sorted(results.study.arms, key=lambda arm: arm != against)
    study = results.study
    found = [
        _compare(results, arm, n, against)
        for n in study.labelled
        for arm in names
        if n in study.counts(arm)
    ]
    family = primary_pairs(results.study)
    places = [i for i, item in enumerate(found) if (item.arm, item.labelled) in family]
    p = [item.difference.p if item.difference else None for item in (found[i] for i in places)]
    for place, adjusted in zip(places, holm(p), strict=True):
        found[place] = _corrected(found[place], adjusted, len(family))
    return found


def compare_further(results: Results) -> list[Comparison]:
    """Every arm beside its further controls; secondary, not corrected."""
    study = results.study
    return [
        _compare(results, arm, n, other)
        for n in study.labelled
        for arm in study.arms
        for other in protocol.controls_of(study, arm)[1:]
        if n in study.counts(arm) and n in study.counts(other)
    ]


def _corrected(item: Comparison, p_holm: float | None, family: int) -> Comparison:
    found = item.difference
    if found is not None and found.error is not None and found.degrees is not None:
        seen = detectable_difference(found.error, found.degrees, level=LEVEL / family)
        found = replace(found, detectable=seen)
    return replace(item, difference=found, p_holm=p_holm, family=family)


def _compare(results: Results, arm: str, labelled: int, control: str | None) -> Comparison:
    runs = results.runs_of(arm, labelled)
    missing = [run for run in runs if run.status != OK]
    compared = runs
    if control is not None and arm != control:
        beside = results.runs_of(control, labelled)
        missing += [run for run in beside if run.status != OK]
        compared = [
            run for run, other in zip(runs, beside, strict=True) if run.status == other.status == OK
        ]
    chosen = results.study.primary
    mean = mean_of(results, arm, labelled, metric=chosen.metric)
    status = "partial" if missing else "ok"
    return Comparison(
        arm,
        labelled,
        control,
        MEASURES[chosen.metric],
        mean,
        difference_of(results, arm, labelled, control, metric=chosen.metric),
        "failed" if mean.mean is None else status,
        _encoders(results, arm, compared),
        seconds_of(results, arm, labelled),
        tuple(missing),
    )


def _encoders(results: Results, arm: str, runs: Sequence[Run]) -> int:
    """The different weights that finished runs start from; 0 from scratch, and where a difference
    says nothing of encoders alone: for an arm that learns from labels of the pool, or is fine-tuned
    otherwise than the control."""
    study = results.study
    if study.arms[arm].selftrain or (results.control and tuned_unlike(study, arm, results.control)):
        return 0
    seeds = {results.seed_of(arm, run.replicate) for run in runs if run.status == OK}
    return len(seeds - {None})


def mean_of(
    results: Results, arm: str, labelled: int, *, weights: str | None = None, metric: str = "dice",
    name: str | None = None,
) -> Estimate:  # fmt: skip
    """Mean of an arm over replicates and test subjects, of all classes or of the class `name`.

    Here and below, `weights` are those of the primary comparisons unless they are given.
    """
    table = case_table(results, arm, labelled, weights=weights, metric=metric, name=name)
    return estimate(table, results.test_subjects)


def bound_means(results: Results) -> dict[str, tuple[Estimate, int]]:
    """Arm -> its mean when trained on every labelled candidate, and their number."""
    found = {}
    chosen, cases = results.study.primary, results.test_cases
    for arm in dict.fromkeys(run.arm for run in results.bound if run.status == OK):
        runs = [run for run in results.bound if run.arm == arm]
        given = {"weights": chosen.weights, "metric": chosen.metric}
        rows = [case_values(run, cases, **given) for run in runs]
        table = np.array(rows, dtype=float).reshape(len(runs), len(cases))
        mean = estimate(table, results.test_subjects)
        if mean.mean is not None:
            found[arm] = (mean, max(run.labelled for run in runs))
    return found


def difference_of(
    results: Results, arm: str, labelled: int, control: str | None, *, weights: str | None = None,
    metric: str = "dice", name: str | None = None,
) -> Estimate | None:  # fmt: skip
    """Paired difference to `control`; None for the control itself and where there is none."""
    if control is None or arm == control:
        return None
    table = difference_table(
        results, arm, labelled, control, weights=weights, metric=metric, name=name
    )
    return estimate(table, results.test_subjects)


def difference_table(
    results: Results, arm: str, labelled: int, control: str, *, weights: str | None = None,
    metric: str = "dice", name: str | None = None,
) -> Float[np.ndarray, "R C"]:  # fmt: skip
    """Difference to `control` of each replicate and test case.

    The mean over the classes that are defined for both. Of overlaps these are the classes of the
    reference; of distances an arm that finds a class the other has lost is not charged there.
    """
    names = [name] if name is not None else list(results.study.dataset.classes)
    differences = []
    for one in names:
        mine, other = (
            case_table(results, side, labelled, weights=weights, metric=metric, name=one)
            for side in (arm, control)
        )
        differences.append(mine - other)
    return _mean_known(np.stack(differences))


def _mean_known(values: Float[np.ndarray, "K R C"]) -> Float[np.ndarray, "R C"]:
    """Mean over the first axis of what is defined; nan where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(0)
    total = np.where(known, values, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def case_table(
    results: Results, arm: str, labelled: int, *, weights: str | None = None, metric: str = "dice",
    name: str | None = None,
) -> Float[np.ndarray, "R C"]:  # fmt: skip
    """Value of each replicate and test case, mean over defined classes; nan where there is none.

    `name` takes one class alone.
    """
    runs = results.runs_of(arm, labelled)
    cases = results.test_cases
    of = weights or results.study.primary.weights
    rows = [case_values(run, cases, weights=of, metric=metric, name=name) for run in runs]
    return np.array(rows, dtype=float).reshape(len(runs), len(cases))


def case_values(
    run: Run, cases: Sequence[str], *, weights: str, metric: str = "dice", name: str | None = None
) -> list[float]:
    """Mean over the defined classes of each case; nan throughout for a run that is not ok."""
    defined: dict[str, list[float]] = {case: [] for case in cases}
    if run.status == OK:
        for (case, of), value in run.scores.get((weights, metric), {}).items():
            if case in defined and not math.isnan(value) and name in (None, of):
                defined[case].append(value)
    return [math.fsum(values) / len(values) if values else math.nan for values in defined.values()]


def write_comparison(path: str | Path, comparisons: Sequence[Comparison], results: Results) -> None:
    """Write comparison.csv: Dice and differences as fractions, empty where there is none.

    `dice` is always the mean Dice; the difference is that of the primary metric, named at the end.
    """
    weights = results.study.primary.weights
    rows = []
    for item in comparisons:
        other = item.difference
        change = (other.mean, other.low, other.high, other.p) if other else (None,) * 4
        mean = item.mean
        if item.measure != DICE:
            mean = mean_of(results, item.arm, item.labelled)
        rows.append(
            [
                item.arm,
                item.labelled,
                item.replicates,
                *map(_text, (mean.mean, *change)),
                (other or item.mean).cases,
                _text(item.seconds, ".1f"),
                item.status,
                _text(item.p_holm),
                _text(other.detectable if other else None),
                "yes" if item.primary else "no",
                item.measure.key,
                weights,
            ]
        )
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _text(value: float | None, form: str = ".6g") -> str:
    return "" if value is None else f"{value:{form}}"
