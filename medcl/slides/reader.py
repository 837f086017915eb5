"""Whole-slide images, region by region, as RGB on white.

OpenSlide reads SVS, NDPI, MRXS, SCN, BIF, DICOM and classic TIFF pyramids. It shows one level of a
pyramid kept in SubIFDs, as OME-TIFF does; those are read by tifffile. A vendor's own format is left
to OpenSlide alone: it knows which pages are the slide, and how they are stitched. Places are in
pixels of level 0, as OpenSlide has them; what lies outside the slide is white.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import UInt8

from medcl.data.volume import VolumeError
from medcl.errors import MedclError
from medcl.files import sha256_of, sha256_of_file
from medcl.slides.siblings import siblings
from medcl.slides.tiff import TiffPyramid, open_pyramid

try:
    import openslide
except ImportError:
    raise MedclError("slides need further packages: pip install 'medcl[slides]'") from None

PLAUSIBLE_MICRONS = (0.05, 20.0)  # outside: the resolution of a printer, or another unit
CACHE_BYTES = 64 << 20
TRIED = 32  # pixels along the side of a box of a trial reading
NO_VENDOR = "generic-tiff"

Size = tuple[int, int]


class SlideError(VolumeError):
    """A file that cannot be used as a slide: `code` names why, `remedy` says what to do."""


class SlideReader(ABC):
    """An open slide. It belongs to its process: send the path to another one, not the reader.

    sizes: (width, height) of each level, the finest first. downsamples: level-0 pixels a pixel of
    the level. microns_per_pixel: side of a pixel of level 0 in micrometres, None if the file states
    none that is plausible; `stated` is what it states. quickhash: OpenSlide's hash of the slide,
    the same from whichever file of a DICOM series it was opened; None where there is none.
    """

    quickhash: str | None = None

    def __init__(
        self,
        path: Path,
        vendor: str,
        sizes: Sequence[Size],
        downsamples: Sequence[float],
        stated: float | None,
        given: float | None,
    ) -> None:
        self.path, self.vendor, self.stated = path, vendor, stated
        self.sizes = tuple(sizes)
        self.downsamples = tuple(downsamples)
        low, high = PLAUSIBLE_MICRONS
        if given is not None and not low <= given <= high:
            raise SlideError(
                "implausible_mpp",
                f"{path}: {given:g} micrometres a pixel are given, expected {low:g} to {high:g}",
                "correct `microns_per_pixel` of this slide",
            )
        usable = stated if stated is not None and low <= stated <= high else None
        self.microns_per_pixel = given if given is not None else usable

    def microns_at(self, level: int) -> float:
        """Side of a pixel of `level` in micrometres; SlideError if the slide's is not known."""
        if self.microns_per_pixel is None:
            states = "states none" if self.stated is None else f"states {self.stated:.4g}"
            low, high = PLAUSIBLE_MICRONS
            raise SlideError(
                "no_mpp",
                f"{self.path}: the size of a pixel is not known; the file {states} "
                f"(micrometres, {low:g} to {high:g} are plausible)",
                "give `microns_per_pixel` of this slide in the table of slides",
            )
        return self.microns_per_pixel * self.downsamples[level]

    def read(
        self, x: int, y: int, level: int, width: int, height: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Read `width` x `height` pixels of `level` from level-0 place (x, y); white outside.

        Raises SlideError for a level the slide does not have, and for data that cannot be decoded.
        """
        if not 0 <= level < len(self.sizes):
            raise SlideError(
                "no_level",
                f"{self.path}: no level {level}; the slide has 0 to {len(self.sizes) - 1}",
                "choose a level it has",
            )
        try:
            return self._region(x, y, level, width, height)
        except Exception as error:  # whatever damaged data make a decoder raise
            raise unreadable(self.path, error) from None

    def try_reading(self, places: Sequence[tuple[int, int]] = ()) -> None:
        """Decode a little: the last corner of every level, and at these level-0 places.

        Raises SlideError for data that are not there or are damaged, which nothing else shows
        before the tiles are embedded.
        """
        for level, (width, height) in enumerate(self.sizes):
            x, y = (round(max(0, n - TRIED) * self.downsamples[level]) for n in (width, height))
            self.read(x, y, level, TRIED, TRIED)
        for x, y in places:
            self.read(x, y, 0, TRIED, TRIED)

    @abstractmethod
    def _region(
        self, x: int, y: int, level: int, width: int, height: int
    ) -> UInt8[np.ndarray, "h w 3"]: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> SlideReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self.path}: an open slide cannot be pickled; send its path instead")


class _OpenSlideReader(SlideReader):
    def __init__(self, path: Path, slide: Any, given: float | None) -> None:
        self._slide = slide
        slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        properties = slide.properties
        axes = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        stated = [float(properties[name]) for name in axes if name in properties]
        super().__init__(
            path,
            properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
            slide.level_dimensions,
            slide.level_downsamples,
            float(np.mean(stated)) if stated else None,
            given,
        )
        self.quickhash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1)

    def _region(
        self, x: int, y: int, level: int, width: int, height: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        return on_white(np.asarray(self._slide.read_region((x, y), level, (width, height))))

    def close(self) -> None:
        self._slide.close()


class _TiffReader(SlideReader):
    def __init__(self, path: Path, pyramid: TiffPyramid, given: float | None) -> None:
        self._pyramid = pyramid
        width, height = pyramid.sizes[0]
        downsamples = [(width / w + height / h) / 2 for w, h in pyramid.sizes]
        super().__init__(path, "tiff", pyramid.sizes, downsamples, pyramid.microns, given)

    def _region(
        self, x: int, y: int, level: int, width: int, height: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        scale = self.downsamples[level]
        return on_white(
            self._pyramid.read(round(x / scale), round(y / scale), level, width, height)
        )

    def close(self) -> None:
        self._pyramid.close()


def open_slide(path: str | Path, microns_per_pixel: float | None = None) -> SlideReader:
    """Open a slide; `microns_per_pixel` (of level 0) wins over what the file states.

    Raises SlideError, which names why: missing_slide, unreadable, truncated, not_rgb,
    implausible_mpp.
    """
    path = Path(path)
    try:
        return _opened(path, microns_per_pixel)
    except SlideError:
        raise
    except Exception as error:  # no permission, a failing disk, a damaged header
        raise unreadable(path, f"{type(error).__name__}: {error}") from None


def _opened(path: Path, microns_per_pixel: float | None) -> SlideReader:
    if not path.exists():
        raise SlideError("missing_slide", f"{path}: no such file", "supply it, or remove its row")
    if path.is_dir():
        raise SlideError(
            "unreadable",
            f"{path}: is a folder",
            "name the file: of MRXS the .mrxs beside the folder, of DICOM any level in it",
        )
    try:
        pyramid = open_pyramid(path)
    except ValueError as error:
        raise SlideError("truncated", f"{path}: {error}", "copy it again") from None
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        slide = None
    except openslide.OpenSlideError as error:
        raise unreadable(path, error) from None
    if slide is not None and not _hides_levels(slide, pyramid):
        if pyramid is not None:
            pyramid.close()
        return _OpenSlideReader(path, slide, microns_per_pixel)
    if pyramid is None:
        raise unreadable(path, "no format that OpenSlide or tifffile reads")
    if slide is not None:
        slide.close()
    if not pyramid.is_rgb:
        pyramid.close()
        raise SlideError(
            "not_rgb",
            f"{path}: {pyramid.kind} is stored, expected 8-bit RGB",
            "export the slide in colour with 8 bits a channel",
        )
    return _TiffReader(path, pyramid, microns_per_pixel)


def _hides_levels(slide: Any, pyramid: TiffPyramid | None) -> bool:
    """Whether the file has levels that OpenSlide does not show."""
    vendor = slide.properties.get(openslide.PROPERTY_NAME_VENDOR)
    return pyramid is not None and vendor == NO_VENDOR and len(pyramid.sizes) > slide.level_count


def on_white(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an RGB or RGBA image on white; OpenSlide's transparent pixels are black below."""
    colour = image[..., :3]
    if image.shape[2] == 3 or (image[..., 3] == 255).all():
        return np.ascontiguousarray(colour)
    alpha = image[..., 3:].astype(np.float32) / 255
    return np.rint(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)


def slide_sha256(path: str | Path) -> str:
    """Hash of all files of a slide, the same whichever level of a DICOM series is named.

    Of MRXS it covers the names and sizes in the folder with its pixels, not these.
    """
    path = Path(path)
    parts = siblings(path)
    if not parts:
        return sha256_of_file(path)
    if path.suffix.lower() == ".mrxs":
        return sha256_of([sha256_of_file(path), [(p.name, p.stat().st_size) for p in parts]])
    return sha256_of(sorted(sha256_of_file(file) for file in (path, *parts)))


def unreadable(path: str | Path, why: object) -> SlideError:
    return SlideError(
        "unreadable",
        f"{path}: cannot be read as a slide: {why}",
        "open it in another viewer; copy or export it again",
    )
