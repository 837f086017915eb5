"""Small DICOM series for tests: oblique slices with known values and places."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

OBLIQUE = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]  # rows along (0.8, 0.6, 0), columns to the feet


def a_slice(position: list[float], pixels: np.ndarray, **changes) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.SeriesInstanceUID = "1.2.3"
    ds.PatientID, ds.PatientName, ds.Modality = "p7", "Somebody", "CT"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.PixelSpacing, ds.SliceThickness = [2.0, 0.5], 99.0
    ds.ImageOrientationPatient = OBLIQUE
    ds.ImagePositionPatient = position
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1000
    ds.PixelData = pixels.astype("<i2").tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def series_of(count: int = 5, step: float = 3.0) -> list[Dataset]:
    """Slices of 2 rows and 3 columns, `step` mm apart along their normal (-0.6, 0.8, 0)."""
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    return [
        a_slice((normal * step * k + [10, 20, 30]).tolist(), np.arange(6).reshape(2, 3) + 10 * k)
        for k in range(count)
    ]


def save(folder: Path, slices: list[Dataset]) -> Path:
    """Write the slices under names whose order says nothing about their position."""
    folder.mkdir(exist_ok=True)
    for index, ds in enumerate(slices):
        ds.save_as(folder / f"{(index * 7 + 3) % 11:02d}.dcm", enforce_file_format=True)
    return folder


def frames_of(slices: list[Dataset]) -> Dataset:
    """The slices as one enhanced multi-frame object, values and places in functional groups."""
    multi = a_slice([0, 0, 0], np.zeros((slices[0].Rows, slices[0].Columns)))
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(multi, tag)
    del multi.RescaleSlope, multi.RescaleIntercept
    multi.NumberOfFrames = len(slices)
    multi.PixelData = b"".join(ds.PixelData for ds in slices)
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = slices[0].PixelSpacing
    shared.PixelMeasuresSequence = [measures]
    multi.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for ds in slices:
        group, position, orientation, values = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = ds.ImagePositionPatient
        orientation.ImageOrientationPatient = ds.ImageOrientationPatient
        values.RescaleSlope, values.RescaleIntercept = ds.RescaleSlope, ds.RescaleIntercept
        group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    multi.PerFrameFunctionalGroupsSequence = groups
    return multi
