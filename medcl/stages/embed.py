"""Write the feature vectors of all tiles by one encoder; a killed run goes on where it was."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medcl.errors import TrainingFailed
from medcl.files import read_json, write_json
from medcl.slides.features import embed, key_of, weights_sha256
from medcl.slides.reader import SlideError, open_slide
from medcl.slides.table import read_folds
from medcl.slides.tiles import read_tiles
from medcl.stages.slides_pretrain import encoder_of, load_encoder
from medcl.training.devices import place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", required=True, help="encoder.pt")
    parser.add_argument("--folds", required=True, help="folds.csv: the slides")
    parser.add_argument("--tiles", required=True, help="tiles.json")
    parser.add_argument("--out", required=True, help="folder of embed.json and one .h5 a slide")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")


def run(args: argparse.Namespace) -> None:
    """Write embed.json with what was made of each slide; an encoder that failed is passed on."""
    out = Path(args.out)
    try:
        content = load_encoder(args.encoder)
    except TrainingFailed as error:
        write_json(out / "embed.json", {"status": "failed", "reason": str(error), "slides": {}})
        print(f"embed: {error}", flush=True)
        return
    where = place(args.threads)
    network = encoder_of(content).to(where.device)
    sha, tiled = weights_sha256(network), read_json(args.tiles)["slides"]
    slides: dict[str, dict[str, Any]] = {}
    made = 0
    for one in read_folds(args.folds).slides:
        if tiled[one.slide]["status"] != "ok":
            continue
        tiles = read_tiles(Path(args.tiles).parent / f"{one.slide}.h5")
        try:
            with open_slide(one.path, one.microns_per_pixel) as reader:
                made += embed(out / "features" / f"{one.slide}.h5", reader, tiles, network, sha)
        except SlideError as error:
            slides[one.slide] = {"status": error.code, "reason": str(error)}
            print(f"  {one.slide}: {error}", flush=True)
            continue
        slides[one.slide] = {"status": "ok", "made_from": key_of(tiles, sha)}
    write_json(out / "embed.json", {"status": "ok", "reason": None, "slides": slides})
    print(f"embed: {made} of {len(slides)} slides newly embedded; wrote {out}", flush=True)
