"""Lay tiles over every usable slide."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from PIL import Image

from medcl.config import TileKeys, load_section
from medcl.data.checks import Finding
from medcl.errors import MedclError
from medcl.files import read_json, write_json
from medcl.slides.examine import TissueMask, read_mask
from medcl.slides.reader import SlideError, open_slide
from medcl.slides.table import Slide, read_slides
from medcl.slides.tiles import Tiles, TileSettings, lay_tiles, write_tiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="`tiles` section: YAML text or file")
    parser.add_argument("--slides", required=True, help="slides.csv of slides-ingest")
    parser.add_argument("--out", required=True, help="folder of tiles.json and one .h5 a slide")


def run(args: argparse.Namespace) -> None:
    """Write the places of the tiles of each slide, and tiles.json with the status of each.

    Raises MedclError where no slide has a tile.
    """
    settings = TileSettings(**load_section(TileKeys, args.settings).model_dump())
    examined, out = Path(args.slides).parent / "slides", Path(args.out)
    listed: dict[str, dict[str, Any]] = {}
    for one in read_slides(args.slides):
        try:
            listed[one.slide] = _tile(one, examined / one.slide, settings, out)
        except SlideError as error:
            finding = Finding.of(error)
            listed[one.slide] = {"status": finding.code, "tiles": 0, "finding": finding.to_dict()}
            print(f"  {one.slide}: {finding.code}: {finding}", flush=True)
    total = sum(item["tiles"] for item in listed.values())
    if not total:
        raise MedclError(f"none of {len(listed)} slides has a tile; lower `least_tissue`")
    write_json(out / "tiles.json", {"slides": listed, "settings": vars(settings)})
    print(f"tile: {total} tiles of {len(listed)} slides; wrote {out / 'tiles.json'}", flush=True)


def _tile(slide: Slide, examined: Path, settings: TileSettings, out: Path) -> dict[str, Any]:
    mask, qc = read_mask(examined), read_json(examined / "qc.json")
    with open_slide(slide.path, slide.microns_per_pixel) as reader:
        tiles = lay_tiles(reader, mask, settings, qc["sha256"])
    write_tiles(out / f"{slide.slide}.h5", tiles)
    made = {"made_from": tiles.made_from}  # other tiles, another tiles.json: they are embedded anew
    if not len(tiles):
        finding = Finding(
            "no_tiles",
            "error",
            f"{slide.path}: no tile of {settings.tile} pixels has enough tissue",
            "lower `least_tissue` or `tile`",
        )
        return made | {"status": "no_tiles", "tiles": 0, "finding": finding.to_dict()}
    with Image.open(examined / "thumb.png") as image:
        colour = mean_colour(np.asarray(image.convert("RGB")), mask, tiles)
    return made | {"status": "ok", "tiles": len(tiles), "colour": colour.tolist()}


def mean_colour(thumbnail: np.ndarray, mask: TissueMask, tiles: Tiles) -> Float64[np.ndarray, " 3"]:
    """Mean colour (0 to 255) of the tiles of a slide, from its thumbnail."""
    begin = np.floor(tiles.coords / mask.scale).astype(int)
    end = np.maximum(np.ceil((tiles.coords + tiles.grid.side) / mask.scale).astype(int), begin + 1)
    means = [
        thumbnail[y0:y1, x0:x1].mean(axis=(0, 1))
        for (x0, y0), (x1, y1) in zip(begin, end, strict=True)
    ]
    return np.mean(means, axis=0)
