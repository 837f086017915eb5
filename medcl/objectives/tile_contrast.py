r"""Contrast of tiles: two changed views of a tile are alike, those of other tiles are not.

With z the projection of a view's feature vector, 2n views of n tiles, s(a, b) = cos(z_a, z_b) / t:

    L = 1/(2n) sum_a -log[ exp s(a, a') / ( exp s(a, a') + sum_{b of another tile} exp s(a, b) ) ]

Tiles of the same slide are negatives of each other: with negatives of other slides alone, the
stain of a slide would answer the question. With a `queue` the views are also compared with those of
earlier steps.

Reading the log: `chance` is the loss of equal embeddings.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML
2020, arXiv:2002.05709; for tiles: Ciga, Xu, Martel, "Self supervised contrastive learning for
digital histopathology", 2022, arXiv:2011.13971.

Differs from the paper: stain jitter in optical density in place of colour jitter, turns by right
angles, no blur and no grey (colour is what a stain is for); a tile drawn twice for a batch is no
negative of itself; the optional queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcl.config import Count, Positive, Share
from medcl.contrast.gather import gather, rank, world
from medcl.contrast.queue import Queue
from medcl.contrast.similarity import accuracy, contrast
from medcl.contrast.sphere import collapse_terms
from medcl.networks.heads import projector
from medcl.objectives.base import Batch, Embeddings, Terms, in_float32
from medcl.options import check, resolve
from medcl.views.stain import StainJitter


class TileContrast(nn.Module):
    """NT-Xent of tiles; see the module's text.

    temperature: t
    projection: width of the projector, which is thrown away
    queue: views of earlier steps to compare with, 0 for none
    stain: largest change of the amount of each stain, as a share
    brightness: largest change of the optical density
    least: smallest side of the square that a view shows, as a share of the tile's
    """

    compared_with_chance = ("loss",)

    def __init__(
        self,
        network: nn.Module,
        features: int,
        *,
        temperature: Positive = 0.2,
        projection: Count = 128,
        queue: int = 0,
        stain: Share = 0.3,
        brightness: Share = 0.1,
        least: Share = 0.6,
    ) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature
        self.head = projector(features, projection)
        self.jitter = StainJitter(stain=stain, brightness=brightness, least=least)
        self.queue = Queue(queue, projection) if queue else None

    def embed(self, batch: Batch) -> Embeddings:
        """Feature vectors of both views, (B, 2, D)."""
        both = batch["views"]
        return {"vectors": self.network(both.flatten(0, 1)).unflatten(0, both.shape[:2])}

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        vectors = gather(embeddings["vectors"])
        rows = self.head(vectors.transpose(0, 1).flatten(0, 1))
        tiles = gather(batch["tile"])
        ids = tiles.repeat(2)
        places = torch.arange(len(rows), device=rows.device)
        positives = (places + len(tiles)) % len(rows)
        keys, key_ids = rows, ids
        if self.queue is not None:
            keys = torch.cat([rows, self.queue.keys.to(rows)])
            key_ids = torch.cat([ids, self.queue.ids])
        losses = contrast(
            rows, keys, positives, temperature=self.temperature, ids=ids, key_ids=key_ids
        )
        loss = losses.mean()
        terms: Terms = {
            "accuracy": accuracy(rows, keys, positives, ids=ids, key_ids=key_ids),
            "chance": _chance(ids, key_ids),
            **collapse_terms(rows.detach()),
        }
        if self.queue is not None and self.training:
            own = slice(rank(), None, world())  # `push` joins those of all ranks itself
            self.queue.push(rows[own], ids[own])
        return loss, terms

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        return self.compare(self.embed(batch), batch)


def _chance(ids: Tensor, key_ids: Tensor) -> Float[Tensor, ""]:
    """Mean over the rows of the logarithm of the keys compared, the positive included."""
    others = ((ids[:, None] != key_ids) & (key_ids >= 0)).sum(1)
    return (1 + others).to(torch.float32).log().mean()


TILE_OBJECTIVES: dict[str, type] = {"tile_contrast": TileContrast}


def build_tile_objective(options: Mapping[str, Any], network: nn.Module, features: int) -> Any:
    """Build the pretext task called `options["name"]`; the others are its keyword arguments.

    It has `network`, `jitter` and what `fit` asks of a model. Raises MedclError.
    """
    name = str(options["name"])
    kind: Any = resolve(TILE_OBJECTIVES, name, "objective for tiles")
    given = {key: value for key, value in options.items() if key != "name"}
    return kind(network, features, **check(kind, given, f"objective {name}"))
