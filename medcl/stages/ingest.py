"""Read the sources of a dataset: accept, quarantine or skip every input, by name and reason."""

from __future__ import annotations

import argparse
import base64
import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medcl.config import Dataset, Dicom, load_section
from medcl.data.case_table import MODALITIES
from medcl.data.cases import write_cases
from medcl.data.channel_lists import Channels
from medcl.data.combined import check_alike, images_of, joining, list_dataset
from medcl.data.contract import Outcome, Rules, wrong
from medcl.data.entries import Entry, listed
from medcl.data.header_pass import check_headers
from medcl.data.thumbnails import SIDE, write_thumbnails
from medcl.data.undescribed import list_undescribed
from medcl.data.voxel_pass import check_voxels
from medcl.errors import MedclError
from medcl.files import write_json, write_text

FORMAT = 1
SHOWN = 50  # rows of a printed table; the files hold all of them
COLUMNS = ("case", "subject", "modality", "shape", "spacing", "axes", "values", "label values")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--settings", help="dataset: YAML file or text")
    what.add_argument("--source", type=Path, help="folder or file, its layout is guessed")
    parser.add_argument(
        "--pretrain-on",
        action="append",
        default=[],
        metavar="SETTINGS",
        help="another dataset, whose images join the unlabelled pool: YAML file or text",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of cases.csv, ingest.json")
    parser.add_argument(
        "--check-only",
        nargs="?",
        const="all",
        choices=("all", "headers"),
        help="judge every input and convert none: write ingest.json and checks.csv, a row for "
        "each case; headers: in one pass over the headers alone, thousands a second",
    )
    parser.add_argument(
        "--modality", choices=MODALITIES, help="with --source: of files that do not say it"
    )
    parser.add_argument(
        "--keep-identifiers", action="store_true", help="record names and dates of DICOM series"
    )
    parser.add_argument(
        "--state",
        type=Path,
        help="file in which the checks of voxels are kept case by case, so that a run that was "
        "killed goes on, and a later one reads only what is new; OUT/state/voxels.jsonl if absent. "
        "Those of another dataset lie beside it, with its name: voxels.NAME.jsonl",
    )
    parser.add_argument("--threads", type=int, default=1, help="processes")


def run(args: argparse.Namespace) -> None:
    listed, sources = _listed(args)
    state = args.state or args.out / "state" / "voxels.jsonl"
    outcomes: list[Outcome] = []
    for number, (entries, rules) in enumerate(listed):
        mark = f".{entries[0].dataset}" if number else ""  # a state of its own for each
        own = state.with_name(f"{state.stem}{mark}{state.suffix}")
        outcomes += _judged(entries, rules, args, own)
    first = listed[0][0][0].dataset
    check_alike(first, [outcome.case for outcome in outcomes if outcome.case])
    written = _write(args.out, outcomes, args.check_only)
    if args.settings is None or args.check_only:
        _print_table(outcomes)
    _print_summary(outcomes, sources)
    accepted = any(outcome.status == "accepted" for outcome in outcomes)
    if args.settings is not None and accepted and not _labelled(outcomes):
        print(
            "warning: no accepted case has a label, so the dataset is of use to `pretrain_on` "
            "alone; labels are found by `labels` of a source, by its folder of labels, or by a "
            "column `label`"
        )
    print(f"wrote {', '.join(str(args.out / name) for name in written)}", flush=True)
    if not accepted:
        codes = Counter(f.code for o in outcomes for f in o.findings if f.severity == "error")
        reasons = ", ".join(f"{code} ({n})" for code, n in codes.most_common()) or "all skipped"
        raise MedclError(
            f"{args.out / 'ingest.json'}: none of {len(outcomes)} inputs can be used: {reasons}; "
            "mend the inputs named above"
        )


def _listed(args: argparse.Namespace) -> tuple[list[tuple[list[Entry], Rules]], int]:
    """The entries of each dataset with its rules, and the number of sources."""
    volumes = None if args.check_only else args.out / "volumes"
    if args.settings is None:
        if args.pretrain_on:
            raise MedclError("--pretrain-on: goes with --settings")
        dicom = Dicom(keep_identifiers=args.keep_identifiers)
        guessed, entries = list_undescribed(args.source, dicom, tell=partial(print, flush=True))
        rules = Rules(volumes, args.modality or "other", dicom=dicom)
        for source in guessed:
            keys = {"images": source.images, "labels": source.labels}
            shown = ", ".join(f"{key} {value}" for key, value in keys.items() if value)
            more = f": {shown}" if shown else ""
            print(f"{args.source}: read as layout {source.layout}{more}", flush=True)
        return [(entries, rules)], len(guessed)
    if args.modality is not None:
        raise MedclError("--modality: goes with --source; with --settings it is a key there")
    datasets = [load_section(Dataset, text) for text in (args.settings, *args.pretrain_on)]
    keep = {"keep_identifiers": True} if args.keep_identifiers else {}
    dicoms = [dataset.dicom.model_copy(update=keep) for dataset in datasets]
    first, *others = zip(datasets, dicoms, strict=True)
    found = [list_dataset(*first)]
    found += [images_of(dataset, dicom, Channels.of(dataset)) for dataset, dicom in others]
    every = [entry for entries in found for entry in entries]
    listed = [(found[0], Rules.of(first[0], volumes, first[1]))]
    for (dataset, dicom), images in zip(others, found[1:], strict=True):
        rules = replace(Rules.of(dataset, volumes, dicom), labels_required=False)
        listed.append((joining(dataset, images, every), rules))
    return listed, sum(len(dataset.sources) for dataset in datasets)


def _judged(
    entries: Sequence[Entry], rules: Rules, args: argparse.Namespace, state: Path
) -> list[Outcome]:
    """What becomes of the entries of one dataset."""
    entries = check_headers(entries, rules, args.threads)
    if args.check_only == "headers":
        return [_by_header(entry) for entry in entries]
    return check_voxels(entries, rules, args.threads, state)


def _by_header(entry: Entry) -> Outcome:
    """What becomes of an entry as far as its headers tell."""
    status = "quarantined" if wrong(entry.findings) else "accepted"
    return Outcome(entry, "skipped" if entry.skipped else status, entry.findings)


def _write(out: Path, outcomes: Sequence[Outcome], check_only: str | None) -> list[str]:
    """Write the outputs; return their names."""
    counts = {status: 0 for status in ("accepted", "quarantined", "skipped")}
    counts |= Counter(outcome.status for outcome in outcomes)
    counts["labelled"] = _labelled(outcomes)
    counts["unlabelled"] = counts["accepted"] - counts["labelled"]
    records = [outcome.record() for outcome in outcomes]
    content = {"format": FORMAT, "counts": counts, "cases": records}
    if check_only:
        write_json(out / "ingest.json", {**content, "checked": check_only})
        write_text(out / "checks.csv", _as_csv(_rows(outcomes)))
        return ["checks.csv", "ingest.json"]
    cases = [outcome.case for outcome in outcomes if outcome.case]
    if cases:
        write_cases(out / "cases.csv", cases)
        shape = (SIDE, SIDE, SIDE)
        thumbnails = (
            (o.entry.case, np.frombuffer(base64.b64decode(o.thumbnail), np.int8).reshape(shape))
            for o in outcomes
            if o.thumbnail is not None
        )
        write_thumbnails(out / "thumbnails.npy", thumbnails)
    else:
        for name in ("cases.csv", "thumbnails.npy"):  # of an earlier run: they would pass for new
            (out / name).unlink(missing_ok=True)
    write_json(out / "ingest.json", content)
    return ["cases.csv", "thumbnails.npy", "ingest.json"] if cases else ["ingest.json"]


def _labelled(outcomes: Sequence[Outcome]) -> int:
    return sum(o.status == "accepted" and o.entry.label is not None for o in outcomes)


def _rows(outcomes: Sequence[Outcome]) -> Iterable[dict[str, str]]:
    """What is known of every input that was not skipped."""
    for outcome in outcomes:
        if outcome.status == "skipped":
            continue
        row = dict.fromkeys(COLUMNS, "") | {"case": outcome.entry.case, "status": outcome.status}
        row["codes"] = " ".join(dict.fromkeys(finding.code for finding in outcome.findings))
        row["subject"] = outcome.entry.subject or outcome.entry.case
        row["modality"] = outcome.entry.modality or ""
        case, grid = outcome.case, outcome.entry.grid
        if case:  # that of a mended series is known only now
            grid = (case.shape, case.spacing, case.orientation)
            row["label values"] = " ".join(map(str, outcome.values)) if case.label else "-"
        if grid:
            row["shape"] = "x".join(map(str, grid[0]))
            row["spacing"] = "x".join(f"{mm:.3g}" for mm in grid[1])
            row["axes"] = grid[2]
        if outcome.range:
            row["values"] = "{:g}..{:g}".format(*outcome.range)
        yield row


def _as_csv(rows: Iterable[dict[str, str]]) -> str:
    text = io.StringIO()
    names = ["case", "status", *COLUMNS[1:], "codes"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print_table(outcomes: Sequence[Outcome]) -> None:
    accepted = (row for row in _rows(outcomes) if row["status"] == "accepted")
    rows = [COLUMNS, *(tuple(row[name] for name in COLUMNS) for row in accepted)]
    shown = rows[: SHOWN + 1]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    if len(rows) > len(shown):
        print(f"and {len(rows) - len(shown)} more")


def _print_summary(outcomes: Sequence[Outcome], sources: int) -> None:
    counts = Counter(outcome.status for outcome in outcomes)
    labelled = _labelled(outcomes)
    print(
        f"read {len(outcomes)} inputs of {sources} source{'s' * (sources > 1)}: "
        f"{counts['accepted']} accepted ({labelled} labelled, "
        f"{counts['accepted'] - labelled} unlabelled), "
        f"{counts['quarantined']} quarantined, {counts['skipped']} skipped"
    )
    for severity in ("error", "warning"):
        told: dict[tuple[str, str], list[str]] = {}  # what is said of many cases is said once
        for outcome in outcomes:
            for finding in (f for f in outcome.findings if f.severity == severity):
                told.setdefault((finding.code, str(finding)), []).append(outcome.entry.case)
        for (code, text), cases in list(told.items())[:SHOWN]:
            print(f"{severity}: {listed(cases)}: {code}: {text}")
        if len(told) > SHOWN:
            print(f"and {len(told) - SHOWN} more {severity}s in ingest.json")
    skipped = Counter(f.code for o in outcomes if o.status == "skipped" for f in o.findings)
    for code, number in sorted(skipped.items()):
        print(f"skipped: {number} {code}")
