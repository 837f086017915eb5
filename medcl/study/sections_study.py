"""The second half of a report: data, plan, pretraining, protocol, cost and provenance."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from medcl.config import origin_of
from medcl.study import methods, prose, report_tables
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
    tag,
    ticked,
)
from medcl.study.names import Names
from medcl.study.phases import phases_of
from medcl.study.report_figures import Picture
from medcl.study.results import OK, Results

PACKAGES = (
    "medcl", "torch", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom",
    "scikit-image", "matplotlib", "snakemake",
)  # fmt: skip
SHOWN_NAMES = 6
DIAGNOSTICS = {
    "spread": "spread",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "effective_rank": "effective rank",
}


def data(results: Results, names: Names) -> Html:
    """Who was in which role, what was excluded and why, the audit and the plan."""
    audit = prose.audit_words(results.audit, names.case, names.subject)
    audit += prose.waived_words(results.audit, names.case)
    return section(
        "Data",
        roles_table(results),
        subsection("Excluded", excluded(results, names)),
        subsection("Remarks on accepted cases", remarks(results, names)),
        subsection("Leakage audit", bullets(names.scrub(text) for text in audit)),
        subsection("Plan", plan_table(results)),
        anchor="data",
    )


def roles_table(results: Results) -> Html:
    """Subjects and cases of each role."""
    if results.splits is None:
        return paragraph("The data have not been split yet.")
    splits = results.splits
    labelled = {case.subject for case in results.cases if case.label is not None}
    pool = splits.subjects("pool")
    groups = [
        ("pool, labelled", [s for s in pool if s in labelled]),
        ("pool, unlabelled", [s for s in pool if s not in labelled]),
        ("validation", splits.subjects("validation")),
        ("test", splits.subjects("test")),
    ]
    rows: list[list[object]] = [
        [role, len(subjects), len(splits.cases_of(subjects))] for role, subjects in groups
    ]
    used = [(n, len(splits.validation(n, 0))) for n in results.study.labelled]
    words = prose.listed(f"{count} with {n} labelled" for n, count in used)
    caption = (
        "Subjects and cases of each role. Pretraining sees the images of the whole pool. "
        f"Validation subjects used: {words}."
    )
    return table(caption, ["role", "subjects", "cases"], rows, "tnn")


def excluded(results: Results, names: Names) -> Html:
    """Inputs that were quarantined or skipped, grouped by finding."""
    if not results.ingest:
        return paragraph("Ingest has not been run.")
    gone = [item for item in results.ingest["cases"] if item["status"] != "accepted"]
    remedy = "look at the image; exclude the case or mend its file"
    for case, reason in results.unprepared.items():
        finding = {"code": "not_prepared", "severity": "error", "message": reason, "remedy": remedy}
        gone.append({"case": case, "status": "quarantined", "findings": [finding]})
    if not gone:
        return paragraph("Every input was accepted.")
    return _findings(gone, names, "Inputs that are not part of the study, by finding.", ("error",))


def remarks(results: Results, names: Names) -> Html:
    """Findings of cases that were accepted all the same."""
    kept = [item for item in results.ingest.get("cases", []) if item["status"] == "accepted"]
    caption = "Findings of cases that are part of the study."
    return _findings(kept, names, caption, ("error", "warning", "info"))


def _findings(
    items: Sequence[dict[str, Any]], names: Names, caption: str, severities: Sequence[str]
) -> Html:
    """One row per code: how often, where, the first message, and what to do."""
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for item in items:
        findings = [f for f in item["findings"] if f["severity"] in severities]
        for finding in findings or ([] if item["status"] == "accepted" else item["findings"]):
            groups.setdefault(finding["code"], []).append((item["case"], finding))
        if not item["findings"] and item["status"] != "accepted":
            nothing = {"message": "no finding recorded", "remedy": "see ingest.json"}
            groups.setdefault(item["status"], []).append((item["case"], nothing))
    rows: list[list[object]] = []
    for code, found in groups.items():
        cases = list(dict.fromkeys(case for case, _ in found))
        parts = [tag("span", names.case(c), class_="name") for c in cases[:SHOWN_NAMES]]
        shown = join(parts, ", ")
        if len(cases) > SHOWN_NAMES:
            shown = join([shown, f"and {len(cases) - SHOWN_NAMES} more"], " ")
        first = found[0][1]
        message, remedy = (ticked(names.scrub(first[key])) for key in ("message", "remedy"))
        rows.append([tag("code", code), message, remedy, shown, len(cases)])
    head = ["finding", "what was found (first case)", "what to do", "cases", "number"]
    return table(caption, head, rows, "twwtn")


def plan_table(results: Results) -> Html:
    rows = prose.plan_words(results.plan)
    if not rows:
        return paragraph("There is no plan yet.")
    fingerprint = results.plan.get("fingerprint", {})
    caption = "Choices every arm shares, derived from images of pool subjects unless given."
    if fingerprint.get("shape_median") and fingerprint.get("spacing_median"):
        shape = prose.triple(fingerprint["shape_median"])
        spacing = prose.triple(fingerprint["spacing_median"])
        caption += f" Median volume: {shape} voxels of {spacing} mm."
    return table(caption, ["choice", "value", ""], rows, "ttt")


def pretraining(results: Results, losses: Sequence[Picture], names: Names) -> Html:
    """Curves, what pretraining says about itself, and what fine-tuning took over."""
    shown = [figure(item.svg, item.caption, kind="panel") for item in losses]
    caption = "Loss of each pretraining (thin: block means of the log; thick: running mean)."
    rows: list[list[object]] = []
    for item in results.pretrainings:
        phases = phases_of(item)
        levels = ([phase.loss for phase in phases], [phase.chance for phase in phases])
        words = names.scrub(prose.diagnosis_words(item.status, item.reason, item.summary))
        ends = item.summary.get("final") or {}
        numbers = [" / ".join(map(_number, own)) for own in levels]
        numbers += [_number(ends.get(key)) for key in DIAGNOSTICS]
        rows.append([item.arm, str(item.seed), words, *numbers])
    return section(
        "Pretraining",
        figure(panels(shown), caption, kind="group") if shown else "",
        table(
            "Diagnosis of each pretraining, its last loss beside the loss of a guess (phase 1 / "
            "phase 2 where there are several), and what its last embeddings were like.",
            ["arm", "seed", "diagnosis", "loss", "chance", *DIAGNOSTICS.values()],
            rows,
            "ttw" + "n" * (2 + len(DIAGNOSTICS)),
        ),
        taken_over(results, names),
        anchor="pretraining",
    )


def _number(value: float | None) -> str:
    return prose.NONE if value is None else f"{value:.3g}".replace("-", "−")


def taken_over(results: Results, names: Names) -> Html:
    """What the networks took over of the weights they start from, also given ones."""
    rows: list[list[object]] = []
    for arm in results.study.arms:
        origin = origin_of(results.study, arm)
        if origin is None:
            continue
        groups = {arm: results.runs, f"{arm}, all labels": results.bound}
        for name, runs in groups.items():
            own = [run for run in runs if run.arm == arm]
            found = [
                run.summary["transfer"]
                for run in own
                if run.status == OK and run.summary.get("transfer")
            ]
            if own:
                source = (
                    "given" if results.study.arms[origin].weights else f"pretrained by {origin}"
                )
                rows.append([name, source, names.scrub(prose.transfer_words(found))])
    caption = "What fine-tuning took over of the weights it starts from."
    return table(caption, ["arm", "weights", "taken"], rows, "ttw")


def protocol(results: Results) -> Html:
    paragraphs = [
        tag("p", tag("strong", f"{title}. "), text)
        for title, text in methods.protocol(results).items()
    ]
    return section("Protocol", tag("div", *paragraphs, class_="protocol"), anchor="protocol")


def unfinished(results: Results, names: Names) -> Html:
    """Runs that failed or are missing, and those that were resumed in another way."""
    rows: list[list[object]] = [
        [
            "pretraining",
            item.name,
            item.status,
            names.scrub(item.reason or ""),
        ]
        for item in results.pretrainings
        if item.status != OK
    ]
    rows += [
        ["fine-tuning", run.name, run.status, ticked(names.scrub(run.reason or ""))]
        for run in [*results.runs, *results.bound]
        if run.status != OK
    ]
    rows += [
        ["learning rate", arm, tuned["status"], ticked(names.scrub(str(tuned.get("reason") or "")))]
        for arm, tuned in results.tuned.items()
        if tuned.get("status") != OK
    ]
    marks = [
        f"{item.name} was resumed: {names.scrub(str(mark))}"
        for item in results.pretrainings
        for mark in item.summary.get("resumed") or ()
    ]
    runs = [*results.runs, *results.bound]
    marks += [
        f"{run.name} was resumed: {names.scrub(str(mark))}"
        for run in runs
        for mark in run.summary.get("resumed") or ()
    ]
    marks += [
        f"{run.name}: no prediction of {names.case(case)}: {names.scrub(reason)}"
        for run in runs
        for case, reason in run.left_out.items()
    ]
    caption = "A replicate that is missing here is missing in every comparison it belongs to."
    shown = table(caption, ["stage", "run", "status", "reason"], rows, "tttw")
    return section("Runs that did not finish", shown, bullets(marks), anchor="unfinished")


def cost(results: Results) -> Html:
    return section("Cost", report_tables.cost(results).html(), anchor="cost")


def provenance(command: str | None, *, hashed: bool) -> Html:
    """How to make this again: command and versions."""
    rows = [["python", platform.python_version()], *([name, version(name)] for name in PACKAGES)]
    hidden = (
        "Case and subject names are hashed here; identifiers.csv beside this report says which is "
        "which and is not meant for sharing. `report.identifiers: keep` shows the names."
    )
    return section(
        "Made with",
        tag("pre", tag("code", command)) if command else paragraph("The command was not recorded."),
        table("Versions.", ["package", "version"], rows, "tt"),
        paragraph(ticked(hidden)) if hashed else "",
        anchor="made-with",
    )


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
