"""The label of a case, whatever it is stored as: a map, masks, or DICOM objects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medcl.data.annotations import Drawing, read_annotations
from medcl.data.checks import Finding, align_label, check_label_values, label_values
from medcl.data.dicom import Series
from medcl.data.entries import Entry, suffix_of
from medcl.data.label_grid import resample_label, resampled
from medcl.data.structures import Canvas, Naming, assign
from medcl.data.volume import Volume, VolumeError, read_volume
from medcl.files import is_dicom

OTHER_GRID = ("shape_differs", "affine_differs")


@dataclass(frozen=True)
class LabelRules:
    """What the dataset says of labels."""

    naming: Naming = field(default_factory=Naming)
    drawing: Drawing = field(default_factory=Drawing)


@dataclass(frozen=True)
class Label:
    """A label map on the image's grid. `file`: that of the source, if it can be used as it is, and
    `sha256` the hash of its bytes.
    """

    file: str | None
    volume: Volume
    values: list[int]
    made_of: Mapping[str, Any] | None
    findings: list[Finding]
    sha256: str | None = None


def read_label(entry: Entry, image: Volume, series: Series | None, rules: LabelRules) -> Label:
    """The label of an entry that has one; raises VolumeError where it cannot be read."""
    assert entry.label is not None
    if entry.parts and entry.parts[0][0]:
        return _masks(entry, image, rules)
    if entry.parts or is_object(entry.label):
        paths = [path for _, path in entry.parts] or [entry.label]
        drawn = read_annotations(paths, image, rules.naming, series, rules.drawing)
        made_of = {
            "objects": [Path(path).name for path in paths],
            "structures": drawn.structures,
            "classes": drawn.classes,
        }
        return _made(drawn.label, list(drawn.findings), made_of, entry.label, rules)
    digest = hashlib.sha256()
    stored = read_volume(entry.label, labels=True, digest=digest)
    label, findings = _on_grid(stored, image, entry.label, str(entry.image), rules)
    values = label_values(label.array)
    findings += check_label_values(values, entry.label, rules.naming.classes)
    # A turned label lies on the grid of the image up to rounding: both get one affine.
    file = entry.label if label is stored else None
    volume = label if label is stored else Volume(label.array, image.affine)
    return Label(file, volume, values, None, findings, file and digest.hexdigest())


def _made(
    label: Volume,
    findings: list[Finding],
    made_of: Mapping[str, Any],
    path: str,
    rules: LabelRules,
) -> Label:
    values = label_values(label.array)
    if rules.naming.classes is None:
        named = ", ".join(f"{value} {name}" for name, value in made_of["classes"].items())
        findings.append(Finding("label_values", "info", f"{path}: structures {named}"))
    else:
        findings += check_label_values(values, path, rules.naming.classes)
    return Label(None, label, values, made_of, findings)


def _masks(entry: Entry, image: Volume, rules: LabelRules) -> Label:
    """One file for each structure: what is not zero in it belongs to its class."""
    names = [name for name, _ in entry.parts]
    where = str(Path(entry.parts[0][1]).parent)
    classes, findings = assign(names, rules.naming, where)
    canvas = Canvas(image.shape, rules.naming, names)
    structures: dict[str, list[str]] = {}
    files = []
    for (name, path), label in zip(entry.parts, classes, strict=True):
        if label is None:
            continue
        stored = read_volume(path, labels=True)
        if len(values := [value for value in label_values(stored.array) if value]) > 1:
            raise VolumeError(
                "mask_not_binary",
                f"{path}: {len(values)} values besides 0 in the mask of one class",
                "use {class} only for masks; a label map is named without it",
            )
        mask, told = _on_grid(stored, image, path, str(entry.image), rules)
        findings += told
        if any(finding.severity == "error" for finding in told):
            continue
        canvas.paint(label, np.nonzero(mask.array[0]))
        structures.setdefault(label, []).append(name)
        files.append(path)
    findings += canvas.findings(where, 0)
    made_of = {
        "objects": [Path(file).name for file in files],
        "structures": structures,
        "classes": canvas.classes,
    }
    whole = Volume(canvas.label_map()[None], image.affine)
    return _made(whole, findings, made_of, where, rules)


def _on_grid(
    stored: Volume, image: Volume, path: str, image_path: str, rules: LabelRules
) -> tuple[Volume, list[Finding]]:
    label, findings = align_label(stored, image, path, image_path)
    if not rules.drawing.resample or not any(f.code in OTHER_GRID for f in findings):
        return label, findings
    moved, lost = resample_label(stored, image)
    told = [resampled(path)]
    if lost:
        part = (
            f"{path}: {lost} of its {np.count_nonzero(stored.array)} voxels lie outside the image"
        )
        told.append(Finding("annotation_outside", "warning", part, "check that it belongs to it"))
    if lost and not moved.array.any():
        raise VolumeError("annotation_outside", part, "check that it belongs to this image")
    return moved, told


def is_object(path: str) -> bool:
    """A DICOM file, whatever its name; label maps are known by their suffix."""
    return not suffix_of(path) and is_dicom(Path(path))
