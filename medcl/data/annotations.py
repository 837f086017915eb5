"""DICOM objects that mark structures become label maps on the grid of an image.

RTSTRUCT: `contours.py`. DICOM-SEG: `segments.py`. Names and overlaps: `structures.py`. An object
belongs to the series it refers to; one that refers to another series of the same frame of
reference can be used where the dataset pairs the two, with a warning.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from medcl.data.checks import Finding
from medcl.data.contours import paint_contours, structure_names
from medcl.data.dicom import Series
from medcl.data.label_grid import resample_label, resampled
from medcl.data.segments import FRACTION, own_grid, paint_segments, segment_names
from medcl.data.structures import Canvas, Naming, assign
from medcl.data.volume import Volume, VolumeError

KINDS = ("RTSTRUCT", "SEG")
# What pydicom raises for damaged files: its errors have no common ancestor below these.
DAMAGED = (
    InvalidDicomError, OSError, EOFError, ValueError, TypeError, KeyError, AttributeError,
    IndexError, NotImplementedError, RecursionError, RuntimeError, ArithmeticError, MemoryError,
    BytesLengthException, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """What an object says it was drawn on."""

    series: tuple[str, ...]
    frames_of_reference: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> Reference:
        series = [str(s.SeriesInstanceUID) for s in dataset.get("ReferencedSeriesSequence") or []]
        frames = [str(dataset.get("FrameOfReferenceUID", "") or "")]
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
            frames.append(str(frame.get("FrameOfReferenceUID", "") or ""))
            for study in frame.get("RTReferencedStudySequence") or []:
                for item in study.get("RTReferencedSeriesSequence") or []:
                    series.append(str(item.SeriesInstanceUID))
        for roi in dataset.get("StructureSetROISequence") or []:
            frames.append(str(roi.get("ReferencedFrameOfReferenceUID", "") or ""))
        return cls(tuple(dict.fromkeys(series)), tuple(dict.fromkeys(filter(None, frames))))


@dataclass(frozen=True)
class Drawing:
    """`fraction`: of a fractional segment, from which a voxel counts; `resample`: other grids."""

    fraction: float = FRACTION
    resample: bool = False


PLAIN = Drawing()


@dataclass(frozen=True)
class Annotation:
    """A label map on the image's grid, and what it was made of: class -> structures."""

    label: Volume
    classes: dict[str, int]
    structures: dict[str, list[str]]
    findings: tuple[Finding, ...]


def read_annotations(
    paths: Sequence[str],
    image: Volume,
    naming: Naming,
    series: Series | None = None,
    rules: Drawing = PLAIN,
) -> Annotation:
    """Draw the objects of one image into one label map.

    `series`: where the image came from, to see that the objects belong to it. Raises VolumeError
    where an object cannot be read or does not belong to the image, and where two hold one class.
    """
    named = []
    findings: list[Finding] = []
    for path in paths:
        with _reading(path):
            dataset = _read(path)
            findings += _belongs(path, dataset, series)
            named.append((path, dataset, _names(dataset)))
    where = ", ".join(map(str, paths))
    names = [name for _, _, numbers in named for name in numbers.values()]
    found, told = assign(names, naming, where)
    findings += told
    canvas = Canvas(image.shape, naming, names)
    structures: dict[str, list[str]] = defaultdict(list)
    made_by: dict[str, str] = {}
    outside = 0
    classes = iter(found)
    for path, ds, numbers in named:
        labels = {number: label for number in numbers if (label := next(classes)) is not None}
        for number, label in labels.items():
            structures[label].append(numbers[number])
            if made_by.setdefault(label, path) != path:
                raise VolumeError(
                    "several_annotations",
                    f"{made_by[label]} and {path}: both mark class {label} of one image",
                    "make the pattern `labels` of the source narrower",
                )
        with _reading(path):
            told, beyond = _paint(path, ds, labels, canvas, image, rules)
            told += _made_by_a_program(path, ds, labels)
        findings += told
        outside += beyond
    findings += canvas.findings(where, outside)
    drawn = Volume(canvas.label_map()[None], image.affine)
    return Annotation(drawn, canvas.classes, dict(structures), tuple(findings))


def _names(dataset: Dataset) -> dict[int, str]:
    return segment_names(dataset) if dataset.Modality == "SEG" else structure_names(dataset)


def _paint(
    path: str,
    dataset: Dataset,
    labels: dict[int, str],
    canvas: Canvas,
    image: Volume,
    rules: Drawing,
) -> tuple[list[Finding], int]:
    """Paint one object; return findings and the voxels that lie outside the image."""
    if dataset.Modality == "RTSTRUCT":
        return paint_contours(dataset, labels, canvas, image, path)
    try:
        return [], paint_segments(dataset, labels, canvas, image, path, fraction=rules.fraction)
    except VolumeError as error:
        if error.code != "affine_differs" or not rules.resample:
            raise
    return _paint_resampled(path, dataset, labels, canvas, image, rules)


def _paint_resampled(
    path: str,
    dataset: Dataset,
    labels: dict[int, str],
    canvas: Canvas,
    image: Volume,
    rules: Drawing,
) -> tuple[list[Finding], int]:
    own = own_grid(dataset, path)
    there = Canvas(own.shape, Naming(canvas.classes), ())
    paint_segments(dataset, labels, there, own, path, fraction=rules.fraction)
    label, lost = resample_label(Volume(there.label_map()[None], own.affine), image)
    for name, value in canvas.classes.items():
        if (voxels := np.nonzero(label.array[0] == value))[0].size:
            canvas.paint(name, voxels)
    return [resampled(path)], lost


def _read(path: str) -> Dataset:
    """The object, read whole; raises VolumeError for anything but an RTSTRUCT or DICOM-SEG."""
    if not Path(path).is_file():
        raise VolumeError("missing_label_file", f"{path}: no such file", "check the path")
    dataset = pydicom.dcmread(path)
    modality = str(dataset.get("Modality", ""))
    if modality not in KINDS:
        raise VolumeError(
            "not_an_annotation",
            f"{path}: is {modality or 'nothing'} by its header, not {' or '.join(KINDS)}",
            "name the object that holds the structures",
        )
    return dataset


def _belongs(path: str, dataset: Dataset, series: Series | None) -> list[Finding]:
    """Judge by series, then by frame of reference; nothing is said where a side is silent."""
    if series is None:
        return []
    reference = Reference.of(dataset)
    header = series.stack.planes[0].header
    uid, frame = header.text("SeriesInstanceUID"), header.text("FrameOfReferenceUID")
    if not reference.series or uid in reference.series:
        return []
    if frame and frame in reference.frames_of_reference:
        return [
            Finding(
                "annotation_of_another_series",
                "warning",
                f"{path}: was drawn on another series of the same frame of reference",
                "check that the patient lay still between the two",
            )
        ]
    raise VolumeError(
        "annotation_of_another_series",
        f"{path}: belongs to series {reference.series[0]}, not to that of {series.folder}",
        "pair each object with its own series",
    )


def _made_by_a_program(path: str, dataset: Dataset, labels: Collection[int]) -> list[Finding]:
    """A prediction left in the tree must not pass for a reference unseen."""
    segments = dataset.get("SegmentSequence") or []
    regions = dataset.get("StructureSetROISequence") or []
    made = [(item.SegmentNumber, item.get("SegmentAlgorithmType")) for item in segments]
    made += [(item.ROINumber, item.get("ROIGenerationAlgorithm")) for item in regions]
    if not any(kind == "AUTOMATIC" and int(number) in labels for number, kind in made):
        return []
    told = f"{path}: was made by a program ({dataset.get('Manufacturer') or 'unnamed'})"
    return [
        Finding("annotation_automatic", "warning", told, "use it only if it may serve as reference")
    ]


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """What goes wrong with a damaged file becomes one kind of refusal that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of every odd value
            yield
    except DAMAGED as error:
        lines = str(error).splitlines()
        raise VolumeError(
            "unreadable",
            f"{path}: cannot be read as DICOM: {lines[0] if lines else type(error).__name__}",
            "copy it again from its origin",
        ) from None
