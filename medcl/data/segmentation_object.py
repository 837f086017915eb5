"""A label map written as DICOM-SEG that refers to the series it was predicted from.

One binary segment for each class; empty frames are left out. The same prediction for the same
series gets the same identifiers, so that an archive does not hold it twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import UInt8
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medcl.data.dicom import Series
from medcl.data.dicom_header import quiet
from medcl.data.volume import LPS_TO_RAS, Volume, VolumeError
from medcl.files import replacing

SCHEME = "99MEDCL"  # private codes: the names of classes are the user's own
SERIES_NUMBER = 9000
# What every DICOM object must hold, be it empty.
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "PositionReferenceIndicator"),
)


def write_segmentation(
    path: str | Path, label: Volume, series: Series, classes: Mapping[str, int]
) -> None:
    """Write the voxels of each class as a segment, numbered in the order of `classes`.

    Raises VolumeError where the label has no voxel of a class, where the planes are not those of
    the series' files, and where the series lacks what every DICOM object must say.
    """
    array = label.array[0]
    wanted = np.isin(array, list(classes.values()))
    if not wanted.any():
        raise VolumeError("empty_label", f"{path}: nothing to write", "it holds background only")
    numbers = np.zeros(int(array.max()) + 1, np.uint8)
    for number, value in enumerate(classes.values(), 1):
        if value < len(numbers):
            numbers[value] = number
    planes = numbers[array].transpose(2, 1, 0)  # planes, rows, columns
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd names in the source's header
            written = _segmentation(planes, label, series, classes)
            with replacing(path) as partial:
                written.save_as(partial)
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise VolumeError(
            "no_segmentation_object",
            f"{series.folder}: no DICOM-SEG can refer to it: {str(error).splitlines()[0]}",
            "use the NIfTI file",
        ) from None


def _segmentation(
    planes: UInt8[np.ndarray, "Z Y X"],
    label: Volume,
    series: Series,
    classes: Mapping[str, int],
) -> Dataset:
    import highdicom as hd  # 0.4 s: only for those who need it
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    algorithm = hd.AlgorithmIdentificationSequence(
        name="medcl", version=version("medcl"), family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=Code(name[:16], SCHEME, name[:64]),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(classes, 1)
    ]
    files = dict.fromkeys(plane.header.path for plane in series.stack.planes)
    sources = [_header(path) for path in files]
    first = sources[0]
    seed = [str(first.SeriesInstanceUID), planes.tobytes().hex(), *classes]
    seed += [f"{p.header.text('SOPInstanceUID')}#{p.frame}" for p in series.stack.planes]
    volume = hd.Volume(
        planes,
        _planes_affine(label),
        coordinate_system="PATIENT",
        frame_of_reference_uid=first.FrameOfReferenceUID,
    )
    return Segmentation(
        source_images=sources,
        pixel_array=volume,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=generate_uid(entropy_srcs=["series", *seed]),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(entropy_srcs=["object", *seed]),
        instance_number=1,
        manufacturer="medcl",
        manufacturer_model_name="medcl",
        software_versions=version("medcl"),
        device_serial_number="0",
        series_description="medcl segmentation",
        omit_empty_frames=True,
    )


def _header(path: str) -> Dataset:
    """The header of one file; what anonymisation has removed stands empty."""
    with quiet():
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    for keyword in MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if not header.get(keyword):
            setattr(header, keyword, header.file_meta[f"MediaStorage{keyword}"].value)
    return header


def _planes_affine(label: Volume) -> np.ndarray:
    """From (plane, row, column) to mm as DICOM counts (LPS)."""
    affine = LPS_TO_RAS @ label.affine
    return affine[:, [2, 1, 0, 3]]
