"""Deal the patients to folds, and audit for leakage."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcl.config import Folds, load_section
from medcl.errors import MedclError
from medcl.files import read_json, write_json
from medcl.slides.patients import without_class
from medcl.slides.table import Slide, deal, labels_of, read_slides, write_folds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="`folds` section: YAML text or file")
    parser.add_argument("--classes", required=True, nargs="+", help="classes of the dataset")
    parser.add_argument("--slides", required=True, help="slides.csv of slides-ingest")
    parser.add_argument("--findings", required=True, help="ingest.json of slides-ingest")
    parser.add_argument("--out", required=True, help="folder of folds.csv and audit.json")


def run(args: argparse.Namespace) -> None:
    """Write audit.json, then folds.csv; one picture in two folds stops before it.

    The class of a patient is that of all slides in the user's table. Patients whose slides of it
    are all lost are left out.
    """
    settings, out = load_section(Folds, args.settings), Path(args.out)
    usable, listed = read_slides(args.slides), read_json(args.findings)["slides"]
    whole = [Slide(item["case"], "", item["subject"], item["label"]) for item in listed]
    label_of = labels_of(whole, args.classes)
    lost = without_class(label_of, usable)
    slides = [one for one in usable if one.patient not in lost]
    fold_of = deal(slides, args.classes, settings)
    # Two levels of one DICOM series are two files, and one slide.
    digests = {item["case"]: item.get("quickhash") or item["sha256"] for item in listed}
    duplicates = twice(
        {one.slide: (digests[one.slide], one.patient, fold_of[one.patient]) for one in slides}
    )
    leaking = [found for found in duplicates if len(set(found["folds"])) > 1]
    audit = {
        "folds": settings.count,
        "by": settings.by,
        "patients": len(fold_of),
        "by_fold": [
            Counter(label_of[p] or "no label" for p, f in fold_of.items() if f == fold)
            for fold in range(settings.count)
        ],
        "duplicates": duplicates,
        "sites": sites_of(slides, fold_of),
        "mixed": mixed([one for one in whole if one.patient in fold_of]),
        "lost": {patient: label_of[patient] for patient in lost},
    }
    write_json(out / "audit.json", audit)
    if leaking:
        write_json(out / "audit.stopped.json", audit)
        first = leaking[0]
        raise MedclError(
            f"leakage: the same picture is slide {' and '.join(first['slides'])} of patients "
            f"{' and '.join(first['patients'])}, in folds {first['folds']}; remove all but one, "
            f"or name one patient (written to {out / 'audit.stopped.json'})"
        )
    (out / "audit.stopped.json").unlink(missing_ok=True)
    write_folds(out / "folds.csv", slides, fold_of)
    for patient in lost:
        print(f"  left out {patient}: every slide of its class '{label_of[patient]}' is lost")
    print(
        f"slides-split: {len(slides)} slides of {len(fold_of)} patients in {settings.count} folds"
    )


def sites_of(slides: Sequence[Slide], fold_of: Mapping[str, int]) -> dict[str, list[int]]:
    """The folds in which each site has patients."""
    found: dict[str, set[int]] = {}
    for one in slides:
        if one.site:
            found.setdefault(one.site, set()).add(fold_of[one.patient])
    return {site: sorted(folds) for site, folds in found.items()}


def mixed(slides: Sequence[Slide]) -> list[str]:
    """Patients with slides of several classes."""
    found: dict[str, set[str]] = {}
    for one in slides:
        found.setdefault(one.patient, set()).update({one.label} - {""})
    return sorted(patient for patient, labels in found.items() if len(labels) > 1)


def twice(known: dict[str, tuple[str, str, int]]) -> list[dict[str, Any]]:
    """Slides that are one picture: (hash, patient, fold) of each slide."""
    by_digest: dict[str, list[str]] = {}
    for slide, (digest, _, _) in known.items():
        by_digest.setdefault(digest, []).append(slide)
    return [
        {
            "slides": names,
            "patients": [known[name][1] for name in names],
            "folds": [known[name][2] for name in names],
        }
        for names in by_digest.values()
        if len(names) > 1
    ]
