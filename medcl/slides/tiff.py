"""Pyramids in TIFF files as tifffile sees them: levels as pages or in SubIFDs, and OME-TIFF."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import UInt8

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MICRONS_IN = {2: 25400.0, 3: 10000.0}  # of an inch and a centimetre, by the tag ResolutionUnit
OME_UNITS = {"µm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
COLOURS = {"RGB", "YCBCR"}


class TiffPyramid:
    """The levels of the first image of a file. sizes: (width, height) of each, finest first."""

    def __init__(self, file: tifffile.TiffFile) -> None:
        self._file = file
        self._pages: list[Any] = [level.pages[0] for level in file.series[0].levels]
        self.sizes = [(int(page.imagewidth), int(page.imagelength)) for page in self._pages]
        first = self._pages[0]
        self.kind = f"{first.dtype} with {first.samplesperpixel} samples a pixel"
        contiguous = first.planarconfig == tifffile.PLANARCONFIG.CONTIG
        colour = first.photometric.name in COLOURS and first.samplesperpixel in (3, 4)
        self.is_rgb = bool(contiguous and colour and first.dtype == np.uint8)
        self.microns = _microns(file, first)

    def check_whole(self) -> None:
        """Raise ValueError if data of a picture, or a further page, lie behind the end."""
        size = self._file.filehandle.size
        following = self._next_page()
        if following >= size:
            raise ValueError(
                f"the file has {size} bytes; its next page would begin at byte {following}"
            )
        levels = [level for series in self._file.series for level in series.levels]
        for page in [page for level in levels for page in level.pages if page is not None]:
            ends, size = np.add(page.dataoffsets, page.databytecounts), page.parent.filehandle.size
            beyond = int((ends > size).sum())
            if beyond:
                raise ValueError(
                    f"the file has {size} bytes; {beyond} of {len(ends)} parts of page "
                    f"{page.index} lie behind its end"
                )

    def read(
        self, x: int, y: int, level: int, width: int, height: int
    ) -> UInt8[np.ndarray, "h w c"]:
        """Read a box in pixels of `level`; white and opaque outside."""
        page = self._pages[level]
        rows, columns = page.chunks[:2]
        across = page.chunked[1]
        level_width, level_height = self.sizes[level]
        out = np.full((height, width, page.samplesperpixel), 255, np.uint8)
        top, bottom = max(y, 0), min(y + height, level_height)
        left, right = max(x, 0), min(x + width, level_width)
        for row in range(top // rows, -(-bottom // rows)):
            for column in range(left // columns, -(-right // columns)):
                part = self._decode(page, row * across + column)
                if part is None:
                    continue
                y0, x0 = row * rows, column * columns
                a, b = max(top, y0), min(bottom, y0 + part.shape[0])
                c, d = max(left, x0), min(right, x0 + part.shape[1])
                out[a - y : b - y, c - x : d - x] = part[a - y0 : b - y0, c - x0 : d - x0]
        return out

    def _decode(self, page: Any, index: int) -> UInt8[np.ndarray, "h w c"] | None:
        """One tile or strip; None where the file leaves it out."""
        count = page.databytecounts[index]
        if count == 0:
            return None
        handle = self._file.filehandle
        handle.seek(page.dataoffsets[index])
        data = handle.read(count)
        decoded = page.keyframe.decode(data, index, jpegtables=page.jpegtables)[0]
        return None if decoded is None else decoded[0]

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        self.close()  # tifffile leaves the file open

    def _next_page(self) -> int:
        """Where the chain of pages goes on after the last one that was found; 0 at its end."""
        if self._file.is_ndpi:  # keeps the upper half of its offsets elsewhere
            return 0
        layout, handle = self._file.tiff, self._file.filehandle
        pointer = self._file.pages.next_page_offset
        if pointer is None:
            return 0
        handle.seek(pointer)
        stored = handle.read(layout.offsetsize)
        if len(stored) < layout.offsetsize:
            raise ValueError(f"the file has {handle.size} bytes and ends within its last page")
        return int(struct.unpack(layout.offsetformat, stored)[0])


def open_pyramid(path: Path) -> TiffPyramid | None:
    """The pyramid of a TIFF file; None for other files and for those tifffile cannot read.

    Raises ValueError for a file that ends before its data do: OpenSlide notices only when it comes
    to read them.
    """
    if not path.is_file():
        return None
    with open(path, "rb") as opened:
        if opened.read(4) not in MAGIC:
            return None
    try:
        file = tifffile.TiffFile(path)
    except (tifffile.TiffFileError, struct.error):  # the latter: it ends within its header
        return None
    try:
        pyramid = TiffPyramid(file)
    except Exception:  # whatever a vendor's private structure makes the parser raise
        file.close()
        return None
    try:
        pyramid.check_whole()
    except ValueError:
        file.close()
        raise
    return pyramid


def _microns(file: tifffile.TiffFile, page: Any) -> float | None:
    """Micrometres a pixel by OME-XML, by an Aperio-like description, or by the resolution tags."""
    text = page.description or ""
    if file.is_ome:
        size = re.search(r'\bPhysicalSizeX="([^"]+)"', text)
        unit = re.search(r'\bPhysicalSizeXUnit="([^"]+)"', text)
        scale = OME_UNITS.get(unit[1] if unit else "µm")
        return float(size[1]) * scale if size and scale else None
    if match := re.search(r"\bMPP\s*=\s*([0-9.]+)", text):
        return float(match[1])
    unit_tag, resolution = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
    if unit_tag is None or resolution is None or int(unit_tag.value) not in MICRONS_IN:
        return None
    above, below = resolution.value
    return MICRONS_IN[int(unit_tag.value)] * below / above if above else None
