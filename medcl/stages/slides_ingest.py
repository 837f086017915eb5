"""Examine every slide: its file, its scale, its tissue. One bad slide stops nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medcl.config import SlideDataset, load_section
from medcl.data.checks import Finding
from medcl.errors import MedclError
from medcl.files import write_json
from medcl.slides.examine import examine, write_examination
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
        findings = [*found.findings, *_truth(one)]
        write_examination(out / "slides" / one.slide, found)
        status = next((f.code for f in findings if f.severity == "error"), "ok")
        listed.append(
            {
                "case": one.slide,
                "subject": one.patient,
                "label": one.label,
                "site": one.site,
                "status": status,
                "microns_per_pixel": found.meta.get("microns_per_pixel"),
                "sha256": found.meta.get("sha256"),
                "quickhash": found.meta.get("quickhash"),
                "tissue_share": None if found.tissue is None else found.tissue.share,
                "findings": [finding.to_dict() for finding in findings],
            }
        )
        if status == "ok":
            kept.append(one)
        else:
            said = next(f for f in findings if f.severity == "error")
            print(f"  {one.slide}: {status}: {said}", flush=True)
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


def _truth(slide: Slide) -> list[Finding]:
    if slide.truth is None or Path(slide.truth).is_file():
        return []
    return [
        Finding(
            "missing_truth",
            "warning",
            f"{slide.truth}: no such file; tiles of this slide are not compared with a truth",
            "mend the column `truth`",
        )
    ]
