"""The first pass over a dataset: what headers tell of place, grid and modality, and no voxel.

One process judges some thousand cases a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medcl.data.channels import check_share, exists, file_of, numbered, share_shown
from medcl.data.checks import Finding, align_label, check_grid, check_place, missing_file
from medcl.data.contract import Rules, add, failed, wrong
from medcl.data.dicom import Series, read_series
from medcl.data.entries import ChannelFile, Entry, person_of, suffix_of
from medcl.data.headers import read_header
from medcl.data.labels import OTHER_GRID
from medcl.data.parallel import Progress, in_processes
from medcl.data.series import SKIPPED
from medcl.data.volume import Volume, VolumeError, blank

CHUNK = 250  # entries given to a process at once: one alone takes less than its way there


def check_headers(entries: Sequence[Entry], rules: Rules, threads: int = 1) -> list[Entry]:
    """The entries in their order, each with what its headers tell against or about it."""
    progress = Progress("headers", len(entries))
    chunks = [
        (start, entries[start : start + CHUNK], rules) for start in range(0, len(entries), CHUNK)
    ]
    done: dict[int, list[Entry]] = {}
    for (start, chunk, _), result in in_processes(_check_all, chunks, threads):
        if isinstance(result, Exception):
            raise result
        done[start] = result
        progress.step(len(chunk))
    return [entry for start in sorted(done) for entry in done[start]]


def _check_all(chunk: tuple[int, Sequence[Entry], Rules]) -> list[Entry]:
    _, entries, rules = chunk
    return [check_header(entry, rules) for entry in entries]


def check_header(entry: Entry, rules: Rules) -> Entry:
    """The entry with findings and what its headers tell of series, subject, modality and grid."""
    findings = list(entry.findings)
    if entry.skipped or wrong(findings):
        return entry
    try:
        entry = _judge(entry, rules, findings)
    except VolumeError as error:
        skipped = error.code in SKIPPED
        told = Finding.of(error)
        findings.append(replace(told, severity="info") if skipped else told)
        entry = replace(entry, skipped=skipped)
    except OSError as error:
        why = f"{error.filename or entry.image}: cannot be read, {error.strerror or error}"
        findings.append(Finding("unreadable", "error", why, "allow reading it, or exclude it"))
    except Exception as error:
        findings.append(failed(entry, error))
    return replace(entry, findings=tuple(findings))


def _judge(entry: Entry, rules: Rules, findings: list[Finding]) -> Entry:
    for part in entry.images:
        if not exists(part.path):
            told = missing_file(
                "missing_channel" if entry.files else "missing_image_file", part.path
            )
            findings.append(told)
    if wrong(findings):
        return entry
    entry = _with_series(entry, rules)
    grids = [_check_image(part, entry.channels_each, findings) for part in entry.images]
    image = grids[entry.reference]
    placed = image is not None and not wrong(findings)
    if image is not None and placed and entry.files:
        add(findings, _check_channels(entry, grids, image))
    modalities = _modalities(entry, rules, findings)
    modality = _modality(entry, entry.series, rules.modality, findings)
    subject, guessed = person_of(entry)
    add(findings, guessed)
    if not wrong(findings):
        findings += _check_label(entry, image, rules)
    grid = (image.shape, image.spacing, image.orientation) if image and placed else None
    return replace(entry, modality=modality, modalities=modalities, subject=subject, grid=grid)


def _with_series(entry: Entry, rules: Rules) -> Entry:
    """The entry with the headers of folders that listing them has not read."""
    parts = tuple(
        replace(part, series=read_series(part.path, rules.dicom))
        if part.series is None and Path(part.path).is_dir()
        else part
        for part in entry.images
    )
    series = parts[entry.reference].series
    return replace(entry, series=series, files=parts if entry.files else ())


def _check_image(part: ChannelFile, channels: int, findings: list[Finding]) -> Volume | None:
    """The grid of a file or series, None where only its voxels tell it."""
    series = part.series
    if series is None:
        whole, told = read_header(file_of(part.path)[0])
        image = numbered(whole, part.path)
        add(findings, [*told, *check_grid(image, part.path, channels=channels)])
        return image
    add(findings, series.findings)
    if series.stack.slide is not None:  # it grows as its slices are moved
        return None
    rows, columns = series.stack.planes[0].size
    slices = len(series.stack.places or series.stack.planes)
    image = blank((1, columns, rows, slices), series.stack.affine)
    add(findings, check_place(image, part.path))
    return image


def _check_channels(
    entry: Entry, grids: Sequence[Volume | None], reference: Volume
) -> list[Finding]:
    """Whether each channel shows enough of the reference."""
    name = entry.files[entry.reference].name
    return [
        finding
        for part, grid in zip(entry.files, grids, strict=True)
        if grid is not None
        for finding in check_share(entry.case, part, share_shown(grid, reference), name)
    ]


def _modalities(entry: Entry, rules: Rules, findings: list[Finding]) -> tuple[str, ...]:
    """That of each channel."""
    names = entry.names or ("",) * entry.channels
    series = [part.series for part in entry.images] if entry.files else [entry.series] * len(names)
    return tuple(
        _modality(entry, of, rules.channels.get(name, rules.modality), findings)
        for name, of in zip(names, series, strict=True)
    )


def _modality(entry: Entry, series: Series | None, expected: str, findings: list[Finding]) -> str:
    """What the table or source says, else the DICOM header, else the dataset."""
    if entry.modality is not None:
        return entry.modality
    if series is None or series.modality == "other":
        return expected
    if expected not in ("other", series.modality):
        told = f"{series.folder}: the header says {series.modality}, the dataset {expected}"
        remedy = "exclude the case, or set `modality` of the source"
        add(findings, [Finding("modality_differs", "error", told, remedy)])
    return series.modality


def _check_label(entry: Entry, image: Volume | None, rules: Rules) -> list[Finding]:
    """Whether there is a label, and lies on the grid of the image as far as its header tells."""
    if entry.label is None:
        if rules.labels_required:
            remedy = "supply one, or set `labels: optional`"
            return [Finding("unlabelled", "error", f"{entry.image}: no label", remedy)]
        told = f"{entry.image}: no label, joins the unlabelled pool"
        return [Finding("unlabelled", "info", told)]
    if not Path(entry.label).exists():
        return [missing_file("missing_label_file", entry.label)]
    if entry.parts or not suffix_of(entry.label):  # masks and objects: drawn with the voxels
        return []
    label, in_header = read_header(entry.label)
    findings = [finding for finding in in_header if finding.code != "no_orientation"]
    if image is not None:
        findings += align_label(label, image, entry.label, str(entry.image))[1]
    if rules.label_rules.drawing.resample:
        findings = [finding for finding in findings if finding.code not in OTHER_GRID]
    return findings
