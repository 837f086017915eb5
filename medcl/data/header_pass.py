"""The first pass over a dataset: what headers tell of place, grid and modality, and no voxel.

One process judges some thousand cases a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medcl.data.checks import Finding, align_label, check_grid, check_place, missing_file
from medcl.data.contract import Rules, add, failed, wrong
from medcl.data.dicom import read_series
from medcl.data.entries import Entry, suffix_of
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
    except Exception as error:
        findings.append(failed(entry, error))
    return replace(entry, findings=tuple(findings))


def _judge(entry: Entry, rules: Rules, findings: list[Finding]) -> Entry:
    where = str(entry.image)
    if entry.image is None or not Path(where).exists():
        findings.append(missing_file("missing_image_file", where))
        return entry
    if entry.series is None and Path(where).is_dir():
        entry = replace(entry, series=read_series(where, rules.dicom))
    image = _check_image(entry, findings)
    placed = image is not None and not wrong(findings)
    modality = _modality(entry, rules, findings)
    subject = entry.subject or (entry.series and entry.series.subject) or entry.case
    if not wrong(findings):
        findings += _check_label(entry, image, rules)
    grid = (image.shape, image.spacing, image.orientation) if image and placed else None
    return replace(entry, modality=modality, subject=subject, grid=grid)


def _check_image(entry: Entry, findings: list[Finding]) -> Volume | None:
    """The grid of the image, None where only its voxels tell it."""
    assert entry.image is not None
    series = entry.series
    if series is None:
        image, told = read_header(entry.image)
        add(findings, [*told, *check_grid(image, entry.image, channels=entry.channels)])
        return image
    add(findings, series.findings)
    if series.stack.slide is not None:  # it grows as its slices are moved
        return None
    rows, columns = series.stack.planes[0].size
    slices = len(series.stack.places or series.stack.planes)
    image = blank((1, columns, rows, slices), series.stack.affine)
    add(findings, check_place(image, entry.image))
    return image


def _modality(entry: Entry, rules: Rules, findings: list[Finding]) -> str:
    """What the table or source says, else the DICOM header, else the dataset."""
    if entry.modality is not None:
        return entry.modality
    if entry.series is None or entry.series.modality == "other":
        return rules.modality
    modality = entry.series.modality
    if rules.modality not in ("other", modality):
        findings.append(
            Finding(
                "modality_differs",
                "error",
                f"{entry.image}: the header says {modality}, the dataset {rules.modality}",
                "exclude the case, or set `modality` of the source",
            )
        )
    return modality


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
