"""Of what a slide study was made: its slides and what is wrong with some, folds, pretrainings."""

from __future__ import annotations

from typing import Any

from medcl.slides.given import without_value
from medcl.study.markup import Html, bullets, paragraph, section, subsection, table
from medcl.study.names import Names
from medcl.study.slides_results import SlideResults

THRESHOLD = "whose patients choose the threshold"


def slides(results: SlideResults, names: Names) -> Html:
    """Every slide that is not part of the study, remarks on the others, and the folds."""
    listed = results.ingest.get("slides", [])
    tiled, dataset = results.tiles.get("slides", {}), results.study.dataset
    failed: list[list[object]] = []
    remarks: list[list[object]] = []
    dropped, count = set(results.audit.get("lost", {})), 0
    for item in listed:
        error = next((f for f in item["findings"] if f["severity"] == "error"), None)
        tile = tiled.get(item["case"], {"status": "ok"})
        if error is None and tile["status"] != "ok":
            error = tile["finding"]
        if error is None and item["case"] in results.unreadable:
            error = {
                "code": "unreadable_later",
                "message": results.unreadable[item["case"]],
                "remedy": "it was whole when it was examined; copy it again, then run again",
            }
        if error is None and item["subject"] in dropped:
            error = {
                "code": "patient_left_out",
                "message": "every slide of the class of its patient is lost",
                "remedy": "mend those slides, or correct their labels",
            }
        if error is not None:
            failed.append([names.case(item["case"]), error["code"], *_told(error, names)])
        else:
            count += tile.get("tiles", 0)
        remarks += [
            [names.case(item["case"]), found["code"], *_told(found, names)]
            for found in item["findings"]
            if found["severity"] == "warning"
        ]
        labels = item.get("truth_labels")
        if labels is not None and (absent := without_value(labels, dataset.truth)):
            remarks.append([names.case(item["case"]), absent.code, absent.message, absent.remedy])
        remarks += [
            [names.case(item["case"]), "unreadable_later",
             f"left out by {encoder}: {names.scrub(why)}", "copy it again, then run again"]
            for encoder, why in results.unread_by.get(item["case"], {}).items()
        ]  # fmt: skip
    heads = ["slide", "status", "what", "what to do"]
    lost = table(f"Slides that are not part of the study: {len(failed)} of {len(listed)}.", heads,
                 failed, "ttww")  # fmt: skip
    kept = len(listed) - len(failed)
    return section(
        "Slides",
        paragraph(f"{kept} of {len(listed)} slides are usable, with {count} tiles in all."),
        lost,
        patients_left_out(results, names),
        subsection(
            "Remarks", table("Slides worth a look at their qc.png.", heads, remarks, "ttww")
        ),
        subsection("Folds", folds(results)),
        anchor="slides",
    )


def patients_left_out(results: SlideResults, names: Names) -> Html:
    """Patients who would count as of another class, by the slides of them that are left."""
    lost, known = results.lost(), {item["subject"] for item in results.ingest.get("slides", [])}
    rows: list[list[object]] = [
        [names.subject(patient), "; ".join(by)] for patient, by in lost.items()
    ]
    caption = (
        f"Patients left out, because every slide of their class is lost: {len(rows)} of "
        f"{len(known)}. The class of a patient is that of all slides in the table."
    )
    return table(caption, ["patient", "by which models"], rows, "tw")


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
    sites = results.audit.get("sites", {})
    parted = sum(len(found) > 1 for found in sites.values())
    caption = (
        f"Patients of each fold, dealt by {results.study.folds.by}. A fold is tested by models "
        "trained without it and without the next one, "
        f"{'which is left for validation' if len(classes) > 2 else THRESHOLD}. "
        f"Groups of equal slides: {twice}, none across folds."
    )
    if several := len(results.audit.get("mixed", [])):
        caption += f" Patients with slides of several classes, counted as the last: {several}."
    if sites:
        caption += f" Sites with patients in more than one fold: {parted} of {len(sites)}."
    return table(
        caption, ["fold", "patients", *classes, "slides"], rows, "nn" + "n" * len(classes) + "n"
    )


def pretraining(results: SlideResults, names: Names) -> Html:
    rows: list[list[object]] = []
    said = []
    for name, summary in results.pretrainings.items():
        if summary["status"] == "ok" and summary.get("steps"):
            chance, level = summary.get("chance"), summary.get("compared")
            numbers = ["-" if x is None else f"{x:.3f}" for x in (level, chance)]
            rows.append([name, summary["tiles"], summary["steps"], *numbers, summary["seconds"]])
        said += [f"{name}: {sentence}" for sentence in summary.get("diagnosis", [])]
        said += [
            f"{name}: {names.case(slide)} is left out: {names.scrub(why)}"
            for slide, why in summary.get("left_out", {}).items()
        ]
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
