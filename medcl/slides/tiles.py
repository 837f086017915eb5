"""Tiles by physical size: where they lie, and their pixels.

A tile has `tile` pixels of `microns_per_pixel` a side, whatever the magnification of its slide, so
that a 20x and a 40x scan of one section give the same tiles. Pixels are read from the coarsest
level that is fine enough and whose downsampling is a whole number (level 0 always is one: elsewhere
OpenSlide would interpolate between pixels), and averaged over areas. Only places are stored.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float16, Float64, Int32, UInt8, UInt32
from PIL import Image

from medcl.errors import MedclError
from medcl.files import replacing, sha256_of
from medcl.slides.examine import TissueMask
from medcl.slides.reader import SlideError, SlideReader
from medcl.slides.tissue import block_mean

FORMAT = 1
AS_IT_IS = 0.02  # relative difference of pixel sizes up to which pixels are taken as they are
WHOLE = 1e-6  # deviation of a downsampling from a whole number
MOST_UPSAMPLING = 1.1


@dataclass(frozen=True)
class TileSettings:
    """Which tiles a slide is cut into.

    microns_per_pixel: side of a pixel of a tile in micrometres; None: the slide's own, level 0
    tile: pixels along a side
    overlap: share of a side that neighbours have in common
    least_tissue: share of a tile that has to be tissue
    allow_upsampling: accept slides more than 1.1 times coarser than `microns_per_pixel`
    """

    microns_per_pixel: float | None = 0.5
    tile: int = 256
    overlap: float = 0.0
    least_tissue: float = 0.5
    allow_upsampling: bool = False


@dataclass(frozen=True)
class TileGrid:
    """How the tiles of one slide are read.

    `read` pixels a side are taken from `level`, whose pixels are `downsample` of level 0, and
    become `tile` pixels; neighbours lie `step` level-0 pixels apart. microns_per_pixel is the
    exact one of the tile's pixels.
    """

    level: int
    downsample: int
    read: int
    tile: int
    step: float
    microns_per_pixel: float

    @property
    def side(self) -> int:
        """Level-0 pixels along a side of a tile."""
        return self.read * self.downsample


@dataclass(frozen=True)
class Tiles:
    """The tiles of one slide: level-0 place (x, y) of the upper left corner, and share of tissue.

    `made_from` is the hash of the slide, of its mask, of the grid and of the settings.
    """

    coords: Int32[np.ndarray, "N 2"]
    tissue: Float16[np.ndarray, " N"]
    grid: TileGrid
    made_from: str

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def status(self) -> str:
        return "ok" if len(self) else "empty"


def grid_of(reader: SlideReader, settings: TileSettings) -> TileGrid:
    """How tiles of this slide are read.

    Raises SlideError if its scale is not known, and if it is too coarse for the settings.
    """
    own = reader.microns_at(0)
    wanted = settings.microns_per_pixel or own
    if own > MOST_UPSAMPLING * wanted and not settings.allow_upsampling:
        raise SlideError(
            "too_coarse",
            f"{reader.path}: {own:.4g} micrometres a pixel, {wanted:g} are asked for: "
            f"{own / wanted:.2f} times finer than it is",
            "choose a greater `microns_per_pixel`, leave the slide out, or `allow_upsampling`",
        )
    level, downsample = 0, 1
    for number, value in enumerate(reader.downsamples):
        whole = round(value)
        fine_enough = own * value <= (1 + AS_IT_IS) * wanted
        if fine_enough and abs(value - whole) <= WHOLE * value and whole > downsample:
            level, downsample = number, whole
    there = own * downsample
    read = settings.tile
    if abs(there / wanted - 1) > AS_IT_IS:
        read = max(1, round(settings.tile * wanted / there))
    step = settings.tile * wanted / own if read != settings.tile else settings.tile * downsample
    return TileGrid(
        level,
        downsample,
        read,
        settings.tile,
        step * (1 - settings.overlap),
        there * read / settings.tile,
    )


def lay_tiles(
    reader: SlideReader, mask: TissueMask, settings: TileSettings, slide_sha256: str
) -> Tiles:
    """Lay a grid from (0, 0) over the slide; keep whole tiles with enough tissue, row by row."""
    grid = grid_of(reader, settings)
    width, height = reader.sizes[0]
    columns, rows = _starts(width, grid), _starts(height, grid)
    y, x = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    share = tissue_shares(mask, np.column_stack((x, y)), grid.side)
    kept = share >= settings.least_tissue
    # The grid holds the size of the slide's pixels, which the table may correct.
    inputs = [FORMAT, slide_sha256, asdict(settings), asdict(grid), mask.sha256]
    return Tiles(
        np.column_stack((x, y))[kept].astype(np.int32),
        share[kept].astype(np.float16),
        grid,
        sha256_of(inputs),
    )


def tissue_shares(
    mask: TissueMask, corners: Int32[np.ndarray, "N 2"], side: int
) -> Float64[np.ndarray, " N"]:
    """Share of tissue of squares of `side` level-0 pixels, parts of mask pixels included."""
    height, width = mask.mask.shape
    total = np.zeros((height + 1, width + 1), np.uint32)
    for number, row in enumerate(mask.mask):  # a truth may be large: no copy of it
        total[number + 1, 1:] = total[number, 1:] + row.cumsum()
    left, top = (corners[:, axis] / mask.scale[axis] for axis in (0, 1))
    right, bottom = (left + side / mask.scale[0]), (top + side / mask.scale[1])
    area = (
        _sum_at(total, bottom, right)
        - _sum_at(total, top, right)
        - _sum_at(total, bottom, left)
        + _sum_at(total, top, left)
    )
    return area / ((right - left) * (bottom - top))


def read_tile(reader: SlideReader, grid: TileGrid, x: int, y: int) -> UInt8[np.ndarray, "t t 3"]:
    """The pixels of the tile at level-0 place (x, y)."""
    return area_resize(reader.read(x, y, grid.level, grid.read, grid.read), grid.tile)


def area_resize(image: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[np.ndarray, "s s c"]:
    """Resize a square: each new pixel is the mean of the area it covers; bilinear to enlarge."""
    side = len(image)
    if side == size:
        return image
    if side % size == 0:
        return block_mean(image, side // size)
    if side < size:
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    edges = np.arange(size + 1) * (side / size)
    pixels = np.arange(side)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weight = (np.clip(covered, 0, None) * (size / side)).astype(np.float32)
    rows = np.tensordot(weight, image.astype(np.float32), (1, 0))
    return np.rint(np.einsum("sw,hwc->hsc", weight, rows, optimize=True)).astype(np.uint8)


def write_tiles(path: str | Path, tiles: Tiles) -> None:
    """Write the places as HDF5 (`coords` int32, `tissue` float16), the grid as attributes."""
    with replacing(path) as partial, h5py.File(partial, "w") as file:
        file["coords"], file["tissue"] = tiles.coords, tiles.tissue
        file.attrs["format"] = FORMAT
        file.attrs["status"] = tiles.status
        file.attrs["made_from"] = tiles.made_from
        file.attrs["grid"] = json.dumps(asdict(tiles.grid))


def read_tiles(path: str | Path) -> Tiles:
    """Read what `write_tiles` wrote; MedclError if it is none of this format."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise OSError(f"format {file.attrs.get('format')}, this version reads {FORMAT}")
            grid = TileGrid(**json.loads(file.attrs["grid"]))
            return Tiles(file["coords"][:], file["tissue"][:], grid, file.attrs["made_from"])
    except (OSError, KeyError) as error:
        raise MedclError(f"{path}: no table of tiles: {error}; run `medcl tile` again") from None


def _starts(length: int, grid: TileGrid) -> np.ndarray:
    """Level-0 pixels at which tiles begin, on pixels of the level that is read."""
    count = int(length / grid.step) + 1
    starts = np.rint(np.arange(count) * grid.step / grid.downsample) * grid.downsample
    return starts[starts + grid.side <= length].astype(np.int32)


def _sum_at(
    total: UInt32[np.ndarray, "h w"], y: Float64[np.ndarray, " N"], x: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """The summed area up to (y, x), linear between the edges of pixels."""
    y = np.clip(y, 0, total.shape[0] - 1)
    x = np.clip(x, 0, total.shape[1] - 1)
    top, left = (
        np.minimum(np.floor(v).astype(int), n - 2) for v, n in zip((y, x), total.shape, strict=True)
    )
    down, along = y - top, x - left
    above = total[top, left] * (1 - along) + total[top, left + 1] * along
    below = total[top + 1, left] * (1 - along) + total[top + 1, left + 1] * along
    return above * (1 - down) + below * down
