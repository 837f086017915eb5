"""One slice of a case with the outlines of its reference and of a prediction, as SVG.

The slice is the one with the largest reference area, across the axis of the coarsest spacing (the
axis towards the head where none is clearly coarser). Shown as radiologists look at it: the
patient's right is on the left, the front or the head is up.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.figure import Figure
from matplotlib.image import imsave

from medcl.data.volume import Volume, reorient

REFERENCE, PREDICTION = "#e69f00", "#56b4e9"
COARSER = 1.5
MARGIN_MM = 20.0
PNG_INCHES = 3.0


@dataclass(frozen=True)
class Slice:
    """A plane of a RAS volume: rows downwards, columns to the right; spacing in mm of both."""

    image: Float[np.ndarray, "H W"]
    reference: Integer[np.ndarray, "H W"]
    predictions: tuple[Integer[np.ndarray, "H W"], ...]
    spacing: tuple[float, float]
    plane: str


def cut(image: Volume, reference: Volume, predictions: list[Volume]) -> Slice:
    """Cut the slice of the largest reference area out of volumes on one grid.

    It is cropped to what is outlined, with a margin of 20 mm.
    """
    volumes = [reorient(volume, "RAS") for volume in (image, reference, *predictions)]
    grey, *labels = (volume.array[0] for volume in volumes)
    spacing = volumes[0].spacing
    axis = through_plane(spacing)
    others = tuple(a for a in range(3) if a != axis)
    index = int((labels[0] > 0).sum(axis=others).argmax())
    planes = [_upright(np.take(array, index, axis=axis)) for array in (grey, *labels)]
    rows, columns = spacing[others[1]], spacing[others[0]]
    window = _window(np.any([plane > 0 for plane in planes[1:]], axis=0), (rows, columns))
    planes = [plane[window] for plane in planes]
    return Slice(
        planes[0].astype(np.float32),
        planes[1].astype(np.int64),
        tuple(plane.astype(np.int64) for plane in planes[2:]),
        (rows, columns),
        ("sagittal", "coronal", "axial")[axis],
    )


def through_plane(spacing: tuple[float, float, float]) -> int:
    """The axis that is clearly the coarsest, else the one towards the head."""
    coarsest = int(np.argmax(spacing))
    others = [value for axis, value in enumerate(spacing) if axis != coarsest]
    return coarsest if spacing[coarsest] > COARSER * max(others) else 2


def overlay(found: Slice, number: int, title: str) -> str:
    """SVG of the slice in grey with both outlines; `number` chooses the prediction."""
    height, width = found.image.shape
    scale_y, scale_x = found.spacing
    unit = max(height * scale_y, width * scale_x) / 100
    outlines = [(found.reference, REFERENCE), (found.predictions[number], PREDICTION)]
    paths = []
    for label, colour in outlines:
        line = outline(label, found.spacing)
        style = "fill:none;stroke-linejoin:round"
        paths.append(
            f'<path d="{line}" style="{style};stroke:#000;stroke-width:{1.5 * unit:.3f}"/>'
        )
        paths.append(
            f'<path d="{line}" style="{style};stroke:{colour};stroke-width:{0.8 * unit:.3f}"/>'
        )
    order = [paths[i] for i in (0, 2, 1, 3)]  # both dark rims first, so that no line is hidden
    box = f"{width * scale_x:.3f} {height * scale_y:.3f}"
    size = f'width="{width * scale_x:.3f}" height="{height * scale_y:.3f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {box}">'
        f"<title>{title}</title>"
        f'<image {size} preserveAspectRatio="none" href="{_png(found.image)}"/>'
        f"{''.join(order)}</svg>"
    )


def overlay_png(found: Slice, number: int) -> bytes:
    """The picture of `overlay` as a PNG file."""
    height, width = (
        n * step / 25.4 for n, step in zip(found.image.shape, found.spacing, strict=True)
    )
    scale = PNG_INCHES / max(height, width)
    figure = Figure(figsize=(scale * width, scale * height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    low, high = _window_of(found.image)
    axes.imshow(found.image, cmap="gray", vmin=low, vmax=high, aspect="auto", interpolation="none")
    labels = ((found.reference, REFERENCE), (found.predictions[number], PREDICTION))
    for thickness, dark in ((2.6, True), (1.4, False)):  # both dark rims first
        for label, colour in labels:
            for line in contours(label):
                axes.plot(line[:, 1], line[:, 0], c="#000000" if dark else colour, lw=thickness)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()


def contours(label: Integer[np.ndarray, "H W"]) -> list[Float[np.ndarray, "N 2"]]:
    """Closed lines (row, column) around the region of every class."""
    from skimage.measure import find_contours  # 0.3 s: only where pictures are made

    return [
        line - 1  # takes the padding off
        for value in np.unique(label[label > 0])
        for line in find_contours(np.pad((label == value).astype(float), 1), 0.5)
    ]


def outline(label: Integer[np.ndarray, "H W"], spacing: tuple[float, float]) -> str:
    """Path data (mm) around the region of every class."""
    data = []
    for line in contours(label):
        y, x = ((line + 0.5) * spacing).T  # +0.5 puts the centre of a voxel into its middle
        data.append("M" + "L".join(f"{a:.2f} {b:.2f}" for a, b in zip(x, y, strict=True)) + "Z")
    return "".join(data)


def _upright(plane: np.ndarray) -> np.ndarray:
    """First axis to the right of the picture, second upwards; then right and left of it swap."""
    return plane.T[::-1, ::-1]


def _window(marked: np.ndarray, spacing: tuple[float, float]) -> tuple[slice, slice]:
    if not marked.any():
        return slice(None), slice(None)
    window = []
    for axis, step in enumerate(spacing):
        inside = np.flatnonzero(marked.any(axis=1 - axis))
        margin = round(MARGIN_MM / step)
        window.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + margin + 1))
    return window[0], window[1]


def _window_of(image: Float[np.ndarray, "H W"]) -> tuple[float, float]:
    """Grey values shown as black and as white."""
    low, high = np.percentile(image, [1, 99])
    return float(low), max(float(high), float(low) + 1e-6)


def _png(image: Float[np.ndarray, "H W"]) -> str:
    low, high = _window_of(image)
    file = io.BytesIO()
    imsave(file, image, cmap="gray", vmin=low, vmax=high, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
