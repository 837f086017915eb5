"""The tables of classes and metrics."""

from __future__ import annotations

import math

from medcl.study.cells import (
    WHO,
    column_of,
    estimated,
    mean_of_known,
    pairs,
    raw,
    rules_of,
)
from medcl.study.classes import LOST, FalseFinds, class_values, false_finds, lost_classes
from medcl.study.comparison import case_table, difference_of, mean_of
from medcl.study.measures import MEASURES, SECONDARY, WEIGHTS
from medcl.study.results import OK, Results
from medcl.study.statistics import MIN_REPLICATES
from medcl.study.tables import Cell, Column, Number, Table


def classes(results: Results) -> Table:
    """Mean Dice of each class, in brackets the replicates in which it is lost; and false finds.

    These have a column for each class that some test case does not have.
    """
    names = list(results.study.dataset.classes)
    without = {
        (arm, labelled, name): false_finds(results, arm, labelled, name)
        for labelled, arm in pairs(results)
        for name in names
    }
    partly = [n for n in names if any(w.absent for (*_, of), w in without.items() if of == n)]
    weights = results.study.primary.weights
    rows: list[list[Cell]] = []
    for labelled, arm in pairs(results):
        lost = lost_classes(results, arm, labelled)
        runs = [run for run in results.runs_of(arm, labelled) if run.status == OK]
        row: list[Cell] = [str(labelled), arm]
        for name in names:
            values = [v for run in runs for v in class_values(run, name, weights=weights)]
            row.append(Number(mean_of_known(values), 1, 100.0, note=len(lost.get(name, ()))))
        rows.append([*row, *(_false_finds(without[arm, labelled, name]) for name in partly)])
    caption = (
        f"Mean Dice of each class in points, of {_weights(results)}, over replicates and the test "
        f"cases that have it. In brackets: replicates in which it is lost ({LOST})."
    )
    if partly:
        caption += (
            " Found without it: in how many predictions of test cases that do not have a class it "
            "is all the same; they enter no score."
        )
    columns = [*WHO, *(Column(n, n, "n", note=f"{n}_lost_replicates") for n in names)]
    columns += [
        Column(f"{n}_found_without", f"{n} found without it", "n", note=f"{n}_cases_without")
        for n in partly
    ]
    return Table("classes", caption, tuple(columns), rows, rules_of(rows))


def _false_finds(count: FalseFinds) -> Number:
    """`3 of 20`"""
    if not count.absent:
        return Number(None)
    return Number(count.found, 0, note=count.absent, text=f"{count.found} of {count.absent}")


def class_differences(results: Results) -> Table:
    """Difference of each class to the control, as in the forest plot."""
    names = list(results.study.dataset.classes)
    measure = MEASURES[results.study.primary.metric]
    rows: list[list[Cell]] = []
    for labelled, arm in pairs(results, without=results.control):
        row: list[Cell] = [str(labelled), arm]
        for name in names:
            found = difference_of(
                results, arm, labelled, results.control, metric=measure.key, name=name
            )
            row.append(estimated(found, measure, sign=True))
        rows.append(row)
    caption = (
        f"Paired difference of {measure.title} ({measure.unit}) to {results.control}, class by "
        f"class, of {_weights(results)}, with 95 % intervals. Secondary, not corrected."
    )
    columns = (*WHO, *(Column(name, name, "n", interval=True) for name in names))
    return Table("class_differences", caption, columns, rows, rules_of(rows))


def metrics(results: Results) -> Table:
    """Distances and overlap of the primary weights, and Dice of the other ones."""
    names = list(results.study.dataset.classes)
    weights = results.study.primary.weights
    other = "selected" if weights == "last" else "last"
    rows: list[list[Cell]] = []
    for labelled, arm in pairs(results):
        runs = [run for run in results.runs_of(arm, labelled) if run.status == OK]
        row: list[Cell] = [str(labelled), arm]
        for measure in SECONDARY:
            found = [
                value
                for run in runs
                for name in names
                for value in class_values(run, name, weights=weights, metric=measure.key)
            ]
            undefined = sum(math.isnan(value) for value in found)
            row.append(Number(mean_of_known(found), measure.digits, measure.scale, note=undefined))
        beside = case_table(results, arm, labelled, weights=other)
        rows.append([*row, Number(mean_of_known([float(v) for v in beside.ravel()]), 1, 100.0)])
    tolerance = results.study.evaluate.nsd_tolerance_mm
    caption = (
        f"Means over replicates, test cases and classes, of {_weights(results)}. In brackets: "
        "values that are undefined and left out of the mean (all of a class that a case does not "
        "have; distances where nothing is predicted), so that an "
        "arm that misses a class may look better than it is. NSD with a tolerance of "
        f"{tolerance:g} mm. Last column: Dice in points of {WEIGHTS[other]}."
    )
    columns = (*WHO, *(column_of(m, note=f"{m.key}_undefined") for m in SECONDARY))
    last = Column(f"dice_{other}", f"Dice, {other} weights", "n")
    return Table("metrics", caption, (*columns, last), rows, rules_of(rows))


def metric_differences(results: Results) -> Table:
    """Differences to the control in every metric but the primary one."""
    shown = [m for m in MEASURES.values() if m.key != results.study.primary.metric]
    rows: list[list[Cell]] = []
    for labelled, arm in pairs(results, without=results.control):
        row: list[Cell] = [str(labelled), arm]
        for measure in shown:
            found = difference_of(results, arm, labelled, results.control, metric=measure.key)
            row.append(estimated(found, measure, sign=True))
        rows.append(row)
    caption = (
        f"Paired differences to {results.control} with 95 % intervals, of {_weights(results)}: "
        "mean over the classes of a case, of distances over those found in both arms, where less "
        "is better. Secondary, not corrected."
    )
    columns = (*WHO, *(column_of(m, interval=True) for m in shown))
    return Table("metric_differences", caption, columns, rows, rules_of(rows))


def per_class(results: Results) -> Table:
    """Every class and metric in a row of its own; for the file, not for the page."""
    rows: list[list[Cell]] = []
    for labelled, arm in pairs(results):
        for name in results.study.dataset.classes:
            for measure in MEASURES.values():
                key = measure.key
                mean = mean_of(results, arm, labelled, metric=key, name=name)
                found = difference_of(
                    results, arm, labelled, results.control, metric=key, name=name
                )
                row: list[Cell] = [str(labelled), arm, name, measure.key, raw(mean), raw(found)]
                p = found.p if found and found.p is not None else None
                rows.append([*row, Number(p), mean.replicates, mean.cases, mean.undefined_cases])
    columns = (
        *WHO,
        Column("class", "class", "t"),
        Column("metric", "metric", "t"),
        Column("mean", "mean", "n", interval=True),
        Column("difference", "difference", "n", interval=True),
        Column("p", "p", "n"),
        Column("replicates", "replicates", "n"),
        Column("cases", "cases", "n"),
        Column("undefined_cases", "undefined", "n"),
    )
    caption = (
        f"Every class and metric of {_weights(results)}, over the test cases that are defined in "
        f"every replicate; intervals from {MIN_REPLICATES} replicates on; not corrected."
    )
    return Table("metrics_per_class", caption, columns, rows, rules_of(rows))


def _weights(results: Results) -> str:
    return WEIGHTS[results.study.primary.weights]
