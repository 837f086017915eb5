"""A sample of tiles of many slides in one file, for pretraining: quick to read in any order.

A tile of 256 x 256 takes 196 kB. What is drawn of a slide depends on the seed and on this slide
alone, so that another slide more or less changes nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt8

from medcl.errors import MedclError
from medcl.files import replacing
from medcl.slides.reader import SlideError, open_slide
from medcl.slides.tiles import Tiles, read_tile

FORMAT = 2


@dataclass(frozen=True)
class PooledSlide:
    """A slide whose tiles may be drawn; `microns_per_pixel` overrides what the file states."""

    slide: str
    path: Path
    tiles: Tiles
    microns_per_pixel: float | None = None


class TilePool:
    """The pool as written; it may be pickled, each process opens the file for itself.

    slides: names. slide: of each tile, the number of its slide. coords: level-0 places. left_out:
    slides that could not be read, with the reason.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with h5py.File(self.path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise OSError(f"its format is {file.attrs.get('format')}, not {FORMAT}")
                self.slides = [str(name) for name in file["slides"].asstr()[:]]
                left_out: dict[str, str] = json.loads(file["left_out"].asstr()[()])
                self.left_out = left_out
                self.slide: Int32[np.ndarray, " M"] = file["slide"][:]
                self.coords: Int32[np.ndarray, "M 2"] = file["coords"][:]
                self.tile = int(file["tiles"].shape[1])
        except (OSError, KeyError) as error:
            raise MedclError(f"{path}: no pool of tiles: {error}; make it again") from None
        self._open: tuple[int, h5py.File] | None = None

    def __len__(self) -> int:
        return len(self.slide)

    def read(
        self, indices: Integer[np.ndarray, " n"] | Sequence[int]
    ) -> UInt8[np.ndarray, "n t t 3"]:
        """The pixels of tiles, in the order asked for."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = os.getpid(), h5py.File(self.path, "r")
        tiles = self._open[1]["tiles"]
        out = np.empty((len(indices), self.tile, self.tile, 3), np.uint8)
        for row, index in enumerate(indices):
            out[row] = tiles[int(index)]
        return out

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}


def write_pool(
    path: str | Path,
    slides: Sequence[PooledSlide],
    *,
    most: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Write at most `most` tiles of each slide; return the slides left out, with the reason.

    All tiles have the same number of pixels. Raises MedclError if they do not, or if no tile
    remains.
    """
    sizes = {entry.tiles.grid.tile for entry in slides}
    if len(sizes) > 1:
        raise MedclError(
            f"{path}: tiles of {sorted(sizes)} pixels cannot share a pool; tile all slides alike"
        )
    failed: dict[str, str] = {}
    with replacing(path) as partial, h5py.File(partial, "w") as file:
        side = sizes.pop() if sizes else 1
        pixels = file.create_dataset(
            "tiles",
            (0, side, side, 3),
            "u1",
            maxshape=(None, side, side, 3),
            chunks=(1, side, side, 3),
        )
        names: list[str] = []
        numbers: list[int] = []
        places: list[np.ndarray] = []
        for entry in slides:
            try:
                coords, drawn = _draw(entry, most, seed)
            except SlideError as error:
                failed[entry.slide] = str(error)
                say(f"left out {entry.slide}: {error}")
                continue
            pixels.resize(len(pixels) + len(drawn), axis=0)
            if len(drawn):
                pixels[-len(drawn) :] = drawn
            numbers += [len(names)] * len(drawn)
            names.append(entry.slide)
            places.append(coords)
            say(f"{entry.slide}: {len(drawn)} of {len(entry.tiles)} tiles, {len(pixels)} in all")
        if not numbers:
            raise MedclError(
                f"{path}: none of {len(slides)} slides has a tile; look at their qc.png"
            )
        file["left_out"] = json.dumps(failed)
        file["slides"] = np.array(names, dtype=h5py.string_dtype())
        file["slide"] = np.array(numbers, np.int32)
        file["coords"] = np.concatenate(places)
        file.attrs["format"] = FORMAT
    return failed


def sample(count: int, most: int, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """Numbers of at most `most` of `count` tiles, without repeats, in rising order."""
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def _draw(
    entry: PooledSlide, most: int, seed: int
) -> tuple[Int32[np.ndarray, "n 2"], UInt8[np.ndarray, "n t t 3"]]:
    name = int(hashlib.sha256(entry.slide.encode()).hexdigest()[:16], 16)
    rng = np.random.default_rng(np.random.SeedSequence([abs(seed), int(seed < 0), name]))
    coords = entry.tiles.coords[sample(len(entry.tiles), most, rng)]
    grid = entry.tiles.grid
    drawn = np.empty((len(coords), grid.tile, grid.tile, 3), np.uint8)
    with open_slide(entry.path, entry.microns_per_pixel) as reader:
        for row, (x, y) in enumerate(coords):
            drawn[row] = read_tile(reader, grid, int(x), int(y))
    return coords, drawn
