"""Volumes: voxels with their place in the patient, read from and written to files.

The one module that converts between file conventions. A volume keeps the axes of its file; world
coordinates are millimetres, RAS+ (x to the right, y to the front, z to the head of the patient).
"""

from __future__ import annotations

import errno
import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float64, Num
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medcl.data.detached import (
    META,
    NRRD,
    CutError,
    Digest,
    MissingVoxelsError,
    check_inflates,
    check_present,
    check_whole,
    feed,
)
from medcl.errors import MedclError
from medcl.files import replacing

NIFTI = (".nii", ".nii.gz")
ITK = (*NRRD, *META)
SUFFIXES = (*NIFTI, *ITK)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Corners of two equal grids may lie this share of a voxel apart: files round their affines (a
# quaternion in single precision turns a 512-voxel axis by some hundredths of a voxel).
GRID_TOLERANCE = 0.05
WHOLE = 1e-5  # share of a label's value by which rounding may move it


class VolumeError(MedclError):
    """A file that cannot be used as a volume: `code` names why, `remedy` says what to do."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(code, message, remedy)  # the arguments, so that it can be pickled
        self.code, self.message, self.remedy = code, message, remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}"


@dataclass(frozen=True)
class Volume:
    """Voxels in file order and the affine from voxel indices to mm (RAS+)."""

    array: Num[np.ndarray, "C X Y Z"]
    affine: Float64[np.ndarray, "4 4"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes, without the channels."""
        return self.array.shape[1:]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along the three axes in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Where each axis points, such as RAS or LPI; raises VolumeError for a singular affine."""
        codes = nib.aff2axcodes(self.affine)
        if None in codes:
            raise VolumeError(
                "affine_singular", "the affine has no inverse", "write a valid affine"
            )
        return "".join(codes)


def blank(shape: tuple[int, ...], affine: Float64[np.ndarray, "4 4"]) -> Volume:
    """A volume of zeros on this grid that takes no memory; `shape` is that of its array."""
    return Volume(np.broadcast_to(np.uint8(0), shape), affine)


def read_volume(path: str | Path, *, labels: bool = False, digest: Digest | None = None) -> Volume:
    """Read NIfTI, NRRD or MetaImage: intensities as float32, scaled as the file says.

    A fourth axis becomes the channels. With `labels` the values are whole numbers, exact.
    `digest` is fed the bytes of the file, which is thereby opened once; of a header whose voxels
    lie in other files, those of all of them, and not their names.
    Raises VolumeError where the file is missing, damaged, flat, complex or in colour, and where
    labels are not whole numbers.
    """
    with reading(path):
        check_file(path)
        read = _read_itk if is_itk(path) else _read_nifti
        array, affine = read(Path(path), digest)
    array = _whole_numbers(path, array) if labels else _single_precision(array)
    return Volume(array, affine)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Whatever a missing, damaged or foreign file makes the readers raise becomes a VolumeError."""
    try:
        yield
    except VolumeError:
        raise
    except FileNotFoundError:
        raise VolumeError("missing_image_file", f"{path}: no such file", "check the path") from None
    except MissingVoxelsError as error:
        raise VolumeError(
            "missing_voxel_file",
            f"{path}: its voxels are in {error.file}, which is not there",
            "supply it, or correct its name in the header",
        ) from None
    except CutError as error:
        whose = "its voxels" if error.file == Path(path) else f"its voxels in {error.file}"
        raise VolumeError(
            "unreadable",
            f"{path}: is cut off: {whose} take {error.needed} bytes, {error.there} are there",
            "copy it again from its origin",
        ) from None
    # All that the readers raise for damaged files; SimpleITK knows only RuntimeError.
    except (
        OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, WrapStructError,
        ValueError, TypeError, OverflowError, MemoryError, RuntimeError,
    ) as error:  # fmt: skip
        raise VolumeError(
            "unreadable",
            f"{path}: cannot be read, {type(error).__name__}: {_one_line(error)}",
            "it is damaged or not what its name says: copy it again from its origin",
        ) from None


def check_file(path: str | Path) -> None:
    """Raise FileNotFoundError where nothing is there, OSError for a pipe, which would wait."""
    if not Path(path).exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not Path(path).is_file():
        raise OSError("it is no file")


def is_itk(path: str | Path) -> bool:
    """Whether SimpleITK reads it, not nibabel. Raises VolumeError for what neither does."""
    name = str(path).lower()
    if not name.endswith(SUFFIXES):
        raise VolumeError(
            "unreadable",
            f"{path}: not a format of a volume",
            f"convert it to one of {', '.join(SUFFIXES)}",
        )
    return name.endswith(ITK)


def write_nifti(path: str | Path, volume: Volume) -> None:
    """Write NIfTI-1, compressed if the name ends in .gz; the same volume gives the same bytes."""
    array = volume.array[0] if len(volume.array) == 1 else np.moveaxis(volume.array, 0, -1)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype in (np.int64, np.uint64):
        array = _fit(array)
    image = nib.Nifti1Image(array, volume.affine)
    image.set_sform(volume.affine, code=1)
    # A quaternion cannot hold shear: then only the sform says where the volume lies.
    image.set_qform(volume.affine, code=0 if is_sheared(volume.affine) else 1)
    image.header.set_xyzt_units("mm")
    if str(path).lower().endswith(".gz"):
        data = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
        with replacing(path) as partial:
            partial.write_bytes(data)
        return
    voxels = np.ascontiguousarray(array.T)  # of a converted series: as it lies, no copy
    with replacing(path) as partial, open(partial, "wb") as file:
        image.header["vox_offset"] = 352
        file.write(image.header.binaryblock + b"\0" * 4)
        file.write(voxels.data)


def reorient(volume: Volume, orientation: str = "RAS") -> Volume:
    """Permute and flip the axes until they point as asked; voxel values stay untouched."""
    change, affine = _turn(volume, orientation)
    return Volume(np.stack([apply_orientation(part, change) for part in volume.array]), affine)


def turned_grid(volume: Volume, orientation: str) -> Volume:
    """The grid of a volume with its axes turned, without its voxels."""
    change, affine = _turn(volume, orientation)
    shape = apply_orientation(np.broadcast_to(np.uint8(0), volume.shape), change).shape
    return blank((1, *shape), affine)


def _turn(volume: Volume, orientation: str) -> tuple[np.ndarray, np.ndarray]:
    """How nibabel turns the axes, and the affine of what is turned."""
    now = io_orientation(volume.affine)
    if np.isnan(now).any():
        raise VolumeError("affine_singular", "the affine has no inverse", "write a valid affine")
    change = ornt_transform(now, axcodes2ornt(tuple(orientation)))
    return change, volume.affine @ nib.orientations.inv_ornt_aff(change, volume.shape)


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether two volumes have the same voxels in space (GRID_TOLERANCE of a voxel)."""
    return a.shape == b.shape and grid_distance(a, b) <= GRID_TOLERANCE


def grid_distance(a: Volume, b: Volume) -> float:
    """Largest distance of the corners of two volumes of one shape, in voxels of the finer one."""
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in a.shape))])
    apart = np.linalg.norm(corners @ (a.affine - b.affine).T, axis=1).max()
    return float(apart / min(*a.spacing, *b.spacing))


def is_sheared(affine: Float64[np.ndarray, "4 4"], tolerance: float = 5e-3) -> bool:
    """Whether two axes are not at a right angle (cosine above `tolerance`)."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > tolerance)


def _read_nifti(path: Path, digest: Digest | None) -> tuple[np.ndarray, np.ndarray]:
    data = path.read_bytes()
    if digest is not None:
        digest.update(data)
    if path.name.lower().endswith(".gz"):
        data = gzip.decompress(data)  # all of it: the checksum stands at the end
    second = data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # header size 540
    image = (nib.Nifti2Image if second else nib.Nifti1Image).from_bytes(data)
    refuse_type(path, image.get_data_dtype())
    channels = grid_of(path, image.shape)[0]
    array = np.asanyarray(image.dataobj)
    return _channels_first(array, channels), np.asarray(image.affine, np.float64)


def _read_itk(path: Path, digest: Digest | None) -> tuple[np.ndarray, np.ndarray]:
    import SimpleITK as sitk  # 0.2 s: only for those who need it

    check_present(path)
    check_whole(path)
    image = sitk.ReadImage(str(path))
    values = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
    check_inflates(path, values * image.GetSizeOfPixelComponent())
    if digest is not None:  # its reader takes no bytes
        feed(path, digest)
    if "complex" in image.GetPixelIDTypeAsString():
        refuse_type(path, np.dtype(np.complex64))
    dims, vector = image.GetDimension(), image.GetNumberOfComponentsPerPixel() > 1
    shape, affine = itk_grid(path, image, image.GetNumberOfComponentsPerPixel())
    array = sitk.GetArrayFromImage(image)
    array = array.transpose(*reversed(range(dims)), *([dims] if vector else []))
    return _channels_first(array, shape[0]), affine


def itk_grid(path: Path, image: Any, components: int) -> tuple[tuple[int, ...], np.ndarray]:
    """(C, X, Y, Z) and affine of an image of ITK, or of a reader that has read its header."""
    dims = image.GetDimension()
    sizes = (*image.GetSize(), *([components] if components > 1 else []))
    if dims not in (3, 4) or (dims == 4 and components > 1):
        raise _not_3d(path, sizes)
    direction = np.array(image.GetDirection()).reshape(dims, dims)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return grid_of(path, sizes), LPS_TO_RAS @ affine


def refuse_type(path: Path, dtype: np.dtype) -> None:
    """Raise VolumeError for voxels that are no grey values."""
    if dtype.fields is not None:
        raise VolumeError(
            "colour", f"{path}: the voxels are colours ({dtype})", "supply a grey-value image"
        )
    if dtype.kind == "c":
        raise VolumeError(
            "complex", f"{path}: the voxels are complex numbers", "supply magnitude images"
        )


def grid_of(path: Path, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """(C, X, Y, Z) of the sizes X Y Z, X Y Z C, or NIfTI's vectors X Y Z 1 C."""
    more = [n for n in sizes[3:] if n > 1]
    if len(sizes) < 3 or len(more) > 1:
        raise _not_3d(path, sizes)
    return (math.prod(sizes[3:]), *sizes[:3])


def _channels_first(array: np.ndarray, channels: int) -> np.ndarray:
    return np.moveaxis(array.reshape(*array.shape[:3], channels), -1, 0)


def _not_3d(path: Path, shape: tuple[int, ...]) -> VolumeError:
    return VolumeError(
        "not_3d",
        f"{path}: expected a volume of three axes, found {'x'.join(map(str, shape))}",
        "supply one 3-D file per case",
    )


def _single_precision(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # becomes inf, which ingest finds
        return array.astype(np.float32, copy=False)


def _whole_numbers(path: str | Path, array: np.ndarray) -> np.ndarray:
    """Label values as integers; float files are accepted where every value is whole.

    To WHOLE of the value: a mask stored as 255 times a slope of 1/255 is not quite 1.
    """
    if array.dtype.kind in "iu":
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    with np.errstate(invalid="ignore"):  # NaN and inf are no whole numbers either
        whole = np.round(array)
        near = np.abs(array - whole) <= WHOLE * np.maximum(np.abs(array), 1)
    wrong = array[~(np.isfinite(array) & near)]
    if wrong.size:
        raise VolumeError(
            "non_integer_label",
            f"{path}: {wrong.size} voxels of the label map are not whole numbers, "
            f"the first is {float(wrong[0]):g}",
            "supply class values, not probabilities or interpolated labels",
        )
    return _fit(whole.astype(np.int64))


def _fit(array: np.ndarray) -> np.ndarray:
    """The smallest of the common types that holds every value."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype)
    return array.astype(np.float64)


def _one_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
