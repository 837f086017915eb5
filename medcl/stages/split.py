"""Assign each subject a role, order the labelled ones, and audit for leakage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int8

from medcl.config import Split, load_section
from medcl.data.audit import audit
from medcl.data.cases import Case, read_cases
from medcl.data.splits import ORDERS, ROLES, Splits, assign, write_splits
from medcl.data.thumbnails import read_thumbnails
from medcl.errors import MedclError
from medcl.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="`split` section: YAML text or file")
    parser.add_argument("--cases", required=True, help="cases.csv")
    parser.add_argument(
        "--thumbnails", help="thumbnails.npy of ingest; without it no near duplicates are found"
    )
    parser.add_argument("--out", required=True, help="folder of splits.csv and audit.json")
    parser.add_argument(
        "--subjects",
        choices=["known", "unknown"],
        default="known",
        help="unknown: the data name no subjects, and each case is treated as one",
    )


def run(args: argparse.Namespace) -> None:
    """Write audit.json, then splits.csv, unless the audit stops the run."""
    split = load_section(Split, args.settings)
    cases = read_cases(args.cases)
    out = Path(args.out)
    splits = assign(cases, split)
    thumbnails = _thumbnails(args.thumbnails, cases) if args.thumbnails else None
    unknown = args.subjects == "unknown"
    audited = audit(cases, splits, split, thumbnails=thumbnails, unknown_subjects=unknown)
    write_json(out / "audit.json", audited)
    if audited["stopped"]:
        (out / "splits.csv").unlink(missing_ok=True)  # of an earlier run
        # A workflow removes the outputs of a rule that failed; this is none of them.
        write_json(out / "audit.stopped.json", audited)
        raise MedclError(f"{audited['reason']}\n(written to {out / 'audit.stopped.json'})")
    (out / "audit.stopped.json").unlink(missing_ok=True)
    write_splits(out / "splits.csv", splits)
    _say(cases, splits, audited, out)


def _thumbnails(path: str, cases: Sequence[Case]) -> dict[str, Int8[np.ndarray, "16 16 16"]]:
    thumbnails = read_thumbnails(path)
    if absent := [case.case for case in cases if case.case not in thumbnails]:
        raise MedclError(f"{path}: holds no case '{absent[0]}'; run `medcl ingest` again")
    return thumbnails


def _say(cases: Sequence[Case], splits: Splits, audited: dict, out: Path) -> None:
    labelled = {case.subject for case in cases if case.label is not None}
    print(f"split: {len(cases)} cases of {len(set(splits.subject_of.values()))} subjects")
    for role in ROLES:
        subjects = splits.subjects(role)
        count = len(labelled.intersection(subjects))
        print(
            f"  {role}: {len(subjects)} subjects, {count} of them labelled, "
            f"{len(splits.cases(role))} cases"
        )
    for found in audited["duplicates"]:
        roles = " and ".join(found["roles"])
        waived = ", waived" if len(found["roles"]) > 1 else ""
        print(f"  the same voxels ({roles}{waived}): {', '.join(found['cases'])}")
    for found in audited["near_duplicates"] or ():
        roles = " and ".join(found["roles"])
        waived = ", waived" if len(found["roles"]) > 1 else ""
        mirrored = ", mirrored" if found["mirrored"] else ""
        print(f"  nearly the same image ({roles}{mirrored}{waived}): {', '.join(found['cases'])}")
    for found in audited["warnings"]:
        print(f"  one label map for different images across roles: {', '.join(found['cases'])}")
    for found in audited["same_names"]:
        ours, theirs = found["subjects"]
        print(
            f"  {theirs} is pretrained on and has the name of the {found['roles'][0]} subject "
            f"{ours}: make sure that they are two people"
        )
    if audited["unknown_subjects"]:
        print("  subjects are unknown: each case counts as one, and leakage cannot be excluded")
    print(f"wrote {out / 'splits.csv'} ({ORDERS} orders) and {out / 'audit.json'}", flush=True)
