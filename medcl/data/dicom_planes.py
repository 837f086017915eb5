"""One file becomes planes: pictures with a place in the patient and what tells volumes apart.

A plane is a whole file, a frame of a multi-frame object, or a tile of a Siemens mosaic.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from medcl.data.dicom_header import B_VALUES, DAMAGE, Header, quiet
from medcl.data.volume import VolumeError

Vector = tuple[float, float, float]
LARGEST = 1 << 26  # pixels of a plane; more is a damaged header
# What tells apart volumes of one series: keyword -> the mark in the name of the case, in the order
# in which they are tried. A time of the clock is no mark: it differs from slice to slice.
MARKS = {
    "SeriesNumber": "series",
    "ImageType": "",
    "EchoNumbers": "echo",
    "EchoTime": "te",
    "BValue": "b",
    "InversionTime": "ti",
    "FlipAngle": "flip",
    "TemporalPosition": "t",
    "FrameReferenceTime": "t",
    "AcquisitionNumber": "acq",
    "TriggerTime": "trigger",
    "StackID": "stack",
}


@dataclass(frozen=True, eq=False, slots=True)
class Plane:
    """One picture and its place: LPS mm; `spacing` between rows, between columns.

    `frame` counts the frames of a multi-frame object, or the tiles of a mosaic of `tiles` a side.
    """

    header: Header
    position: Vector
    row: Vector
    column: Vector
    spacing: tuple[float, float]
    slope: float
    intercept: float
    marks: Mapping[str, str]
    frame: int | None = None
    tiles: int = 1

    @property
    def name(self) -> str:
        """The file's name, and the number of the frame."""
        return self.name_from(os.path.dirname(self.header.path))

    def name_from(self, folder: str | Path) -> str:
        name = os.path.relpath(self.header.path, folder)
        return name if self.frame is None else f"{name}#{self.frame + 1}"

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.header.whole("Rows"), self.header.whole("Columns")
        return rows // self.tiles, columns // self.tiles


def planes_of(header: Header) -> list[Plane]:
    """The planes of one file; raises VolumeError where it cannot be part of a volume."""
    where = header.path
    photometric = header.text("PhotometricInterpretation")
    if header.whole("SamplesPerPixel", 1) != 1 or "PALETTE" in photometric:
        raise VolumeError(
            "colour", f"{where}: a colour image ({photometric})", "supply grey-value images"
        )
    size = header.whole("Rows") * header.whole("Columns")
    if not 0 < size <= LARGEST:
        rows, columns = header.whole("Rows"), header.whole("Columns")
        raise VolumeError(
            "unreadable",
            f"{where}: {rows} rows of {columns} columns",
            "copy it again from its origin, or move it out of the folder",
        )
    frames = header.whole("NumberOfFrames", 1) or 1
    dataset = header.dataset
    groups = dataset.get("PerFrameFunctionalGroupsSequence") if dataset is not None else None
    if groups is None and frames > 1:
        raise VolumeError(
            "no_geometry",
            f"{where}: {frames} frames without positions",
            "supply a series of slices",
        )
    header = replace(header, dataset=None)
    try:
        if dataset is not None and groups is not None:
            with quiet():
                return list(_frames(header, dataset, groups))
        plane = _plane(header, header.values, marks=_marks(header))
        return _tiles(plane) if "MOSAIC" in header.text("ImageType").split("\\") else [plane]
    except VolumeError:
        raise
    except DAMAGE as error:
        raise VolumeError(
            "no_geometry",
            f"{where}: no usable {' '.join(map(str, error.args)) or 'geometry'}",
            "supply slices with position, orientation and pixel spacing",
        ) from None


def _plane(
    header: Header, values: Mapping[str, Any], *, marks: Mapping[str, str], frame: int | None = None
) -> Plane:
    def find(keyword: str, count: int) -> tuple[float, ...]:
        value = values.get(keyword)
        if not value:
            raise KeyError(keyword)
        if len(value) != count or not all(map(math.isfinite, value)):
            raise ValueError(f"{keyword} ({', '.join(f'{v:g}' for v in value)})")
        return value

    cosines = find("ImageOrientationPatient", 6)
    row, column = cosines[:3], cosines[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    across = sum(a * b for a, b in zip(row, column, strict=True))
    if max(abs(n - 1) for n in lengths) > 0.01 or abs(across) > 0.01:
        raise ValueError(f"ImageOrientationPatient ({', '.join(f'{v:g}' for v in cosines)})")
    spacing = find("PixelSpacing", 2)
    if min(spacing) <= 0:
        raise ValueError(f"PixelSpacing ({spacing[0]:g}, {spacing[1]:g})")
    slope = find("RescaleSlope", 1)[0] if values.get("RescaleSlope") else 1.0
    shift = find("RescaleIntercept", 1)[0] if values.get("RescaleIntercept") else 0.0
    if slope == 0:
        raise ValueError("RescaleSlope (0)")
    x, y, z = find("ImagePositionPatient", 3)
    return Plane(
        header,
        (x, y, z),
        (row[0] / lengths[0], row[1] / lengths[0], row[2] / lengths[0]),
        (column[0] / lengths[1], column[1] / lengths[1], column[2] / lengths[1]),
        (spacing[0], spacing[1]),
        slope,
        shift,
        marks,
        frame,
    )


def _marks(header: Header) -> dict[str, str]:
    marks = {name: header.text(name) for name in MARKS if header.values.get(name)}
    number = header.values.get("DiffusionBValue") or next(
        (value for name in B_VALUES if (value := header.values.get(name))), None
    )
    if number:
        marks["BValue"] = f"{number[0] % 100000:g}"  # GE adds 1e9 to some
    if time := header.text("TemporalPositionIdentifier"):
        marks["TemporalPosition"] = time
    return marks


def _frames(header: Header, dataset: Dataset, groups: Any) -> Iterator[Plane]:
    """The frames of an enhanced object; what a frame does not say all share."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if len(groups) != (header.whole("NumberOfFrames", 1) or 1):
        raise ValueError(
            f"NumberOfFrames ({header.whole('NumberOfFrames', 1)}, {len(groups)} told)"
        )
    outer = {
        key: value
        for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
                    "RescaleSlope", "RescaleIntercept")
        if (value := header.values.get(key))
    }  # fmt: skip
    for index, group in enumerate(groups):
        values = dict(outer)
        marks = {k: v for k, v in _marks(header).items() if k not in ("ImageType", "StackID")}
        for scope in (shared, group):
            for sequence in MACROS:
                for item in (scope.get(sequence) or [])[:1]:
                    values |= dict(_numbers(item))
                    marks |= dict(_frame_marks(item))
        for number, place in enumerate(_dimensions(group)):
            marks[f"dimension{number + 1}"] = f"{place}"
        yield _plane(header, values, marks=marks, frame=index if len(groups) > 1 else None)


MACROS = (
    *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    *("PixelValueTransformationSequence", "FrameContentSequence", "MREchoSequence"),
    *("MRDiffusionSequence", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence"),
    *("CardiacSynchronizationSequence", "PETFrameTypeSequence"),
)
FRAME_MARKS = {
    "FrameType": "ImageType",
    "EffectiveEchoTime": "EchoTime",
    "DiffusionBValue": "BValue",
    "TemporalPositionIndex": "TemporalPosition",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "StackID": "StackID",
}


def _numbers(item: Dataset) -> Iterator[tuple[str, tuple[float, ...]]]:
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
                    "RescaleSlope", "RescaleIntercept"):  # fmt: skip
        if (value := item.get(keyword)) not in (None, ""):
            yield keyword, tuple(float(v) for v in np.atleast_1d(np.array(value, np.float64)))


def _frame_marks(item: Dataset) -> Iterator[tuple[str, str]]:
    for keyword, mark in FRAME_MARKS.items():
        if (value := item.get(keyword)) not in (None, ""):
            several = isinstance(value, pydicom.multival.MultiValue)
            yield mark, "\\".join(map(str, value)) if several else _plain(value)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _dimensions(group: Dataset) -> list[int]:
    content = (group.get("FrameContentSequence") or [Dataset()])[0]
    value = content.get("DimensionIndexValues")
    return [int(v) for v in np.atleast_1d(np.array(value))] if value is not None else []


def _tiles(plane: Plane) -> list[Plane]:
    """The slices of a Siemens mosaic, placed as its private header says.

    The stated position is the corner of the whole picture, as if one slice filled it.
    """
    path = plane.header.path
    with quiet():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    count = dataset.get((0x0019, 0x100A))
    distance = dataset.get("SpacingBetweenSlices")
    normal = _csa_numbers(dataset.get((0x0029, 0x1010)), b"SliceNormalVector")
    if count is None or not distance or len(normal) != 3:
        raise VolumeError(
            "mosaic",
            f"{path}: a mosaic of slices in one picture, without the private header that says "
            "how many and where",
            "export it slice by slice",
        )
    tiles = math.ceil(math.sqrt(int(count.value)))
    rows, columns = plane.header.whole("Rows"), plane.header.whole("Columns")
    if rows % tiles or columns % tiles:
        raise VolumeError(
            "mosaic",
            f"{path}: a mosaic of {count.value} slices in {rows} x {columns} pixels",
            "export it slice by slice",
        )
    row, column = np.array(plane.row), np.array(plane.column)
    sign = np.sign(np.cross(row, column) @ np.array(normal))
    step = np.cross(row, column) * sign * float(distance)
    corner = np.array(plane.position) + (columns - columns // tiles) / 2 * plane.spacing[1] * row
    corner += (rows - rows // tiles) / 2 * plane.spacing[0] * column
    found = []
    for index in range(int(count.value)):
        x, y, z = (corner + index * step).tolist()
        found.append(replace(plane, position=(x, y, z), frame=index, tiles=tiles))
    return found


def _csa_numbers(element: Any, name: bytes) -> list[float]:
    """The numbers of one element of Siemens' own header, text in blocks of four bytes."""
    data = element.value if element is not None and isinstance(element.value, bytes) else b""
    at = data.find(name + b"\0")
    if at < 0:
        return []
    (items,) = struct.unpack_from("<L", data, at + 76)
    at += 84
    numbers = []
    for _ in range(min(items, 16)):
        length = struct.unpack_from("<4L", data, at)[1]
        at += 16
        if text := data[at : at + length].strip(b"\0 "):
            numbers.append(float(text))
        at += (length + 3) // 4 * 4
    return numbers
