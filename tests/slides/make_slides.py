"""Small slides with a piece of tissue of known place."""

from pathlib import Path

import numpy as np
import tifffile

from medcl.slides.phantom import write_svs
from medcl.slides.tissue import block_mean

PINK = (200, 120, 180)
TISSUE = (256, 128, 256, 256)  # x, y, width, height in level-0 pixels of `picture`


def picture(width: int = 768, height: int = 512) -> np.ndarray:
    """Glass with a rectangle of structured tissue."""
    rng = np.random.default_rng(0)
    image = np.full((height, width, 3), 245, np.uint8)
    x, y, w, h = TISSUE
    coarse = rng.integers(-50, 50, (h // 16, w // 16, 1)).repeat(16, 0).repeat(16, 1)
    image[y : y + h, x : x + w] = np.clip(np.array(PINK) + coarse, 0, 255)
    return image


def svs(folder: Path, microns: float | None = 0.5, name: str = "a.svs") -> Path:
    path = folder / name
    write_svs(path, picture(), 20, microns)
    return path


def tiff(path: Path, levels: list[np.ndarray], *, subifds: bool, **tags: object) -> Path:
    """A tiled pyramid without loss, its lower levels as pages or in SubIFDs."""
    shared = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate", **tags}
    with tifffile.TiffWriter(path) as file:
        file.write(levels[0], subifds=len(levels) - 1 if subifds else 0, metadata=None, **shared)
        for level in levels[1:]:
            file.write(level, subfiletype=1, metadata=None, **shared)
    return path


def halves(image: np.ndarray, many: int = 2) -> list[np.ndarray]:
    """The image and versions of half the size each; an odd last row or column is cut off."""
    levels = [image]
    for _ in range(many - 1):
        above = levels[-1]
        height, width = (side // 2 * 2 for side in above.shape[:2])
        levels.append(block_mean(above[:height, :width], 2))
    return levels
