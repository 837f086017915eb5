"""The pictures of a report: the worst and the best cases of an arm beside the control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from medcl.data.channels import filled, read_image
from medcl.data.volume import Volume, read_volume, same_grid
from medcl.errors import MedclError
from medcl.study import overlays
from medcl.study.comparison import Comparison, case_values
from medcl.study.markup import Html
from medcl.study.measures import WEIGHTS
from medcl.study.names import Names
from medcl.study.places import NotThere, located, located_image
from medcl.study.prose import plural
from medcl.study.report_figures import Picture
from medcl.study.results import OK, Results, Run
from medcl.study.sentences import points


@dataclass(frozen=True)
class Overlays:
    """Pictures of chosen cases, grouped by case, and what could not be shown."""

    groups: list[tuple[str, list[Picture]]]
    caption: str
    skipped: list[str]


def case_overlays(
    results: Results, comparisons: Sequence[Comparison], names: Names
) -> Overlays | None:
    """The worst and the best cases of the best arm, beside the control, at the highest count."""
    labelled = results.study.labelled[-1]
    arms = shown_arms(results, comparisons, labelled)
    runs = first_shared(results, arms, labelled)
    if not runs or not results.study.report.overlays:
        return None
    weights = results.study.primary.weights
    dice = case_values(runs[-1], results.test_cases, weights=weights)
    values = dict(zip(results.test_cases, dice, strict=True))
    groups, skipped, gone = [], list[str](), 0
    for word, case in worst_and_best(values, results.study.report.overlays):
        try:
            pictures = _pictures(results, runs, case, names)
        except NotThere:
            gone += 1
        except (MedclError, OSError) as error:
            skipped.append(names.scrub(f"{names.case(case)} cannot be shown: {error}"))
        else:
            groups.append((f"{word}: {names.case(case)}", pictures))
    if gone:
        skipped.append(
            f"{plural(gone, 'case')} cannot be shown: images, labels or predictions are not found "
            "from here; run the report in the folder the study was run in."
        )
    caption = (
        f"The test cases in which {runs[-1].arm} has the lowest and the highest Dice, with "
        f"{plural(labelled, 'labelled subject')} (replicate {runs[-1].replicate}, "
        f"{WEIGHTS[weights]}): the slice with the largest reference area, cut to what is outlined "
        "and 20 mm around it. Orange: "
        "reference; blue: prediction. The patient's right is on the left of axial and coronal "
        "slices, the front on the left of sagittal ones."
    )
    return Overlays(groups, caption, skipped)


def shown_arms(results: Results, comparisons: Sequence[Comparison], labelled: int) -> list[str]:
    """The control, if there is one, and the other arm with the best mean."""
    means = {
        item.arm: item.measure.better * item.mean.mean
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
    weights = results.study.primary.weights
    files = [run.predictions.get((weights, case)) for run in runs]
    if None in files:
        raise MedclError(f"{case}: its predictions are not listed")
    image = filled(read_image(located_image(results, source)))  # the first channel is shown
    classes = list(results.study.dataset.classes.values())
    reference = _only(read_volume(located(results, source.label), labels=True), classes)
    predicted = [read_volume(located(results, str(file)), labels=True) for file in files]
    for volume in (reference, *predicted):
        if not same_grid(image, volume):
            raise MedclError(f"{case}: image, label and prediction are not on one grid")
    found = overlays.cut(image, reference, predicted)
    pictures = []
    for number, run in enumerate(runs):
        (dice,) = case_values(run, [case], weights=weights)
        score = "undefined" if math.isnan(dice) else points(dice)
        caption = f"{run.arm}: Dice {score}"
        title = f"{found.plane} slice of {names.case(case)}, {caption}"
        svg = Html(overlays.overlay(found, number, title))
        png = partial(overlays.overlay_png, found, number)
        pictures.append(Picture(f"overlay-{names.case(case)}-{run.arm}", svg, caption, png))
    return pictures


def _only(volume: Volume, values: Sequence[int]) -> Volume:
    """The label map with nothing but the classes of the data set."""
    return Volume(np.where(np.isin(volume.array, values), volume.array, 0), volume.affine)
