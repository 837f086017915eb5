"""A folder or a tree of DICOM files becomes volumes, or named reasons why it cannot.

Every header is read once; voxels are decoded when asked for. Identifiers stay out of what is
kept unless the configuration says otherwise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float32, Num

from medcl.config import Dicom
from medcl.data.checks import Finding
from medcl.data.dicom_header import DAMAGE, quiet
from medcl.data.dicom_pixels import read_planes
from medcl.data.dicom_stack import Stack
from medcl.data.dicom_suv import suv_factor
from medcl.data.series import Files, Found, group, read_files, volumes_of
from medcl.data.volume import Volume, VolumeError
from medcl.files import sha256_of

MODALITIES = {"CT": "CT", "MR": "MR", "PT": "PET", "US": "US"}
ENDINGS = (".dcm", ".ima", ".dicom")
DEFAULT = Dicom()
RECORDED = (
    *("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength", "ImageType"),
    *("ScanningSequence", "SequenceVariant", "SequenceName", "MRAcquisitionType"),
    *("RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "KVP", "ConvolutionKernel"),
    *("SliceThickness", "SpacingBetweenSlices", "GantryDetectorTilt", "PatientPosition"),
    *("BodyPartExamined", "ContrastBolusAgent", "Units", "DecayCorrection", "CorrectedImage"),
    *("RescaleType", "BurnedInAnnotation", "LossyImageCompression"),
)
IDENTIFIERS = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "SeriesDate", "AccessionNumber"),
    *("StudyDescription", "SeriesDescription", "ProtocolName", "InstitutionName"),
)


@dataclass(frozen=True, eq=False)
class Series:
    """The checked slices of one volume in order; voxels are decoded on demand."""

    folder: Path
    stack: Stack
    findings: tuple[Finding, ...]
    keep_identifiers: bool = False
    suv: bool = False

    @property
    def subject(self) -> str | None:
        return self.stack.planes[0].header.text("PatientID") or None

    @property
    def person(self) -> str | None:
        """The subject, or a name for its study: volumes of one study are of one person."""
        if self.subject or not self.study:
            return self.subject
        return f"study-{sha256_of(self.study)[:8]}"

    @property
    def modality(self) -> str:
        return MODALITIES.get(self.stack.planes[0].header.text("Modality"), "other")

    @property
    def study(self) -> str:
        return self.stack.planes[0].header.text("StudyInstanceUID")

    @property
    def description(self) -> str:
        return self.stack.planes[0].header.text("SeriesDescription")

    def provenance(self) -> dict[str, Any]:
        """What the volume was made of: the file of each slice, the bytes' hash, useful tags."""
        planes, places = self.stack.planes, self.stack.places
        digest = hashlib.sha256()
        for path in dict.fromkeys(plane.header.path for plane in planes):
            data = Path(path).read_bytes()
            digest.update(f"{os.path.relpath(path, self.folder)}\0{len(data)}\0".encode())
            digest.update(data)
        names = [plane.name_from(self.folder) for plane in planes]
        slices: list[str | None] = [*names]
        if places is not None:
            slices = [names[int(at)] if at == int(at) else None for at in places]
        return {
            "modality": planes[0].header.text("Modality"),
            "transfer_syntax": planes[0].header.syntax,
            "tags": self._tags(),
            "slices": slices,
            "unit": "SUV" if self.suv and self.modality == "PET" else "stored",
            "mended": [f.code for f in self.findings if f.code in MENDED],
            "input_sha256": digest.hexdigest(),
        }

    def _tags(self) -> dict[str, str]:
        """The elements of the first slice that matter, without identifiers unless they are kept."""
        try:
            with quiet():
                path = self.stack.planes[0].header.path
                dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
                names = (*RECORDED, *(IDENTIFIERS if self.keep_identifiers else ()))
                return {k: str(v) for k in names if (v := dataset.get(k)) not in (None, "")}
        except DAMAGE:
            return {}  # an element nothing depends on: the volume itself is judged elsewhere

    def decode(self) -> Volume:
        """The voxels: int16 where that loses nothing, else float32. Raises VolumeError."""
        array = read_planes(self.stack.planes)
        affine = self.stack.affine
        if self.suv and self.modality == "PET":
            array = array * np.float32(suv_factor(self.stack.planes[0]))
        if self.stack.places is not None:
            array = _between(array, np.array(self.stack.places))
        if self.stack.slide is not None:
            array, before = _shear(array, self.stack.slide)
            affine = affine.copy()
            affine[:3, 3] -= affine[:3, :2] @ before
        return Volume(array.transpose(2, 1, 0)[None], affine)


MENDED = (
    *("slices_interpolated", "slices_missing_at_end", "tilt_sheared", "two_slices"),
    "duplicate_slices",
)


def _between(array: Num[np.ndarray, "Z Y X"], places: np.ndarray) -> Float32[np.ndarray, "z Y X"]:
    """Slices at fractions between planes, by linear interpolation."""
    low = np.minimum(places.astype(int), len(array) - 2)
    out = np.empty((len(places), *array.shape[1:]), np.float32)
    for index, (k, share) in enumerate(zip(low, places - low, strict=True)):
        out[index] = array[k] * (1 - share) + array[k + 1] * share
    return out


def _shear(
    array: Num[np.ndarray, "Z Y X"], slide: tuple[float, float]
) -> tuple[Float32[np.ndarray, "Z y x"], np.ndarray]:
    """Each slice moved in its plane by `slide` (columns, rows; voxels per slice), linearly.

    The grid grows until all slices fit; new voxels take the lowest value of the volume. Also
    returns the columns and rows added before the first.
    """
    out: np.ndarray = array
    before = np.zeros(2)
    fill = float(array.min())
    for axis, per_slice in ((2, slide[0]), (1, slide[1])):
        if abs(per_slice) * (len(array) - 1) < 0.01:
            continue
        shifts = per_slice * np.arange(len(array))
        first, last = int(np.floor(shifts.min())), int(np.ceil(shifts.max()))
        before[2 - axis] = -first
        moved = np.moveaxis(out, axis, -1)
        grown = np.full((*moved.shape[:-1], moved.shape[-1] + last - first), fill, np.float32)
        for index, shift in enumerate(shifts - first):
            whole = int(np.floor(shift))
            share = np.float32(shift - whole)
            padded = np.pad(moved[index].astype(np.float32), ((0, 0), (1, 1)), constant_values=fill)
            mixed = padded[:, 1:] * (1 - share) + padded[:, :-1] * share
            end = min(whole + mixed.shape[1], grown.shape[-1])
            grown[index, :, whole:end] = mixed[:, : end - whole]
        out = np.moveaxis(grown, -1, axis)
    return np.ascontiguousarray(out, dtype=np.float32), before


def read_series(folder: str | Path, options: Dicom = DEFAULT) -> Series:
    """Read every header of the folder once and check that the slices make one volume.

    Raises VolumeError, code `not_an_image` where the folder holds only other objects.
    """
    folder = Path(folder)
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files = read_files(paths)
    notes, damaged = judge_rest(folder, files)
    if damaged:
        raise damaged[0]
    if not files.images and files.others:
        kinds = ", ".join(sorted({header.kind for header in files.others.values()}))
        raise VolumeError(
            "not_an_image", f"{folder}: holds no image, only {kinds}", "nothing to do"
        )
    if not files.images:
        raise VolumeError("unreadable", f"{folder}: no DICOM files", "supply the series")
    series = group(files.images)
    if len(series) > 1:
        shown = ", ".join(f"{len(part)} files as {part[0].path}" for part in series)
        raise VolumeError(
            "several_series",
            f"{folder}: {len(series)} series in one folder ({shown})",
            "give each series a folder of its own, or use layout dicom: it makes each a case",
        )
    found = volumes_of(str(folder), series[0], options)
    if len(found) > 1 and all(isinstance(item.result, Stack) for item in found):
        names = ", ".join(item.name for item in found)
        slices = sum(len(item.headers) for item in found)
        raise VolumeError(
            "several_volumes",
            f"{folder}: {slices} files hold {len(found)} volumes ({names})",
            "give each volume a folder of its own, or use layout dicom: it makes each a case",
        )
    for item in found:
        if isinstance(item.result, VolumeError):
            raise item.result
    return as_series(folder, found[0], notes, options)


def as_series(folder: Path, found: Found, notes: Iterable[Finding], options: Dicom) -> Series:
    assert isinstance(found.result, Stack)
    findings = (*notes, *found.findings, *found.result.findings)
    return Series(folder, found.result, findings, options.keep_identifiers, options.suv)


def judge_rest(folder: Path, files: Files) -> tuple[list[Finding], list[VolumeError]]:
    """What is no slice, as notes; files that may have been slices, as errors."""
    endings = {_ending(os.path.basename(header.path)) for header in files.images}
    errors, skipped = [], {path: header.kind for path, header in files.others.items()}
    for path, error in files.damaged.items():
        ending = _ending(path.name)
        if error.damaged and (
            error.marked or ending in ENDINGS or not files.images or ending in endings
        ):
            errors.append(
                VolumeError(
                    error.code,
                    f"{path}: cannot be read as DICOM: {error}",
                    "copy it again from its origin, or move it out of the folder",
                )
            )
        else:
            skipped[path] = "not DICOM"
    notes = [
        Finding("not_an_image", "info", f"{path}: skipped, {kind}")
        for path, kind in sorted(skipped.items())
    ]
    return notes, errors


def _ending(name: str) -> str:
    """The suffix, unless it is part of a UID."""
    suffix = Path(name).suffix.lower()
    return "" if suffix[1:].isdigit() else suffix
