"""What a file says of its volume before any voxel is read.

Of a compressed NIfTI only the first few hundred bytes are inflated, so that thousands of files are
judged in seconds. The volume comes back with its grid and no memory for its voxels.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from medcl.data.checks import Finding, check_affines, no_orientation
from medcl.data.detached import NRRD, check_present, check_whole, leaves_axis_open
from medcl.data.volume import (
    Volume,
    VolumeError,
    blank,
    check_file,
    grid_of,
    is_itk,
    itk_grid,
    reading,
    refuse_type,
)

NIFTI_1, NIFTI_2 = 348, 540  # bytes of a header
SECOND = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # a NIfTI-2 header begins with its size
CHUNK = 1 << 10  # compressed bytes read at once; a header takes some hundred


def read_header(path: str | Path) -> tuple[Volume, list[Finding]]:
    """The grid of a file and findings on its header.

    Raises VolumeError where `read_volume` would, as far as the header and the file's size tell.
    """
    path = Path(path)
    with reading(path):
        check_file(path)
        return _itk(path) if is_itk(path) else _nifti(path)


def nifti_header(path: Path) -> Any:
    """nibabel's header of a NIfTI file, checked as it checks those of the files it loads."""
    with open(path, "rb") as file:
        packed = path.name.lower().endswith(".gz")
        start = _inflated(file, NIFTI_2) if packed else file.read(NIFTI_2)
    second = start[:4] in SECOND
    kind = nib.Nifti2Header if second else nib.Nifti1Header
    return kind(start[: NIFTI_2 if second else NIFTI_1])


def _inflated(file: BinaryIO, size: int) -> bytes:
    """The first `size` bytes of a gzip file, fewer where there are no more."""
    stream = zlib.decompressobj(wbits=31)
    out = b""
    while len(out) < size and (data := file.read(CHUNK)):
        data = stream.unconsumed_tail + data
        while data and len(out) < size:
            out += stream.decompress(data, size - len(out))
            data = b""
            if stream.eof:  # another member may follow
                data, stream = stream.unused_data, zlib.decompressobj(wbits=31)
    return out


def _nifti(path: Path) -> tuple[Volume, list[Finding]]:
    header = nifti_header(path)
    sizes = tuple(int(n) for n in header.get_data_shape())
    dtype = header.get_data_dtype()
    refuse_type(path, dtype)
    shape = grid_of(path, sizes)
    if not path.name.lower().endswith(".gz"):
        whole = int(header.get_data_offset()) + math.prod(sizes) * dtype.itemsize
        if (missing := whole - path.stat().st_size) > 0:
            raise VolumeError(
                "unreadable",
                f"{path}: ends {missing} bytes early",
                "it is damaged: copy it again from its origin",
            )
    volume = blank(shape, np.asarray(header.get_best_affine(), np.float64))
    return volume, check_affines(header, volume.shape, str(path))


def _itk(path: Path) -> tuple[Volume, list[Finding]]:
    import SimpleITK as sitk  # 0.2 s: only for those who need it

    check_present(path)
    check_whole(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        refuse_type(path, np.dtype(np.complex64))
    volume = blank(*itk_grid(path, reader, reader.GetNumberOfComponents()))
    if path.suffix.lower() not in NRRD:
        return volume, []
    if not reader.HasMetaDataKey("NRRD_space"):
        return volume, [no_orientation(path, "its header names no space")]
    if leaves_axis_open(path):
        return volume, [no_orientation(path, "its header gives an axis no direction")]
    return volume, []
