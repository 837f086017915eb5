r"""Global contrast: slices at the same normalised position are alike, others are not.

A volume is cut along its thick axis into P partitions of equal depth, and one slice (or slab) of
each is drawn. Of each slice there is x and its changed copies t(x): a smaller crop resized, with
another contrast and brightness. With z the head's output, s(a, b) = cos(z_a, z_b) / tau and N the
rows that are no match of a,

    l(a, b) = -log[ exp s(a, b) / ( exp s(a, b) + sum_{n in N} exp s(a, n) ) ]
    loss    = sum over the pairs, both ways, l / (number of rows)

    form     views of a slice   pairs of a partition                                   N
    gr       t1, t2             (t1, t2)                                               all others
    gd-      x, t1, t2          (x, t1), (x, t2), (t1, t2)                             other
    gd       x, t               (x, t) twice; (x, x'), (t, t')                         partitions,
    gd-alt   x, t1, t2          (x, t1), (t1, t2) twice; (x, x'), (t1, t1'), (t2, t2') any volume

where a dash means the next volume of the item, the first following the last. gd-alt is the
six-block form of the authors' code. Only the encoder is trained; the head (two linear maps on
the flattened bottleneck) is thrown away.

Reading the log: `chance` is the loss of equal embeddings.

Source: Chaitanya, Erdil, Karani, Konukoglu, "Contrastive learning of global and local features for
medical image segmentation with limited annotations", NeurIPS 2020, arXiv:2006.10511.

Differs from the paper: a slice may be a slab, for networks in 3-D. Slabs are drawn so that two
partitions never share one, and are no deeper than the network allows for a partition's share of the
crop: as deep as the crop, slabs of different partitions would show mostly the same voxels, and be
told apart by nothing. A crop has the plan's resolution and lies at the same share of the way
through the bodies of an item, instead of the whole slice (`crop` as large as the body gives that).
Contrast and brightness change relative to the slice's own deviation, unclipped, since values need
not lie in 0..1.
Differs from the authors' code, which the weights of the pairs follow (two windows meet in each
volume; gd-alt divides by one and a half times the rows): every slice can be drawn, where the code
never draws the last S mod P; no row is blank, where up to two thirds are; partitions are ids and
not row numbers modulo 4 (`compat="stride4"` of `pairs` keeps that); volumes are linked within
their item and not to the next one's; each changed copy has its own draws, where one factor changes
a whole batch; an item never holds a case twice; log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Positive, Share, Voxels
from medcl.contrast.gather import gather, gather_all
from medcl.contrast.sphere import collapse_terms
from medcl.data.store import StoredVolume, Triple
from medcl.data.strides import product, thick_axis, triple
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.objectives.base import Batch, Embeddings, Objective, Terms, Views, in_float32
from medcl.views.augment import Augment, Spacing, apply
from medcl.views.groups import cases_in_turn, different_cases
from medcl.views.slices import draw_slices, slab, slabs

Form = Literal["gr", "gd-", "gd", "gd-alt"]

AUGMENT = Augment(  # as the authors' code: contrast 0.7 to 1.3 and brightness, nothing else
    rotate=(0.0, 0.0),
    scale=(0.0, 0.0),
    bias=(0.0, 0.0),
    gamma=(0.0, 0.0),
    gain=(1.0, 0.3),
    offset=(1.0, 0.3),
    blur=(0.0, 0.0),
    coarse=(0.0, 0.0),
    noise=(0.0, 0.0),
)


class Link(NamedTuple):
    """Pairs of two views of a slice, or of the same partition in the next volume."""

    first: int
    second: int
    next_volume: bool = False
    times: int = 1


# form -> views of a slice, links, and rows the sum is divided by, as a multiple of all rows
FORMS: dict[str, tuple[int, tuple[Link, ...], float]] = {
    "gr": (2, (Link(0, 1),), 1.0),
    "gd-": (3, (Link(0, 1), Link(0, 2), Link(1, 2)), 1.0),
    "gd": (2, (Link(0, 1, times=2), Link(0, 0, True), Link(1, 1, True)), 1.0),
    "gd-alt": (
        3,
        (
            Link(0, 1, times=2),
            Link(1, 2, times=2),
            *(Link(view, view, True) for view in range(3)),
        ),
        1.5,
    ),
}


@dataclass(frozen=True)
class Rows:
    """What each row shows: item of the batch, volume of the item, partition, view of the slice."""

    item: Int64[Tensor, " n"]
    volume: Int64[Tensor, " n"]
    partition: Int64[Tensor, " n"]
    view: Int64[Tensor, " n"]

    @classmethod
    def of(cls, batch: Batch) -> Rows:
        """Rows of the batches of all ranks, item after item."""
        known = gather_all({name: batch[name] for name in ("volume", "partition", "view")})
        item = torch.arange(len(known["view"]), device=known["view"].device)[:, None]
        return cls(item.expand_as(known["view"]).flatten(), *(v.flatten() for v in known.values()))


@dataclass(frozen=True)
class Pairs:
    """Terms of a loss: rows a and b, which rows are the negatives of a, and a weight."""

    a: Int64[Tensor, " T"]
    b: Int64[Tensor, " T"]
    negative: Bool[Tensor, "T n"]
    weight: Float64[Tensor, " T"]


def pairs(rows: Rows, form: Form, *, compat: Literal["stride4"] | None = None) -> Pairs:
    """The pairs of a form, both ways, with their negatives; the weights sum up to the loss.

    `compat` is for gd- alone: as in the authors' code, the negatives of all pairs of slice i (of
    n/3) are the rows that are no multiple of 4 from i modulo the number of partitions, the anchor
    and its positive included.
    """
    count, links, share = FORMS[form]
    n = len(rows.item)
    volumes = int(rows.volume.max()) + 1
    near = _same(rows.item) & _same(rows.partition)
    within = near & _same(rows.volume)
    following = near & ((rows.volume[:, None] + 1) % volumes == rows.volume[None, :])
    found, weights = [], []
    for first, second, next_volume, times in links:
        views = (rows.view == first)[:, None] & (rows.view == second)[None, :]
        linked = (following if next_volume else within) & views
        linked = linked & ~torch.eye(n, dtype=torch.bool, device=linked.device)
        one_way = linked.nonzero()
        found += [one_way, one_way.flip(1)]
        weights += [torch.full((2 * len(one_way),), times / (share * n), dtype=torch.float64)]
    a, b = torch.cat(found).unbind(1)
    weight = torch.cat(weights).to(a.device)
    every = torch.arange(n, device=a.device)
    if compat:
        start = a % (n // count) % (int(rows.partition.max()) + 1)
        negative = (every[None, :] - start[:, None]).remainder(4) != 0
        negative |= every[None, :] < start[:, None]
    elif form == "gr":
        negative = (every[None, :] != a[:, None]) & (every[None, :] != b[:, None])
    else:
        negative = rows.partition[a][:, None] != rows.partition[None, :]
    return Pairs(a, b, negative, weight)


def contrast(
    z: Float[Tensor, "n E"], terms: Pairs, temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, " T"], Float[Tensor, "T n"]]:
    """Loss, and of each term the cosine of its pair and of its anchor with every row.

    A zero row has cosine 0. Without a pair the loss is 0 with a zero gradient.
    """
    u = F.normalize(z, dim=1, eps=1e-6)
    cosine = u[terms.a] @ u.T
    positive = cosine.gather(1, terms.b[:, None])
    others = (cosine / temperature).masked_fill(~terms.negative, -torch.inf)
    total = torch.logsumexp(torch.cat([positive / temperature, others], 1), 1)
    loss = (terms.weight.to(z) * (total - positive[:, 0] / temperature)).sum()
    return loss + 0 * z.sum(), positive[:, 0], cosine


def chance(terms: Pairs) -> Float[Tensor, ""]:
    """Loss of equal embeddings."""
    return (terms.weight * torch.log1p(terms.negative.sum(1).to(terms.weight))).sum().float()


def _same(ids: Int64[Tensor, " n"]) -> Bool[Tensor, "n n"]:
    return ids[:, None] == ids[None, :]


@dataclass(frozen=True)
class GlobalViews(Views):
    """A slab of each partition of some volumes, and changed copies of it; `spacing` in mm."""

    spacing: Spacing
    size: Triple
    form: Form
    partitions: int
    volumes: int
    zoom: float
    turn: tuple[int, int] | None = field(default=None, kw_only=True)

    @property
    def axis(self) -> int:
        return thick_axis(self.spacing)

    def for_step(self, rng: np.random.Generator, index: int) -> GlobalViews:
        """Items of a step take other cases, as long as there are enough."""
        return replace(self, turn=(int(rng.integers(2**63)), index))

    def groups(self, cases: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
        """Different cases; with `turn` those after the cases of the items before."""
        if self.turn is None or len(cases) < self.volumes:
            return different_cases(cases, self.volumes, rng)
        return cases_in_turn(cases, self.volumes, self.turn)

    def crop(self, volumes: tuple[StoredVolume, ...], rng: np.random.Generator) -> Batch:
        """crops: of each volume and partition the views; and what each row shows."""
        count = FORMS[self.form][0]
        first = 0 if self.form == "gr" else 1  # views before this one are not cropped again
        place = rng.random(3).tolist()
        crops: list[Tensor] = []
        for volume in volumes:
            places = slabs(volume.body, self.size, self.axis)
            for start in draw_slices(places, self.partitions, rng):
                box = slab(volume.shape, volume.body, self.size, self.axis, start, place)
                x = torch.from_numpy(volume.read(box))
                crops += [self._closer(x, rng) if v >= first else x for v in range(count)]
        shown = torch.cartesian_prod(
            torch.arange(len(volumes)), torch.arange(self.partitions), torch.arange(count)
        )
        names = ("volume", "partition", "view")
        return {
            "crops": torch.stack(crops),
            **{name: shown[:, k] for k, name in enumerate(names)},
        }

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change the contrast and brightness of all views but x."""
        crops = batch["crops"].flatten(0, 1)
        draw = AUGMENT.draw(len(crops), self.spacing, generator, channels=crops.shape[1])
        if self.form != "gr":
            original = (batch["view"] == 0).flatten().cpu()
            original = original.view(-1, *[1] * (draw.gain.ndim - 1))  # all channels of the view
            draw = replace(
                draw,
                gain=draw.gain.masked_fill(original, 1.0),
                offset=draw.offset.masked_fill(original, 0.0),
            )
        changed, _ = apply(crops, None, draw)
        return {**batch, "crops": changed.view_as(batch["crops"])}

    def _closer(
        self, x: Float[Tensor, "C X Y Z"], rng: np.random.Generator
    ) -> Float[Tensor, "C X Y Z"]:
        """A smaller crop of the plane of the slices, resized."""
        for axis, side in enumerate(x.shape[1:]):
            if axis != self.axis:
                kept = max(1, round(self.zoom * side))
                x = x.narrow(1 + axis, int(rng.integers(side - kept + 1)), kept)
        return F.interpolate(x[None], self.size, mode="trilinear", align_corners=False)[0]


class GlobalContrast(Objective):
    """Bring slices of the same normalised position together; see the module's text.

    form: gr: views of one image; gd-: and other partitions apart; gd: and the same partition of
        other volumes together; gd-alt: gd with two changed views of each slice
    partitions: of a volume along its thick axis
    volumes: cases of an item, at least two for gd and gd-alt; 2 for those and 1 for the others if
        absent
    temperature: of the similarities
    zoom: side of a changed view as a share of the crop's; 100 of 192 pixels in the paper
    hidden: features of the head's first layer
    width: features of an embedding
    depth: of a slab, in voxels along the thick axis; if absent, the least the network takes that
        holds a partition's share of the crop
    crop: voxels of a slice, or what slabs are taken from; the plan's crop if absent
    """

    def __init__(
        self,
        network: Network,
        spacing: Spacing = (1.0, 1.0, 1.0),
        *,
        form: Form = "gd",
        partitions: Count = 4,
        volumes: Count | None = None,
        temperature: Positive = 0.1,
        zoom: Share = 0.52,
        hidden: Count = 1024,
        width: Count = 128,
        depth: Count | None = None,
        crop: Voxels | None = None,
    ) -> None:
        if crop is None:
            raise MedclError("GlobalContrast: no `crop`; build it with the plan's, or give it")
        crop = _slab_of(crop, network, thick_axis(spacing), partitions, depth)
        across = form in ("gd", "gd-alt")
        volumes = volumes or (2 if across else 1)
        if across and volumes < 2:
            raise MedclError(
                f"GlobalContrast: form {form} compares volumes; use volumes: 2 or more"
            )
        if form != "gr" and partitions < 2:
            raise MedclError(f"GlobalContrast: form {form} compares partitions; use at least 2")
        views = GlobalViews(spacing, crop, form, partitions, volumes, zoom)
        self.trained = network.bottleneck
        super().__init__(network, views)
        self.form: Form = form
        self.temperature = temperature
        sides = [crop[axis] for axis in network.axes]
        for stride in network.strides:
            sides = [n // step for n, step in zip(sides, stride, strict=True)]
        self.project = nn.Sequential(
            nn.Flatten(),
            nn.Linear(network.channels[-1] * math.prod(sides), hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, width, bias=False),
        )

    def lacks(self, volume: StoredVolume) -> str | None:
        views = self.views
        assert isinstance(views, GlobalViews)
        if slabs(volume.body, views.size, views.axis) >= views.partitions:
            return None
        depth = views.size[views.axis]
        return f"slices for {views.partitions} slabs of {depth} (lower `partitions`)"

    def embed(self, batch: Batch) -> Embeddings:
        """z: the head's output of every row, (B, R, E)."""
        z = self.project(self.network.encode(batch["crops"].flatten(0, 1))[-1])
        return {"z": z.unflatten(0, batch["crops"].shape[:2])}

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss, its chance level, the cosines and what shows a collapse."""
        z = gather(embeddings["z"]).flatten(0, 1)
        terms = pairs(Rows.of(batch), self.form)
        loss, positive, cosine = contrast(z, terms, self.temperature)
        negatives = terms.negative.sum().clamp_min(1)
        logged: Terms = {
            "chance": chance(terms),
            "positive_cosine": positive.detach().mean(),
            "negative_cosine": (cosine.detach() * terms.negative).sum() / negatives,
            "alignment": (2 - 2 * positive.detach()).mean(),
            **collapse_terms(z),
        }
        return loss, logged


def _slab_of(
    crop: Triple, network: Network, axis: int, partitions: int, depth: int | None
) -> Triple:
    """Voxels of a slab: the crop, `depth` deep along `axis`."""
    steps = dict(zip(network.axes, product(network.strides), strict=True))
    step = steps.get(axis, 1)  # a 2-D network does not go down across its slices
    if depth is None:
        depth = min(crop[axis], step * math.ceil(crop[axis] / partitions / step))
    if depth % step:
        raise MedclError(
            f"GlobalContrast: depth {depth} is no multiple of {step}, by which the network goes "
            f"down along axis {axis}; choose {step * math.ceil(depth / step)}"
        )
    return triple(depth if a == axis else side for a, side in enumerate(crop))
