"""Stored pixels become voxel values, each plane decoded once.

Plain little-endian pixels are read straight from the file into the volume; all other transfer
syntaxes are decoded by pydicom and its plugins. Slope and intercept are those of each plane. PET
stays in the unit its header names unless SUV are asked for (`dicom.suv`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pydicom
from jaxtyping import Num
from pydicom.pixels import apply_modality_lut

from medcl.data.dicom_decoder import decoder
from medcl.data.dicom_header import DAMAGE, quiet, reason
from medcl.data.dicom_planes import Plane
from medcl.data.volume import VolumeError

INT16 = np.iinfo(np.int16)
# Not compressed, or by deflate: read in this process by Python.
OWN = {
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"),
    "1.2.840.10008.1.2.1.99",
}
SIGNED, UNSIGNED = np.dtype("<i2"), np.dtype("<u2")


def read_planes(planes: Sequence[Plane]) -> Num[np.ndarray, "Z Y X"]:
    """The rescaled planes: int16 where that loses nothing, else float32. Raises VolumeError."""
    if all(_is_plain(plane) for plane in planes):
        return _read_plain(planes)
    read = list(_decoded(planes))
    shape = (len(read), *read[0][0].shape)
    if all(p.dtype.kind in "iu" and m == 1 and b == round(b) for p, m, b in read):
        low = min(int(pixels.min()) + shift for pixels, _, shift in read)
        high = max(int(pixels.max()) + shift for pixels, _, shift in read)
        if low >= INT16.min and high <= INT16.max:
            whole = np.empty(shape, np.int16)
            for index, (pixels, _, shift) in enumerate(read):
                np.add(pixels, int(shift), out=whole[index], dtype=np.int64, casting="unsafe")
            return whole
    stack = np.empty(shape, np.float32)
    for index, (pixels, slope, shift) in enumerate(read):
        stack[index] = pixels * np.float64(slope) + shift
    return stack


def same_pixels(a: Plane, b: Plane) -> bool:
    """Whether two planes show the same values, however they are stored."""
    if a.size != b.size:
        return False
    x, y = read_planes([a]), read_planes([b])
    return bool(np.array_equal(x, y))


def _is_plain(plane: Plane) -> bool:
    """Whether the bytes of the file are the pixels, 16 bits each."""
    header = plane.header
    return (
        header.offset is not None
        and plane.frame is None
        and not header.table
        and header.whole("BitsAllocated") == 16
        and header.whole("HighBit") == header.whole("BitsStored") - 1
        and 0 < header.whole("BitsStored") <= 16
    )


def _read_plain(planes: Sequence[Plane]) -> Num[np.ndarray, "Z Y X"]:
    rows, columns = planes[0].size
    raw = np.empty((len(planes), rows, columns), UNSIGNED)
    ranges = []
    for plane, pixels in zip(planes, raw, strict=True):
        header = plane.header
        if header.length < pixels.nbytes:
            raise _unreadable(plane, f"{header.length} bytes for {rows} x {columns} pixels")
        with open(header.path, "rb", buffering=0) as file:
            file.seek(header.offset or 0)
            if file.readinto(pixels.data) != pixels.nbytes:
                raise _unreadable(plane, "the file has become shorter")
        if header.whole("PixelRepresentation"):
            pixels = pixels.view(SIGNED)
        unused = 16 - header.whole("BitsStored")
        low, high = int(pixels.min()), int(pixels.max())
        if unused and (low < -(1 << 15 - unused) or high >= 1 << 16 - unused or (
            pixels.dtype == SIGNED and high >= 1 << 15 - unused
        )):  # fmt: skip
            pixels <<= unused  # old files keep overlays in the bits that values do not use
            pixels >>= unused
            low, high = int(pixels.min()), int(pixels.max())
        ranges.append((low, high))
    whole = all(p.slope == 1 and p.intercept == round(p.intercept) for p in planes)
    if whole and all(
        low + p.intercept >= INT16.min and high + p.intercept <= INT16.max
        for p, (low, high) in zip(planes, ranges, strict=True)
    ):
        for plane, pixels in zip(planes, raw, strict=True):
            if plane.intercept:  # modulo 65536, which the sum fits
                pixels += np.uint16(int(plane.intercept) % 65536)
        return raw.view(np.int16)
    stack = np.empty(raw.shape, np.float32)
    for index, plane in enumerate(planes):
        signed = plane.header.whole("PixelRepresentation")
        pixels = raw[index].view(SIGNED if signed else UNSIGNED)
        stack[index] = pixels * np.float64(plane.slope) + plane.intercept
    return stack


def _decoded(planes: Sequence[Plane]) -> Iterator[tuple[np.ndarray, float, float]]:
    """Stored pixels, slope and intercept of each plane; a file of many planes is decoded once."""
    last: tuple[str, np.ndarray, bool] | None = None
    for plane in planes:
        header = plane.header
        if last is None or last[0] != header.path:
            last = (header.path, *_decode(plane))
        _, pixels, done = last
        rows, columns = plane.size
        if plane.tiles > 1:
            down, right = divmod(plane.frame or 0, plane.tiles)
            pixels = pixels[
                down * rows : (down + 1) * rows, right * columns : (right + 1) * columns
            ]
        elif plane.frame is not None:
            pixels = pixels[plane.frame]
        if pixels.shape != (rows, columns):
            shown = "x".join(map(str, pixels.shape))
            raise _unreadable(plane, f"{shown} pixels, {rows}x{columns} in the header")
        yield (pixels, 1.0, 0.0) if done else (pixels, plane.slope, plane.intercept)


def _decode(plane: Plane) -> tuple[np.ndarray, bool]:
    """All pixels of a file, and whether a table has already made values of them."""
    try:
        with quiet():
            if plane.header.syntax not in OWN:
                pixels = decoder.decode(plane.header.path, plane.header.syntax)
                if not plane.header.table:
                    return pixels, False
                dataset = pydicom.dcmread(plane.header.path, stop_before_pixels=True)
                return np.asarray(apply_modality_lut(pixels, dataset)), True
            dataset = pydicom.dcmread(plane.header.path, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(plane.header.syntax)
            pixels = dataset.pixel_array
            if plane.header.table:
                return np.asarray(apply_modality_lut(pixels, dataset)), True
            return pixels, False
    except DAMAGE as error:
        raise _unreadable(plane, reason(error)) from None


def _unreadable(plane: Plane, why: str) -> VolumeError:
    return VolumeError(
        "unreadable",
        f"{plane.header.path}: the pixels cannot be decoded: {why}",
        "copy the series again from its origin",
    )
