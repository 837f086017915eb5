"""The report: one HTML file that needs nothing else, its figures and tables, comparison.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from medcl.files import replacing, write_text
from medcl.study import (
    ensembles,
    metric_tables,
    report_figures,
    report_overlays,
    report_tables,
    sections_results,
    sections_study,
)
from medcl.study.comparison import Comparison, compare, compare_further, write_comparison
from medcl.study.names import Names
from medcl.study.page import document
from medcl.study.report_figures import Picture
from medcl.study.results import Results
from medcl.study.tables import Table, write_table


@dataclass(frozen=True)
class Report:
    """The page, and the pictures and tables in it as files."""

    html: str
    pictures: list[Picture]
    tables: list[Table]
    comparisons: list[Comparison]
    names: Names


def make_report(results: Results, *, command: str | None = None) -> Report:
    """Compare, draw and write; a study with failed or missing runs gives a report that says so."""
    comparisons, further = compare(results), compare_further(results)
    names = names_of(results)
    learning = [
        report_figures.learning_curves(results, comparisons),
        report_figures.gains(results, comparisons),
        report_figures.costs(results, comparisons),
    ]
    others = [arm for arm in results.study.arms if arm != results.control]
    dots = {arm: report_figures.case_dots(results, arm) for arm in others}
    forests = report_figures.class_forests(results)
    losses = report_figures.pretraining_losses(results)
    overlays = report_overlays.case_overlays(results, comparisons, names)
    sections = [
        sections_results.answer(results, comparisons),
        sections_results.curves(results, learning, dots),
        sections_results.classes(results, forests),
        sections_results.pictures(overlays),
        sections_results.secondary(
            results, comparisons, sections_results.further_controls(results, further)
        ),
        sections_study.data(results, names),
        sections_study.pretraining(results, losses, names),
        sections_study.protocol(results),
        sections_study.unfinished(results, names),
        sections_study.cost(results),
        sections_study.provenance(command, hashed=names.hashed),
    ]
    pictures = [item for item in learning if item] + forests
    pictures += [item for panel in dots.values() for item in panel] + losses
    pictures += [item for _, group in overlays.groups for item in group] if overlays else []
    tables = tables_of(results, comparisons, further)
    title = results.study.report.title or f"{results.study.study}: medcl report"
    html = document(title, sections_results.head(results, names), sections)
    return Report(html, pictures, tables, comparisons, names)


def tables_of(
    results: Results, comparisons: list[Comparison], further: list[Comparison]
) -> list[Table]:
    """Every table with numbers of the study; those without a row are left out."""
    tables = [
        report_tables.answer(results, comparisons),
        report_tables.further(results, further),
        report_tables.variance(results, comparisons),
        report_tables.cost(results),
        metric_tables.classes(results),
        metric_tables.metrics(results),
        metric_tables.per_class(results),
        ensembles.table(results),
    ]
    if results.control:
        tables.append(metric_tables.class_differences(results))
        tables.append(metric_tables.metric_differences(results))
    return [item for item in tables if item.rows]


def names_of(results: Results) -> Names:
    """Names of every input, accepted or not."""
    found = results.ingest.get("cases", [])
    cases = {case.case for case in results.cases} | {item["case"] for item in found}
    subjects = {case.subject for case in results.cases}
    subjects |= {item["subject"] for item in found if item.get("subject")}
    hashed = results.study.report.identifiers == "hashed"
    return Names(sorted(cases), sorted(subjects), hashed=hashed, salt=results.study.study)


def write_report(report: Report, results: Results, out: str | Path) -> list[Path]:
    """Write report.html, comparison.csv, figures/ (SVG, PNG), tables/ (CSV, LaTeX) and, where
    names are hashed, identifiers.csv.

    Returns the files in that order.
    """
    out = Path(out)
    figures, tables = out / "figures", out / "tables"
    for folder, kinds in ((figures, ("svg", "png")), (tables, ("csv", "tex"))):
        folder.mkdir(parents=True, exist_ok=True)
        for old in [file for kind in kinds for file in folder.glob(f"*.{kind}")]:
            old.unlink()
    files = [out / "report.html", out / "comparison.csv"]
    write_comparison(files[1], report.comparisons, results)
    for item in report.pictures:
        files += [figures / f"{item.name}.svg", figures / f"{item.name}.png"]
        write_text(files[-2], item.svg)
        with replacing(files[-1]) as partial:
            partial.write_bytes(item.png())
    for table in report.tables:
        files += write_table(tables, table)
    if report.names.hashed:
        files.append(out / "identifiers.csv")
        _write_names(files[-1], report.names)
    write_text(files[0], report.html)
    return files


def _write_names(path: Path, names: Names) -> None:
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kind", "name", "shown"])
        for kind, table in (("case", names.cases), ("subject", names.subjects)):
            writer.writerows([kind, name, shown] for name, shown in table.items())
