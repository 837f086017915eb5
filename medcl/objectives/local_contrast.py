r"""Local contrast: a region of a decoder's map is like itself in another view, not its neighbours.

f is a map of the first `blocks` decoder blocks through a small head. On it lie J regions of 3
voxels along each axis (or 1) at fixed places: corners at the start, the middle and the end of each
axis, and, with `centres`, at the quarters. r_j(f) is a region flattened, and projected if larger
than one voxel; s = cos / tau; the neighbours of j are the `negatives` regions nearest to it (mm).

    l(a, b, j) = -log  exp s(r_j(a), r_j(b))
                      / ( exp s(r_j(a), r_j(b)) + sum_{q near j} exp s(r_j(a), r_q(a))
                                                                + exp s(r_j(a), r_q(b)) )
    loss       = sum over the pairs and j of l / (J times the number of maps)

    form   pairs (a, b)
    lr     two views of a slice that differ in contrast and brightness, both ways
    ld     the first view and the second one; the first views of a partition in two volumes

It is the second phase after a global contrast: `frozen` leaves the encoder as it was trained, and
the decoder blocks are trained on its maps. Frozen are its weights; a BatchNorm in it keeps using
the statistics of each batch, and its running ones keep following (an instance norm has none).

Reading the log: `chance` is the loss of equal maps; it depends on `negatives` alone.

Source: Chaitanya, Erdil, Karani, Konukoglu, "Contrastive learning of global and local features for
medical image segmentation with limited annotations", NeurIPS 2020, arXiv:2006.10511.

Differs from the authors' code: neighbours by distance instead of hand-made lists (`compat:
published` takes the lists, in 2-D), which differ between region sizes and name places off the grid;
any dimension: 27 + 8 regions in 3-D. The encoder is carried from the first phase as it is, where
the code starts with fresh running statistics. Contrast and brightness as in global contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Positive, Voxels
from medcl.contrast.sphere import collapse_terms
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.networks.unet import CONVOLUTION, NORMS
from medcl.objectives.base import Batch, Embeddings, Objective, Terms, in_float32
from medcl.objectives.global_contrast import GlobalViews, Rows
from medcl.objectives.local_lists import LISTS
from medcl.views.augment import Spacing

Form = Literal["lr", "ld"]
VECTORS = 256  # at most, that show a collapse


@dataclass(frozen=True)
class Regions:
    """corners: first voxel of each region. The first J are compared; near: rows of `corners`."""

    corners: Int64[Tensor, "M d"]
    near: Int64[Tensor, "J k"]
    side: tuple[int, ...]


def nearest_regions(
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    region: int = 3,
    negatives: int = 5,
    centres: bool = True,
) -> Regions:
    """Regions of a map of `shape` with the nearest other ones of each; `spacing` of the map, mm.

    An axis shorter than a region is taken whole, and places that coincide count once.
    """
    side = tuple(min(region, length) for length in shape)
    # As in the authors' code, the last voxel is left out where regions are larger than one.
    extent = [max(0, n - own - (own > 1)) for n, own in zip(shape, side, strict=True)]
    points = list(product(*(sorted({0, m // 2, m}) for m in extent)))
    if centres:
        quarters = product(*(sorted({m // 4, 3 * m // 4}) for m in extent))
        points += [point for point in quarters if point not in points]
    if len(points) < 2:
        raise MedclError(
            f"local contrast: a map of {tuple(shape)} voxels holds one region of {side}; use "
            "`region: 1`, more `blocks`, or a larger `crop`"
        )
    corners = torch.tensor(points)
    places = corners * torch.tensor(spacing, dtype=torch.float64)
    distances = torch.cdist(places, places).fill_diagonal_(torch.inf)
    near = distances.argsort(dim=1, stable=True)[:, : min(negatives, len(points) - 1)]
    return Regions(corners, near, side)


def published_regions(
    length: int, *, region: int = 3, negatives: int = 5, centres: bool = True
) -> Regions:
    """The regions of the authors' code on a square map, with the first of its 5 neighbours."""
    m = length - (4 if region == 3 else 1)
    at = {"0": 0, "q": m // 4, "h": m // 2, "t": 3 * m // 4, "m": m}
    lists = LISTS[(13 if centres else 9, region)]
    own = [[at[symbol] for symbol in point] for point in lists]
    near = [
        [[at[symbol] for symbol in name] for name in names.split(",")[:negatives]]
        for names in lists.values()
    ]
    places = {tuple(point): number for number, point in reversed(list(enumerate(own)))}
    corners = list(own)
    for point in (point for row in near for point in row):
        if tuple(point) not in places:
            places[tuple(point)] = len(corners)
            corners.append(point)
    rows = [[places[tuple(point)] for point in row] for row in near]
    return Regions(torch.tensor(corners), torch.tensor(rows), (region, region))


def cut(maps: Float[Tensor, "N C *space"], regions: Regions) -> Float[Tensor, "N M E"]:
    """The voxels of each region in order, the channels of each voxel together."""
    offsets = torch.cartesian_prod(*(torch.arange(n) for n in regions.side))
    places = regions.corners[:, None, :] + offsets.view(-1, len(regions.side))[None]
    index = torch.zeros(places.shape[:2], dtype=torch.int64)
    for axis, length in enumerate(maps.shape[2:]):
        index = index * length + places[..., axis]
    return maps.flatten(2).mT[:, index.to(maps.device)].flatten(2)


def local_losses(
    vectors: Float[Tensor, "n M E"],
    first: Int64[Tensor, " T"],
    second: Int64[Tensor, " T"],
    near: Int64[Tensor, "J k"],
    temperature: float,
) -> Float[Tensor, "T J"]:
    """l(a, b, j) for the maps a of `first` and b of `second`."""
    u = F.normalize(vectors, dim=-1, eps=1e-6)
    near = near.to(u.device)
    a, b = u[first][:, : len(near)], u[second][:, : len(near)]
    positive = (a * b).sum(-1, keepdim=True)
    inside = torch.einsum("tje,tjke->tjk", a, u[first][:, near])
    across = torch.einsum("tje,tjke->tjk", a, u[second][:, near])
    logits = torch.cat([positive, inside, across], -1) / temperature
    return logits.logsumexp(-1) - logits[..., 0]


def pairs(rows: Rows, form: Form) -> tuple[Int64[Tensor, " T"], Int64[Tensor, " T"]]:
    """Rows a and b of the pairs of a form; each slice has two views."""

    def same(ids: Tensor) -> Tensor:
        return ids[:, None] == ids[None, :]

    place = same(rows.item) & same(rows.partition)
    slices = place & same(rows.volume)
    if form == "lr":
        linked = slices & ~same(rows.view)
    else:
        start, end = rows.view[:, None] == 0, rows.view[None, :]
        linked = start & ((slices & (end == 1)) | (place & ~same(rows.volume) & (end == 0)))
    a, b = linked.nonzero().unbind(1)
    return a, b


def local_loss(
    vectors: Float[Tensor, "n M E"], rows: Rows, near: Tensor, form: Form, temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss, and that of equal maps."""
    first, second = pairs(rows, form)
    losses = local_losses(vectors, first, second, near, temperature)
    loss = losses.sum() / (len(near) * len(vectors))
    equal = torch.log1p(vectors.new_tensor(2.0 * near.shape[1])) * len(first) / len(vectors)
    return loss, equal


class LocalContrast(Objective):
    """Tell the regions of a decoder's map apart; see the module's text.

    form: lr: views of one slice; ld: and the same partition of other volumes together
    blocks: decoder blocks that are trained; all but two if absent (quarter resolution)
    region: voxels of a region along each axis
    negatives: neighbouring regions of each map that a region is told apart from
    centres: regions at the quarters of the axes too
    compat: published: the neighbours of the authors' code, for square maps in 2-D
    frozen: leave the encoder as the phase before trained it
    partitions: of a volume along its thick axis; 1 for lr and 4 for ld if absent
    volumes: cases of an item; 1 for lr and 3 for ld if absent
    temperature: of the similarities
    width: features of a projected region
    crop: voxels of a slice or slab; the plan's crop if absent
    """

    def __init__(
        self,
        network: Network,
        spacing: Spacing = (1.0, 1.0, 1.0),
        *,
        form: Form = "lr",
        blocks: Count | None = None,
        region: Literal[1, 3] = 3,
        negatives: Count = 5,
        centres: bool = True,
        compat: Literal["published"] | None = None,
        frozen: bool = True,
        partitions: Count | None = None,
        volumes: Count | None = None,
        temperature: Positive = 0.1,
        width: Count = 128,
        crop: Voxels | None = None,
    ) -> None:
        if crop is None:
            raise MedclError("LocalContrast: no `crop`; build it with the plan's, or give it")
        most = len(network.strides) - 1
        blocks = blocks or max(1, most - 2)
        if blocks > most:
            raise MedclError(f"LocalContrast: blocks {blocks}, the network has {most}")
        volumes = volumes or (3 if form == "ld" else 1)
        if form == "ld" and volumes < 2:
            raise MedclError("LocalContrast: form ld compares volumes; use volumes: 2 or more")
        partitions = partitions or (4 if form == "ld" else 1)
        # Views of one slice that differ in contrast and brightness alone, as global contrast cuts.
        views = GlobalViews(spacing, crop, "gr", partitions, volumes, 1.0)
        self.trained = tuple(f"{part}.{n}." for part in ("up", "merge") for n in range(blocks))
        if not frozen:
            self.trained = ("down.", *self.trained)
        super().__init__(network, views)
        self.form: Form = form
        self.blocks, self.frozen = blocks, frozen
        self.temperature = temperature
        shape, sizes = [crop[a] for a in network.axes], [spacing[a] for a in network.axes]
        for stride in network.strides[: len(network.strides) - blocks]:
            shape = [n // step for n, step in zip(shape, stride, strict=True)]
            sizes = [n * step for n, step in zip(sizes, stride, strict=True)]
        if compat:
            if len(set(shape)) > 1 or network.dims != 2:
                raise MedclError("LocalContrast: `compat: published` needs square maps in 2-D")
            self.regions = published_regions(
                shape[0], region=region, negatives=negatives, centres=centres
            )
        else:
            self.regions = nearest_regions(
                shape, sizes, region=region, negatives=negatives, centres=centres
            )
        channels = network.channels[-1 - blocks]
        convolution = CONVOLUTION[network.dims]
        self.head = nn.Sequential(
            convolution(channels, channels, 1, bias=False),
            NORMS[network.norm][network.dims](channels, affine=True),
            nn.ReLU(inplace=True),
            convolution(channels, channels, 1),
        )
        voxels = int(torch.tensor(self.regions.side).prod())
        self.project = (
            nn.Linear(voxels * channels, width, bias=False) if voxels > 1 else nn.Identity()
        )

    def embed(self, batch: Batch) -> Embeddings:
        """regions: the projected regions of every row, (B, R, M, E)."""
        crops = batch["crops"].flatten(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.network.encode(crops)
        maps = self.head(self.network.decode(features, until=self.blocks))
        vectors = self.project(cut(maps, self.regions))
        return {"regions": vectors.unflatten(0, batch["crops"].shape[:2])}

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss, its chance level and what shows a collapse."""
        vectors = embeddings["regions"].flatten(0, 1)
        item = torch.arange(len(batch["view"]), device=vectors.device)[:, None]
        item = item.expand_as(batch["view"]).flatten()
        rows = Rows(item, *(batch[name].flatten() for name in ("volume", "partition", "view")))
        loss, equal = local_loss(vectors, rows, self.regions.near, self.form, self.temperature)
        shown = vectors.detach().flatten(0, 1)
        terms: Terms = {"chance": equal, **collapse_terms(shown[:: -(-len(shown) // VECTORS)])}
        return loss, terms
