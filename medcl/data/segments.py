"""DICOM-SEG: frames of segments become voxels, whatever the way they are stored.

Binary: what is 1. Fractional: what is at least `fraction` of the largest value the object allows.
Label map: the pixel value is the segment's number. Frames lie where their own position says, may
be turned against the image, cover a part of it, and stand in any order; what no frame covers is
background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Integer
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels

from medcl.data.structures import Canvas
from medcl.data.volume import LPS_TO_RAS, Volume, VolumeError

FRACTION = 0.5
TOLERANCE = 0.1  # voxels; slices of the image itself may lie half of this beside its grid
TURNED = 1e-3
MOST_EMPTY = 100  # planes for each frame: beyond, a position is damaged


@dataclass(frozen=True)
class Frame:
    """One picture: `affine` from its column and row (and a step along its normal) to mm, RAS+."""

    segment: int | None  # None: the pixels say
    affine: Float64[np.ndarray, "4 4"]


def segment_names(dataset: Dataset) -> dict[int, str]:
    """Number and label of every segment, without a label map's background."""
    return {
        int(item.SegmentNumber): str(
            item.get("SegmentLabel", "") or f"segment {item.SegmentNumber}"
        ).strip()
        for item in dataset.get("SegmentSequence") or []
        if int(item.SegmentNumber) > 0
    }


def paint_segments(
    dataset: Dataset,
    labels: dict[int, str],
    canvas: Canvas,
    image: Volume,
    where: str,
    *,
    fraction: float = FRACTION,
) -> int:
    """Paint the segments `labels` (number -> class); return how many voxels lie outside.

    Raises VolumeError where the frames do not lie on the voxels of the image.
    """
    frames = frames_of(dataset, where)
    places = [_place(frame, dataset, image, where) for frame in frames]
    kind = str(dataset.get("SegmentationType", "BINARY"))
    least = 1.0
    if kind == "FRACTIONAL":
        least = fraction * float(dataset.get("MaximumFractionalValue", 255))
    outside = 0
    for frame, place, pixels in zip(frames, places, iter_pixels(dataset, raw=True), strict=True):
        if frame.segment is None:
            found = [int(value) for value in np.unique(pixels) if int(value) in labels]
            masks = [(labels[value], pixels == value) for value in found]
        else:
            wanted = frame.segment in labels
            masks = [(labels[frame.segment], pixels >= least)] if wanted else []
        for label, mask in masks:
            rows, columns = np.nonzero(mask)
            x, y, z = place[:, :2] @ np.stack([columns, rows]) + place[:, 2:]
            outside += canvas.paint(label, (x, y, z))
    return outside


def own_grid(dataset: Dataset, where: str) -> Volume:
    """The grid the frames span, all zeros; raises VolumeError where they are no stack."""
    frames = frames_of(dataset, where)
    first = frames[0].affine
    normal = first[:3, 2]
    heights = sorted({round(float(frame.affine[:3, 3] @ normal), 3) for frame in frames})
    step = min(np.diff(heights), default=1.0)
    planes = np.round((np.array(heights) - heights[0]) / step)
    turned = max(float(np.abs(frame.affine[:3, :3] - first[:3, :3]).max()) for frame in frames)
    sparse = planes[-1] > MOST_EMPTY * len(frames)
    if (
        sparse
        or turned > TURNED
        or np.abs(planes * step + heights[0] - heights).max() > TOLERANCE * step
    ):
        raise VolumeError(
            "no_geometry", f"{where}: its frames are no stack of planes", "resample it by hand"
        )
    affine = first.copy()
    affine[:3, 2] = normal * step
    affine[:3, 3] += normal * (heights[0] - float(first[:3, 3] @ normal))
    shape = (int(dataset.Columns), int(dataset.Rows), int(planes[-1]) + 1)
    return Volume(np.broadcast_to(np.uint8(0), (1, *shape)), affine)


def _place(frame: Frame, dataset: Dataset, image: Volume, where: str) -> Integer[np.ndarray, "3 3"]:
    """Column, row and one to voxel indices; raises VolumeError if these are no whole numbers."""
    exact = (np.linalg.inv(image.affine) @ frame.affine)[:3, [0, 1, 3]]
    whole = np.round(exact).astype(np.int64)
    corners = np.array([(x, y, 1) for x in (0, dataset.Columns - 1) for y in (0, dataset.Rows - 1)])
    apart = float(np.abs((exact - whole) @ corners.T).max())
    axes = np.abs(whole[:, :2])
    if apart > TOLERANCE or (axes.sum(axis=0) != 1).any() or (axes.sum(axis=1) > 1).any():
        raise VolumeError(
            "affine_differs",
            f"{where}: its voxels are not those of the image",
            "supply it on the grid of its image, or set `label_grid: any`",
        )
    return whole


def frames_of(dataset: Dataset, where: str) -> list[Frame]:
    """Segment and place of every frame; raises VolumeError for slides and pictures without one."""
    count = int(dataset.get("NumberOfFrames") or 1)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if len(per_frame) != count:
        raise VolumeError(
            "no_geometry",
            f"{where}: {count} frames, but positions for {len(per_frame)}",
            "use a segmentation of a volume",
        )
    label_map = str(dataset.get("SegmentationType", "")) == "LABELMAP"
    try:
        return [_frame([group, shared], label_map) for group in per_frame]
    except KeyError as error:
        raise VolumeError(
            "no_geometry",
            f"{where}: its frames have no {error.args[0]} (a slide, or a picture without a place)",
            "use a segmentation of a volume",
        ) from None


def _frame(scopes: list[Dataset], label_map: bool) -> Frame:
    def find(sequence: str, tag: str) -> np.ndarray:
        for scope in scopes:
            if scope.get(sequence) and tag in scope[sequence][0]:
                return np.array(scope[sequence][0][tag].value, np.float64)
        raise KeyError(tag)

    orientation = find("PlaneOrientationSequence", "ImageOrientationPatient").reshape(2, 3)
    row, column = orientation / np.linalg.norm(orientation, axis=1, keepdims=True)
    between_rows, between_columns = find("PixelMeasuresSequence", "PixelSpacing")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * between_columns, column * between_rows
    affine[:3, 2] = np.cross(row, column)
    affine[:3, 3] = find("PlanePositionSequence", "ImagePositionPatient")
    segment = (
        None if label_map else int(find("SegmentIdentificationSequence", "ReferencedSegmentNumber"))
    )
    return Frame(segment, LPS_TO_RAS @ affine)
