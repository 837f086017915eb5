"""What fits together in a study: checks across its sections; those of one section stand with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from medcl.config.protocol import (
    LAST_ORDER,
    PROBES,
    fitting_settings,
    origin_of,
    primary_pairs,
    settings_of,
    unlike,
)

if TYPE_CHECKING:
    from medcl.config.dataset import Dataset
    from medcl.config.study import Study

ACROSS = "across sections"  # type of the errors found here
WAYS = ("pretrain", "weights", "start", "cost_of", "selftrain")

Problem = tuple[tuple[str | int, ...], str, Any]  # key path, what is wrong, the value


def check(study: Study) -> None:
    """Raise ValidationError with every problem between the sections of a study."""
    refuse(
        "Study",
        [*_datasets(study), *_arms(study), *_primary(study), *_bound(study), *_tune(study)],
    )


def refuse(title: str, found: Sequence[Problem]) -> None:
    """Raise ValidationError of the model called `title` with these problems, if there are any."""
    if found:
        errors = [
            InitErrorDetails(type=PydanticCustomError(ACROSS, message), loc=path, input=value)  # type: ignore[arg-type]
            for path, message, value in found
        ]
        raise ValidationError.from_exception_data(title, errors)


def _datasets(study: Study) -> Iterator[Problem]:
    ours = study.dataset
    names = [ours.name, *(other.name for other in study.pretrain_on)]
    for number, other in enumerate(study.pretrain_on):
        path = ("pretrain_on", number)
        if names.count(other.name) > 1:
            yield (*path, "name"), f"two datasets are called '{other.name}'", other.name
        if other.modality != ours.modality:
            message = (
                f"'{other.name}' is {other.modality}, '{ours.name}' is {ours.modality}; they must "
                "be the same"
            )
            yield (*path, "modality"), message, other.modality
            continue  # so do those of the channels
        theirs, mine = other.channel_names, ours.channel_names
        modalities = [other.modality_of(name) for name in theirs]
        if (theirs and mine and theirs != mine) or (
            theirs == mine and modalities != [ours.modality_of(name) for name in mine]
        ):
            message = (
                f"'{other.name}' has {_listed(other)}, '{ours.name}' has {_listed(ours)}; they "
                "must be the same, in one order"
            )
            yield (*path, "channels"), message, theirs


def _listed(dataset: Dataset) -> str:
    return ", ".join(f"{name} ({dataset.modality_of(name)})" for name in dataset.channel_names)


def _arms(study: Study) -> Iterator[Problem]:
    if len(study.arms) > 1 and not any(arm.from_scratch for arm in study.arms.values()):
        message = "no arm starts from scratch; add `scratch: {}` to `arms` as the control"
        yield ("arms",), message, None
    for name, arm in study.arms.items():
        given = [key for key in WAYS if getattr(arm, key)]
        if len(given) > 1:
            message = f"{' and '.join(given)} cannot stand together; an arm starts in one way"
            yield ("arms", name), message, given
        for key in ("start", "cost_of"):
            other = getattr(arm, key)
            if other is None:
                continue
            origin = origin_of(study, other)
            if other not in study.arms:
                yield ("arms", name, key), _unknown(other, study.arms), other
            elif other == name or origin is None:
                message = f"{other} starts from no pretraining; name an arm with `pretrain`"
                yield ("arms", name, key), message, other
            elif key == "cost_of" and study.arms[other].selftrain:
                message = f"{other} is made from other runs; name the arm it learns from"
                yield ("arms", name, key), message, other
            elif key == "cost_of" and study.arms[origin].weights:
                message = (
                    f"what the weights of {other} cost is not known; name an arm with `pretrain`"
                )
                yield ("arms", name, key), message, other
        yield from _selftrain(study, name)
        yield from _matched(study, name)
        yield from _counts(study, name)
        if arm.finetune is not None:
            try:
                settings_of(study, name)
            except ValidationError as error:
                for item in error.errors(include_url=False):
                    path = ("arms", name, "finetune", *item["loc"])
                    yield path, item["msg"].removeprefix("Value error, "), item["input"]


def _counts(study: Study, name: str) -> Iterator[Problem]:
    """An arm is run where the study is, and where the runs are that it is made from."""
    arm = study.arms[name]
    for place, count in enumerate(arm.labelled or ()):
        if count not in study.labelled:
            message = f"{count} is not in the study's `labelled`"
            yield ("arms", name, "labelled", place), message, count
    if arm.labelled is not None and name == study.control:
        message = "the control is run with every number of labels; take `labelled` away"
        yield ("arms", name, "labelled"), message, arm.labelled
    teacher = arm.selftrain.of if arm.selftrain else None
    if teacher in study.arms:
        lacking = [n for n in study.counts(name) if n not in study.counts(teacher)]
        if lacking:
            message = f"{teacher} is not run with {lacking[0]} labelled; leave that out here too"
            yield ("arms", name, "labelled"), message, arm.labelled


def _matched(study: Study, name: str) -> Iterator[Problem]:
    """A control of equal cost differs from what it matches in the weights alone.

    Its seconds become steps at the pace of the study's control.
    """
    other = study.arms[name].cost_of
    if other not in study.arms or study.control is None:
        return
    own, theirs = fitting_settings(study, name), fitting_settings(study, other)
    pace = fitting_settings(study, study.control)
    if own is None or theirs is None or pace is None:
        return
    path = ("arms", name, "cost_of")
    if own.mode in PROBES or pace.mode in PROBES:
        yield path, "a probe is not trained, so it cannot spend a pretraining's seconds", other
        return
    free = {"learning_rate"}
    if keys := unlike(own, theirs, free):
        message = f"{other} is fine-tuned with another {keys}; give both the same `finetune`"
        yield path, message, other
    elif keys := unlike(own, pace, free | {"steps"}):
        message = (
            f"its pace is that of {study.control}, which is fine-tuned with another {keys}; "
            f"take that for all, or leave `cost_of` out"
        )
        yield path, message, other


def _selftrain(study: Study, name: str) -> Iterator[Problem]:
    settings = study.arms[name].selftrain
    if settings is None:
        return
    for arm in (name, settings.of):
        own = fitting_settings(study, arm) if arm in study.arms else None
        if own is not None and own.mode in PROBES:
            message = f"{arm} is a probe, and nothing in it is trained; name an arm that is"
            yield ("arms", name, "selftrain", "of"), message, arm
    path = ("arms", name, "selftrain", "of")
    if settings.of not in study.arms:
        yield path, _unknown(settings.of, study.arms), settings.of
    elif study.arms[settings.of].selftrain or study.arms[settings.of].cost_of:
        message = f"{settings.of} is made from other runs itself; name an arm that is not"
        yield path, message, settings.of


def _primary(study: Study) -> Iterator[Problem]:
    for place, arm in enumerate(study.primary.arms or ()):
        path = ("primary", "arms", place)
        if arm not in study.arms:
            yield path, _unknown(arm, study.arms), arm
        elif arm == study.control:
            yield path, f"{arm} is the control; name the arms that are compared with it", arm
    for place, count in enumerate(study.primary.labelled or ()):
        if count not in study.labelled:
            counts = ", ".join(map(str, study.labelled))
            message = f"{count} is not in the study's `labelled`; one of {counts}"
            yield ("primary", "labelled", place), message, count
    for place, arm in enumerate(study.primary.arms or ()):
        if arm in study.arms:
            asked = [n for n in study.primary.labelled or () if n in study.labelled]
            lacking = [n for n in asked if n not in study.counts(arm)]
            if lacking:
                message = f"{arm} is not run with {lacking[0]} labelled; leave one of the two out"
                yield ("primary", "arms", place), message, arm
    compared = study.control is not None and len(study.arms) > 1
    if compared and study.primary.arms is None and not primary_pairs(study):
        counts = ", ".join(map(str, study.primary.labelled or study.labelled))
        message = f"no arm that is compared is run with {counts} labelled"
        yield ("primary", "labelled"), message, study.primary.labelled


def _bound(study: Study) -> Iterator[Problem]:
    bound = study.bound
    if bound is None:
        return
    if bound.arm not in study.arms:
        yield ("bound", "arm"), _unknown(bound.arm, study.arms), bound.arm
    elif study.arms[bound.arm].selftrain:
        message = f"{bound.arm} labels the pool, and with all labels there is none left"
        yield ("bound", "arm"), message, bound.arm
    elif study.arms[bound.arm].cost_of:
        message = f"the steps of {bound.arm} follow from another run; name an arm of its own steps"
        yield ("bound", "arm"), message, bound.arm


def _tune(study: Study) -> Iterator[Problem]:
    tune = study.tune
    if tune is None:
        return
    reported = max(study.replicates, study.bound.replicates if study.bound else 0)
    if tune.replicate < reported:
        message = (
            f"replicate {tune.replicate} is reported (there are {reported}); a learning rate is "
            f"chosen on one that is not: {reported} to {LAST_ORDER}"
        )
        yield ("tune", "replicate"), message, tune.replicate
    for name, arm in study.arms.items():
        if arm.finetune is not None and "learning_rate" in arm.finetune.model_fields_set:
            message = "`tune` chooses the learning rate of every arm; take one of the two away"
            yield ("arms", name, "finetune", "learning_rate"), message, arm.finetune.learning_rate


def _unknown(name: str, arms: Sequence[str] | dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(arms), 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(arms)}"
    return f"no arm '{name}'; {hint}"
