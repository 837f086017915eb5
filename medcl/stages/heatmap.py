"""Draw what a model looked at on the test slides of its fold, from stored scores alone."""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from medcl.files import read_json, write_json
from medcl.slides.heatmap import write_heatmap
from medcl.slides.reader import SlideError, open_slide
from medcl.slides.table import read_folds
from medcl.slides.tiles import read_tiles
from medcl.slides.tissue import Thumbnail


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scores", required=True, help="scores.h5 of `mil`")
    parser.add_argument("--folds", required=True, help="folds.csv")
    parser.add_argument("--tiles", required=True, help="tiles.json")
    parser.add_argument("--examined", required=True, help="folder with a folder of each slide")
    parser.add_argument("--out", required=True, help="folder of heatmap.json and one a slide")


def run(args: argparse.Namespace) -> None:
    """Write pictures, GeoJSON and table of every slide in the scores, and heatmap.json."""
    out, drawn, lost = Path(args.out), [], {}
    slides = {one.slide: one for one in read_folds(args.folds).slides}
    with h5py.File(args.scores, "r") as file:
        scores = {str(name): values[:] for name, values in file.items()}
    for name, values in scores.items():
        tiles = read_tiles(Path(args.tiles).parent / f"{name}.h5")
        examined = Path(args.examined) / name
        x, y = read_json(examined / "qc.json")["thumbnail_scale"]
        with Image.open(examined / "thumb.png") as image:
            small = Thumbnail(np.asarray(image.convert("RGB")), (x, y))
        try:
            with open_slide(slides[name].path, slides[name].microns_per_pixel) as reader:
                write_heatmap(out / name, small, reader, tiles.grid, tiles.coords, values)
        except SlideError as error:
            lost[name] = str(error)
            print(f"  {name}: {error}", flush=True)
            continue
        drawn.append(name)
    write_json(out / "heatmap.json", {"slides": drawn, "lost": lost})
    print(f"heatmap: {len(drawn)} slides drawn; wrote {out}", flush=True)
