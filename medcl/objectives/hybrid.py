r"""Masked reconstruction, dense position contrast and global contrast in one training.

Each step draws the views of every part, and one update follows the weighted sum of their losses:

    loss = w_m reconstruction + w_d dense + w_g global

The parts are the objectives of mae.py, dense.py and global_contrast.py on one network: the encoder
learns from all three, the decoder from the first two. Each part looks at crops of its own, because
a network that contrasts what it sees half masked loses most of what the contrast gains. A part of
weight 0 is not built: it reads nothing, computes nothing and has no head. The same tasks one after
the other are `pretrain.then`.

Reading the log: `mae`, `dense` and `global_contrast` are the losses before their weights, and every
term of a part follows under the part's name, its own chance level too (`dense_chance`). `chance` is
the weighted sum of those. What shows a collapse is that of the first part that contrasts.

Source: medcl's own combination. The parts name theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from medcl.config import Count, Share, Voxels
from medcl.data.store import StoredVolume, Triple
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.objectives.base import Batch, Embeddings, Objective, Terms, Views
from medcl.objectives.dense import Dense, Positives
from medcl.objectives.global_contrast import Form, GlobalContrast, GlobalViews
from medcl.objectives.mae import MAE
from medcl.views.augment import Spacing

Weight = Annotated[float, Field(ge=0)]
COLLAPSE = ("spread", "uniformity", "effective_rank")
COSINES = ("alignment", "positive_cosine", "negative_cosine")


@dataclass(frozen=True)
class HybridViews(Views):
    """The views of each part, and how many cases an item of it takes; `spacing` in mm."""

    spacing: Spacing
    size: Triple
    parts: tuple[tuple[str, Views, int], ...]

    def for_step(self, rng: np.random.Generator, index: int) -> HybridViews:
        parts = [(name, views.for_step(rng, index), count) for name, views, count in self.parts]
        return replace(self, parts=tuple(parts))

    def groups(self, cases: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
        """The cases of the parts, one part after the other."""
        return tuple(case for _, views, _ in self.parts for case in views.groups(cases, rng))

    def crop(self, volumes: tuple[StoredVolume, ...], rng: np.random.Generator) -> Batch:
        item: Batch = {}
        for name, views, count in self.parts:
            own, volumes = volumes[:count], volumes[count:]
            item |= _named(name, views.crop(own, rng))
        return item

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        changed: Batch = {}
        for name, views, _ in self.parts:
            changed |= _named(name, views.augment(_of(name, batch), generator))
        return changed


def _named(name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in values.items()}


def _of(name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{name}."
    return {key[len(start) :]: v for key, v in values.items() if key.startswith(start)}


class Hybrid(Objective):
    """Reconstruct, contrast places and contrast slices at once; see the module's text.

    mae: weight of masked reconstruction
    dense: weight of dense position contrast
    global_contrast: weight of global contrast
    mask: mae: share of the blocks that is hidden
    points: dense: of a subject and step
    positives: dense: point or soft
    form: global contrast: gr, gd-, gd or gd-alt
    partitions: global contrast: of a volume along its thick axis
    crop: voxels of a crop of each part, of which global contrast takes slabs; the plan's crop if
        absent
    """

    def __init__(
        self,
        network: Network,
        spacing: Spacing = (1.0, 1.0, 1.0),
        *,
        mae: Weight = 1.0,
        dense: Weight = 1.0,
        global_contrast: Weight = 1.0,
        mask: Share = 0.75,
        points: Count = 150,
        positives: Positives = "point",
        form: Form = "gd",
        partitions: Count = 4,
        crop: Voxels | None = None,
    ) -> None:
        if crop is None:
            raise MedclError("Hybrid: no `crop`; build it with the plan's, or give the voxels")
        parts: dict[str, Objective] = {}
        if mae:
            parts["mae"] = MAE(network, spacing, mask=mask, crop=crop)
        if dense:
            parts["dense"] = Dense(network, spacing, points=points, positives=positives, crop=crop)
        counts = {"mae": 1, "dense": 1}
        if global_contrast:
            whole = GlobalContrast(network, spacing, form=form, partitions=partitions, crop=crop)
            assert isinstance(whole.views, GlobalViews)
            parts["global_contrast"] = whole
            counts["global_contrast"] = whole.views.volumes
        if not parts:
            raise MedclError("Hybrid: all weights are 0; raise `mae`, `dense` or `global_contrast`")
        given = {"mae": mae, "dense": dense, "global_contrast": global_contrast}
        self.weights = {name: given[name] for name in parts}
        names = [name for part in parts.values() for name in part.trained]
        self.trained = tuple(dict.fromkeys(names))
        views = tuple((name, part.views, counts[name]) for name, part in parts.items())
        super().__init__(network, HybridViews(spacing, crop, views))
        # In a dict they are no submodules: the network they share is saved once.
        self._parts = parts
        self.heads = nn.ModuleDict({name: _own(part) for name, part in parts.items()})

    def lacks(self, volume: StoredVolume) -> str | None:
        return next(filter(None, (part.lacks(volume) for part in self._parts.values())), None)

    def embed(self, batch: Batch) -> Embeddings:
        """The embeddings of each part under its name."""
        found: Embeddings = {}
        for name, part in self._parts.items():
            found |= _named(name, part.embed(_of(name, batch)))
        return found

    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The weighted sum, the losses and all terms of the parts."""
        losses: list[Tensor] = []
        terms: Terms = {}
        chance: Tensor | float = 0.0
        for name, (loss, own) in self._compared(embeddings, batch):
            losses.append(self.weights[name] * loss)
            chance = chance + self.weights[name] * own["chance"]
            terms[name] = loss.detach()
            terms |= {f"{name}_{key}": value for key, value in own.items()}
        first = next(n for n in ("dense", "global_contrast", "mae") if n in self._parts)
        shown = COLLAPSE if first == "mae" else (*COLLAPSE, *COSINES)
        terms |= {key: terms[f"{first}_{key}"] for key in shown}
        return torch.stack(losses).sum(), {**terms, "chance": chance}

    def _compared(
        self, embeddings: Embeddings, batch: Batch
    ) -> Iterator[tuple[str, tuple[Tensor, Terms]]]:
        for name, part in self._parts.items():
            yield name, part.compare(_of(name, embeddings), _of(name, batch))


def _own(part: Objective) -> nn.ModuleDict:
    """The modules of a part beside the network."""
    return nn.ModuleDict({n: module for n, module in part.named_children() if n != "network"})
