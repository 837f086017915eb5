"""Where the tissue is: a mask at about 8 micrometres a pixel.

A pixel is tissue where its saturation, (max - min) / max of red, green and blue, lies above a
threshold, and it is neither black, nor pen, nor smooth. Then gaps are closed, and small holes and
small pieces are removed by their area. The threshold is Otsu's, kept within bounds: on glass
without tissue it would part noise from noise, and on a slide full of tissue pale from dark.

Marker ink is told by hues that stains do not have: green, and saturated blue or red. Smooth means a
small variance of the Laplacian: smears, glue and what is far out of focus. Slight defocus is not
seen at this resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from medcl.slides.reader import SlideError, SlideReader

STRIP_PIXELS = 16 << 20  # read at a time, where a slide has no coarse level
WITHOUT_MICRONS = 2048  # most pixels along a side of a thumbnail whose scale is not known
MOST_PIXELS = 1 << 26  # of a thumbnail: 13 cm of glass along either side at 16 micrometres
WINDOW = 9  # pixels, of the variance of the Laplacian


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is found.

    microns_per_pixel: side of a pixel of the mask; the nearest level is used, averaged to it
    method: otsu, or fixed: `saturation` is the threshold itself
    saturation: least threshold (0 to 1)
    saturation_most: greatest threshold that Otsu's may have
    black: brightest channel (0 to 1) below which a pixel is ink, a fold or the edge of the scan
    pen: remove marker ink
    sharpness: least variance of the Laplacian (grey levels squared); 0: smooth areas are kept
    closing_um: gaps up to this width (micrometres) are closed
    hole_mm2: holes below this area are filled
    piece_mm2: pieces of tissue below this area are removed, and such pieces of ink are kept
    """

    microns_per_pixel: float = 8.0
    method: Literal["otsu", "fixed"] = "otsu"
    saturation: float = 0.04
    saturation_most: float = 0.12
    black: float = 0.2
    pen: bool = True
    sharpness: float = 2.0
    closing_um: float = 32.0
    hole_mm2: float = 0.01
    piece_mm2: float = 0.01


@dataclass(frozen=True)
class Thumbnail:
    """A whole slide in small. `scale` is level-0 pixels a pixel, along x and along y."""

    image: UInt8[np.ndarray, "h w 3"]
    scale: tuple[float, float]


@dataclass(frozen=True)
class Tissue:
    """The mask, the threshold of saturation (None: the mask was given), and what was excluded."""

    mask: Bool[np.ndarray, "h w"]
    threshold: float | None
    excluded: dict[str, Bool[np.ndarray, "h w"]]

    @property
    def share(self) -> float:
        return float(self.mask.mean())


def thumbnail(reader: SlideReader, microns_per_pixel: float) -> Thumbnail:
    """Read the level nearest to `microns_per_pixel`, averaged to about that size.

    Where the slide's own is not known, the thumbnail has at most 2048 pixels a side. Memory stays
    small on slides without coarse levels: they are read in strips.
    """
    width, height = reader.sizes[0]
    if reader.microns_per_pixel is None:
        wanted = max(1.0, max(width, height) / WITHOUT_MICRONS)
    else:
        wanted = max(1.0, microns_per_pixel / reader.microns_per_pixel)
    level = int(np.argmin([abs(np.log(d / wanted)) for d in reader.downsamples]))
    block = max(1, round(wanted / reader.downsamples[level]))
    level_width, level_height = reader.sizes[level]
    out_width, out_height = -(-level_width // block), -(-level_height // block)
    if out_width * out_height > MOST_PIXELS:
        raise SlideError(
            "unreadable",
            f"{reader.path}: a thumbnail of {microns_per_pixel:g} micrometres a pixel would have "
            f"{out_width}x{out_height} pixels; the slide states {width}x{height}",
            "copy it again, or correct its `microns_per_pixel`",
        )
    image = np.empty((out_height, out_width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // (out_width * block * block))
    per_level = height / level_height
    for top in range(0, out_height, rows):
        count = min(rows, out_height - top)
        y = round(top * block * per_level)
        strip = reader.read(0, y, level, out_width * block, count * block)
        image[top : top + count] = block_mean(strip, block)
    return Thumbnail(image, (width * block / level_width, height * block / level_height))


def find_tissue(
    image: UInt8[np.ndarray, "h w 3"], microns_per_pixel: float, settings: TissueSettings
) -> Tissue:
    """Find the tissue of a thumbnail whose pixels have sides of `microns_per_pixel`."""
    hue, saturation, value = _hsv(image)
    saturation = ndimage.median_filter(saturation, 3)
    threshold = _threshold(saturation, settings)
    pixel_mm2 = (microns_per_pixel / 1000) ** 2
    least = settings.piece_mm2 / pixel_mm2  # of ink too: pigment and debris are no marker
    black = _without_small(value < settings.black, least)
    none = np.zeros_like(black)
    pen = _without_small(_pen(hue, saturation) & ~black, least) if settings.pen else none
    coloured = (saturation > threshold) & ~black & ~pen
    smooth = coloured & (_sharpness(image) < settings.sharpness)
    radius = settings.closing_um / 2 / microns_per_pixel
    mask = _closed(coloured & ~smooth, radius)
    mask = ~_without_small(~mask, settings.hole_mm2 / pixel_mm2)
    mask &= ~(black | pen)
    mask = _without_small(mask, least)
    return Tissue(mask, threshold, {"black": black, "pen": pen, "smooth": smooth})


def block_mean(image: UInt8[np.ndarray, "h w c"], block: int) -> UInt8[np.ndarray, "y x c"]:
    """Mean of blocks of `block` x `block` pixels, rounded; the sides are multiples of it."""
    if block == 1:
        return image
    height, width, channels = image.shape
    parts = image.reshape(height // block, block, width // block, block, channels)
    total = parts.sum(axis=(1, 3), dtype=np.uint32)
    return ((total + block * block // 2) // (block * block)).astype(np.uint8)


def _hsv(
    image: UInt8[np.ndarray, "h w 3"],
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Hue in degrees, saturation and value from 0 to 1."""
    red, green, blue = (image[..., i].astype(np.float32) for i in range(3))
    most = np.maximum(np.maximum(red, green), blue)
    spread = most - np.minimum(np.minimum(red, green), blue)
    by = np.maximum(spread, 1e-6)
    hue = np.where(
        most == red,
        (green - blue) / by % 6,
        np.where(most == green, (blue - red) / by + 2, (red - green) / by + 4),
    )
    return hue * 60, spread / np.maximum(most, 1), most / 255


def _threshold(saturation: Float[np.ndarray, "h w"], settings: TissueSettings) -> float:
    if settings.method == "fixed":
        return settings.saturation
    from skimage.filters import threshold_otsu  # 0.3 s: only where it is used

    steps = np.rint(saturation * 255).astype(np.int64)
    counts = np.bincount(steps.ravel(), minlength=256).astype(float)
    if (counts > 0).sum() < 2:
        return settings.saturation
    otsu = float(threshold_otsu(hist=(counts, np.arange(256)))) / 255
    return float(np.clip(otsu, settings.saturation, settings.saturation_most))


def _pen(hue: Float[np.ndarray, "h w"], saturation: Float[np.ndarray, "h w"]) -> np.ndarray:
    green = (hue > 70) & (hue < 190) & (saturation > 0.12)
    blue = (hue >= 190) & (hue < 245) & (saturation > 0.4)
    red = ((hue < 12) | (hue > 348)) & (saturation > 0.75)
    return green | blue | red


def _sharpness(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Variance of the Laplacian of the grey values around each pixel."""
    change = ndimage.laplace(image.mean(axis=2, dtype=np.float32))
    mean = ndimage.uniform_filter(change, WINDOW)
    return ndimage.uniform_filter(change * change, WINDOW) - mean * mean


def _closed(mask: Bool[np.ndarray, "h w"], radius: float) -> Bool[np.ndarray, "h w"]:
    """Closing by a disc, by distances: as fast for a wide disc as for a small one."""
    if radius < 1 or not mask.any():
        return mask
    pad = int(np.ceil(radius)) + 1  # else the border of the picture would act as tissue
    wide = ndimage.distance_transform_edt(~np.pad(mask, pad)) <= radius
    return ndimage.distance_transform_edt(wide)[pad:-pad, pad:-pad] > radius


def _without_small(mask: Bool[np.ndarray, "h w"], pixels: float) -> Bool[np.ndarray, "h w"]:
    pieces, _ = ndimage.label(mask)
    keep = np.bincount(pieces.ravel()) >= pixels
    keep[0] = False
    return keep[pieces]
