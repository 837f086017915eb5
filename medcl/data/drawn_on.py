"""Which slices an RTSTRUCT or DICOM-SEG object was drawn on, by their identifiers.

A series may hold several volumes, such as phases: an object belongs to those whose slices it
names, not to all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from medcl.data.annotations import DAMAGED
from medcl.data.dicom import Series

Slice = tuple[str, int | None]  # SOPInstanceUID and the frame from 1, None for all of the file


def slices_of_object(path: Path) -> frozenset[Slice]:
    """The slices an object names, none where it names none or cannot be read."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        return frozenset(_of_contours(dataset)) or frozenset(_of_segments(dataset))
    except DAMAGED:
        return frozenset()


def slices_of_series(series: Series) -> frozenset[Slice]:
    """The slices of one volume."""
    planes = series.stack.planes
    return frozenset(
        (plane.header.text("SOPInstanceUID"), None if plane.frame is None else plane.frame + 1)
        for plane in planes
    )


def share_a_slice(one: frozenset[Slice], other: frozenset[Slice]) -> bool:
    """Whether both name a slice; a file named as a whole stands for each of its frames."""
    if one & other:
        return True
    whole = {uid for uid, frame in (*one, *other) if frame is None}
    return bool(whole & {uid for uid, _ in one} & {uid for uid, _ in other})


def _of_contours(dataset: Dataset) -> Iterator[Slice]:
    """Those of the contours, else those of the list of all slices of the series."""
    found = False
    for roi in dataset.get("ROIContourSequence") or []:
        for contour in roi.get("ContourSequence") or []:
            for item in _slices(contour.get("ContourImageSequence")):
                found = True
                yield item
    if found:
        return
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                yield from _slices(series.get("ContourImageSequence"))


def _of_segments(dataset: Dataset) -> Iterator[Slice]:
    """Those the frames were derived from, else those of the list of all slices of the series."""
    found = False
    groups = [*(dataset.get("SharedFunctionalGroupsSequence") or [])]
    for group in [*groups, *(dataset.get("PerFrameFunctionalGroupsSequence") or [])]:
        for derivation in group.get("DerivationImageSequence") or []:
            for item in _slices(derivation.get("SourceImageSequence")):
                found = True
                yield item
    if found:
        return
    for series in dataset.get("ReferencedSeriesSequence") or []:
        yield from _slices(series.get("ReferencedInstanceSequence"))


def _slices(items: Iterable[Dataset] | None) -> Iterator[Slice]:
    for item in items or []:
        uid, frames = str(item.ReferencedSOPInstanceUID), item.get("ReferencedFrameNumber")
        if frames in (None, ""):
            yield uid, None
        else:
            numbers = [frames] if isinstance(frames, (int, str)) else frames
            yield from ((uid, int(number)) for number in numbers)
