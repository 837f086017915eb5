"""Write a volume as a DICOM MR series, as a scanner would send it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.random import Generator
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medcl.data.volume import LPS_TO_RAS, Volume


def write_series(folder: Path, image: Volume, subject: str, rng: Generator) -> None:
    """Write one file per slice of the third axis, in shuffled order of names.

    The first axis runs along the rows. Values are scaled to 12 bits with a rescale slope.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slope = float(f"{image.array.max() / 4000:.9g}")
    stored = np.round(image.array[0] / slope).astype(np.uint16)
    common = _common(image, subject, folder.name, slope)
    affine = LPS_TO_RAS @ image.affine
    names = rng.permutation(image.shape[2])
    for k in range(image.shape[2]):
        uid = generate_uid(entropy_srcs=[subject, folder.name, "instance", str(k)])
        slice_ = Dataset()
        slice_.update(common)
        slice_.SOPInstanceUID = uid
        slice_.InstanceNumber = k + 1
        slice_.ImagePositionPatient = _decimals(affine[:3, 3] + k * affine[:3, 2])
        slice_.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.MediaStorageSOPClassUID = MRImageStorage
        slice_.file_meta.MediaStorageSOPInstanceUID = uid
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.save_as(folder / f"IM{names[k]:04d}", enforce_file_format=True)


def _common(image: Volume, subject: str, name: str, slope: float) -> Dataset:
    """What all slices share."""
    rows, columns = image.shape[1], image.shape[0]
    directions = (LPS_TO_RAS @ image.affine)[:3, :2] / np.array(image.spacing[:2])
    common = Dataset()
    common.SOPClassUID = MRImageStorage
    common.Modality = "MR"
    common.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    common.PatientID = common.PatientName = subject
    common.PatientBirthDate = common.PatientSex = ""
    common.StudyDate = common.StudyTime = common.StudyID = common.AccessionNumber = ""
    common.ReferringPhysicianName = ""
    common.Manufacturer = "medcl phantom"
    common.StudyInstanceUID = generate_uid(entropy_srcs=[subject, name, "study"])
    common.SeriesInstanceUID = generate_uid(entropy_srcs=[subject, name, "series"])
    common.FrameOfReferenceUID = generate_uid(entropy_srcs=[subject, name, "frame"])
    common.SeriesNumber = 1
    common.SeriesDescription = "drawn torso"
    common.ScanningSequence, common.SequenceVariant = "GR", "NONE"
    common.ScanOptions, common.MRAcquisitionType = "", "2D"
    common.RepetitionTime, common.EchoTime, common.EchoTrainLength = "4", "2", ""
    common.PatientPosition, common.PositionReferenceIndicator = "HFS", ""
    common.ImageOrientationPatient = _decimals(directions.T.ravel())
    common.PixelSpacing = _decimals([image.spacing[1], image.spacing[0]])
    common.SliceThickness = common.SpacingBetweenSlices = _decimals([image.spacing[2]])[0]
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.Rows, common.Columns = rows, columns
    common.BitsAllocated, common.BitsStored, common.HighBit = 16, 12, 11
    common.PixelRepresentation = 0
    common.RescaleSlope, common.RescaleIntercept, common.RescaleType = f"{slope:.9g}", "0", "US"
    return common


def _decimals(values: np.ndarray | list[float]) -> list[str]:
    """DICOM's decimal strings hold 16 characters."""
    return [f"{value:.9g}" for value in np.asarray(values, float) + 0.0]
