"""Pictures of a whole slide that a user gives beside it: where its tissue is, and the truth.

A truth has a label in every pixel. Tiles of slides of the last class are compared with it; one that
cannot be used costs this comparison and no more, so it is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer
from PIL import Image

from medcl.data.checks import Finding
from medcl.errors import MedclError
from medcl.slides.geojson import read_areas
from medcl.slides.reader import SlideError
from medcl.slides.tissue import Thumbnail

MOST_PIXELS = 1 << 29  # a byte each, and four where the areas of a truth are summed
STRIP = 1024  # rows
SHAPE_TOLERANCE = 0.02  # relative difference of the sides of a picture from those of its slide

Size = tuple[int, int]
Labels = Integer[np.ndarray, "h w"] | Bool[np.ndarray, "h w"]


class TruthError(MedclError):
    """A truth that cannot be used; `finding` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


def given_mask(path: str | Path, small: Thumbnail) -> Bool[np.ndarray, "h w"]:
    """A user's mask (PNG or GeoJSON) on the pixels of the thumbnail.

    Raises SlideError: mask_unreadable, mask_differs.
    """
    height, width = small.image.shape[:2]
    if str(path).lower().endswith((".geojson", ".json")):
        try:
            return read_areas(path, (height, width), small.scale)
        except MedclError as error:
            raise SlideError("mask_unreadable", str(error), "or leave the mask out") from None
    try:
        with _picture(path) as image:
            given = image.convert("L")
    except ValueError as error:
        raise SlideError(
            "mask_unreadable", f"{path}: {error}", "supply a PNG or GeoJSON, or leave it out"
        ) from None
    if not _same_sides(given.size, (width, height)):
        raise SlideError(
            "mask_differs",
            f"{path}: {given.width}x{given.height} pixels, the sides of the slide are in the ratio "
            f"of {width}x{height}",
            "supply a mask of the whole slide",
        )
    resized = given.point(lambda v: 255 * (v > 0)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized) >= 128


def read_truth(path: str | Path, sides: Size) -> Labels:
    """The labels of a slide whose level 0 has these sides (width, height). Raises TruthError."""
    if (missing := missing_truth(path)) is not None:
        raise TruthError(missing)
    try:
        with _picture(path) as image:
            mode, labels = image.mode, np.asarray(image)
        if labels.ndim != 2 or labels.dtype.kind not in "bui":
            raise ValueError(f"is a picture of kind {mode}, expected one label a pixel")
    except ValueError as error:
        remedy = "supply a PNG with one channel"
        finding = Finding("truth_unreadable", "warning", f"{path}: {error}", remedy)
        raise TruthError(finding) from None
    height, width = labels.shape
    if not _same_sides((width, height), sides):
        raise TruthError(
            Finding(
                "truth_differs",
                "warning",
                f"{path}: {width}x{height} pixels, the sides of the slide are in the ratio of "
                f"{sides[0]}x{sides[1]}",
                "supply a truth of the whole slide",
            )
        )
    return labels


def missing_truth(path: str | Path) -> Finding | None:
    """A remark if there is no such file."""
    if Path(path).is_file():
        return None
    return Finding(
        "missing_truth",
        "warning",
        f"{path}: no such file; tiles of this slide are not compared with a truth",
        "mend the column `truth`",
    )


def labels_in(labels: Labels) -> list[int]:
    """The labels that occur, in order."""
    found: set[int] = set()
    for top in range(0, len(labels), STRIP):  # NumPy copies what it sorts
        found.update(np.unique(labels[top : top + STRIP]).astype(int).tolist())
    return sorted(found)


def without_value(labels: Sequence[int], value: int) -> Finding | None:
    """A remark if `value`, the dataset's `truth`, is none of the labels of a truth."""
    if value in labels:
        return None
    shown = ", ".join(map(str, labels[:8])) + (", ..." if len(labels) > 8 else "")
    return Finding(
        "truth_absent",
        "warning",
        f"the truth holds {shown} and nowhere {value}; tiles of this slide are not compared",
        "correct `truth` of the dataset, or the picture",
    )


@contextmanager
def _picture(path: str | Path) -> Iterator[Image.Image]:
    """An open picture, decoded; ValueError says why it cannot be used.

    Pillow's limit, meant for what strangers upload, is below a picture of a whole slide.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        image = Image.open(path)
    except Exception as error:  # whatever a damaged file makes Pillow raise
        raise ValueError(str(error)) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(
                f"{image.width}x{image.height} pixels, at most {MOST_PIXELS} are read; make it "
                "coarser"
            )
        try:
            image.load()
        except Exception as error:
            raise ValueError(f"cannot be decoded: {error}") from None
        yield image


def _same_sides(given: Size, whole: Size) -> bool:
    """Whether the sides are in one ratio, to two percent or to a pixel of the picture."""
    ratio = (given[0] / given[1]) / (whole[0] / whole[1])
    return abs(ratio - 1) <= max(SHAPE_TOLERANCE, 1 / min(given))
