"""The protocol of a study as one table: what is trained, on which labels, from which weights.

A row is a fine-tuning: of the study (arm, label count, replicate), of the full-label bound, or the
trial runs that choose an arm's learning rate. The rules plan by it, the results are read by it,
and `protocol.csv` shows it. Replicate r takes its labelled subjects from the front of order r, and
its training seed from r and the label count; pretraining seeds are assigned to replicates in turn.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medcl.config import UNDECIDING, Arm, Finetune, Study, origin_of, settings_of
from medcl.config.protocol import PROBES
from medcl.files import replacing
from medcl.training.seeds import seed_of

COLUMNS = [
    "stage", "arm", "labelled", "replicate", "order", "seed", "starts_from", "pretraining_seed",
    "steps", "learning_rate", "controls", "teacher",
]  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """The weights a run starts from: pretraining `seed` of `arm`, or a `file` of the user's."""

    arm: str
    seed: int = 0
    file: str | None = None

    @property
    def folder(self) -> str | None:
        """Of the pretraining, below the study's; None for a file from elsewhere."""
        return None if self.file else f"pretrain/{self.arm}/s{self.seed}"


@dataclass(frozen=True)
class Matched:
    """What a cost-matched run takes its steps from: a pretraining, and a run from scratch."""

    pretraining: Origin
    pace: str


@dataclass(frozen=True)
class Row:
    """A fine-tuning; paths are below the study's folder.

    labelled: None for all candidates. settings: steps are a mapping where the number of labelled
    subjects is not known yet, and those before `matched` adds its own. tuned: the file the learning
    rate is read from; absent: that of the settings. controls: arms it is compared with, the main
    one first. teacher: folder of the run whose network labels the pool.
    """

    stage: Literal["finetune", "bound", "tune"]
    arm: str
    labelled: int | None
    replicate: int
    settings: Finetune
    origin: Origin | None = None
    tuned: str | None = None
    matched: Matched | None = None
    controls: tuple[str, ...] = ()
    teacher: str | None = None

    @property
    def folder(self) -> str:
        if self.stage == "tune":
            return f"tune/{self.arm}"
        if self.stage == "bound":
            return f"bound/{self.arm}/r{self.replicate}"
        return f"finetune/{self.arm}/n{self.labelled}/r{self.replicate}"


def runs(study: Study) -> list[Row]:
    """The fine-tunings that are compared."""
    return [
        run(study, arm, labelled, replicate)
        for arm in study.arms
        for labelled in study.counts(arm)
        for replicate in range(study.replicates)
    ]


def run(study: Study, arm: str, labelled: int, replicate: int) -> Row:
    settings = settings_of(study, arm)
    matched = None
    if (other := study.arms[arm].cost_of) is not None:
        pretraining = origin(study, other, replicate)
        assert study.control is not None
        assert pretraining is not None
        matched = Matched(pretraining, run(study, study.control, labelled, replicate).folder)
    return Row(
        "finetune",
        arm,
        labelled,
        replicate,
        settings.model_copy(update={"steps": settings.steps_for(labelled)}),
        origin(study, arm, replicate),
        _tuned(study, arm),
        matched,
        controls_of(study, arm),
        _teacher(study, arm, labelled, replicate),
    )


def _teacher(study: Study, arm: str, labelled: int, replicate: int) -> str | None:
    selftrain = study.arms[arm].selftrain
    return f"finetune/{selftrain.of}/n{labelled}/r{replicate}" if selftrain else None


@dataclass(frozen=True)
class Joint:
    """The replicates of an arm that predict together; paths are below the study's folder."""

    arm: str
    labelled: int
    members: tuple[str, ...]

    @property
    def folder(self) -> str:
        return f"finetune/{self.arm}/n{self.labelled}/ensemble"


def ensembles(study: Study) -> list[Joint]:
    """The ensembles a study asks for; of one replicate there is none."""
    if not study.predict.ensemble or study.replicates < 2:
        return []
    return [
        ensemble(study, arm, n)
        for n in study.labelled
        for arm in study.arms
        if n in study.counts(arm)
    ]


def ensemble(study: Study, arm: str, labelled: int) -> Joint:
    rows = [run(study, arm, labelled, replicate) for replicate in range(study.replicates)]
    return Joint(arm, labelled, tuple(row.folder for row in rows))


def bound_runs(study: Study) -> list[Row]:
    """The trainings on every labelled candidate."""
    replicates = study.bound.replicates if study.bound else 0
    return [bound_run(study, replicate) for replicate in range(replicates)]


def bound_run(study: Study, replicate: int) -> Row:
    bound = study.bound
    assert bound is not None
    settings = settings_of(study, bound.arm)
    if bound.steps is not None:
        settings = settings.model_copy(update={"steps": bound.steps})
    start, tuned = origin(study, bound.arm, replicate), _tuned(study, bound.arm)
    return Row("bound", bound.arm, None, replicate, settings, start, tuned)


def trials(study: Study) -> list[Row]:
    """The trial runs of each arm that has some.

    A cost-matched control starts as the control does, so that its trials would be the same.
    """
    if study.tune is None:
        return []
    return [
        trial(study, name)
        for name, arm in study.arms.items()
        if not arm.cost_of and not arm.selftrain and not _is_probe(study, name)
    ]


def _is_probe(study: Study, arm: str) -> bool:
    """A probe learns no weights and has no learning rate."""
    return settings_of(study, arm).mode in PROBES


def trial(study: Study, arm: str) -> Row:
    """They start from the first pretraining, which is there however many replicates there are."""
    tune = study.tune
    assert tune is not None
    settings = settings_of(study, arm)
    steps = tune.steps or settings.steps_for(tune.labelled)
    settings = settings.model_copy(update={"steps": steps})
    return Row("tune", arm, tune.labelled, tune.replicate, settings, origin(study, arm, 0))


def pretrainings(study: Study) -> list[Origin]:
    """Every pretraining that some run starts from or is matched with, each once."""
    found: dict[Origin, None] = {}
    for row in [*runs(study), *bound_runs(study), *trials(study)]:
        for start in (row.origin, row.matched.pretraining if row.matched else None):
            if start is not None and start.file is None:
                found[start] = None
    arms = list(study.arms)
    return sorted(found, key=lambda start: (arms.index(start.arm), start.seed))


def origin(study: Study, arm: str, replicate: int) -> Origin | None:
    """The weights replicate `replicate` of an arm starts from, None from scratch."""
    name = origin_of(study, arm)
    if name is None:
        return None
    pretrain = study.arms[name].pretrain
    if pretrain is None:
        return Origin(name, file=study.arms[name].weights)
    return Origin(name, replicate % pretrain.seeds)


def controls_of(study: Study, arm: str) -> tuple[str, ...]:
    """The arms that `arm` is compared with: the control, then further ones.

    A further control is itself compared with the control alone. One that matches the cost of a
    pretraining stands beside the arms that start from that pretraining. One that trains itself is
    compared with the arm that taught it, whatever else there is.
    """
    if study.control is None or arm == study.control:
        return ()
    further: list[str] = []
    if (selftrain := study.arms[arm].selftrain) is not None:
        teacher = selftrain.of
        return (study.control,) if teacher == study.control else (study.control, teacher)
    for name, other in study.arms.items() if not _is_control(study.arms[arm]) else ():
        matches = other.cost_of is None or origin_of(study, other.cost_of) == origin_of(study, arm)
        if name != study.control and _is_control(other) and matches:
            further.append(name)
    return (study.control, *further)


def further_controls(study: Study) -> list[str]:
    """Every arm that some other is compared with beside the control."""
    found = {name for arm in study.arms for name in controls_of(study, arm)[1:]}
    return [name for name in study.arms if name in found]


def _is_control(arm: Arm) -> bool:
    return arm.control or not (arm.pretrain or arm.base)


def _tuned(study: Study, arm: str) -> str | None:
    if study.tune is None or _is_probe(study, arm):
        return None
    settings = study.arms[arm]
    tried: str | None = settings.selftrain.of if settings.selftrain else arm
    if settings.cost_of:
        tried = study.control
    return f"tune/{tried}/tuned.yaml"


def changes_of(study: Study, arm: str) -> dict[str, Any]:
    """Keys of `finetune` that really differ in an arm, with its values."""
    own = settings_of(study, arm).model_dump()
    common = study.finetune.model_dump()
    return {k: value for k, value in own.items() if value != common[k] and k not in UNDECIDING}


def write_table(path: str | Path, study: Study) -> None:
    """Write the table as CSV."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        rows = [*trials(study), *bound_runs(study), *runs(study)]
        writer.writerows(_cells(study, row) for row in rows)


def _cells(study: Study, row: Row) -> Iterator[Any]:
    yield from (row.stage, row.arm)
    yield "all" if row.labelled is None else row.labelled
    yield from (row.replicate, row.replicate)
    yield "" if row.labelled is None else seed_of(row.replicate, row.labelled)
    start = row.origin
    yield "" if start is None else start.file or start.arm
    yield "" if start is None or start.file else start.seed
    known = isinstance(row.settings.steps, int)
    steps = str(row.settings.steps) if known else "by the number of candidates"
    probe = row.settings.mode in PROBES
    if probe:
        steps = ""
    yield f"{steps} + cost of {row.matched.pretraining.folder}" if row.matched else steps
    if probe:
        yield ""
    elif row.stage == "tune" and study.tune is not None:
        yield " ".join(f"{rate:g}" for rate in study.tune.learning_rates)
    else:
        yield row.tuned or f"{row.settings.learning_rate:g}"
    yield " ".join(row.controls)
    yield row.teacher or ""
