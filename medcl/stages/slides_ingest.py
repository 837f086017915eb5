"""Examine every slide: its file, its scale, its tissue. One bad slide stops nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcl.config import SlideDataset, load_section
from medcl.data.checks import Finding
from medcl.errors import MedclError
from medcl.files import sha256_of_file, write_json
from medcl.slides.examine import Examination, examine, write_examination
from medcl.slides.given import TruthError, labels_in, missing_truth, read_truth, without_value
from medcl.slides.table import Slide, read_table, write_slides
from medcl.slides.tissue import TissueSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", required=True, help="dataset: YAML text or file")
    parser.add_argument("--out", required=True, help="folder of slides.csv, ingest.json, pictures")


def run(args: argparse.Namespace) -> None:
    """Write slides.csv with the usable slides, and ingest.json with the status of every one.

    Raises MedclError for a table with problems, and where no slide is usable.
    """
    dataset = load_section(SlideDataset, args.settings)
    settings = TissueSettings(**dataset.tissue.model_dump())
    out, slides = Path(args.out), read_table(dataset)
    listed: list[dict[str, Any]] = []
    kept: list[Slide] = []
    for number, one in enumerate(slides, start=1):
        found = examine(
            one.slide,
            one.path,
            settings,
            microns_per_pixel=one.microns_per_pixel,
            mask=one.mask,
        )
        write_examination(out / "slides" / one.slide, found)
        labels, remarks = _truth(one, found, dataset)
        listed.append(_entry(one, found, labels, remarks))
        if found.status == "ok":
            kept.append(one)
        else:
            said = next(f for f in found.findings if f.severity == "error")
            print(f"  {one.slide}: {found.status}: {said}", flush=True)
        if labels is not None and (absent := without_value(labels, dataset.truth)):
            remarks = [absent]  # not kept: another `truth` in the dataset mends it
        for remark in remarks:
            print(f"  {one.slide}: {remark.code}: {remark}", flush=True)
        if number % 50 == 0:
            print(f"slides-ingest: {number} of {len(slides)} slides", flush=True)
    write_json(out / "ingest.json", {"slides": listed})
    if not kept:
        # A workflow removes the outputs of a rule that failed; this is none of them.
        write_json(out / "ingest.failed.json", {"slides": listed})
        raise MedclError(
            f"none of {len(slides)} slides is usable; see {out / 'ingest.failed.json'}"
        )
    write_slides(out / "slides.csv", kept)
    print(f"slides-ingest: {len(kept)} of {len(slides)} slides are usable; wrote {out}", flush=True)


def _entry(
    slide: Slide, found: Examination, labels: list[int] | None, remarks: Sequence[Finding]
) -> dict[str, Any]:
    """What ingest.json says of a slide: all that later stages read, so that they see a change."""
    return {
        "case": slide.slide,
        "subject": slide.patient,
        "label": slide.label,
        "site": slide.site,
        "status": found.status,
        "microns_per_pixel": found.meta.get("microns_per_pixel"),
        "sha256": found.meta.get("sha256"),
        "quickhash": found.meta.get("quickhash"),
        "tissue_share": None if found.tissue is None else found.tissue.share,
        "mask_sha256": None if found.mask is None else found.mask.sha256,
        "truth_labels": labels,
        "truth_sha256": None if labels is None or not slide.truth else sha256_of_file(slide.truth),
        "findings": [finding.to_dict() for finding in (*found.findings, *remarks)],
    }


def _truth(
    slide: Slide, found: Examination, dataset: SlideDataset
) -> tuple[list[int] | None, list[Finding]]:
    """The labels in the truth of a slide, where its tiles are compared with it, and remarks."""
    if slide.truth is None:
        return None, []
    if found.status != "ok" or slide.label != dataset.classes[-1]:
        missing = missing_truth(slide.truth)
        return None, [missing] if missing else []
    width, height = found.meta["sizes"][0]
    try:
        return labels_in(read_truth(slide.truth, (width, height))), []
    except TruthError as error:
        return None, [error.finding]
