"""The phases of a pretraining: what each one's log holds, and what its loss is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medcl.study.results import Log, Pretraining


@dataclass(frozen=True)
class Phase:
    """A part of a pretraining with an objective of its own; `number` counts from 1.

    terms: the columns of `log` whose sum has a chance level, the column `chance`; none where the
    summary does not say. loss, chance: means of both over the last steps.
    """

    number: int
    log: Log
    terms: list[str]
    loss: float | None
    chance: float | None


def phases_of(item: Pretraining) -> list[Phase]:
    """The phases that left something in the log or in the summary.

    Summaries that say nothing of phases tell of the last one alone.
    """
    numbers = [_phase(value) for value in item.log.get("phase", ())]
    told = list(item.summary.get("phases") or ())
    count = max([1, len(told), *numbers])
    if not told:
        told = [{}] * (count - 1) + [item.summary]
    found = []
    for number in range(1, count + 1):
        rows = [i for i, of in enumerate(numbers or _ones(item.log)) if of == number]
        log = {name: [values[i] for i in rows] for name, values in item.log.items()}
        facts = told[number - 1] if number <= len(told) else {}
        terms = (facts.get("compared_with_chance") or ["loss"]) if facts else []
        known = terms if all(term in log for term in terms) else []
        found.append(Phase(number, log, known, facts.get("compared"), facts.get("chance")))
    return found


def losses_of(phase: Phase) -> list[float]:
    """What is drawn of a phase at each of its steps: the sum of its terms, else the loss."""
    columns = [phase.log[term] for term in phase.terms or ["loss"]]
    return [math.fsum(values) for values in zip(*columns, strict=True)]


def _ones(log: Log) -> list[int]:
    return [1] * len(log.get("step", ()))


def _phase(value: float) -> int:
    """The first phase has no number in the log."""
    return 1 if math.isnan(value) else int(value)
