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
from medcl.data.channels import assemble, content_sha256, file_of, filled, numbered
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
    images = _read(entry, rules)
    for part, image in zip(entry.images, images, strict=True):
        if part.series:  # a mended series tells its grid only now
            add(findings, check_grid(image.volume, part.path, channels=entry.channels_each))
    looks = _look_at_each(entry, images, findings)
    volume = images[0].volume
    if entry.files and not wrong(findings):
        volumes = [image.volume for image in images]
        volume, told = assemble(entry.case, entry.files, volumes, entry.reference)
        add(findings, told)
    label: Label | None = None
    if entry.label is not None and not wrong(findings):
        label = read_label(entry, volume, entry.series, rules.label_rules)
        add(findings, label.findings)
    extent = (min(look.low for look in looks), max(look.high for look in looks))
    outcome = Outcome(
        entry,
        "quarantined",
        tuple(findings),
        values=tuple(label.values) if label else (),
        range=extent if all(look.finite for look in looks) else None,
    )
    if wrong(findings):
        return outcome
    images = [replace(i, sha256=_write(i)) if i.convert else i for i in images]
    file, sha256 = _keep_label(entry, label, rules) if label else (None, None)
    seen = looks[0] if len(looks) == 1 else survey(filled(volume))
    case = replace(_case(entry, images, volume, seen), label=file, label_sha256=sha256)
    assert seen.thumbnail is not None
    thumbnail = base64.b64encode(seen.thumbnail.tobytes()).decode()
    return replace(outcome, status="accepted", case=case, thumbnail=thumbnail)


def _look_at_each(entry: Entry, images: Sequence[_Image], findings: list[Finding]) -> list[Survey]:
    """Survey each channel by itself: what is possible in one is not in another."""
    channels = [
        (part.path if len(image.volume.array) == 1 else f"{part.path}[{number}]", image.volume, row)
        for part, image in zip(entry.images, images, strict=True)
        for number, row in enumerate(image.volume.array)
    ]
    looks = []
    for (path, whole, row), modality in zip(channels, entry.modalities, strict=True):
        channel = Volume(row[None], whole.affine)
        looks.append(survey(channel))
        add(findings, check_survey(looks[-1], channel, path, modality))
    return looks


def _case(entry: Entry, images: Sequence[_Image], volume: Volume, seen: Survey) -> Case:
    assert entry.modality is not None  # the headers' pass fills in both
    assert entry.subject is not None
    x, y, z = (round(mm, 6) for mm in volume.spacing)
    files = tuple(
        str(image.file) if part.series else part.path
        for part, image in zip(entry.images, images, strict=True)
    )
    hashes = [image.sha256 for image in images]
    return Case(
        case=entry.case,
        subject=entry.subject,
        visit=entry.visit,
        image=file_of(files[entry.reference])[0],
        label=None,
        modality=entry.modality,
        channels=len(volume.array),
        shape=volume.shape,
        spacing=(x, y, z),
        orientation=volume.orientation,
        image_sha256=content_sha256(files, hashes, entry.reference) if all(hashes) else "",
        voxel_sha256=seen.sha256,
        label_sha256=None,
        source=entry.source,
        dataset=entry.dataset,
        channel_names=entry.names,
        channel_images=files if entry.files else (),
        extra=entry.extra,
    )


def _read(entry: Entry, rules: Rules) -> list[_Image]:
    """What each of `entry.images` holds; a file of several channels is opened once."""
    files: dict[str, _Image] = {}
    images = []
    for part in entry.images:
        if part.series is not None:
            name = f"{entry.case}.{part.name}" if part.name else entry.case
            images.append(_decoded(part.series, name, rules))
            continue
        file = file_of(part.path)[0]
        if file not in files:
            digest = hashlib.sha256()
            volume = read_volume(file, digest=digest)
            files[file] = _Image(Path(file), volume, digest.hexdigest())
        volume = numbered(files[file].volume, part.path)
        images.append(replace(files[file], volume=volume))
    return images


def _decoded(series: Series, name: str, rules: Rules) -> _Image:
    """The volume of a series and the file `name` it is converted to."""
    if rules.volumes is None:
        return _Image(series.folder, series.decode(), "")
    file = rules.volumes / f"{name}.nii"
    done = rules.volumes / f"{name}.json"
    provenance = {"format": FORMAT, **series.provenance()}
    if file.is_file() and done.is_file() and read_json(done) == provenance:
        digest = hashlib.sha256()
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
