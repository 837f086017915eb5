"""The report of a slide study: one HTML file that needs nothing else, and comparison.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medcl.files import replacing
from medcl.study.markup import (
    Html,
    bullets,
    escape,
    join,
    paragraph,
    section,
    table,
    tag,
)
from medcl.study.names import Names
from medcl.study.page import document, header
from medcl.study.sections_study import provenance
from medcl.study.sentences import p_value
from medcl.study.slides_material import pretraining, slides, unfinished
from medcl.study.slides_metrics import METRICS, NAMES, of_class
from medcl.study.slides_pictures import forest, heatmaps, sides
from medcl.study.slides_results import PRIMARY, Pair, SlideResults, pairs
from medcl.study.statistics import LEVEL, Estimate

COLUMNS = (
    "compared", "encoder", "aggregator", "against_encoder", "against_aggregator", "metric",
    "mean", "against_mean", "difference", "low", "high", "p", "p_holm", "seeds", "patients",
    "primary",
)  # fmt: skip


def slide_page(results: SlideResults, *, command: str | None = None) -> str:
    """The whole page; of an unfinished study, as far as it goes."""
    hashed = results.study.report.identifiers == "hashed"
    known = results.ingest.get("slides", [])
    names = Names(
        sorted(item["case"] for item in known),
        sorted({item["subject"] for item in known}),
        hashed=hashed,
        salt=results.study.study,
    )
    compared = pairs(results)
    title = results.study.report.title or f"{results.study.study}: medcl report"
    sections = [
        answer(results, compared, names),
        measured(results),
        comparisons(compared),
        heatmaps(results, names),
        slides(results, names),
        pretraining(results, names),
        unfinished(results),
        provenance(command, hashed=hashed),
    ]
    return document(title, header(results.study.study, title), sections)


def answer(results: SlideResults, compared: Sequence[Pair], names: Names) -> Html:
    """The primary comparison in words, after what could make its scores too good."""
    study = results.study
    primary = [pair for pair in compared if pair.primary]
    said = [paragraph(words(pair), class_="answer") for pair in primary]
    if not said:
        only = results.model(study.asked, study.aggregator)
        said = [paragraph(f"{only.name}: AUROC {shown(only.estimates['auroc'])}.", class_="answer")]
    warnings = [paragraph(text) for text in seen_before(results, names)]
    return section("Answer", *warnings, *said, anchor="answer")


def seen_before(results: SlideResults, names: Names) -> Iterator[str]:
    """Encoders that were pretrained on test patients, or may have been."""
    encoders = results.study.encoders
    scope = [n for n, one in encoders.items() if one.pretrain and one.pretrain.patients == "all"]
    if scope:
        yield f"{', '.join(scope)}: pretrained on tiles of test patients too, without their labels."
    unknown = []
    for name, one in encoders.items():
        summary = results.pretrainings.get(f"{name}/f0/s0")
        if one.weights and summary is not None:
            tested = summary.get("test_slides")
            unknown += [name] if tested is None else []
            if tested == []:
                yield (
                    f"{name}: its weights were pretrained on no slide of a test patient that is "
                    "known here; other slides of the same patients could not be recognised."
                )
            if tested:
                yield (
                    f"{name}: its weights were pretrained on {len(tested)} slides of test patients "
                    "(waived in the configuration): its scores may be too good. They are "
                    f"{', '.join(map(names.case, tested))}."
                )
    if unknown:
        yield (
            f"{', '.join(unknown)}: on which slides the given weights were pretrained is not "
            "known; if test patients were among them, the scores are too good."
        )


def words(pair: Pair, metric: str = "auroc") -> str:
    """What a comparison shows, and no more than its interval allows."""
    found = pair.differences[metric]
    start = f"{pair.first.name} compared with {pair.second.name}: "
    if found.mean is None:
        return f"{start}no comparison ({found.reason})."
    means = pair.means[metric]
    beside = " and ".join("-" if mean is None else f"{mean:.3f}" for mean in means)
    start += f"the {NAMES[metric]} differs by {found.mean:+.3f} ({beside})"
    if found.low is None or found.high is None:
        return f"{start}; without an interval this may be chance ({found.reason})."
    start += f", 95 % interval {found.low:+.3f} to {found.high:+.3f}"
    start += f", {found.replicates} seeds, {found.subjects} patients"
    start += f" (without {pair.apart} that only one of them predicted)" if pair.apart else ""
    after, family = pair.adjusted[metric], pair.family[metric]
    if family > 1 and after is not None:
        start += f", {p_value(after)} after Holm's correction for {family} comparisons"
    if after is not None and after < LEVEL:
        of = f"these {pair.by}s" if pair.by == "encoder" else "this aggregator"
        return f"{start}: {'a gain' if found.mean > 0 else 'a loss'} for {of}."
    seen = f" of {found.detectable:.3f}" if found.detectable is not None else ""
    return f"{start}: no difference shown; one{seen} would probably have been seen."


def shown(found: Estimate, *, sign: bool = False) -> str:
    if found.mean is None:
        return "-"
    plus = "+" if sign else ""
    mean = f"{found.mean:{plus}.3f}"
    if found.low is None or found.high is None:
        return mean
    return f"{mean} ({found.low:{plus}.3f} to {found.high:{plus}.3f})"


def cell(found: Estimate, *, sign: bool = False) -> Html:
    """An estimate with its interval below it; beside it, four would be wider than a page."""
    mean, _, limits = shown(found, sign=sign).partition(" (")
    below = join([Html("<br>"), tag("small", limits.removesuffix(")"))], "") if limits else ""
    return join([escape(mean), below], "")


def measured(results: SlideResults) -> Html:
    """Every model by metric, tiles with a truth, and what colour alone tells."""
    spoken = ("", "a patient is positive from a threshold on that validation patients choose")
    if len(results.study.dataset.classes) > 2:
        spoken = (
            " for each class against the rest and averaged over the classes",
            "the decision is the likeliest class, without a threshold",
        )
    rows: list[list[object]] = []
    tiles: list[list[object]] = []
    for model in results.models:
        rows.append([model.encoder, model.aggregator, len(model.seeds)])
        rows[-1] += [cell(model.estimates[name]) for name in METRICS]
        if of := model.total("slides_with_truth"):
            areas = [r["instance_auroc"] for r in model.runs if r.get("instance_auroc") is not None]
            mean = f"{sum(areas) / len(areas):.3f}" if areas else "-"
            centre, touching = model.total("peaks_inside"), model.total("peaks_touching")
            shares = [f"{count} of {of} ({100 * count / of:.0f} %)" for count in (centre, touching)]
            tiles.append([model.encoder, model.aggregator, mean, *shares])
    caption = (
        "Patients over all folds, mean over the seeds, with 95 % intervals over seeds and "
        "patients. The probability of a patient is the mean over the slides; AUROC and AUPRC are "
        f"computed within folds{spoken[0]}; {spoken[1]}. Balanced accuracy and macro-F1 are of "
        "these decisions. The folds share training patients, which the intervals do not know of."
    )
    heads = ["encoder", "aggregator", "seeds", *NAMES.values()]
    line: object = ""
    if results.colour is not None:
        line = paragraph(
            f"mean colour: logistic regression on the mean tile colour of the slides, in the same "
            f"folds, has an AUROC of {results.colour:.3f}."
        )
    truth = table(
        f"Test slides of class {results.study.dataset.classes[-1]} with a truth image, over all "
        "folds and seeds: AUROC of their tiles "
        "(at least half of the tile is truth), and slides whose highest score lies in the truth "
        "with the centre of its tile, and with any part of it.",
        ["encoder", "aggregator", "tile AUROC", "peak inside", "peak touches"],
        tiles,
        "ttnnn",
    )
    per_encoder = len(results.study.aggregators)
    rules = range(per_encoder, len(rows), per_encoder) if per_encoder > 1 else []
    models = table(caption, heads, rows, "ttnnnnn", rules=rules)
    return section("Results", models, by_class(results), line, truth, anchor="results")


def by_class(results: SlideResults) -> Html:
    """Each class of a study of more than two, by the primary model."""
    classes, asked = results.study.dataset.classes, results.study.asked
    model = results.model(asked, results.study.aggregator)
    if len(classes) == 2 or not model.seeds:
        return Html("")
    rows: list[list[object]] = []
    for kind, name in enumerate(classes):
        found = [of_class(kind, one) for one in model.seeds.values()]
        means = [float(np.mean(values)) for values in zip(*found, strict=True)]
        patients = int((next(iter(model.seeds.values())).label == kind).sum())
        rows.append([name, patients, *("-" if np.isnan(x) else f"{x:.3f}" for x in means)])
    caption = (
        f"Classes by {model.name}, mean over the seeds: AUROC against all other classes, and the "
        "share of the patients of the class that were decided to be of it."
    )
    return table(caption, ["class", "patients", "AUROC", "recall"], rows, "tnnn")


def comparisons(compared: Sequence[Pair]) -> Html:
    rows = [
        [
            *sides(pair),
            *[cell(pair.differences[name], sign=True) for name in METRICS],
            *[p_shown(p) for p in (pair.differences["auroc"].p, pair.adjusted["auroc"])],
        ]
        for pair in compared
    ]
    reasons = {e.reason for pair in compared for e in pair.differences.values() if e.reason}
    caption = (
        "Paired differences (same folds, same seeds) with 95 % intervals over seeds and patients; "
        "p of the AUROC. The primary comparison stands alone"
        f"{'; p after Holm is corrected over all others' if len(rows) > 1 else ''}. Each encoder "
        "stands for these trainings of it, not for its method."
    )
    if apart := max((pair.apart for pair in compared), default=0):
        caption += (
            f" Of some, up to {apart} patients are left out whom only one of the two models "
            "predicted, because the other could not read their slides."
        )
    heads = ["difference", "with", *NAMES.values(), "p", "p after Holm"]
    without = bullets(f"Without an interval: {reason}." for reason in sorted(reasons))
    return section(
        "Comparisons",
        forest(compared),
        table(caption, heads, rows, "ttnnnnnn"),
        without,
        anchor="comparisons",
    )


def p_shown(p: float | None) -> str:
    return "-" if p is None else p_value(p).removeprefix("p ").removeprefix("= ")


def write_comparison(file: Path, compared: Sequence[Pair]) -> None:
    """comparison.csv: a row per pair and metric, numbers as computed."""
    with replacing(file) as partial, open(partial, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(COLUMNS)
        for pair in compared:
            for name in METRICS:
                found = pair.differences[name]
                values = [*pair.means[name]]
                values += [found.mean, found.low, found.high, found.p, pair.adjusted[name]]
                cells = ["" if value is None else f"{value:.6g}" for value in values]
                first, second = pair.first, pair.second
                row = [pair.by, first.encoder, first.aggregator, second.encoder, second.aggregator]
                row += [name, *cells, str(found.replicates), str(found.subjects)]
                asked = pair.primary and name == PRIMARY
                writer.writerow([*row, "yes" if asked else "no"])
