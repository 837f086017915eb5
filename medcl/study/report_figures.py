"""The figures of a report, from a study's results: name -> SVG, PNG and caption."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medcl.study import figures
from medcl.study.comparison import Comparison, bound_means, case_table, difference_of
from medcl.study.cost import clock
from medcl.study.drawing import Drawing
from medcl.study.markup import Html
from medcl.study.matching import CLOCKS
from medcl.study.measures import MEASURES, WEIGHTS, Measure
from medcl.study.phases import Phase, losses_of, phases_of
from medcl.study.prose import listed
from medcl.study.results import Results
from medcl.study.statistics import MIN_REPLICATES, Estimate, complete


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the report and, as SVG and PNG, in the folder figures/."""

    name: str
    svg: Html
    caption: str
    png: Callable[[], bytes]


def learning_curves(results: Results, comparisons: Sequence[Comparison]) -> Picture | None:
    curves: dict[str, list[figures.Point]] = {arm: [] for arm in results.study.arms}
    for item in comparisons:
        if item.mean.mean is not None:
            dots = _replicates(results, item)
            curves[item.arm].append(_point(item.labelled, item.mean, item.measure, dots=dots))
    curves = {arm: values for arm, values in curves.items() if values}
    if not curves:
        return None
    measure = comparisons[0].measure
    caption = (
        f"Mean {measure.title} on the test subjects, of {WEIGHTS[results.study.primary.weights]}, "
        "against the number of labelled subjects. Markers: mean over replicates and test subjects; "
        f"bars: its 95 % interval (where {MIN_REPLICATES} or more replicates finished); dots: the "
        "replicates."
    )
    if len(curves) > 1:
        caption += " The bars of two arms do not tell whether they differ: the gains below do."
    bounds = {
        arm: (measure.scale * found.mean, found.replicates)
        for arm, (found, _) in bound_means(results).items()
        if found.mean is not None
    }
    if bounds:
        words = (f"{arm} {value:.{measure.digits}f} ({n})" for arm, (value, n) in bounds.items())
        caption += (
            " Dashed: the bound with every labelled candidate (in brackets: its replicates): "
            f"{listed(words)}."
        )
    splits = results.splits
    used = {n: len(splits.validation(n, 0)) if splits else 0 for n in results.study.labelled}
    drawing = figures.learning_curves(
        curves,
        "learning-curves",
        used,
        quantity=quantity(measure),
        bounds={arm: value for arm, (value, _) in bounds.items()},
        numbers=numbers_of(results),
    )
    return _picture(drawing, caption)


def gains(results: Results, comparisons: Sequence[Comparison]) -> Picture | None:
    """Differences to the control against the number of labelled subjects."""
    curves: dict[str, list[figures.Point]] = {}
    for item in comparisons:
        found = item.difference
        if found is not None and found.mean is not None:
            curves.setdefault(item.arm, []).append(_point(item.labelled, found, item.measure))
    if not curves or results.control is None:
        return None
    measure = comparisons[0].measure
    caption = (
        f"Paired difference of mean {measure.title} to {results.control}. Bars: 95 % interval over "
        "crossed replicates and test subjects, not corrected for the number of comparisons; a bar "
        "that meets the line at 0 shows no measurable difference."
    )
    words = f"{measure.title} difference to {results.control} ({measure.unit})"
    drawing = figures.gains(curves, "gains", quantity=words, numbers=numbers_of(results))
    return _picture(drawing, caption)


def costs(results: Results, comparisons: Sequence[Comparison]) -> Picture | None:
    """Every arm against what one model costs."""
    curves: dict[str, list[figures.Point]] = {}
    for item in comparisons:
        if item.mean.mean is not None and item.seconds:
            point = _point(item.labelled, item.mean, item.measure, seconds=item.seconds)
            curves.setdefault(item.arm, []).append(point)
    if not curves:
        return None
    measure = comparisons[0].measure
    caption = (
        f"Mean {measure.title} against the time one model takes ({CLOCKS[clock(results)]}): its "
        "fine-tuning and one whole pretraining. Numbers: labelled subjects. Several models can "
        "share a pretraining, and then cost less each; trial runs for a learning rate are not "
        "counted."
    )
    drawing = figures.costs(curves, "cost", quantity=quantity(measure), numbers=numbers_of(results))
    return _picture(drawing, caption)


def class_forests(results: Results) -> list[Picture]:
    """Difference of each class and arm to the control, one picture per label count."""
    study = results.study
    measure = MEASURES[study.primary.metric]
    numbers = numbers_of(results)
    groups: dict[int, list[figures.Row]] = {}
    for labelled in study.labelled:
        rows = []
        for name in study.dataset.classes:
            for arm, number in numbers.items():
                if arm == results.control or labelled not in study.counts(arm):
                    continue
                found = difference_of(
                    results, arm, labelled, results.control, metric=measure.key, name=name
                )
                if found is not None and found.mean is not None:
                    point = _point(labelled, found, measure)
                    rows.append(figures.Row(f"{name}, {arm}", number, point, name))
        if rows:
            groups[labelled] = rows
    limits = _shared([row.point for rows in groups.values() for row in rows])
    words = f"{measure.title} difference ({measure.unit})"
    return [
        _picture(
            figures.forest(
                rows, f"classes-n{n}", title=f"{n} labelled", quantity=words, limits=limits
            ),
            "",
        )
        for n, rows in groups.items()
    ]


def _shared(points: Sequence[figures.Point]) -> tuple[float, float] | None:
    """Limits of one axis for all `points` and their intervals, with a margin; 0 lies in it."""
    ends = [end for p in points for end in (p.mean, p.low, p.high) if math.isfinite(end)]
    if not ends:
        return None
    low, high = min(0.0, *ends), max(0.0, *ends)
    edge = 0.05 * (high - low) or 1.0
    return low - edge, high + edge


def case_dots(results: Results, arm: str) -> list[Picture]:
    """Test subjects of an arm against the control, one picture per label count, on equal axes."""
    control = results.control
    if control is None:
        return []
    counts = results.study.counts(arm)
    measure = MEASURES[results.study.primary.metric]
    means = {n: pair for n in counts if (pair := subject_means(results, arm, n)) is not None}
    values = [float(value) for pair in means.values() for side in pair for value in side]
    pictures = []
    for labelled, (scratch, other) in means.items():
        drawing = figures.case_dots(
            list(scratch),
            list(other),
            names=(control, arm),
            title=f"{labelled} labelled",
            limits=_limits(values, measure),
            quantity=quantity(measure),
            name=f"cases-{arm}-n{labelled}",
            number=numbers_of(results)[arm],
        )
        above = int((other > scratch).sum())
        caption = f"{above} of {len(scratch)} above the diagonal"
        pictures.append(_picture(drawing, caption))
    return pictures


def _limits(values: Sequence[float], measure: Measure) -> tuple[float, float]:
    """Of both axes, with a margin; points end a little beyond 0 and 100."""
    if not measure.points:
        edge = 0.05 * (max(values) - min(values)) + 0.1
        return min(values) - edge, max(values) + edge
    return max(-2.0, min(values) - 5), min(102.0, max(values) + 5)


def subject_means(
    results: Results, arm: str, labelled: int
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]] | None:
    """Values of each test subject with the control and the arm, over the shared replicates."""
    if results.control is None or results.splits is None:
        return None
    chosen = results.study.primary
    tables = [
        case_table(results, name, labelled, metric=chosen.metric) for name in (results.control, arm)
    ]
    shared = complete(np.stack(tables), results.test_subjects)
    if not shared.size:
        return None
    scratch, other = MEASURES[chosen.metric].scale * shared.mean(axis=1)
    return scratch, other


def pretraining_losses(results: Results) -> list[Picture]:
    """Loss of every seed of each pretrained arm, of every phase by itself."""
    pictures = []
    for arm in results.study.arms:
        done = [item for item in results.pretrainings if item.arm == arm and item.log.get("loss")]
        logs = {f"seed {item.seed}": phases_of(item) for item in done}
        last = max((len(phases) for phases in logs.values()), default=0)
        for number in range(last):
            own = {seed: phases[number] for seed, phases in logs.items() if number < len(phases)}
            named = (f"{arm}, phase {number + 1}", f"{arm}-phase{number + 1}")
            title, name = named if last > 1 else (arm, arm)
            pictures.append(_losses(own, title, f"pretraining-{name}", numbers_of(results)[arm]))
    return pictures


def _losses(own: Mapping[str, Phase], title: str, name: str, number: int) -> Picture:
    """One phase of all seeds of an arm, with the chance level of each of its steps."""
    terms = next(iter(own.values())).terms
    levels: dict[float, list[float]] = {}
    for phase in own.values():
        if phase.terms:
            for step, level in zip(phase.log["step"], phase.log.get("chance", ()), strict=False):
                levels.setdefault(step, []).append(level)
    chance = {step: math.fsum(found) / len(found) for step, found in sorted(levels.items())}
    drawing = figures.losses(
        {seed: (phase.log["step"], losses_of(phase)) for seed, phase in own.items()},
        chance=(list(chance), list(chance.values())),
        title=title,
        name=name,
        number=number,
    )
    known = any(math.isfinite(level) for level in chance.values())
    words = "dashed: its chance level" if known else "its chance level is not known"
    return _picture(drawing, f"{' + '.join(terms or ['loss'])}; {words}")


def numbers_of(results: Results) -> dict[str, int]:
    """Arm -> the number of its colour and marker in every figure, the control's first."""
    arms = sorted(results.study.arms, key=lambda arm: arm != results.control)
    return {arm: number for number, arm in enumerate(arms)}


def quantity(measure: Measure) -> str:
    """What an axis shows: `Dice (points)`."""
    return f"{measure.title} ({measure.unit})"


def _picture(drawing: Drawing, caption: str) -> Picture:
    return Picture(drawing.name, Html(drawing.svg()), caption, drawing.png)


def _replicates(results: Results, item: Comparison) -> list[float]:
    """Mean of each replicate over the test subjects, as the mean of all is made."""
    table = case_table(results, item.arm, item.labelled, metric=item.measure.key)
    rows = complete(table, results.test_subjects)
    return [item.measure.scale * float(row.mean()) for row in rows] if rows.size else []


def _point(
    labelled: int,
    found: Estimate,
    measure: Measure,
    *,
    dots: Sequence[float] = (),
    seconds: float = math.nan,
) -> figures.Point:
    low, high = found.interval or (math.nan, math.nan)
    scale = measure.scale
    mean = math.nan if found.mean is None else scale * found.mean
    return figures.Point(labelled, mean, scale * low, scale * high, dots, seconds)
