"""Cells, columns and rows that several tables of a report share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from medcl.study.measures import DICE, Measure
from medcl.study.results import Results
from medcl.study.sentences import decimals, p_value, rounded_up
from medcl.study.statistics import Estimate
from medcl.study.tables import Cell, Column, Number

WHO = (Column("labelled", "labelled", "t"), Column("arm", "arm", "t"))


def pairs(results: Results, without: str | None = None) -> Iterator[tuple[int, str]]:
    for labelled in results.study.labelled:
        for arm in results.study.arms:
            if arm != without and labelled in results.study.counts(arm):
                yield labelled, arm


def rules_of(rows: Sequence[Sequence[Cell]]) -> tuple[int, ...]:
    """Rows where another label count begins."""
    return tuple(i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0])


def estimated(found: Estimate | None, measure: Measure, *, sign: bool = False) -> Cell:
    if found is None:
        return ""
    interval = found.interval
    digits = decimals(interval, measure) if sign and interval else measure.digits
    return Number(found.mean, digits, measure.scale, sign, interval)


def raw(found: Estimate | None) -> Number:
    return Number(found.mean, 4, interval=found.interval) if found else Number(None)


def scaled(value: float | None, measure: Measure = DICE) -> Number:
    return Number(value, measure.digits, measure.scale)


def detectable(value: float | None, measure: Measure) -> Number:
    """Rounded up, as in the sentences."""
    text = None if value is None else rounded_up(value, measure).split()[0]
    return Number(value, measure.digits, measure.scale, text=text)


def p_cell(p: float | None) -> Number:
    return Number(p, text=None if p is None else p_value(p).removeprefix("p ").removeprefix("= "))


def column_of(measure: Measure, *, interval: bool = False, note: str | None = None) -> Column:
    title = f"{measure.title} ({measure.unit})"
    return Column(measure.key, title, "n", interval=interval, note=note)


def mean_of_known(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None
