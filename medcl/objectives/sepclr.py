r"""SepCLR: what all subjects share apart from what only the target cohort shows.

One encoder with two heads: common c (normalised) and salient s (not normalised), of two changed
views of a crop. y = 1 for the target cohort (patients), 0 for the background (healthy). s' is s
with the background's rows replaced by the null vector. With d the Euclidean distance,

    align(a, b) = mean d(a_i, b_i)^2 / (2 tau)
    unif(x)     = log mean_{i<j} exp(-d(x_i, x_j)^2 / (2 tau))
    jem(c, s')  = mean_i log mean_j exp(-(d(c_i, c_j)^2 + d(s'_i, s'_j)^2) / (2 tau))    (j = i too)

    loss = align(c1, c2) + unif(c1) + unif(c2)
         + salient ( align(s1, s2 | y = 1) + unif(s'1) + unif(s'2) )
         + null    ( align(0, s1 | y = 0) + align(0, s2 | y = 0) ) / 2
         + joint   ( jem(c1, s'1) + jem(c2, s'2) ) / 2

The last term raises the joint entropy while uniformity holds the single ones, so that c and s share
little. With `attributes`, salient feature k follows column k of the table:

    mean_{i<j} exp(-(y_i - y_j)^2 / (2 tau_a)) (s_ik - s_jk)^2,    tau_a = 0.025, of the targets

where y is the column scaled so that the target cases of the pool go from 0 to 1: ages a year apart
would else be as unlike as any.

The cohort is a column of the user's own table of cases (of a csv source); a case without one, or
without a number for each attribute, is left out, and voxel labels are not read. A crop has to show
what tells the cohorts apart: choose `crop` as large as the body where that is not everywhere.

Reading the log: there is no chance level. Equal embeddings have the loss 0, but those of an
untrained network already lie below it, because they are spread. Read the terms: `common_align` and
`salient_null` fall towards 0, the uniformities below 0.

Source: Louiset, Duchesnay, Grigis, Gori, "Separating common from salient patterns with Contrastive
Representation Learning", ICLR 2024, arXiv:2402.11928.

Differs from the authors' code: attributes are scaled, as said above. A term without rows (no
target, no background, fewer than two rows in a uniformity) is 0 instead of NaN. Volumes instead of
images, with our augmentation. Batch statistics are taken over both views at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Positive, Voxels
from medcl.contrast.gather import gather_all
from medcl.contrast.sphere import collapse_terms, pair_terms
from medcl.data.store import StoredVolume, Triple
from medcl.errors import MedclError, TrainingFailed
from medcl.networks.base import Network
from medcl.networks.heads import Standardise, pool
from medcl.objectives.base import Batch, Embeddings, Objective, Terms, Views, in_float32
from medcl.views.augment import Augment, Spacing, apply
from medcl.views.crops import random_box

ATTRIBUTE_TAU = 0.025  # as in the authors' code
AUGMENT = Augment()


def align(
    a: Float[Tensor, "N E"],
    b: Float[Tensor, "N E"],
    tau: float,
    rows: Bool[Tensor, " N"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the rows (all, unless given); 0 without a row."""
    squared = (a - b).square().sum(1)
    kept = torch.ones_like(squared) if rows is None else rows.to(squared)
    return (squared * kept).sum() / kept.sum().clamp_min(1) / (2 * tau)


def uniform(x: Float[Tensor, "N E"], tau: float) -> Float[Tensor, ""]:
    """0 for fewer than two rows."""
    if len(x) < 2:
        return 0 * x.sum()
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    squared = (x[i] - x[j]).square().sum(1)
    return torch.logsumexp(-squared / (2 * tau), 0) - math.log(len(i))


def joint_entropy(
    common: Float[Tensor, "N E"], salient: Float[Tensor, "N S"], tau: float
) -> Float[Tensor, ""]:
    """The term jem; lower is a higher joint entropy."""
    both = torch.cat([common, salient], 1)
    squared = (both[:, None] - both[None]).square().sum(-1)
    return (torch.logsumexp(-squared / (2 * tau), 1) - math.log(len(both))).mean()


def attribute_alignment(
    x: Float[Tensor, " N"], y: Float[Tensor, " N"], tau: float = ATTRIBUTE_TAU
) -> Float[Tensor, ""]:
    """Rows of a like attribute y have a like feature x; 0 for fewer than two rows."""
    if len(x) < 2:
        return 0 * x.sum()
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return (torch.exp(-(y[i] - y[j]).square() / (2 * tau)) * (x[i] - x[j]).square()).mean()


def separation(
    common: tuple[Float[Tensor, "N E"], Float[Tensor, "N E"]],
    salient: tuple[Float[Tensor, "N S"], Float[Tensor, "N S"]],
    target: Bool[Tensor, " N"],
    tau: float,
) -> dict[str, Tensor]:
    """The terms of the loss, unweighted; both tuples hold the views 1 and 2."""
    c1, c2 = (F.normalize(c, dim=1) for c in common)
    s1, s2 = salient
    n1, n2 = (s * target[:, None].to(s) for s in salient)
    zero = torch.zeros_like(s1)
    return {
        "common_align": align(c1, c2, tau),
        "common_uniform": (uniform(c1, tau) + uniform(c2, tau)) / 2,
        "salient_align": align(s1, s2, tau, target),
        "salient_uniform": (uniform(n1, tau) + uniform(n2, tau)) / 2,
        "salient_null": (align(zero, s1, tau, ~target) + align(zero, s2, tau, ~target)) / 2,
        "joint": (joint_entropy(c1, n1, tau) + joint_entropy(c2, n2, tau)) / 2,
    }


def total(terms: dict[str, Tensor], *, salient: float, null: float, joint: float) -> Tensor:
    """The loss of the terms of `separation`."""
    return (
        terms["common_align"]
        + 2 * terms["common_uniform"]
        + salient * (terms["salient_align"] + 2 * terms["salient_uniform"])
        + null * terms["salient_null"]
        + joint * terms["joint"]
    )


@dataclass(frozen=True)
class SepCLRViews(Views):
    """Two changed views of a random crop, and the cohort of its case; `spacing` in mm.

    ranges: of each attribute, what becomes 0 and what becomes 1.
    """

    spacing: Spacing
    size: Triple
    column: str
    background: str
    attributes: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]

    def is_target(self, volume: StoredVolume) -> bool:
        return volume.extra[self.column] != self.background

    def crop(self, volumes: tuple[StoredVolume, ...], rng: np.random.Generator) -> Batch:
        """crops: the same crop twice; target: 1 for the target cohort; attributes."""
        (volume,) = volumes
        box = random_box(volume.shape, volume.body, self.size, rng)
        crop = torch.from_numpy(volume.read(box))
        numbers = [
            (float(volume.extra[name]) - low) / (high - low)
            for name, (low, high) in zip(self.attributes, self.ranges, strict=True)
        ]
        return {
            "crops": torch.stack([crop, crop]),
            "target": torch.tensor(self.is_target(volume)),
            "attributes": torch.tensor(numbers, dtype=torch.float32),
        }

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change each view by itself."""
        crops = batch["crops"].flatten(0, 1)
        draw = AUGMENT.draw(
            len(crops), self.spacing, generator, size=self.size, channels=crops.shape[1]
        )
        changed, _ = apply(crops, None, draw)
        return {**batch, "crops": changed.view_as(batch["crops"])}


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


class SepCLR(Objective):
    """Tell what is common to all cohorts from what is salient of one; see the module's text.

    column: of the table of cases, which holds the cohort
    background: the value of that column that marks the background; every other one is the target
    salient: weight of the salient terms; 1000 on small images and 1 on photographs in the paper
    null: weight of the background's salient vectors, which should be null
    joint: weight of the joint entropy
    temperature: tau
    width: features of the common and of the salient vector
    attributes: columns of numbers that the first salient features follow, each scaled so that the
        target cases of the pool go from 0 to 1
    attribute_weight: of each of them
    crop: voxels of a crop; the plan's crop if absent
    """

    trained = ("down.",)

    def __init__(
        self,
        network: Network,
        spacing: Spacing = (1.0, 1.0, 1.0),
        *,
        column: str = "cohort",
        background: str = "healthy",
        salient: Positive = 1.0,
        null: Positive = 100.0,
        joint: Positive = 10.0,
        temperature: Positive = 0.5,
        width: Count = 32,
        attributes: tuple[str, ...] = (),
        attribute_weight: Positive = 1.0,
        crop: Voxels | None = None,
    ) -> None:
        if crop is None:
            raise MedclError("SepCLR: no `crop`; build it with the plan's, or give the voxels")
        if len(attributes) > width:
            raise MedclError(f"SepCLR: {len(attributes)} attributes, width {width}; raise `width`")
        ranges = ((0.0, 1.0),) * len(attributes)
        views = SepCLRViews(spacing, crop, column, background, attributes, ranges)
        super().__init__(network, views)
        self.column, self.attributes = column, attributes
        self.weights = {"salient": salient, "null": null, "joint": joint}
        self.temperature, self.attribute_weight = temperature, attribute_weight
        channels = sum(network.channels)
        self.common, self.salient = (
            nn.Sequential(
                nn.Linear(channels, channels, bias=False),
                Standardise(),
                nn.ReLU(inplace=True),
                nn.Linear(channels, width),
            )
            for _ in range(2)
        )

    def lacks(self, volume: StoredVolume) -> str | None:
        for name in (self.column, *self.attributes):
            if not volume.extra.get(name):
                known = ", ".join(volume.extra) or "none"
                return f"'{name}' in the table of cases (columns of its own: {known})"
        for name in self.attributes:
            if not _is_number(volume.extra[name]):
                return f"a number as '{name}' in the table of cases (see `attributes`)"
        return None

    def begin(self, steps: int, volumes: Sequence[StoredVolume]) -> None:
        """Scale the attributes; TrainingFailed where there is but one cohort, or one value."""
        assert isinstance(self.views, SepCLRViews)
        targets = [volume for volume in volumes if self.views.is_target(volume)]
        if len(targets) in (0, len(volumes)):
            counted = Counter(volume.extra[self.column] for volume in volumes)
            shown = ", ".join(f"'{value}' ({count})" for value, count in sorted(counted.items()))
            what = "background" if targets else "target"
            raise TrainingFailed(
                f"SepCLR: no {what} among {len(volumes)} pool cases: their '{self.column}' is "
                f"{shown}, and `background` is '{self.views.background}'; set `background` to "
                "the value of the healthy, or add cases of the other cohort"
            )
        ranges = []
        for name in self.attributes:
            values = [float(volume.extra[name]) for volume in targets]
            low, high = min(values), max(values)
            if low == high:
                raise TrainingFailed(
                    f"SepCLR: '{name}' is {low:g} in all {len(targets)} target cases of the pool: "
                    "nothing can follow it; leave it out of `attributes`"
                )
            ranges.append((low, high))
        self.views = replace(self.views, ranges=tuple(ranges))

    def embed(self, batch: Batch) -> Embeddings:
        """features: pooled, of both views, (B, 2, E)."""
        crops = batch["crops"].flatten(0, 1)
        return {"features": pool(self.network.encode(crops)).unflatten(0, (-1, 2))}

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss, its terms, the share of targets and what shows a collapse."""
        rows = gather_all(embeddings)["features"].flatten(0, 1)
        known = gather_all({name: batch[name] for name in ("target", "attributes")})
        c, s = (head(rows).unflatten(0, (-1, 2)) for head in (self.common, self.salient))
        target = known["target"]
        terms = separation((c[:, 0], c[:, 1]), (s[:, 0], s[:, 1]), target, self.temperature)
        loss = total(terms, **self.weights)
        logged: Terms = {name: value.detach() for name, value in terms.items()}
        for number, name in enumerate(self.attributes):
            feature, values = s[target, :, number], known["attributes"][target, number]
            pulled = (
                attribute_alignment(feature[:, 0], values)
                + attribute_alignment(feature[:, 1], values)
            ) / 2
            loss = loss + self.attribute_weight * pulled
            logged[name] = pulled.detach()
        logged |= {
            "targets": target.float().mean(),
            **pair_terms(c[:, 0], c[:, 1]),
            **collapse_terms(c.flatten(0, 1)),
        }
        return loss, logged
