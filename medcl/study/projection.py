"""What a study will cost: jobs of each stage and arm, and the hours they take, before it is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medcl.config import Study
from medcl.config.protocol import PROBES
from medcl.study import protocol
from medcl.study.protocol import Row

MANY = 10**6  # candidates: stands for their number, which is not known before the data are read


@dataclass(frozen=True)
class Pace:
    """Measured seconds; None where they are not known.

    pretrain: arm -> a step of each phase. finetune: arm -> a step; of a probe, one labelled volume.
    validate: arm -> one validation of one volume, 0 where the step includes it. predict: arm -> the
    test cases with one model. start: of a process. label: arm -> one volume of the pool with one
    network, 0 where the step includes it. pool: volumes of the pool. candidates: labelled subjects.
    """

    pretrain: Mapping[str, Sequence[float] | None]
    finetune: Mapping[str, float | None]
    validate: Mapping[str, float]
    predict: Mapping[str, float | None]
    start: float
    label: Mapping[str, float] = field(default_factory=dict)
    pool: int | None = None
    candidates: int | None = None


@dataclass(frozen=True)
class Projected:
    """The jobs of a stage (of one arm): steps of each, seconds of all and of the longest."""

    stage: str
    arm: str
    jobs: int
    steps: list[int] = field(default_factory=list)
    seconds: float | None = None
    longest: float | None = None


def project(study: Study, pace: Pace) -> list[Projected]:
    """One entry per stage and arm, in the order of the stages.

    Ingest, preprocessing, evaluation and the report depend on the volumes and are not projected.
    """
    found = []
    seeds = Counter(start.arm for start in protocol.pretrainings(study))
    for arm, count in seeds.items():
        steps = _pretraining_steps(study, arm)
        job = _pretraining_seconds(study, arm, pace)
        found.append(_summed("pretrain", arm, [steps], [job] * count, pace))
    rates = len(study.tune.learning_rates) if study.tune else 0
    for stage, rows in (
        ("tune", protocol.trials(study)),
        ("finetune", protocol.runs(study)),
        ("finetune, bound", protocol.bound_runs(study)),
    ):
        for arm in dict.fromkeys(row.arm for row in rows):
            own = [row for row in rows if row.arm == arm]
            times = rates if stage == "tune" else 1
            counts = [_steps(study, row, pace) for row in own]
            jobs = [_seconds(study, row, n, pace) for row, n in zip(own, counts, strict=True)]
            jobs = [None if job is None else times * job for job in jobs]
            known = [times * n for n in counts if n is not None]
            found.append(_summed(stage, arm, known, jobs, pace))
    models = [*protocol.runs(study), *protocol.bound_runs(study)]
    for arm, count in Counter(row.arm for row in models).items():
        found.append(_summed("predict", arm, [], [pace.predict.get(arm)] * count, pace))
    joints = protocol.ensembles(study)
    for arm in dict.fromkeys(joint.arm for joint in joints):
        one = pace.predict.get(arm)
        members = [len(joint.members) for joint in joints if joint.arm == arm]
        jobs = [None if one is None else count * one for count in members]
        found.append(_summed("predict, ensemble", arm, [], jobs, pace))
    return found


def wall_seconds(items: Sequence[Projected], at_a_time: int) -> float:
    """Seconds of all jobs, `at_a_time` of them side by side, each stage after the one before."""
    total = math.fsum(item.seconds or 0.0 for item in items) / at_a_time
    longest: dict[str, float] = {}
    for item in items:
        longest[item.stage] = max(longest.get(item.stage, 0.0), item.longest or 0.0)
    return max(total, math.fsum(longest.values()))


def sentence(study: Study) -> str:
    """How much there is to do, at no cost: `45 fine-tunings (9000 steps), ...`."""
    starts = protocol.pretrainings(study)
    parts = []
    if starts:
        steps = sum(_pretraining_steps(study, start.arm) for start in starts)
        parts.append(_counted(len(starts), "pretraining", steps))
    if rows := protocol.trials(study):
        assert study.tune is not None
        steps = len(study.tune.learning_rates) * sum(_base(study, row) for row in rows)
        parts.append(_counted(len(rows), "tuning", steps))
    rows = [*protocol.runs(study), *protocol.bound_runs(study)]
    matched = " and those of equal cost" if any(row.matched for row in rows) else ""
    parts.append(
        _counted(len(rows), "fine-tuning", sum(_base(study, row) for row in rows), matched)
    )
    return f"{study.study}: {', '.join(parts)}"


def _counted(jobs: int, what: str, steps: int, more: str = "") -> str:
    return f"{jobs} {what}{'' if jobs == 1 else 's'} ({steps} steps{more})"


def _summed(
    stage: str, arm: str, steps: list[int], jobs: Sequence[float | None], pace: Pace
) -> Projected:
    known = [job + pace.start for job in jobs if job is not None]
    whole = len(known) == len(jobs)
    seconds, longest = (math.fsum(known), max(known)) if whole and known else (None, None)
    return Projected(stage, arm, len(jobs), sorted(set(steps)), seconds, longest)


def _pretraining_steps(study: Study, arm: str) -> int:
    pretrain = study.arms[arm].pretrain
    assert pretrain is not None
    return pretrain.steps + sum(phase.steps for phase in pretrain.then)


def _pretraining_seconds(study: Study, arm: str, pace: Pace) -> float | None:
    pretrain, each = study.arms[arm].pretrain, pace.pretrain.get(arm)
    assert pretrain is not None
    if each is None:
        return None
    steps = [pretrain.steps, *(phase.steps for phase in pretrain.then)]
    return math.fsum(n * seconds for n, seconds in zip(steps, each, strict=True))


def networks_of(study: Study, row: Row) -> int:
    """Networks a run trains, one after the other: none of a probe, more than one where a run
    trains itself in several rounds or with several members."""
    if row.settings.mode in PROBES:
        return 0
    teaching = study.arms[row.arm].selftrain
    return teaching.rounds * teaching.members if teaching else 1


def _base(study: Study, row: Row) -> int:
    """Steps before those of equal cost; for all candidates those of very many."""
    return networks_of(study, row) * row.settings.steps_for(row.labelled or MANY)


def _steps(study: Study, row: Row, pace: Pace) -> int | None:
    if row.matched is None:
        return _base(study, row)
    assert study.control is not None
    cost = _pretraining_seconds(study, row.matched.pretraining.arm, pace)
    scratch = pace.finetune.get(study.control)
    return None if cost is None or not scratch else _base(study, row) + round(cost / scratch)


def _seconds(study: Study, row: Row, steps: int | None, pace: Pace) -> float | None:
    """Seconds of a run without the start of its process; labelling an unknown pool is left out."""
    step = pace.finetune.get(row.arm)
    if steps is None or step is None:
        return None
    labelled = row.labelled or pace.candidates
    if row.settings.mode in PROBES:
        return None if labelled is None else labelled * step
    held = study.split.validation
    subjects = held if isinstance(held, int) else len(held)
    networks = networks_of(study, row)
    if row.stage == "tune":  # judged once, on all of them
        volumes, validations = subjects, 1
    else:
        volumes = min(subjects, max(2, row.labelled or subjects))
        validations = networks * math.ceil(steps / networks / row.settings.validate_every)
    seconds = steps * step + validations * volumes * pace.validate.get(row.arm, 0.0)
    if study.arms[row.arm].selftrain and pace.pool is not None:
        pool = max(0, pace.pool - (labelled or 0))
        seconds += networks * pool * pace.label.get(row.arm, 0.0)
    return seconds
