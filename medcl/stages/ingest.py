"""Read the sources of a dataset: accept, quarantine or skip every input, by name and reason."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medcl.config import Dataset, Dicom, load_section
from medcl.data.annotations import Drawing
from medcl.data.cases import Case, write_cases
from medcl.data.channels import assemble, content_sha256, exists, file_of, read_channel
from medcl.data.checks import (
    Finding,
    check_image,
    check_nifti_header,
    missing_file,
    voxel_sha256,
)
from medcl.data.combined import check_alike, joining, list_dataset
from medcl.data.dicom import DEFAULT, Series, read_series
from medcl.data.entries import ChannelFile, Entry
from medcl.data.labels import LabelRules, read_label
from medcl.data.parallel import Progress, in_processes
from medcl.data.series import SKIPPED
from medcl.data.sources import MODALITIES, guess_sources, list_entries
from medcl.data.structures import Naming
from medcl.data.volume import Volume, VolumeError, read_volume, write_nifti
from medcl.errors import MedclError
from medcl.files import read_json, sha256_of_file, write_json

FORMAT = 1
Image = tuple[str, Volume, Series | None]  # the file it is kept in, its voxels and DICOM series
SHOWN = 50  # rows of a printed table; the files hold all of them


@dataclass(frozen=True)
class Rules:
    """What a case is judged by, and where converted files go.

    `channels` maps a channel to its modality.
    """

    volumes: Path
    modality: str = "other"
    label_rules: LabelRules = field(default_factory=LabelRules)
    labels_required: bool = False
    dicom: Dicom = DEFAULT
    channels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset, volumes: Path) -> Rules:
        naming = Naming(dict(dataset.classes), dataset.structures, dataset.ignored_structures)
        drawing = Drawing(dataset.fraction, resample=dataset.label_grid == "any")
        required = dataset.labels == "required"
        rules = LabelRules(naming, drawing)
        channels = {name: dataset.modality_of(name) for name in dataset.channel_names}
        return cls(volumes, dataset.modality, rules, required, dataset.dicom, channels)


@dataclass(frozen=True)
class Outcome:
    """What became of one entry; `case` only where it was accepted."""

    entry: Entry
    status: str
    findings: tuple[Finding, ...]
    case: Case | None = None
    values: tuple[int, ...] = ()

    def record(self) -> dict[str, Any]:
        subject = self.case.subject if self.case else _subject(self.entry)
        return {
            "dataset": self.entry.dataset,
            "case": self.entry.case,
            "subject": subject,
            "status": self.status,
            "findings": [finding.to_dict() for finding in self.findings],
            "image": self.case.image if self.case else self.entry.image,
            "label": self.case.label if self.case else self.entry.label,
            "source": self.entry.source,
        }


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
        "--modality", choices=MODALITIES, help="with --source: of files that do not say it"
    )
    parser.add_argument(
        "--keep-identifiers", action="store_true", help="record names and dates of DICOM series"
    )
    parser.add_argument("--threads", type=int, default=1, help="processes")


def run(args: argparse.Namespace) -> None:
    listed, sources = _listed(args)
    outcomes = [
        outcome
        for entries, rules in listed
        for outcome in examine_all(entries, rules, args.threads)
    ]
    if outcomes:
        first = outcomes[0].entry.dataset
        check_alike(first, [outcome.case for outcome in outcomes if outcome.case])
    _write(args.out, outcomes)
    if args.settings is None:
        _print_table(outcomes)
    _print_summary(args.out, outcomes, sources)
    if not any(outcome.case for outcome in outcomes):
        codes = Counter(f.code for o in outcomes for f in o.findings if f.severity == "error")
        reasons = ", ".join(f"{code} ({n})" for code, n in codes.most_common()) or "all skipped"
        raise MedclError(
            f"{args.out / 'ingest.json'}: none of {len(outcomes)} inputs can be used: {reasons}; "
            "mend the inputs named above"
        )


def _listed(args: argparse.Namespace) -> tuple[list[tuple[list[Entry], Rules]], int]:
    """The entries of each dataset with its rules, and the number of sources."""
    volumes = args.out / "volumes"
    if args.settings is None:
        if args.pretrain_on:
            raise MedclError("--pretrain-on: goes with --settings")
        guessed = guess_sources(args.source)
        dicom = Dicom(keep_identifiers=args.keep_identifiers)
        rules = Rules(volumes, args.modality or "other", dicom=dicom)
        print(f"{args.source}: read as layout {guessed[0].layout}", flush=True)
        return [(list_entries(guessed, ".", dicom), rules)], len(guessed)
    if args.modality is not None:
        raise MedclError("--modality: goes with --source; with --settings it is a key there")
    datasets = [load_section(Dataset, text) for text in (args.settings, *args.pretrain_on)]
    listed: list[tuple[list[Entry], Rules]] = []
    for dataset in datasets:
        rules = Rules.of(dataset, volumes)
        if args.keep_identifiers:
            dicom = dataset.dicom.model_copy(update={"keep_identifiers": True})
            rules = replace(rules, dicom=dicom)
        if not listed:
            listed.append((list_dataset(dataset, rules.dicom), rules))
        else:
            rules = replace(rules, labels_required=False)
            listed.append((joining(dataset, rules.dicom), rules))
    return listed, sum(len(dataset.sources) for dataset in datasets)


def examine_all(entries: Sequence[Entry], rules: Rules, threads: int = 1) -> list[Outcome]:
    """Examine every entry, in processes; the outcomes stand in the order of the entries."""
    progress = Progress("ingest", len(entries))
    outcomes: list[Outcome | None] = [None] * len(entries)
    work = [(index, entry, rules) for index, entry in enumerate(entries)]
    for (index, entry, _), result in in_processes(_examine, work, threads):
        if isinstance(result, Exception):  # an oversight of ours stops no other case
            told = f"{entry.image}: {type(result).__name__}: {result}"
            finding = Finding("failed", "error", told, "report this, and exclude the case")
            result = Outcome(entry, "quarantined", (*entry.findings, finding))
        outcomes[index] = result
        progress.step()
    return [outcome for outcome in outcomes if outcome is not None]


def _examine(work: tuple[int, Entry, Rules]) -> Outcome:
    return examine(*work[1:])


def examine(entry: Entry, rules: Rules) -> Outcome:
    """Read, check and if need be convert one case; every file is opened once."""
    findings = list(entry.findings)
    if entry.skipped:
        return Outcome(entry, "skipped", tuple(findings))
    case: Case | None = None
    values: list[int] = []
    try:
        if not _wrong(findings):
            case, values = _accept(entry, rules, findings)
    except VolumeError as error:
        if error.code in SKIPPED:
            findings.append(replace(Finding.of(error), severity="info"))
            return Outcome(entry, "skipped", tuple(findings))
        findings.append(Finding.of(error))
    status = "accepted" if case else "quarantined"
    return Outcome(entry, status, tuple(findings), case, tuple(values))


def _accept(entry: Entry, rules: Rules, findings: list[Finding]) -> tuple[Case | None, list[int]]:
    """The row of a case and the values of its label; None where a finding speaks against it."""
    read, volume = _assembled(entry, rules, findings)
    if volume is None:
        return None, []
    path, _, series = read[entry.reference]
    modalities = [
        _modality(entry, name, of, rules, findings)
        for name, (_, _, of) in zip(entry.names or [""] * len(read), read, strict=False)
    ]
    label: str | None = None
    values: list[int] = []
    if not _wrong(findings):
        label, values = _label(entry, volume, series, rules, findings)
    if _wrong(findings):
        return None, values
    for made, image, converted in read:
        if converted:
            _keep_converted(Path(made), image, converted)
    files = tuple(made for made, _, _ in read)
    x, y, z = (round(mm, 6) for mm in volume.spacing)
    case = Case(
        case=entry.case,
        subject=_subject(entry, series),
        visit=entry.visit,
        image=file_of(path)[0],
        label=label,
        modality=modalities[entry.reference],
        channels=len(volume.array),
        shape=volume.shape,
        spacing=(x, y, z),
        orientation=volume.orientation,
        image_sha256=content_sha256(files, entry.reference),
        voxel_sha256=voxel_sha256(volume.array),
        label_sha256=sha256_of_file(label) if label else None,
        source=entry.source,
        dataset=entry.dataset,
        channel_names=entry.names,
        channel_images=files if entry.files else (),
        extra=entry.extra,
    )
    return case, values


def _assembled(
    entry: Entry, rules: Rules, findings: list[Finding]
) -> tuple[list[Image], Volume | None]:
    """Each file of the case, and all of them as one volume if they are there."""
    assert entry.image is not None
    parts = entry.files or (ChannelFile("", entry.image, entry.series),)
    for part in parts:
        if not exists(part.path):
            code = "missing_channel" if entry.files else "missing_image_file"
            findings.append(missing_file(code, part.path))
    if _wrong(findings):
        return [], None
    read = [_read_image(entry, part, rules) for part in parts]
    for part, (_, image, series) in zip(parts, read, strict=True):
        file = file_of(part.path)[0]
        findings += series.findings if series else check_nifti_header(file, image.shape)
    if not entry.files:
        volume = read[0][1]
        findings += check_image(volume, entry.image, channels=entry.channels)
        return read, volume
    volume, told = assemble(entry.case, parts, [image for _, image, _ in read], entry.reference)
    findings += told
    return read, volume


def _subject(entry: Entry, series: Series | None = None) -> str:
    return entry.apart + (entry.subject or (series and series.subject) or entry.case)


def _read_image(entry: Entry, part: ChannelFile, rules: Rules) -> Image:
    """The file an image is kept in (its own, or the converted one), the volume, its series."""
    series = part.series
    if series is None and Path(part.path).is_dir():
        series = read_series(part.path, rules.dicom)
    if series is None:
        return part.path, read_channel(part.path), None
    mark = f".{part.name}" if part.name else ""
    path = rules.volumes / f"{entry.case}{mark}.nii"
    done = path.with_suffix(".json")
    if path.is_file() and done.is_file() and read_json(done) == _provenance(series):
        return str(path), read_volume(path), series
    return str(path), series.decode(), series


def _keep_converted(path: Path, volume: Volume, series: Series) -> None:
    done = path.with_suffix(".json")  # written last: it says that the volume is whole
    if not done.is_file() or read_json(done) != _provenance(series):
        done.unlink(missing_ok=True)
        write_nifti(path, volume)
        write_json(done, _provenance(series))


def _provenance(series: Series) -> dict[str, Any]:
    return {"format": FORMAT, **series.provenance()}


def _modality(
    entry: Entry,
    channel: str,
    series: Series | None,
    rules: Rules,
    findings: list[Finding],
) -> str:
    """What the table or source says, else the DICOM header, else the dataset."""
    if entry.modality is not None:
        return entry.modality
    expected = rules.channels.get(channel, rules.modality)
    if series is None or series.modality == "other":
        return expected
    if expected not in ("other", series.modality):
        findings.append(
            Finding(
                "modality_differs",
                "error",
                f"{series.folder}: the header says {series.modality}, the dataset {expected}",
                "exclude the case, or set `modality` of the source",
            )
        )
    return series.modality


def _label(
    entry: Entry, image: Volume, series: Series | None, rules: Rules, findings: list[Finding]
) -> tuple[str | None, list[int]]:
    """The file of the label and its values; what is no label map on this grid becomes one."""
    if entry.label is None:
        severity: Any = "error" if rules.labels_required else "info"
        remedy = "supply one, or set `labels: optional`" if rules.labels_required else ""
        told = f"{entry.image}: no label" + ("" if remedy else ", joins the unlabelled pool")
        findings.append(Finding("unlabelled", severity, told, remedy))
        return None, []
    if not Path(entry.label).exists():
        findings.append(missing_file("missing_label_file", entry.label))
        return None, []
    label = read_label(entry, image, series, rules.label_rules)
    findings += label.findings
    if label.file is not None or _wrong(findings):
        return entry.label, label.values
    made = rules.volumes / f"{entry.case}.label.nii"
    write_nifti(made, label.volume)
    if label.made_of is not None:
        write_json(made.with_suffix(".json"), {"format": FORMAT, **label.made_of})
    return str(made), label.values


def _wrong(findings: Sequence[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _write(out: Path, outcomes: Sequence[Outcome]) -> None:
    counts = {status: 0 for status in ("accepted", "quarantined", "skipped")}
    counts |= Counter(outcome.status for outcome in outcomes)
    counts["labelled"] = sum(o.case is not None and o.case.label is not None for o in outcomes)
    counts["unlabelled"] = counts["accepted"] - counts["labelled"]
    records = [outcome.record() for outcome in outcomes]
    cases = [outcome.case for outcome in outcomes if outcome.case]
    if cases:
        write_cases(out / "cases.csv", cases)
    else:
        (out / "cases.csv").unlink(missing_ok=True)  # of an earlier run: it would be taken for new
    write_json(out / "ingest.json", {"format": FORMAT, "counts": counts, "cases": records})


def _print_table(outcomes: Sequence[Outcome]) -> None:
    rows = [("case", "subject", "modality", "shape", "spacing", "axes", "label values")]
    for outcome in outcomes:
        if case := outcome.case:
            shape = "x".join(map(str, case.shape))
            spacing = "x".join(f"{mm:.3g}" for mm in case.spacing)
            values = " ".join(map(str, outcome.values)) if case.label else "-"
            place = (case.modality, shape, spacing, case.orientation)
            rows.append((case.case, case.subject, *place, values))
    widths = [max(len(row[i]) for row in rows[: SHOWN + 1]) for i in range(len(rows[0]))]
    for row in rows[: SHOWN + 1]:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    if len(rows) > SHOWN + 1:
        print(f"and {len(rows) - SHOWN - 1} more in cases.csv")


def _print_summary(out: Path, outcomes: Sequence[Outcome], sources: int) -> None:
    counts = Counter(outcome.status for outcome in outcomes)
    labelled = sum(o.case is not None and o.case.label is not None for o in outcomes)
    print(
        f"read {len(outcomes)} inputs of {sources} source{'s' * (sources > 1)}: "
        f"{counts['accepted']} accepted ({labelled} labelled, "
        f"{counts['accepted'] - labelled} unlabelled), "
        f"{counts['quarantined']} quarantined, {counts['skipped']} skipped"
    )
    for severity in ("error", "warning"):
        told = [(o, f) for o in outcomes for f in o.findings if f.severity == severity]
        for outcome, finding in told[:SHOWN]:
            print(f"{severity}: {outcome.entry.case}: {finding.code}: {finding}")
        if len(told) > SHOWN:
            print(f"and {len(told) - SHOWN} more {severity}s in ingest.json")
    skipped = Counter(f.code for o in outcomes if o.status == "skipped" for f in o.findings)
    for code, number in sorted(skipped.items()):
        print(f"skipped: {number} {code}")
    written = ["cases.csv", "ingest.json"] if counts["accepted"] else ["ingest.json"]
    print(f"wrote {', '.join(str(out / name) for name in written)}", flush=True)
