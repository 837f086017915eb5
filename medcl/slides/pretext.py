"""Tiles of a pool as training items: one tile an item, its two views made on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medcl.slides.pool import TilePool
from medcl.views.stain import StainJitter, apply

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TileItems:
    """Any tile of the pool, each equally often."""

    pool: TilePool
    jitter: StainJitter

    def item(self, rng: np.random.Generator) -> Batch:
        tile = int(rng.integers(len(self.pool)))
        pixels = torch.from_numpy(self.pool.read([tile])[0])
        return {"pixels": pixels, "tile": torch.tensor(tile)}

    def augment(self, batch: Batch, rng: torch.Generator) -> Batch:
        tiles = batch["pixels"].permute(0, 3, 1, 2).float() / 255
        views = [apply(tiles, self.jitter.draw(len(tiles), rng)) for _ in range(2)]
        return {"views": torch.stack(views, dim=1), "tile": batch["tile"]}
