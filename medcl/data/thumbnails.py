"""A picture of every case, 16 voxels a side, so that copies are found that differ in their bytes.

The volume, turned to RAS, is averaged into a cube whatever its shape and spacing, and its values
are spread over 8 bits between their outer percentiles: a copy that was saved in another type, unit
or resolution, smoothed, or given some noise keeps its thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int8
from nibabel.orientations import apply_orientation, io_orientation

from medcl.errors import MedclError
from medcl.files import replacing

SIDE = 16
PERCENTILES = (1, 99)


def shares(length: int) -> Float32[np.ndarray, "16 n"]:
    """How much of each of `length` voxels each of SIDE equal parts of an axis holds; rows sum to 1.

    With fewer voxels than parts some voxels fill several.
    """
    edges = np.linspace(0, length, SIDE + 1)
    starts = np.arange(length)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    overlap = overlap.clip(0)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def thumbnail(
    means: Float32[np.ndarray, "16 16 16"], affine: Float64[np.ndarray, "4 4"]
) -> Int8[np.ndarray, "16 16 16"]:
    """The thumbnail of the averages of a volume's parts, given in the order of its axes."""
    turned = apply_orientation(means, io_orientation(affine))
    low, high = np.percentile(turned, PERCENTILES)
    if not high > low:
        return np.zeros(turned.shape, np.int8)
    spread = np.clip((turned - low) / (high - low), 0, 1) * 254 - 127
    return np.round(spread).astype(np.int8)


def write_thumbnails(
    path: str | Path, thumbnails: Iterable[tuple[str, Int8[np.ndarray, "16 16 16"]]]
) -> None:
    """Write (case, thumbnail) in the order given; equal content gives equal bytes."""
    rows = list(thumbnails)
    width = max((len(case) for case, _ in rows), default=1)
    table = np.zeros(len(rows), [("case", f"U{width}"), ("voxels", np.int8, (SIDE,) * 3)])
    for row, (case, voxels) in zip(table, rows, strict=True):
        row["case"], row["voxels"] = case, voxels
    with replacing(path) as partial, open(partial, "wb") as file:
        np.save(file, table)


def read_thumbnails(path: str | Path) -> dict[str, Int8[np.ndarray, "16 16 16"]]:
    """Case -> thumbnail. Raises MedclError for a file that is missing or something else."""
    try:
        table = np.load(path)
        return dict(zip(table["case"].tolist(), table["voxels"], strict=True))
    except FileNotFoundError:
        raise MedclError(f"{path}: no such file; run `medcl ingest` again") from None
    except (ValueError, IndexError, EOFError, OSError) as error:
        raise MedclError(f"{path}: no thumbnails: {error}; run `medcl ingest` again") from None
