"""The second pass over a dataset: every case is decoded once, judged, and if need be converted.

What is found is written down case by case, so that a pass that was killed goes on where it was,
and a later one reads only what is new or has changed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcl.data.cases import Case
from medcl.data.checks import Finding, check_grid
from medcl.data.contract import Outcome, Rules, add, failed, wrong
from medcl.data.dicom import Series
from medcl.data.entries import Entry
from medcl.data.journal import Journal, key_of, size_of
from medcl.data.labels import Label, read_label
from medcl.data.parallel import Progress, in_processes
from medcl.data.survey import Survey, check_survey, survey
from medcl.data.volume import Volume, VolumeError, read_volume, write_nifti
from medcl.files import read_json, sha256_of_file, write_json

FORMAT = 1  # of the files beside converted volumes


def check_voxels(
    entries: Sequence[Entry], rules: Rules, threads: int = 1, state: Path | None = None
) -> list[Outcome]:
    """The outcome of every entry that `check_headers` has been through, in their order.

    `state` is the file in which results are kept.
    """
    journal = Journal(state, converted=rules.volumes is not None)
    outcomes: list[Outcome | None] = [None] * len(entries)
    work = []
    for index, entry in enumerate(entries):
        if entry.skipped or wrong(entry.findings):
            status = "skipped" if entry.skipped else "quarantined"
            outcomes[index] = Outcome(entry, status, entry.findings)
            continue
        key = key_of(entry, rules)
        outcomes[index] = journal.find(key, entry)
        if outcomes[index] is None:
            work.append((index, key, entry, rules))
    journal.begin()
    if len(journal):
        print(f"voxels: {len(journal)} cases are unchanged since they were checked", flush=True)
    progress = Progress("voxels", len(work))
    for (index, key, entry, _), result in in_processes(_examine, work, threads):
        if isinstance(result, Exception):
            findings = (*entry.findings, failed(entry, result))
            result = Outcome(entry, "quarantined", findings)
        else:
            journal.add(key, result)
        outcomes[index] = result
        progress.step(read=size_of(entry))
    journal.close()
    return [outcome for outcome in outcomes if outcome is not None]


def _examine(work: tuple[int, str, Entry, Rules]) -> Outcome:
    return examine(*work[2:])


def examine(entry: Entry, rules: Rules) -> Outcome:
    """Read, judge and if need be convert one case; its files are decoded once."""
    findings = list(entry.findings)
    try:
        return _judge(entry, rules, findings)
    except VolumeError as error:
        findings.append(Finding.of(error))
        return Outcome(entry, "quarantined", tuple(findings))


@dataclass(frozen=True)
class _Image:
    """`file` is what later stages read; `convert` says that it must be written first."""

    file: Path
    volume: Volume
    sha256: str
    provenance: dict[str, Any] | None = None
    convert: bool = False


def _judge(entry: Entry, rules: Rules, findings: list[Finding]) -> Outcome:
    series, where = entry.series, str(entry.image)
    image = _read(entry, series, rules)
    if series:  # a mended series tells its grid only now
        add(findings, check_grid(image.volume, where, channels=entry.channels))
    seen = survey(image.volume)
    add(findings, check_survey(seen, image.volume, where, entry.modality or rules.modality))
    label: Label | None = None
    if entry.label is not None and not wrong(findings):
        label = read_label(entry, image.volume, series, rules.label_rules)
        add(findings, label.findings)
    outcome = Outcome(
        entry,
        "quarantined",
        tuple(findings),
        values=tuple(label.values) if label else (),
        range=(seen.low, seen.high) if seen.finite else None,
    )
    if wrong(findings):
        return outcome
    if image.convert:
        image = replace(image, sha256=_write(image))
    file, sha256 = _keep_label(entry, label, rules) if label else (None, None)
    case = replace(_case(entry, image, rules, seen), label=file, label_sha256=sha256)
    assert seen.thumbnail is not None
    thumbnail = base64.b64encode(seen.thumbnail.tobytes()).decode()
    return replace(outcome, status="accepted", case=case, thumbnail=thumbnail)


def _case(entry: Entry, image: _Image, rules: Rules, seen: Survey) -> Case:
    volume = image.volume
    x, y, z = (round(mm, 6) for mm in volume.spacing)
    return Case(
        case=entry.case,
        subject=entry.subject or entry.case,
        visit=entry.visit,
        image=str(image.file),
        label=None,
        modality=entry.modality or rules.modality,
        channels=len(volume.array),
        shape=volume.shape,
        spacing=(x, y, z),
        orientation=volume.orientation,
        image_sha256=image.sha256,
        voxel_sha256=seen.sha256,
        label_sha256=None,
        source=entry.source,
        extra=entry.extra,
    )


def _read(entry: Entry, series: Series | None, rules: Rules) -> _Image:
    """The volume and the file it is kept in: its own, or one it is converted to."""
    digest = hashlib.sha256()
    if series is None:
        assert entry.image is not None
        volume = read_volume(entry.image, digest=digest)
        return _Image(Path(entry.image), volume, digest.hexdigest())
    if rules.volumes is None:
        return _Image(series.folder, series.decode(), "")
    file = rules.volumes / f"{entry.case}.nii"
    done = file.with_suffix(".json")
    provenance = {"format": FORMAT, **series.provenance()}
    if file.is_file() and done.is_file() and read_json(done) == provenance:
        volume = read_volume(file, digest=digest)
        return _Image(file, volume, digest.hexdigest(), provenance)
    return _Image(file, series.decode(), "", provenance, convert=True)


def _write(image: _Image) -> str:
    """Write a converted volume; return the hash of its file."""
    done = image.file.with_suffix(".json")  # written last: it says that the volume is whole
    done.unlink(missing_ok=True)
    write_nifti(image.file, image.volume)
    write_json(done, image.provenance)
    return sha256_of_file(image.file)


def _keep_label(entry: Entry, label: Label, rules: Rules) -> tuple[str | None, str | None]:
    """The file of the label map and its hash; what is no map on this grid is written as one."""
    if label.file is not None:
        return label.file, label.sha256
    if rules.volumes is None:
        return entry.label, None
    made = rules.volumes / f"{entry.case}.label.nii"
    write_nifti(made, label.volume)
    if label.made_of is not None:
        write_json(made.with_suffix(".json"), {"format": FORMAT, **label.made_of})
    return str(made), sha256_of_file(made)
