"""Time the conversion of one DICOM series beside dicom2nifti and dcm2niix.

One uncompressed series of 512 x 512 slices, written here with an ordinary header. medcl and
dicom2nifti run in this process, already imported; dcm2niix is timed as a whole process. All use
one thread, read from the page cache and write uncompressed NIfTI. Runs are interleaved; the
medians and the geometry each converter found are told.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medcl.data.dicom import read_series
from medcl.data.volume import write_nifti

SIZE = 512


def write_series(folder: Path, slices: int) -> None:
    rng = np.random.default_rng(0)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for index in range(slices):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, frame
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.Modality, ds.Manufacturer, ds.PatientID, ds.PatientName = "CT", "none", "p1", "p1"
        ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20200101"
        ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
        ds.SeriesDescription, ds.ProtocolName, ds.PatientPosition = "thorax", "thorax", "HFS"
        ds.SliceThickness, ds.KVP, ds.ConvolutionKernel = "1.5", "120", "B30f"
        ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 2, 1, index + 1
        ds.ImagePositionPatient = [-180, -180, 1.5 * index]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.SliceLocation = 1.5 * index
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows = ds.Columns = SIZE
        ds.PixelSpacing = [0.7, 0.7]
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleIntercept, ds.RescaleSlope = -1024, 1
        ds.PixelData = rng.integers(0, 4096, (SIZE, SIZE), dtype=np.uint16).tobytes()
        ds.save_as(folder / f"{index * 77 % slices:04d}.dcm", enforce_file_format=True)


def converters(source: Path, out: Path) -> dict[str, tuple[Callable[[], object], Path]]:
    """What to time, and the file each writes."""
    import dcm2niix
    from dicom2nifti import convert_dicom, settings

    logging.disable(logging.CRITICAL)
    settings.disable_validate_slicecount()
    settings.gdcmconv_path = None
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-w", "1", "-f", "dcm2niix", "-o"]

    def by_medcl() -> None:
        write_nifti(out / "medcl.nii", read_series(source).decode())

    def by_dicom2nifti() -> None:
        convert_dicom.dicom_series_to_nifti(str(source), str(out / "d2n.nii"), reorient_nifti=False)

    def by_dcm2niix() -> None:
        subprocess.run([*command, str(out), str(source)], check=True, capture_output=True)

    return {
        "medcl": (by_medcl, out / "medcl.nii"),
        "dicom2nifti": (by_dicom2nifti, out / "d2n.nii"),
        "dcm2niix": (by_dcm2niix, out / "dcm2niix.nii"),
    }


def same_volume(a: Path, b: Path) -> bool:
    """Whether two files hold the same voxels at the same places, whatever their axes."""
    first, second = (nib.as_closest_canonical(nib.load(path)) for path in (a, b))
    return np.allclose(first.affine, second.affine, atol=1e-3) and np.array_equal(
        np.asanyarray(first.dataobj), np.asanyarray(second.dataobj)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "series"), Path(folder, "out")
        source.mkdir()
        out.mkdir()
        write_series(source, args.slices)
        work = converters(source, out)
        for run in range(args.runs + 1):  # the first warms the page cache and is not counted
            for name, (convert, path) in work.items():
                path.unlink(missing_ok=True)
                start = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    convert()
                if run:
                    seconds.setdefault(name, []).append(time.perf_counter() - start)
        equal = all(same_volume(work["medcl"][1], path) for _, path in work.values())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        "slices": args.slices,
        "runs": args.runs,
        "median_seconds": {name: round(value, 4) for name, value in medians.items()},
        "least_seconds": {name: round(min(times), 4) for name, times in seconds.items()},
        "times_faster_than_dicom2nifti": round(medians["dicom2nifti"] / medians["medcl"], 2),
        "share_of_dcm2niix": round(medians["medcl"] / medians["dcm2niix"], 3),
        "equal": equal,
        "load": [round(value, 2) for value in os.getloadavg()],
    }
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in medians.items():
            print(f"{name:12s} {value:.3f} s")
    if not equal:
        sys.exit("the converters disagree")


if __name__ == "__main__":
    main()
