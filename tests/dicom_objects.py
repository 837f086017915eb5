"""DICOM series and RTSTRUCT objects, small enough to count their voxels by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

FRAME = "1.2.826.0.1.3680043.8.498.7"


def a_file(sop_class: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "p7", "Some^Body", "", "O"
    ds.StudyInstanceUID, ds.StudyID, ds.AccessionNumber = "1.2.826.0.1.3680043.8.498.1", "1", ""
    ds.StudyDate, ds.StudyTime, ds.ReferringPhysicianName = "20200101", "120000", ""
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = FRAME, ""
    return ds


def write_series(
    folder: Path,
    shape: tuple[int, int, int] = (8, 6, 4),
    *,
    uid: str = "1.2.826.0.1.3680043.8.498.2",
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    seed: int = 0,
    **tags: object,
) -> Path:
    """`shape` columns, rows, planes of 2 x 1 x 3 mm; the names of the files mean nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    normal = np.cross(orientation[:3], orientation[3:])
    for plane in range(shape[2]):
        ds = a_file(CTImageStorage)
        ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber = "CT", uid, 3
        ds.InstanceNumber, ds.Manufacturer = plane + 1, "medcl"
        ds.Rows, ds.Columns = shape[1], shape[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        ds.PixelSpacing, ds.SliceThickness = [1.0, 2.0], 3.0
        ds.ImageOrientationPatient = list(orientation)
        ds.ImagePositionPatient = [round(float(v), 6) for v in normal * 3.0 * plane + [10, 20, 30]]
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        ds.PixelData = rng.integers(-50, 50, (shape[1], shape[0])).astype("<i2").tobytes()
        for name, value in tags.items():
            setattr(ds, name, value)
        ds.save_as(folder / f"{(plane * 7 + 3) % 101:03d}.dcm", enforce_file_format=True)
    return folder


def datasets(folder: Path) -> list[Dataset]:
    """The slices of `write_series` in the order of their planes."""
    files = [pydicom.dcmread(path) for path in folder.iterdir()]
    return sorted(files, key=lambda ds: ds.InstanceNumber)


def write_rtstruct(
    path: Path,
    structures: dict[str, list[np.ndarray]],
    *,
    drawn_on: str | None = "1.2.826.0.1.3680043.8.498.2",
    frame: str = FRAME,
    kind: str = "CLOSED_PLANAR",
    slices: Sequence[str] = (),
    listed: Sequence[str] = (),
) -> Path:
    """`structures`: name -> contours, each (corners, 3) in mm as DICOM counts (LPS).

    `slices`: the instances each contour names; `listed`: those named for the whole series.
    """
    ds = a_file(RTStructureSetStorage)
    ds.Modality, ds.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    ds.FrameOfReferenceUID = frame
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    if drawn_on:
        item, study, reference = Dataset(), Dataset(), Dataset()
        item.SeriesInstanceUID = drawn_on
        item.ContourImageSequence = [instance(uid) for uid in listed]
        study.RTReferencedSeriesSequence = [item]
        reference.FrameOfReferenceUID, reference.RTReferencedStudySequence = frame, [study]
        ds.ReferencedFrameOfReferenceSequence = [reference]
    for number, (name, contours) in enumerate(structures.items(), 1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [round(float(v), 6) for v in np.ravel(points)]
            if slices:
                contour.ContourImageSequence = [instance(uid) for uid in slices]
            drawn.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def instance(uid: str) -> Dataset:
    """A reference to one slice."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, uid
    return item


def square(x0: float, y0: float, x1: float, y1: float, plane: float) -> np.ndarray:
    """A rectangle in voxels of an axial `write_series`, in mm."""
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return np.column_stack([corners * [2.0, 1.0] + [10, 20], np.full(4, 30 + 3.0 * plane)])
