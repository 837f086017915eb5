"""What a model looked at: scores of tiles as a picture, as areas for QuPath, and the tiles on top.

Made from stored scores and places alone, so a picture cannot differ from what was evaluated.
Colours show the percentile of a score within its slide: attention falls off so steeply that its raw
values would show two bright tiles and nothing else.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image, ImageDraw

from medcl.files import replacing, write_json
from medcl.slides.examine import write_png
from medcl.slides.geojson import collection, feature, rectangle
from medcl.slides.reader import SlideReader
from medcl.slides.tiles import TileGrid, read_tile
from medcl.slides.tissue import Thumbnail

COLOURS = "magma"
OPACITY = 0.55
COLUMNS, GAP, CAPTION = 6, 4, 12  # of the sheet of tiles; pixels

Coords = Int32[np.ndarray, "N 2"]
Scores = Float[np.ndarray, " N"]


def percentiles(scores: Scores) -> Float[np.ndarray, " N"]:
    """Share of the slide's tiles below each one, ties counted half; between 0 and 1.

    Raises ValueError for a score that is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite"
        )
    from scipy.stats import rankdata

    return (rankdata(scores) - 0.5) / len(scores)


def overlay(
    thumbnail: Thumbnail, coords: Coords, side: int, scores: Scores
) -> UInt8[np.ndarray, "h w 3"]:
    """The thumbnail with its tiles coloured by percentile; where tiles overlap, by their mean.

    `side` is level-0 pixels along a side of a tile.
    """
    from matplotlib import colormaps

    total = np.zeros(thumbnail.image.shape[:2])
    count = np.zeros_like(total)
    begin = np.rint(coords / thumbnail.scale).astype(int)
    end = np.rint((coords + side) / thumbnail.scale).astype(int)
    for (x0, y0), (x1, y1), value in zip(begin, end, percentiles(scores), strict=True):
        total[y0:y1, x0:x1] += value
        count[y0:y1, x0:x1] += 1
    covered = count > 0
    shown = thumbnail.image.astype(np.float32)
    colours = colormaps[COLOURS](total[covered] / count[covered])[:, :3] * 255
    shown[covered] = (1 - OPACITY) * shown[covered] + OPACITY * colours
    return np.rint(shown).astype(np.uint8)


def areas(coords: Coords, side: int, scores: Scores, name: str = "attention") -> dict[str, Any]:
    """A GeoJSON collection of tiles with score and percentile as measurements, highest first."""
    share = percentiles(scores)
    found = []
    for index in np.argsort(-scores, kind="stable"):
        measured = {name: float(scores[index]), f"{name} percentile": 100 * float(share[index])}
        x, y = map(int, coords[index])
        found.append(feature(rectangle(x, y, side, side), objectType="tile", measurements=measured))
    return collection(found)


def top_tiles(
    reader: SlideReader, grid: TileGrid, coords: Coords, scores: Scores, most: int = 24
) -> UInt8[np.ndarray, "h w 3"]:
    """A sheet of the tiles with the highest scores, the highest first, each above its score."""
    order = np.argsort(-scores, kind="stable")[:most]
    rows = -(-len(order) // COLUMNS)
    across, down = grid.tile + GAP, grid.tile + GAP + CAPTION
    columns = min(COLUMNS, len(order))
    sheet = Image.new("RGB", (max(1, columns * across - GAP), max(1, rows * down - GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, index in enumerate(order):
        row, column = divmod(number, COLUMNS)
        x, y = map(int, coords[index])
        sheet.paste(Image.fromarray(read_tile(reader, grid, x, y)), (column * across, row * down))
        at = (column * across + 1, row * down + grid.tile)
        draw.text(at, f"{scores[index]:.3g}", fill="black")
    return np.array(sheet)


def write_heatmap(
    folder: str | Path,
    thumbnail: Thumbnail,
    reader: SlideReader,
    grid: TileGrid,
    coords: Coords,
    scores: Scores,
    name: str = "attention",
) -> None:
    """Write heatmap.png, tiles.png, scores.geojson and scores.csv into `folder`."""
    folder = Path(folder)
    write_png(folder / "heatmap.png", overlay(thumbnail, coords, grid.side, scores))
    write_png(folder / "tiles.png", top_tiles(reader, grid, coords, scores))
    write_json(folder / "scores.geojson", areas(coords, grid.side, scores, name))
    _write_scores(folder / "scores.csv", coords, scores, name)


def _write_scores(path: Path, coords: Coords, scores: Scores, name: str) -> None:
    columns: Sequence[str] = ("x", "y", name, f"{name}_percentile")
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for (x, y), score, share in zip(coords, scores, percentiles(scores), strict=True):
            writer.writerow([int(x), int(y), f"{score:.9g}", f"{100 * share:.4f}"])
