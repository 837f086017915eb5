"""A pretraining that learns nothing: the arm that must show no gain.

Its loss is masked reconstruction's, times 0. What it hands over is another random network, so a
study that finds a difference between this arm and the one from scratch finds noise.
"""

from torch import Tensor

from medcl.objectives.base import Batch, Embeddings, Terms
from medcl.objectives.mae import MAE


class Untrained(MAE):
    """Leave the network as it was drawn."""

    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        loss, terms = super().compare(embeddings, batch)
        return 0 * loss, terms
