"""The report of a slide study: one HTML file that needs nothing else, and comparison.csv."""

from __future__ import annotations

import base64
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcl.files import read_json, replacing
from medcl.study.markup import (
    Html,
    bullets,
    figure,
    join,
    panels,
    paragraph,
    section,
    subsection,
    table,
    ticked,
)
from medcl.study.names import Names
from medcl.study.page import document, header
from medcl.study.sections_study import provenance
from medcl.study.slides_metrics import METRICS, NAMES
from medcl.study.slides_results import Model, Pair, SlideResults, pairs
from medcl.study.statistics import LEVEL, Estimate

COLUMNS = (
    "compared", "encoder", "aggregator", "against_encoder", "against_aggregator", "metric",
    "mean", "against_mean", "difference", "low", "high", "p", "seeds", "patients", "primary",
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
        answer(results, compared),
        measured(results),
        comparisons(compared),
        heatmaps(results, names),
        slides(results, names),
        pretraining(results),
        unfinished(results),
        provenance(command, hashed=hashed),
    ]
    return document(title, header(results.study.study, title), sections)


def answer(results: SlideResults, compared: Sequence[Pair]) -> Html:
    """The primary comparison in words."""
    study = results.study
    scope = [
        name
        for name, one in study.encoders.items()
        if one.pretrain and one.pretrain.patients == "all"
    ]
    warning = (
        f"{', '.join(scope)}: pretrained on tiles of test patients too, without their labels."
        if scope
        else ""
    )
    primary = [pair for pair in compared if pair.primary]
    said = [paragraph(words(pair), class_="answer") for pair in primary]
    if not said:
        only = results.model(study.asked, study.aggregator)
        said = [paragraph(f"{only.name}: AUROC {shown(only.estimate('auroc'))}.", class_="answer")]
    return section("Answer", warning and paragraph(warning), *said, anchor="answer")


def words(pair: Pair, metric: str = "auroc") -> str:
    """What a comparison shows, and no more than its interval allows."""
    found = pair.differences[metric]
    start = f"{pair.first.name} compared with {pair.second.name}: "
    if found.mean is None:
        return f"{start}no comparison ({found.reason})."
    means = [model.estimate(metric).mean for model in (pair.first, pair.second)]
    beside = " and ".join("-" if mean is None else f"{mean:.3f}" for mean in means)
    start += f"the {NAMES[metric]} differs by {found.mean:+.3f} ({beside})"
    if found.low is None or found.high is None:
        return f"{start}; without an interval this may be chance ({found.reason})."
    start += f", 95 % interval {found.low:+.3f} to {found.high:+.3f}"
    start += f", {found.replicates} seeds, {found.subjects} patients"
    if found.p is not None and found.p < LEVEL:
        return f"{start}: {'a gain' if found.mean > 0 else 'a loss'} for these encoders."
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


def measured(results: SlideResults) -> Html:
    """Every model by metric, tiles with a truth, and what colour alone tells."""
    rows: list[list[object]] = []
    tiles: list[list[object]] = []
    for model in results.models:
        rows.append([model.encoder, model.aggregator, len(model.seeds)])
        rows[-1] += [shown(model.estimate(name)) for name in METRICS]
        if of := model.total("slides_with_truth"):
            areas = [r["instance_auroc"] for r in model.runs if r.get("instance_auroc") is not None]
            mean = f"{sum(areas) / len(areas):.3f}" if areas else "-"
            centre, touching = model.total("peaks_inside"), model.total("peaks_touching")
            shares = [f"{count} of {of} ({100 * count / of:.0f} %)" for count in (centre, touching)]
            tiles.append([model.encoder, model.aggregator, mean, *shares])
    caption = (
        "Patients over all folds, mean over the seeds, with 95 % intervals over seeds and "
        "patients. The probability of a patient is the mean over the slides; AUROC and AUPRC are "
        "computed within folds; the threshold of the decisions comes from validation patients. "
        "The folds share training patients, which the intervals do not know of."
    )
    heads = ["encoder", "aggregator", "seeds", *NAMES.values()]
    line: object = ""
    if results.colour is not None:
        line = paragraph(
            f"mean colour: logistic regression on the mean tile colour of the slides, in the same "
            f"folds, has an AUROC of {results.colour:.3f}."
        )
    truth = table(
        "Positive test slides with a truth image, over all folds and seeds: AUROC of their tiles "
        "(at least half of the tile is truth), and slides whose highest score lies in the truth "
        "with the centre of its tile, and with any part of it.",
        ["encoder", "aggregator", "tile AUROC", "peak inside", "peak touches"],
        tiles,
        "ttnnn",
    )
    return section("Results", table(caption, heads, rows, "ttnnnnn"), line, truth, anchor="results")


def comparisons(compared: Sequence[Pair]) -> Html:
    rows = [
        [
            f"{pair.first.name} − {pair.second.name}",
            pair.by + (" (primary)" if pair.primary else ""),
            *[shown(pair.differences[name], sign=True) for name in METRICS],
            "-" if (p := pair.differences["auroc"].p) is None else f"{p:.3f}",
        ]
        for pair in compared
    ]
    reasons = {e.reason for pair in compared for e in pair.differences.values() if e.reason}
    caption = (
        "Paired differences (same folds, same seeds) with 95 % intervals over seeds and patients; "
        "p of the AUROC. All but the primary one are secondary and not corrected. Each encoder "
        "stands for these trainings of it, not for its method."
    )
    heads = ["difference", "of", *NAMES.values(), "p"]
    without = bullets(f"Without an interval: {reason}." for reason in sorted(reasons))
    return section(
        "Comparisons", table(caption, heads, rows, "wtnnnnn"), without, anchor="comparisons"
    )


def heatmaps(results: SlideResults, names: Names) -> Html:
    """Heat maps of the primary model, positive slides first."""
    study = results.study
    folder = results.root / "heatmap" / study.asked / study.aggregator
    if results.dealt is None or not folder.is_dir():
        return Html("")
    label = {one.slide: one.label for one in results.dealt.slides}
    drawn = [
        file.parent / name
        for file in sorted(folder.glob("f*/heatmap.json"))
        for name in read_json(file)["slides"]
    ]
    order = study.dataset.classes
    drawn.sort(key=lambda path: (-order.index(label[path.name]), path.name))
    items = [
        figure(
            join([picture(path / "heatmap.png"), picture(path / "tiles.png")]),
            f"{names.case(path.name)}, {label[path.name]}, as a test slide of {path.parent.name}",
        )
        for path in drawn[: study.report.heatmaps]
    ]
    text = (
        f"Test slides as {study.asked}, {study.aggregator} (seed 0) saw them: each tile in the "
        "colour of its percentile within the slide, and the tiles with the highest scores. "
        f"{len(drawn)} slides are drawn in `heatmap/`, with GeoJSON for QuPath."
    )
    return section("Heat maps", paragraph(ticked(text)), panels(items), anchor="heatmaps")


def picture(file: Path) -> Html:
    data = base64.b64encode(file.read_bytes()).decode()
    return Html(f'<img alt="" style="max-width:100%" src="data:image/png;base64,{data}">')


def slides(results: SlideResults, names: Names) -> Html:
    """Every slide that is not part of the study, remarks on the others, and the folds."""
    listed = results.ingest.get("slides", [])
    tiled = results.tiles.get("slides", {})
    failed: list[list[object]] = []
    remarks: list[list[object]] = []
    for item in listed:
        error = next((f for f in item["findings"] if f["severity"] == "error"), None)
        tile = tiled.get(item["case"], {"status": "ok"})
        if error is None and tile["status"] != "ok":
            error = tile["finding"]
        if error is not None:
            failed.append([names.case(item["case"]), error["code"], *_told(error, names)])
        remarks += [
            [names.case(item["case"]), found["code"], *_told(found, names)]
            for found in item["findings"]
            if found["severity"] == "warning"
        ]
    heads = ["slide", "status", "what", "what to do"]
    lost = table(f"Slides that are not part of the study: {len(failed)} of {len(listed)}.", heads,
                 failed, "ttww")  # fmt: skip
    kept = len(listed) - len(failed)
    count = sum(item.get("tiles", 0) for item in tiled.values())
    return section(
        "Slides",
        paragraph(f"{kept} of {len(listed)} slides are usable, with {count} tiles in all."),
        lost,
        subsection(
            "Remarks", table("Slides worth a look at their qc.png.", heads, remarks, "ttww")
        ),
        subsection("Folds", folds(results)),
        anchor="slides",
    )


def _told(found: dict[str, Any], names: Names) -> list[object]:
    return [names.scrub(found["message"]), found["remedy"]]


def folds(results: SlideResults) -> Html:
    if results.dealt is None:
        return paragraph("The patients have not been dealt to folds yet.")
    dealt, classes = results.dealt, results.study.dataset.classes
    rows: list[list[object]] = []
    for fold, counts in enumerate(results.audit.get("by_fold", [])):
        in_fold = [one for one in dealt.slides if dealt.fold[one.slide] == fold]
        rows.append([fold, sum(counts.values()), *[counts.get(c, 0) for c in classes]])
        rows[-1].append(len(in_fold))
    twice = len(results.audit.get("duplicates", []))
    caption = (
        f"Patients of each fold, dealt by {results.study.folds.by}. A fold is tested by models "
        "trained without it and without the next one, whose patients choose the threshold. "
        f"Groups of equal files: {twice}, none across folds."
    )
    return table(
        caption, ["fold", "patients", *classes, "slides"], rows, "nn" + "n" * len(classes) + "n"
    )


def pretraining(results: SlideResults) -> Html:
    rows: list[list[object]] = []
    said = []
    for name, summary in results.pretrainings.items():
        if summary["status"] == "ok" and summary.get("steps"):
            chance, level = summary.get("chance"), summary.get("compared")
            numbers = ["-" if x is None else f"{x:.3f}" for x in (level, chance)]
            rows.append([name, summary["tiles"], summary["steps"], *numbers, summary["seconds"]])
        said += [f"{name}: {sentence}" for sentence in summary.get("diagnosis", [])]
    heads = ["encoder", "tiles", "steps", "loss", "chance", "seconds"]
    caption = "Pretrainings: loss at the end beside that of equal embeddings."
    return section("Pretraining", table(caption, heads, rows, "tnnnnn"), bullets(said))


def unfinished(results: SlideResults) -> Html:
    lost = [
        f"{name}: {summary['reason']}"
        for name, summary in results.pretrainings.items()
        if summary["status"] != "ok"
    ]
    for model in results.models:
        lost += [
            f"{model.name}, fold {run['fold']}, seed {run['seed']}: {run['reason']}"
            for run in model.runs
            if run["status"] != "ok"
        ]
        if not model.runs:
            lost.append(f"{model.name}: not evaluated yet")
    return section("Not finished", bullets(lost), anchor="unfinished")


def write_comparison(file: Path, compared: Sequence[Pair]) -> None:
    """comparison.csv: a row per pair and metric, numbers as computed."""
    with replacing(file) as partial, open(partial, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(COLUMNS)
        for pair in compared:
            for name in METRICS:
                found = pair.differences[name]
                values = [_mean(pair.first, name), _mean(pair.second, name)]
                values += [found.mean, found.low, found.high, found.p]
                cells = ["" if value is None else f"{value:.6g}" for value in values]
                first, second = pair.first, pair.second
                row = [pair.by, first.encoder, first.aggregator, second.encoder, second.aggregator]
                row += [name, *cells, str(found.replicates), str(found.subjects)]
                writer.writerow([*row, "yes" if pair.primary else "no"])


def _mean(model: Model, metric: str) -> float | None:
    return model.estimate(metric).mean
