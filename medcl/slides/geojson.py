"""Areas of a slide as GeoJSON in pixels of level 0, as QuPath writes and reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from medcl.errors import MedclError
from medcl.files import read_json

Ring = list[list[float]]
KINDS = ("Polygon", "MultiPolygon")


def feature(rings: Sequence[Ring], **properties: Any) -> dict[str, Any]:
    """One polygon: its outline, then its holes, each closed."""
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": list(rings)},
        "properties": properties,
    }


def collection(features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def rectangle(x: float, y: float, width: float, height: float) -> list[Ring]:
    right, below = x + width, y + height
    return [[[x, y], [right, y], [right, below], [x, below], [x, y]]]


def outlines(mask: Bool[np.ndarray, "h w"], scale: tuple[float, float]) -> Iterator[list[Ring]]:
    """Outline and holes of each piece of a mask; `scale` is level-0 pixels a pixel (x, y)."""
    from skimage.measure import find_contours  # 0.3 s: only where areas are written

    pieces, _ = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        rings = []
        for line in find_contours(np.pad(pieces[box] == number, 1).astype(float), 0.5):
            # -1 takes the padding off, +0.5 puts the centre of a pixel into its middle
            y, x = (line - 0.5 + [box[0].start, box[1].start]).T
            points = np.column_stack((x * scale[0], y * scale[1])).round(1)
            rings.append((_area(points), points.tolist()))
        rings.sort(key=lambda ring: -ring[0])  # the outline encloses its holes
        yield [ring for _, ring in rings]


def read_areas(
    path: str | Path, shape: tuple[int, int], scale: tuple[float, float]
) -> Bool[np.ndarray, "h w"]:
    """Paint the polygons of a GeoJSON file into a mask of `shape` (rows, columns).

    Several polygons add up; holes stay empty; other geometries are refused. Raises MedclError
    naming the file and the geometry.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise MedclError(f"{path}: not readable as GeoJSON: {error}; export it again") from None
    mask = np.zeros(shape, bool)
    for number, geometry in enumerate(_geometries(content, path), start=1):
        try:
            mask |= _painted(geometry, shape, scale)
        except (KeyError, TypeError, ValueError) as error:
            kind, why = geometry["type"], f"{type(error).__name__}: {error}"
            raise MedclError(
                f"{path}: geometry {number}, a {kind}, has no usable coordinates ({why}); export "
                "it again"
            ) from None
    return mask


def _painted(
    geometry: Mapping[str, Any], shape: tuple[int, int], scale: tuple[float, float]
) -> Bool[np.ndarray, "h w"]:
    from skimage.draw import polygon

    mask = np.zeros(shape, bool)
    many = geometry["type"] == "MultiPolygon"
    for rings in geometry["coordinates"] if many else [geometry["coordinates"]]:
        area = np.zeros(shape, bool)  # of its own: a hole is not one in another polygon
        for number, ring in enumerate(rings):
            corners = np.asarray(ring, float)
            if corners.ndim != 2 or corners.shape[1] < 2 or not np.isfinite(corners).all():
                raise ValueError(f"ring {number + 1} is no list of x and y")
            points = corners[:, :2] / scale - 0.5
            area[polygon(points[:, 1], points[:, 0], shape)] = number == 0
        mask |= area
    return mask


def _geometries(content: Any, path: str | Path) -> Iterator[dict[str, Any]]:
    """The polygons of a geometry, a feature, a collection, or a list of features (QuPath 0.2)."""
    if isinstance(content, list):
        for item in content:
            yield from _geometries(item, path)
        return
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "FeatureCollection":
        yield from _geometries(content.get("features", []), path)
    elif kind == "Feature":
        yield from _geometries(content.get("geometry"), path)
    elif kind in KINDS:
        yield content
    else:
        raise MedclError(
            f"{path}: holds a geometry '{kind}', expected {' or '.join(KINDS)}; draw areas only"
        )


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2)
