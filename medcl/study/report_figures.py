"""The figures of a report, from a study's results: name -> SVG and caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medcl.data.channels import filled, read_image
from medcl.data.volume import Volume, read_volume, same_grid
from medcl.errors import MedclError
from medcl.study import figures, overlays
from medcl.study.comparison import Comparison, case_values, dice_table
from medcl.study.markup import Html
from medcl.study.names import Names
from medcl.study.prose import plural
from medcl.study.results import OK, Pretraining, Results, Run
from medcl.study.sentences import points
from medcl.study.statistics import MIN_REPLICATES, by_subject


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the report and in the folder figures/."""

    name: str
    svg: Html
    caption: str


@dataclass(frozen=True)
class Overlays:
    """Pictures of chosen cases, grouped by case, and what could not be shown."""

    groups: list[tuple[str, list[Picture]]]
    caption: str
    skipped: list[str]


def learning_curves(results: Results, comparisons: Sequence[Comparison]) -> Picture | None:
    curves: dict[str, list[figures.Point]] = {arm: [] for arm in results.study.arms}
    for item in comparisons:
        if item.mean.mean is not None:
            table = dice_table(results, item.arm, item.labelled)
            rows = table[~np.isnan(table).all(axis=1)]
            rows = rows[:, ~np.isnan(rows).any(axis=0)]
            dots = [100 * float(row.mean()) for row in rows]
            found = item.mean
            curves[item.arm].append(
                _point(item.labelled, found.mean or 0.0, found.low, found.high, dots)
            )
    curves = {arm: values for arm, values in curves.items() if values}
    if not curves:
        return None
    caption = (
        "Mean Dice on the test subjects against the number of labelled subjects. Markers: mean "
        "over replicates and test subjects; bars: its 95 % interval (where "
        f"{MIN_REPLICATES} or more replicates "
        "finished); dots: the replicates."
    )
    if len(curves) > 1:
        caption += (
            " The bars of two arms do not tell whether they differ: the differences below do."
        )
    splits = results.splits
    used = {n: len(splits.validation(n, 0)) if splits else 0 for n in results.study.labelled}
    svg = figures.learning_curves(curves, "learning-curves", used)
    return Picture("learning-curves", Html(svg), caption)


def differences(comparisons: Sequence[Comparison]) -> Picture | None:
    curves: dict[str, list[figures.Point]] = {}
    for item in comparisons:
        found = item.difference
        if found is not None and found.mean is not None:
            point = _point(item.labelled, found.mean, found.low, found.high, ())
            curves.setdefault(item.arm, []).append(point)
    if not curves:
        return None
    caption = (
        "Paired difference of mean Dice to training from scratch. Bars: 95 % interval over crossed "
        "replicates and test subjects; a bar that meets the line at 0 shows no measurable "
        "difference."
    )
    return Picture("differences", Html(figures.differences(curves, "differences")), caption)


def _point(
    labelled: int, mean: float, low: float | None, high: float | None, dots: Sequence[float]
) -> figures.Point:
    below, above = (math.nan if limit is None else 100 * limit for limit in (low, high))
    return figures.Point(labelled, 100 * mean, below, above, dots)


def case_dots(results: Results, arm: str) -> list[Picture]:
    """Test subjects of an arm against scratch, one picture per label count, on equal axes."""
    if results.control is None:
        return []
    counts = results.study.labelled
    means = {n: pair for n in counts if (pair := subject_means(results, arm, n)) is not None}
    values = [float(value) for pair in means.values() for side in pair for value in side]
    limits = (max(-2.0, min(values) - 5), min(102.0, max(values) + 5)) if values else (0.0, 100.0)
    pictures = []
    for labelled, (scratch, other) in means.items():
        name = f"cases-{arm}-n{labelled}"
        svg = figures.case_dots(
            list(scratch),
            list(other),
            arm_name=arm,
            title=f"{labelled} labelled",
            limits=limits,
            name=name,
        )
        above = int((other > scratch).sum())
        caption = f"{above} of {plural(len(scratch), 'test subject')} above the diagonal"
        pictures.append(Picture(name, Html(svg), caption))
    return pictures


def subject_means(
    results: Results, arm: str, labelled: int
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]] | None:
    """Points of each test subject from scratch and with the arm, over the shared replicates."""
    if results.control is None or results.splits is None:
        return None
    tables = [dice_table(results, name, labelled) for name in (results.control, arm)]
    shared = ~np.any([np.isnan(table).all(axis=1) for table in tables], axis=0)
    tables = [table[shared] for table in tables]
    keep = ~np.any([np.isnan(table).any(axis=0) for table in tables], axis=0)
    if not shared.any() or not keep.any():
        return None
    cases = [case for case, use in zip(results.test_cases, keep, strict=True) if use]
    subjects = [results.splits.subject_of[case] for case in cases]
    scratch, other = (100 * by_subject(t[:, keep], subjects).mean(axis=0) for t in tables)
    return scratch, other


def pretraining_losses(results: Results) -> list[Picture]:
    """Loss of every seed of each pretrained arm."""
    pictures = []
    for arm in results.study.arms:
        done = [item for item in results.pretrainings if item.arm == arm and item.log.get("loss")]
        terms = _compared(done[0]) if done else []
        if not done:
            continue
        chances = [
            item.summary["chance"] for item in done if item.summary.get("chance") is not None
        ]
        svg = figures.losses(
            {
                f"seed {item.seed}": (
                    item.log["step"],
                    [sum(values) for values in zip(*(item.log[t] for t in terms), strict=True)],
                )
                for item in done
            },
            chance=float(chances[0]) if chances else None,
            title=arm,
            name=f"pretraining-{arm}",
        )
        known = "dashed: chance" if chances else "its chance level is not known"
        known = f"{' + '.join(terms)}; {known}"
        pictures.append(Picture(f"pretraining-{arm}", Html(svg), f"{arm}; {known}"))
    return pictures


def _compared(item: Pretraining) -> list[str]:
    """The terms of the log that have a chance level."""
    named = item.summary.get("compared_with_chance") or ["loss"]
    return named if all(term in item.log for term in named) else ["loss"]


# ------------------------------------------------------------------------------------ overlays


def case_overlays(
    results: Results, comparisons: Sequence[Comparison], names: Names
) -> Overlays | None:
    """The worst and the best cases of the best arm, beside the control, at the highest count."""
    labelled = results.study.labelled[-1]
    arms = shown_arms(results, comparisons, labelled)
    runs = first_shared(results, arms, labelled)
    if not runs or not results.study.report.overlays:
        return None
    values = dict(zip(results.test_cases, case_values(runs[-1], results.test_cases), strict=True))
    groups, skipped = [], []
    for word, case in worst_and_best(values, results.study.report.overlays):
        try:
            pictures = _pictures(results, runs, case, names)
        except (MedclError, OSError) as error:
            skipped.append(names.scrub(f"{names.case(case)} cannot be shown: {error}"))
        else:
            groups.append((f"{word}: {names.case(case)}", pictures))
    caption = (
        f"The worst and the best test cases of {runs[-1].arm} with {labelled} labelled "
        f"{'subject' if labelled == 1 else 'subjects'}, replicate {runs[-1].replicate}: the slice "
        "with the largest reference area, cut to what is outlined and 20 mm around it. Orange: "
        "reference; blue: prediction. The patient's right is on the left of axial and coronal "
        "slices, the front on the left of sagittal ones."
    )
    return Overlays(groups, caption, skipped)


def shown_arms(results: Results, comparisons: Sequence[Comparison], labelled: int) -> list[str]:
    """The control, if there is one, and the other arm with the highest mean Dice."""
    means = {
        item.arm: item.mean.mean
        for item in comparisons
        if item.labelled == labelled and item.mean.mean is not None
    }
    others = [arm for arm in means if arm != results.control]
    best = sorted(others, key=lambda arm: means[arm], reverse=True)[:1]
    return [arm for arm in (results.control,) if arm in means and arm is not None] + best


def first_shared(results: Results, arms: Sequence[str], labelled: int) -> list[Run]:
    """The runs of `arms` of the first replicate that finished in all of them."""
    for runs in zip(*(results.runs_of(arm, labelled) for arm in arms), strict=True):
        if all(run.status == OK for run in runs):
            return list(runs)
    return []


def worst_and_best(values: dict[str, float], count: int) -> list[tuple[str, str]]:
    """Up to `count` worst and `count` best cases, none of them twice."""
    order = sorted((c for c in values if not math.isnan(values[c])), key=lambda c: values[c])
    worst = order[:count]
    best = [case for case in reversed(order[-count:]) if case not in worst]
    return [("worst", case) for case in worst] + [("best", case) for case in best]


def _pictures(results: Results, runs: Sequence[Run], case: str, names: Names) -> list[Picture]:
    source = next(item for item in results.cases if item.case == case)
    if source.label is None:
        raise MedclError(f"{case}: has no label")
    files = [run.predictions.get(("last", case)) for run in runs]
    if None in files:
        raise MedclError(f"{case}: its predictions are not listed")
    image = filled(read_image(source))  # the first channel is shown
    classes = list(results.study.dataset.classes.values())
    reference = _only(read_volume(source.label, labels=True), classes)
    predicted = [read_volume(str(file), labels=True) for file in files]
    for volume in (reference, *predicted):
        if not same_grid(image, volume):
            raise MedclError(f"{case}: image, label and prediction are not on one grid")
    found = overlays.cut(image, reference, predicted)
    pictures = []
    for number, run in enumerate(runs):
        (dice,) = case_values(run, [case])
        score = "undefined" if math.isnan(dice) else points(dice)
        caption = f"{run.arm}: Dice {score}"
        title = f"{found.plane} slice of {names.case(case)}, {caption}"
        svg = Html(overlays.overlay(found, number, title))
        pictures.append(Picture(f"overlay-{names.case(case)}-{run.arm}", svg, caption))
    return pictures


def _only(volume: Volume, values: Sequence[int]) -> Volume:
    """The label map with nothing but the classes of the data set."""
    return Volume(np.where(np.isin(volume.array, values), volume.array, 0), volume.affine)
