"""A folder with one DICOM series becomes a volume, or a named reason why it cannot.

Slices are sorted by their position along the normal of the image plane. Spacing and orientation
come from positions and orientations alone, never from SliceThickness or SpacingBetweenSlices.
Rescale slope and intercept are applied slice by slice. Identifiers stay out of what is kept.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float64
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut

from medcl.data.checks import Finding
from medcl.data.volume import LPS_TO_RAS, Volume, VolumeError, is_sheared

MODALITIES = {"CT": "CT", "MR": "MR", "PT": "PET", "US": "US"}
# Objects about images, and microscopy, which is no volume of a patient.
NOT_IMAGES = {
    *("SEG", "SR", "PR", "KO", "REG", "FID", "RWV", "RTSTRUCT", "RTPLAN", "RTRECORD", "RTDOSE"),
    *("RTIMAGE", "SM", "ANN", "M3D", "DOC", "ECG", "AU", "PLAN", "TEXTUREMAP"),
}
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
STEP_TOLERANCE = 0.05  # share of the slice distance: positions are often rounded to 0.01 mm
SAME_DIRECTION = 1e-3  # largest difference of the components of two orientations
FEWEST_SLICES = 3  # with two there is no second distance to tell a gap by


@dataclass(frozen=True, eq=False)
class Slice:
    """One frame and its place: LPS mm; `spacing` between rows, between columns."""

    name: str
    dataset: Dataset
    frame: int | None
    position: Float64[np.ndarray, "3"]
    row: Float64[np.ndarray, "3"]
    column: Float64[np.ndarray, "3"]
    spacing: tuple[float, float]
    slope: float
    intercept: float


@dataclass(frozen=True, eq=False)
class Series:
    """The checked slices of one volume in order; voxels are decoded on demand."""

    folder: Path
    slices: tuple[Slice, ...]
    affine: Float64[np.ndarray, "4 4"]
    sha256: str
    findings: tuple[Finding, ...]

    @property
    def subject(self) -> str | None:
        return str(self.slices[0].dataset.get("PatientID") or "").strip() or None

    @property
    def modality(self) -> str:
        return MODALITIES.get(self.slices[0].dataset.get("Modality", ""), "other")

    def provenance(self) -> dict[str, Any]:
        """What the volume was made of, without identifiers."""
        dataset = self.slices[0].dataset
        return {
            "modality": str(dataset.get("Modality", "")),
            "manufacturer": str(dataset.get("Manufacturer", "") or ""),
            "transfer_syntax": dataset.file_meta.get("TransferSyntaxUID", ""),
            "slices": [
                s.name if s.frame is None else f"{s.name}#{s.frame + 1}" for s in self.slices
            ],
            "input_sha256": self.sha256,
        }

    def decode(self) -> Volume:
        """The voxels: int16 where that loses nothing, else float32. Raises VolumeError."""
        planes = list(self._planes())
        shape = (len(planes), *planes[0][0].shape)
        if all(p.dtype.kind in "iu" and m == 1 and b == round(b) for p, m, b in planes):
            low = min(int(pixels.min()) + shift for pixels, _, shift in planes)
            high = max(int(pixels.max()) + shift for pixels, _, shift in planes)
            if low >= -(1 << 15) and high < 1 << 15:
                whole = np.empty(shape, np.int16)
                for index, (pixels, _, shift) in enumerate(planes):
                    np.add(pixels, shift, out=whole[index], dtype=np.int32, casting="unsafe")
                return Volume(whole.transpose(2, 1, 0)[None], self.affine)
        stack = np.empty(shape, np.float32)
        for index, (pixels, slope, shift) in enumerate(planes):
            stack[index] = pixels * np.float64(slope) + shift
        return Volume(stack.transpose(2, 1, 0)[None], self.affine)

    def _planes(self) -> Iterator[tuple[np.ndarray, float, float]]:
        """Stored pixels, slope and intercept of each slice."""
        decoded: tuple[Dataset, np.ndarray] | None = None
        for item in self.slices:
            if decoded is None or decoded[0] is not item.dataset:
                decoded = (item.dataset, _pixels(self.folder, item))
            pixels = decoded[1] if item.frame is None else decoded[1][item.frame]
            if "ModalityLUTSequence" in item.dataset:
                yield apply_modality_lut(pixels, item.dataset), 1.0, 0.0
            else:
                yield pixels, item.slope, item.intercept


def is_dicom(path: Path) -> bool:
    """Whether the file carries the mark of DICOM part 10."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_series(folder: str | Path) -> Series:
    """Read every file of the folder once and check that the slices make one volume.

    Raises VolumeError, code `not_an_image` where the folder holds only other objects.
    """
    folder = Path(folder)
    images, findings, digest = _read_files(folder)
    series = Counter(str(ds.get("SeriesInstanceUID", "")) for _, ds in images)
    if len(series) > 1:
        names = {str(ds.get("SeriesInstanceUID", "")): name for name, ds in reversed(images)}
        shown = ", ".join(f"{n} files as {names[uid]}" for uid, n in series.most_common())
        raise VolumeError(
            "several_series",
            f"{folder}: {len(series)} series in one folder ({shown})",
            "give each series a folder of its own",
        )
    slices = [item for name, ds in images for item in _slices(folder, name, ds)]
    if len(slices) == 1:
        raise VolumeError(
            "single_slice", f"{folder}: a single slice, {slices[0].name}", "supply the whole series"
        )
    _check_alike(folder, slices)
    slices, step = _sort(folder, slices)
    return Series(folder, tuple(slices), _affine(folder, slices, step), digest, tuple(findings))


def _read_files(folder: Path) -> tuple[list[tuple[str, Dataset]], list[Finding], str]:
    """The image objects, findings on the other files, and the hash of the images' bytes."""
    images: list[tuple[str, Dataset]] = []
    others: dict[str, str] = {}
    damaged: dict[str, str] = {}
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        data = path.read_bytes()
        try:
            with _quiet():
                dataset = pydicom.dcmread(io.BytesIO(data))
                kind = _kind(dataset)
        except InvalidDicomError:
            damaged[path.name] = "it carries no mark of DICOM"
        except (
            OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError,
            NotImplementedError, RecursionError, struct.error, UserWarning,
        ) as error:  # fmt: skip
            damaged[path.name] = _reason(error)
        else:
            if kind == "nothing":
                damaged[path.name] = "it ends before it says what it is"
            elif kind == "no_pixel_data":
                raise VolumeError(
                    kind, f"{folder / path.name}: an image without pixels", "supply the whole file"
                )
            elif kind:
                others[path.name] = kind
            else:
                images.append((path.name, dataset))
                digest.update(f"{path.name}\0{len(data)}\0".encode())
                digest.update(data)
    return images, _judge_others(folder, images, others, damaged), digest.hexdigest()


def _judge_others(
    folder: Path,
    images: list[tuple[str, Dataset]],
    others: dict[str, str],
    damaged: dict[str, str],
) -> list[Finding]:
    """Skip what is no slice; refuse the series where a damaged file may have been one."""
    if not images and others:
        kinds = ", ".join(sorted(set(others.values())))
        raise VolumeError(
            "not_an_image", f"{folder}: holds no image, only {kinds}", "nothing to do"
        )
    if not images and not damaged:
        raise VolumeError("unreadable", f"{folder}: no files", "supply the series")
    endings = {_ending(name) for name, _ in images}
    for name, reason in damaged.items():
        if not images or _ending(name) in endings:
            raise VolumeError(
                "unreadable",
                f"{folder / name}: cannot be read as DICOM: {reason}",
                "copy it again from its origin, or move it out of the folder",
            )
    skipped = {**others, **dict.fromkeys(damaged, "not DICOM")}
    return [
        Finding("not_an_image", "info", f"{folder / name}: skipped, {kind}")
        for name, kind in sorted(skipped.items())
    ]


def _ending(name: str) -> str:
    """The suffix, unless it is part of a UID."""
    suffix = Path(name).suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _kind(dataset: Dataset) -> str:
    """What a file is if it cannot be a slice, "" if it can."""
    modality = str(dataset.get("Modality", ""))
    sop = dataset.get("SOPClassUID", "") or dataset.file_meta.get("MediaStorageSOPClassUID", "")
    name = str(getattr(sop, "name", sop))
    if modality not in NOT_IMAGES and any(tag in dataset for tag in PIXELS):
        return ""
    if modality not in NOT_IMAGES and (name.endswith("Image Storage") or "Rows" in dataset):
        return "no_pixel_data"
    return name or modality or "nothing"


@contextmanager
def _quiet() -> Iterator[None]:
    """pydicom warns of every odd value; only a file that ends early matters here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("error", message="End of file reached", category=UserWarning)
        yield


def _slices(folder: Path, name: str, dataset: Dataset) -> Iterator[Slice]:
    where = folder / name
    if dataset.get("SamplesPerPixel", 1) != 1 or "PALETTE" in dataset.get(
        "PhotometricInterpretation", ""
    ):
        raise VolumeError(
            "colour",
            f"{where}: a colour image ({dataset.get('PhotometricInterpretation')})",
            "supply grey-value images",
        )
    if "MOSAIC" in (dataset.get("ImageType") or ()):
        raise VolumeError(
            "mosaic", f"{where}: a mosaic of slices in one picture", "export it slice by slice"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is None and frames > 1:
        raise VolumeError(
            "no_geometry",
            f"{where}: {frames} frames without positions",
            "supply a series of slices",
        )
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    try:
        if groups is None:
            yield _slice(name, dataset, None, [dataset])
        else:
            for index, group in enumerate(groups):
                scopes = [item for scope in (group, shared) for item in _macros(scope)]
                yield _slice(name, dataset, index if frames > 1 else None, [*scopes, dataset])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VolumeError(
            "no_geometry",
            f"{where}: no usable {' '.join(map(str, error.args)) or 'geometry'}",
            "supply slices with position, orientation and pixel spacing",
        ) from None


def _macros(group: Dataset) -> list[Dataset]:
    """The functional groups that hold place and values of a frame."""
    names = (
        *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
        "PixelValueTransformationSequence",
    )
    return [group[name][0] for name in names if name in group and group[name].value]


def _slice(name: str, dataset: Dataset, frame: int | None, scopes: list[Dataset]) -> Slice:
    def find(tag: str, count: int) -> np.ndarray:
        for scope in scopes:
            if (value := scope.get(tag)) not in (None, ""):
                numbers = np.atleast_1d(np.array(value, np.float64))
                if numbers.shape == (count,) and np.isfinite(numbers).all():
                    return numbers
                raise ValueError(f"{tag} ({value})")
        raise KeyError(tag)

    def number(tag: str, default: float) -> float:
        try:
            return float(find(tag, 1)[0])
        except KeyError:
            return default

    orientation = find("ImageOrientationPatient", 6).reshape(2, 3)
    row, column = orientation
    lengths = np.linalg.norm(orientation, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(row @ column) > 0.01:
        raise ValueError(f"ImageOrientationPatient ({orientation.ravel().tolist()})")
    between_rows, between_columns = find("PixelSpacing", 2)
    if min(between_rows, between_columns) <= 0:
        raise ValueError(f"PixelSpacing ({between_rows:g}, {between_columns:g})")
    return Slice(
        name,
        dataset,
        frame,
        find("ImagePositionPatient", 3),
        row / lengths[0],
        column / lengths[1],
        (float(between_rows), float(between_columns)),
        number("RescaleSlope", 1.0),
        number("RescaleIntercept", 0.0),
    )


def _check_alike(folder: Path, slices: list[Slice]) -> None:
    """One orientation, one matrix, one pixel spacing."""
    first = slices[0]
    for item in slices[1:]:
        turned = max(np.abs(item.row - first.row).max(), np.abs(item.column - first.column).max())
        if turned > SAME_DIRECTION:
            raise VolumeError(
                "mixed_orientation",
                f"{folder}: {item.name} lies in another orientation than {first.name}",
                "give each orientation a folder of its own",
            )
    grids = Counter(
        (s.dataset.Rows, s.dataset.Columns, *(round(mm, 4) for mm in s.spacing)) for s in slices
    )
    if len(grids) > 1:
        shown = ", ".join(f"{n} slices of {r}x{c} at {a:g}x{b:g} mm" for (r, c, a, b), n in
                          grids.most_common())  # fmt: skip
        raise VolumeError(
            "mixed_geometry",
            f"{folder}: slices of different size or spacing ({shown})",
            "give each its own folder",
        )


def _sort(folder: Path, slices: list[Slice]) -> tuple[list[Slice], float]:
    """The slices in order along the normal, and the number of slice distances they span."""
    normal = np.cross(slices[0].row, slices[0].column)
    slices = sorted(slices, key=lambda item: (float(item.position @ normal), item.name))
    along = np.array([item.position @ normal for item in slices])
    steps = np.diff(along)
    same = steps < 0.001
    if same.any():
        raise VolumeError(
            "several_volumes",
            f"{folder}: {len(slices)} slices at {int((~same).sum()) + 1} positions, several "
            "volumes (time points, echoes, b-values) or copies of slices",
            "give each volume a folder of its own",
        )
    if len(slices) < FEWEST_SLICES:
        raise VolumeError(
            "too_few_slices",
            f"{folder}: {len(slices)} slices; gaps show only with {FEWEST_SLICES} or more",
            "supply the whole series",
        )
    step = float(np.sort(steps)[(len(steps) - 1) // 2])  # a gap must not become the rule
    counts = np.round(steps / step).astype(int)
    if np.abs(steps - counts * step).max() > STEP_TOLERANCE * step:
        worst = int(np.abs(steps - counts * step).argmax())
        raise VolumeError(
            "uneven_spacing",
            f"{folder}: slices are {steps.min():.4g} to {steps.max():.4g} mm apart, such as "
            f"{slices[worst].name} and {slices[worst + 1].name}",
            "supply slices at equal distances",
        )
    if counts.max() > 1:
        gap = int(np.argmax(counts > 1))
        missing = int((counts - 1).sum())
        raise VolumeError(
            "missing_slices",
            f"{folder}: {missing} of {len(slices) + missing} slices are missing, the first "
            f"between {along[gap]:.4g} and {along[gap + 1]:.4g} mm ({slices[gap].name} and "
            f"{slices[gap + 1].name})",
            "supply the slices, or add the case to `exclude`",
        )
    return slices, float(len(steps))


def _affine(folder: Path, slices: list[Slice], steps: float) -> Float64[np.ndarray, "4 4"]:
    """Voxel indices (column, row, slice) to mm, RAS+; refuses slices not stacked straight."""
    first, last = slices[0], slices[-1]
    step = (last.position - first.position) / steps
    line = first.position + np.outer(np.arange(len(slices)), step)
    beside = np.linalg.norm([s.position for s in slices] - line, axis=1)
    affine = np.eye(4)
    affine[:3, 0] = first.row * first.spacing[1]
    affine[:3, 1] = first.column * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    if is_sheared(affine):
        normal = np.cross(first.row, first.column)
        angle = np.degrees(np.arccos(min(1.0, normal @ step / np.linalg.norm(step))))
        raise VolumeError(
            "gantry_tilt",
            f"{folder}: slices are stacked at {angle:.1f} degrees to their normal (tilted gantry)",
            "resample the series to right angles first",
        )
    if beside.max() > STEP_TOLERANCE * np.linalg.norm(step):
        raise VolumeError(
            "mixed_geometry",
            f"{folder}: {slices[int(beside.argmax())].name} lies {beside.max():.3g} mm beside the "
            "line of the others",
            "supply slices of one acquisition",
        )
    return LPS_TO_RAS @ affine


def _pixels(folder: Path, item: Slice) -> np.ndarray:
    try:
        with _quiet():
            return item.dataset.pixel_array
    # What the decoders raise: pydicom, gdcm and OpenJPEG have no common ancestor below these.
    except (
        ValueError, RuntimeError, NotImplementedError, AttributeError, TypeError, KeyError,
        EOFError, OSError, IndexError, struct.error, UserWarning,
    ) as error:  # fmt: skip
        raise VolumeError(
            "unreadable",
            f"{folder / item.name}: the pixels cannot be decoded: {_reason(error)}",
            "copy the series again from its origin",
        ) from None


def _reason(error: Exception) -> str:
    lines = str(error).replace(" in file <no filename>", "").splitlines()
    return lines[0].rstrip(":") if lines else repr(error)
