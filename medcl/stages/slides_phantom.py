"""Draw the synthetic slides of the default slide study."""

from __future__ import annotations

import argparse
from pathlib import Path

from medcl.config import SlidePhantom, load_section


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="`phantom` section: YAML text or file")
    parser.add_argument("--out", required=True, help="folder of the slides and their table")


def run(args: argparse.Namespace) -> None:
    """Write slides, truth, slides.csv and phantom.json."""
    from medcl.slides.phantom import SlidePhantomSettings, write_slide_phantom

    settings = SlidePhantomSettings(**load_section(SlidePhantom, args.settings).model_dump())
    out = Path(args.out)
    slides = write_slide_phantom(out, settings, lambda line: print(line, flush=True))
    broken = sum(slide.code is not None for slide in slides)
    print(f"slides-phantom: wrote {len(slides)} slides, {broken} of them broken, to {out}")
