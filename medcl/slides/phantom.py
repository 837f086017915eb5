"""A small set of drawn slides: Aperio-like pyramids, a table, and the truth beside them.

Half of the patients have a small tumour on every slide. It differs from glands by the arrangement
of its nuclei alone (`phantom_tissue`), so that a mean colour tells nothing and an encoder has
something to learn. Every third slide is a 40x scan, the others are 20x. Three further slides are
broken on purpose. `slides.csv` names all slides, `truth/` holds maps of classes, and `phantom.json`
says which finding each broken slide has to end with. Everything drawn depends on (seed, slide)
alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import UInt8
from numpy.random import Generator

from medcl.data import drawn_set
from medcl.errors import MedclError
from medcl.files import replacing, write_json
from medcl.slides.examine import write_png
from medcl.slides.phantom_tissue import CLASSES, TRUTH_MICRONS, draw_section, paint
from medcl.slides.tissue import block_mean

TABLE = "slides.csv"
COLUMNS = ("slide", "path", "patient", "label", "microns_per_pixel", "mask", "truth")
FOLDERS = ("slides", "truth")
MICRONS = {20: 0.5, 40: 0.25}
SIDES_UM = (512.0, 1024.0)
STEP_UM = 32.0  # sizes are whole numbers of pixels on every level
DOWNSAMPLES = (1, 4, 16)
TILE, QUALITY = 256, 85


@dataclass(frozen=True)
class SlidePhantomSettings:
    """Size of the set; with `broken`, three slides more."""

    patients: int = 24
    slides_per_patient: int = 2
    broken: bool = True
    seed: int = 0


@dataclass(frozen=True)
class PhantomSlide:
    """One row; paths are relative to the folder. `code` is the finding it has to end with."""

    slide: str
    path: str
    patient: str
    label: str
    power: int
    truth: str
    code: str | None = None
    microns_per_pixel: str = ""
    mask: str = ""


def write_slide_phantom(
    folder: str | Path,
    settings: SlidePhantomSettings,
    say: Callable[[str], None] = lambda line: None,
) -> list[PhantomSlide]:
    """Write slides, truth, table and phantom.json; what an earlier run left is removed.

    Raises MedclError for fewer than two patients (one of each label), and for a folder with files
    that no phantom run wrote.
    """
    if settings.patients < 2 or settings.slides_per_patient < 1:
        raise MedclError(
            f"phantom: {settings.patients} patients with {settings.slides_per_patient} slides are "
            "too few; give 2 patients and 1 slide or more"
        )
    folder = Path(folder)
    drawn_set.begin(folder / TABLE, COLUMNS, FOLDERS)
    slides = []
    total = settings.patients * settings.slides_per_patient
    for index in range(total):
        patient = index // settings.slides_per_patient
        slide = PhantomSlide(
            slide=f"s{index + 1:03d}",
            path=f"slides/s{index + 1:03d}.svs",
            patient=f"p{patient + 1:02d}",
            label="tumour" if patient % 2 else "normal",
            power=40 if index % 3 == 2 else 20,
            truth=f"truth/s{index + 1:03d}.png",
        )
        _write(folder, slide, drawn_set.generator(settings.seed, index))
        slides.append(slide)
        say(f"{slide.slide}: {index + 1} of {total} slides")
    if settings.broken:
        for number, (code, make) in enumerate(BROKEN.items()):
            slides.append(make(folder, code, drawn_set.generator(settings.seed, total + number)))
        say(f"{len(BROKEN)} broken slides")
    drawn_set.write_table(folder / TABLE, COLUMNS, slides)
    listing = {
        "format": 1,
        "settings": asdict(settings),
        "classes": CLASSES,
        "truth_microns_per_pixel": TRUTH_MICRONS,
        "table": TABLE,
        "slides": [asdict(slide) for slide in slides],
    }
    write_json(folder / "phantom.json", listing)
    return slides


def write_svs(
    path: str | Path, image: UInt8[np.ndarray, "h w 3"], power: int, microns: float | None
) -> None:
    """Write a pyramid as Aperio scanners do: level 0, a thumbnail in strips, further levels.

    The sides of the image are multiples of 16. `microns` None: the file states no scale.
    """
    height, width = image.shape[:2]
    scale = "" if microns is None else f"|MPP = {microns:.4f}"
    text = "Aperio Image Library (drawn)\r\n{}x{} [0,0 {}x{}] ({}x{}) JPEG/RGB Q={}|AppMag = {}{}"
    described = text.format(width, height, width, height, TILE, TILE, QUALITY, power, scale)
    shared: dict[str, Any] = {
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": QUALITY},
        "metadata": None,
        "software": False,
    }
    levels = [block_mean(image, step) for step in DOWNSAMPLES]
    with replacing(path) as partial, tifffile.TiffWriter(partial) as file:
        file.write(levels[0], tile=(TILE, TILE), description=described, **shared)
        file.write(levels[-1], rowsperstrip=16, description=described, **shared)
        for level in levels[1:]:
            file.write(level, tile=(TILE, TILE), description=described, **shared)


def _write(folder: Path, slide: PhantomSlide, rng: Generator, states_scale: bool = True) -> None:
    """A 40x scan has the pixels of a 20x scan of twice the side, so it shows a smaller piece."""
    most = SIDES_UM[1] if slide.power == 20 else SIDES_UM[0]
    least = SIDES_UM[0] if slide.power == 20 else 0.75 * SIDES_UM[0]
    width, height = (STEP_UM * round(side / STEP_UM) for side in rng.uniform(least, most, 2))
    section = draw_section((width, height), slide.label == "tumour", rng)
    microns = MICRONS[slide.power]
    image = paint(section, microns, rng)
    write_svs(folder / slide.path, image, slide.power, microns if states_scale else None)
    write_png(folder / slide.truth, section.classes())


def _broken(code: str) -> PhantomSlide:
    name = f"broken-{code.replace('_', '-')}"
    return PhantomSlide(
        name, f"slides/{name}.svs", name, "normal", 20, f"truth/{name}.png", code=code
    )


def _all_white(folder: Path, code: str, rng: Generator) -> PhantomSlide:
    slide = _broken(code)
    noise = rng.integers(240, 248, (1024, 1024, 1), dtype=np.uint8)
    write_svs(folder / slide.path, np.repeat(noise, 3, axis=2), slide.power, MICRONS[slide.power])
    side = round(1024 * MICRONS[slide.power] / TRUTH_MICRONS)
    write_png(folder / slide.truth, np.zeros((side, side), np.uint8))
    return slide


def _without_scale(folder: Path, code: str, rng: Generator) -> PhantomSlide:
    slide = _broken(code)
    _write(folder, slide, rng, states_scale=False)
    return slide


def _truncated(folder: Path, code: str, rng: Generator) -> PhantomSlide:
    """A copy that broke off after 60 % of the bytes."""
    slide = _broken(code)
    _write(folder, slide, rng)
    path = folder / slide.path
    os.truncate(path, int(0.6 * path.stat().st_size))
    return slide


BROKEN: dict[str, Callable[[Path, str, Generator], PhantomSlide]] = {
    "empty": _all_white,
    "no_mpp": _without_scale,
    "truncated": _truncated,
}
