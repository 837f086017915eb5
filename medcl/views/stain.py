r"""Random changes of tiles of stained tissue: draw all numbers first, then apply them.

In optical density, OD = -ln I with I from 0 to 1, the amounts of the stains add up. Jitter in the
direction of haematoxylin, of eosin and of what neither explains is therefore a matrix:

    OD' = OD M^-1 diag(1 + a) M + b

with rows of M the stains' unit directions (red, green, blue), a the change of each stain and b an
offset of the density of all colours (brightness). In space: a square of a random size, resized to
the tile, then mirrored and turned by right angles.

Source of the directions: Ruifrok and Johnston, "Quantification of histochemical staining by color
deconvolution", Analytical and Quantitative Cytology and Histology, 2001. The third row is the cross
product of the first two.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
DARKEST = 1 / 255


@dataclass(frozen=True, kw_only=True)
class StainDraw:
    """What happens to each tile. corner, size: of the square, as shares of the side.

    stain: factors of the three directions less 1. offset: of the optical density.
    """

    size: Float[Tensor, " B"]
    corner: Float[Tensor, "B 2"]
    turns: Int[Tensor, " B"]
    mirrored: Bool[Tensor, " B"]
    stain: Float[Tensor, "B 3"]
    offset: Float[Tensor, " B"]

    def rows(self, rows: list[int]) -> StainDraw:
        """Keep the draws of these tiles."""
        return StainDraw(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class StainJitter:
    """How strongly tiles are changed.

    stain: largest change of the amount of each stain, as a share. brightness: largest offset of the
    optical density. least: smallest side of the square, as a share of the tile's.
    """

    stain: float = 0.3
    brightness: float = 0.1
    least: float = 0.6

    def draw(self, count: int, rng: torch.Generator) -> StainDraw:
        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=rng)

        size = self.least + (1 - self.least) * uniform(count)
        return StainDraw(
            size=size,
            corner=uniform(count, 2) * (1 - size)[:, None],
            turns=torch.randint(4, (count,), generator=rng),
            mirrored=uniform(count) < 0.5,
            stain=(2 * uniform(count, 3) - 1) * self.stain,
            offset=(2 * uniform(count) - 1) * self.brightness,
        )


def apply(tiles: Float[Tensor, "B 3 t t"], draw: StainDraw) -> Float[Tensor, "B 3 t t"]:
    """Change tiles whose values go from 0 to 1; so do those of the result."""
    return recolour(reshape(tiles, draw), draw)


def reshape(tiles: Float[Tensor, "B 3 t t"], draw: StainDraw) -> Float[Tensor, "B 3 t t"]:
    """The drawn square of each tile, resized, mirrored and turned."""
    count = len(tiles)
    quarter = torch.pi / 2 * draw.turns
    cos, sin = quarter.cos().round(), quarter.sin().round()
    flip = torch.where(draw.mirrored, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = draw.size * cos * flip, -draw.size * sin
    theta[:, 1, 0], theta[:, 1, 1] = draw.size * sin * flip, draw.size * cos
    theta[:, :, 2] = 2 * draw.corner + draw.size[:, None] - 1
    grid = F.affine_grid(theta.to(tiles), list(tiles.shape), align_corners=False)
    return F.grid_sample(tiles, grid, padding_mode="border", align_corners=False)


def recolour(tiles: Float[Tensor, "B 3 t t"], draw: StainDraw) -> Float[Tensor, "B 3 t t"]:
    """Another amount of each stain and another brightness; shapes stay."""
    stains = _directions().to(tiles)
    changed = torch.diag_embed(1 + draw.stain.to(tiles))
    matrix = torch.linalg.inv(stains) @ changed @ stains
    density = -tiles.clamp_min(DARKEST).log()
    density = torch.einsum("bchw,bcd->bdhw", density, matrix)
    return (-(density + draw.offset.to(tiles)[:, None, None, None])).exp().clamp(0, 1)


def _directions() -> Float[Tensor, "3 3"]:
    first, second = F.normalize(torch.tensor([HAEMATOXYLIN, EOSIN]), dim=1)
    third = F.normalize(torch.linalg.cross(first, second), dim=0)
    return torch.stack([first, second, third])
