"""What a study asks of its arms: the primary comparisons, the bound, the tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from medcl.config.base import UNDECIDING, Count, Name, Positive, Section

if TYPE_CHECKING:
    from medcl.config.study import Finetune, Study

LAST_ORDER = 31  # splits.csv holds 32 orders of the labelled candidates
PROBES = {"linear", "knn"}


class Primary(Section):
    """The comparisons the study is made for; all others are secondary."""

    metric: Literal["dice", "iou", "hd95_mm", "nsd", "assd_mm"] = Field(
        "dice", description="mean over classes"
    )
    weights: Literal["last", "selected"] = Field(
        "last", description="of the last step, or selected by validation"
    )
    arms: list[Name] | None = Field(
        None,
        min_length=1,
        description="compared with the control; absent: every pretrained arm without `control`",
    )
    labelled: list[Count] | None = Field(
        None, min_length=1, description="numbers of labelled subjects; absent: all"
    )


class Bound(Section):
    """What the labels of all candidates would give."""

    arm: Name = Field(description="arm that is trained on every labelled candidate")
    replicates: Annotated[int, Field(ge=1, le=LAST_ORDER + 1)] = Field(
        2, description="trainings, each with its own seed"
    )
    steps: Count | None = Field(
        None, description="optimiser steps; absent: what the arm takes with as many labels"
    )


class Tune(Section):
    """One learning rate per arm, chosen on all validation subjects with labels nobody reports."""

    learning_rates: Annotated[list[Positive], Field(min_length=2)] = Field(
        description="peaks that every arm tries"
    )
    labelled: Count = Field(description="labelled subjects of the trial runs")
    replicate: Annotated[int, Field(ge=1, le=LAST_ORDER)] = Field(
        LAST_ORDER, description="order of the trial runs; not one of the replicates"
    )
    steps: Count | None = Field(
        None, description="optimiser steps of a trial run; absent: those of `finetune`"
    )

    @field_validator("learning_rates")
    @classmethod
    def sorted_once(cls, rates: list[float]) -> list[float]:
        if len(set(rates)) != len(rates):
            raise ValueError("a learning rate stands twice")
        return sorted(rates)


def origin_of(study: Study, arm: str) -> str | None:
    """The arm whose weights `arm` starts from, itself or at the end of its `start`s.

    None where that leads nowhere: to an unknown arm, in a circle, or to one from scratch.
    """
    seen: list[str] = []
    while arm in study.arms and arm not in seen:
        seen.append(arm)
        settings = study.arms[arm]
        if settings.base is None:
            return arm if settings.pretrain or settings.weights else None
        arm = settings.base
    return None


def settings_of(study: Study, name: str) -> Finetune:
    """`finetune` as an arm has it; one that trains itself has that of the arm it learns from.

    Raises ValidationError where its own keys do not fit the others.
    """
    arm = study.arms[name]
    teacher = study.arms.get(arm.selftrain.of) if arm.selftrain else None
    common = study.finetune.changed_by(teacher.finetune if teacher else None)
    return common.changed_by(arm.finetune)


def primary_pairs(study: Study) -> list[tuple[str, int]]:
    """(arm, label count) of the primary comparisons: the family of Holm's correction.

    Arms that are not named are those with a pretraining of this study, but for those that others
    are compared with (`control`), that train themselves or are fine-tuned otherwise than the
    control; where there is none, all pretrained ones; where there is none of those, all.
    """
    if study.control is None:
        return []
    others = [name for name in study.arms if name != study.control]
    sources = {name: origin_of(study, name) for name in others if not study.arms[name].selftrain}
    pretrained = [
        name for name, source in sources.items() if source and study.arms[source].pretrain
    ]
    plain = [
        name
        for name in pretrained
        if not study.arms[name].control and not tuned_unlike(study, name, study.control)
    ]
    named = study.primary.arms or plain or pretrained or others
    counts = study.primary.labelled or study.labelled
    return [
        (arm, n)
        for n in study.labelled
        for arm in study.arms
        if arm in named and n in counts and n in study.counts(arm)
    ]


def tuned_unlike(study: Study, one: str, other: str) -> str:
    """The keys, if any, in which the fine-tunings of two arms differ to any effect."""
    first, second = fitting_settings(study, one), fitting_settings(study, other)
    return unlike(first, second, set()) if first and second else ""


def fitting_settings(study: Study, name: str) -> Finetune | None:
    """The settings of an arm, or None where they do not fit, which `check` tells of."""
    try:
        return settings_of(study, name)
    except ValidationError:
        return None


def unlike(one: Finetune, other: Finetune, free: set[str]) -> str:
    """The keys, but for the `free` ones, in which two settings differ to any effect."""
    free = free | UNDECIDING
    first, second = one.model_dump(exclude=free), other.model_dump(exclude=free)
    return " and ".join(key for key, value in first.items() if value != second[key])
