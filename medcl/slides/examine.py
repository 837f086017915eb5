"""What a slide is good for: its findings, its tissue, and pictures to check both by eye.

Every slide ends with a status: ok, or the code of what is wrong with it (missing_slide, unreadable,
truncated, not_rgb, no_mpp, mask_unreadable, mask_differs, empty ...). A bad one stops no other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from medcl.data.checks import Finding
from medcl.errors import MedclError
from medcl.files import read_json, replacing, sha256_of, write_json
from medcl.slides.geojson import collection, feature, outlines
from medcl.slides.given import given_mask
from medcl.slides.reader import (
    SlideError,
    SlideReader,
    open_slide,
    slide_sha256,
    unreadable,
)
from medcl.slides.tissue import Thumbnail, Tissue, TissueSettings, find_tissue, thumbnail

PEN_SHARE = 0.01  # of the slide: worth a look
SMOOTH_SHARE = 0.3  # of what is coloured
TINTS = {
    "tissue": (0, 158, 115),
    "pen": (204, 121, 167),
    "smooth": (86, 180, 233),
    "black": (230, 159, 0),
}
LEGEND = 16  # pixels
TRIALS = 16  # places of the tissue that are read, to see that the pixels are there
SHOWN = 640  # pixels; smaller thumbnails are enlarged in qc.png


@dataclass(frozen=True)
class Examination:
    """One slide: findings, what its file says, and thumbnail and tissue as far as they exist."""

    slide: str
    findings: list[Finding]
    meta: dict[str, Any] = field(default_factory=dict)
    thumbnail: Thumbnail | None = None
    tissue: Tissue | None = None

    @property
    def status(self) -> str:
        return next((f.code for f in self.findings if f.severity == "error"), "ok")

    @property
    def mask(self) -> TissueMask | None:
        """The mask of its tissue, as far as there is one."""
        if self.thumbnail is None or self.tissue is None:
            return None
        return TissueMask(self.tissue.mask, self.thumbnail.scale)


@dataclass(frozen=True)
class TissueMask:
    """The mask of a slide as written; `scale` is level-0 pixels a pixel, along x and along y."""

    mask: Bool[np.ndarray, "h w"]
    scale: tuple[float, float]

    @property
    def sha256(self) -> str:
        """Hash of its pixels, shape and scale."""
        pixels = hashlib.sha256(np.packbits(self.mask).tobytes()).hexdigest()
        return sha256_of([pixels, self.mask.shape, self.scale])


def examine(
    slide: str,
    path: str | Path,
    settings: TissueSettings,
    *,
    microns_per_pixel: float | None = None,
    mask: str | Path | None = None,
) -> Examination:
    """Examine the slide named `slide`; a problem of the slide becomes a finding, never an error.

    `microns_per_pixel` overrides what the file states, `mask` (PNG, not 0 is tissue; or GeoJSON in
    level-0 pixels) overrides the search for tissue.
    """
    findings: list[Finding] = []
    meta: dict[str, Any] = {"path": str(path)}
    small = tissue = None
    try:
        with open_slide(path, microns_per_pixel) as reader:
            meta |= _meta(reader)
            small = thumbnail(reader, settings.microns_per_pixel)
            microns = reader.microns_at(0) * float(np.mean(small.scale))
            if mask is None:
                tissue = find_tissue(small.image, microns, settings)
            else:
                tissue = Tissue(given_mask(mask, small), None, {})
            reader.try_reading(_spread(tissue.mask, small.scale))
        findings += _check(tissue, path, mask)
    except SlideError as error:
        findings.append(Finding.of(error))
    except OSError as error:
        findings.append(Finding.of(unreadable(path, error)))
    return Examination(slide, findings, meta, small, tissue)


def write_examination(folder: str | Path, found: Examination) -> None:
    """Write qc.json, and thumb.png, mask.png, mask.geojson and qc.png as far as they exist."""
    folder = Path(folder)
    report: dict[str, Any] = {
        "slide": found.slide,
        "status": found.status,
        "findings": [finding.to_dict() for finding in found.findings],
        **found.meta,
    }
    if found.thumbnail is not None:
        report["thumbnail_scale"] = list(found.thumbnail.scale)
        write_png(folder / "thumb.png", found.thumbnail.image)
    if found.thumbnail is not None and found.tissue is not None:
        tissue, scale = found.tissue, found.thumbnail.scale
        pixel_mm2 = np.prod(scale) * (found.meta["microns_per_pixel"] / 1000) ** 2
        report["tissue_share"] = tissue.share
        report["tissue_mm2"] = float(tissue.mask.sum() * pixel_mm2)
        report["saturation_threshold"] = tissue.threshold
        report["excluded"] = {name: float(area.mean()) for name, area in tissue.excluded.items()}
        write_png(folder / "mask.png", tissue.mask.astype(np.uint8) * 255)
        areas = [feature(rings, objectType="annotation") for rings in outlines(tissue.mask, scale)]
        write_json(folder / "mask.geojson", collection(areas))
        write_png(folder / "qc.png", picture(found.thumbnail.image, tissue))
    write_json(folder / "qc.json", report)  # last: what it says is there is there


def read_mask(folder: str | Path) -> TissueMask:
    """The mask that `write_examination` wrote; MedclError if the slide's status is not ok."""
    report = read_json(Path(folder) / "qc.json")
    if report["status"] != "ok":
        raise MedclError(f"{folder}: the slide's status is '{report['status']}'; leave it out")
    with Image.open(Path(folder) / "mask.png") as image:
        mask = np.asarray(image) > 0
    x, y = report["thumbnail_scale"]
    return TissueMask(mask, (x, y))


def picture(image: UInt8[np.ndarray, "h w 3"], tissue: Tissue) -> UInt8[np.ndarray, "y x 3"]:
    """The thumbnail with a line around the tissue, excluded areas tinted, and a legend."""
    from scipy import ndimage

    shown = image.copy()
    for name, area in tissue.excluded.items():
        shown[area] = (0.4 * shown[area] + 0.6 * np.array(TINTS[name])).astype(np.uint8)
    inner = ndimage.binary_erosion(tissue.mask, iterations=max(1, min(image.shape[:2]) // 300))
    shown[tissue.mask & ~inner] = TINTS["tissue"]
    factor = max(1, round(SHOWN / max(image.shape[:2])))
    shown = shown.repeat(factor, axis=0).repeat(factor, axis=1)
    strip = Image.new("RGB", (shown.shape[1], LEGEND), "white")
    draw = ImageDraw.Draw(strip)
    at = 2
    for name in ("tissue", *tissue.excluded):
        draw.rectangle((at, 4, at + 8, 12), fill=TINTS[name])
        draw.text((at + 11, 2), name, fill="black")
        at += 18 + int(draw.textlength(name))
    return np.concatenate([shown, np.asarray(strip)])


def write_png(path: str | Path, image: UInt8[np.ndarray, "h w *c"]) -> None:
    with replacing(path) as partial:
        Image.fromarray(image).save(partial)


def _meta(reader: SlideReader) -> dict[str, Any]:
    return {
        "vendor": reader.vendor,
        "sizes": [list(size) for size in reader.sizes],
        "downsamples": list(reader.downsamples),
        "microns_per_pixel": reader.microns_per_pixel,
        "microns_per_pixel_stated": reader.stated,
        "sha256": slide_sha256(reader.path),
        "quickhash": reader.quickhash,
        "reader": f"{type(reader).__name__.strip('_')}, OpenSlide {openslide.__library_version__}",
    }


def _spread(mask: Bool[np.ndarray, "h w"], scale: tuple[float, float]) -> list[tuple[int, int]]:
    """Level-0 places all over the tissue, from its first row to its last."""
    y, x = np.nonzero(mask)
    chosen = np.unique(np.linspace(0, max(0, len(x) - 1), TRIALS).astype(int))[: len(x)]
    return [(int(x[i] * scale[0]), int(y[i] * scale[1])) for i in chosen]


def _check(tissue: Tissue, path: str | Path, mask: str | Path | None) -> list[Finding]:
    found = []
    if not tissue.mask.any():
        by = f"the mask {mask}" if mask else f"a saturation above {tissue.threshold:.2f}"
        found.append(
            Finding(
                "empty",
                "error",
                f"{path}: no tissue was found by {by}",
                "look at qc.png; give a mask, or lower `saturation` or `piece_mm2`",
            )
        )
    shares = {name: float(area.mean()) for name, area in tissue.excluded.items()}
    if shares.get("pen", 0) > PEN_SHARE:
        share = 100 * shares["pen"]
        found.append(
            Finding(
                "pen_marks",
                "warning",
                f"{path}: {share:.1f} % of the slide look like marker ink and are left out",
                "look at qc.png; set `pen: false` if it is stain",
            )
        )
    coloured = tissue.share + shares.get("smooth", 0)
    if shares.get("smooth", 0) > SMOOTH_SHARE * coloured:
        share = 100 * shares["smooth"] / coloured
        found.append(
            Finding(
                "smooth",
                "warning",
                f"{path}: {share:.0f} % of what is coloured has no structure and is left out",
                "look at qc.png: the slide may be out of focus; `sharpness: 0` keeps such areas",
            )
        )
    return found
