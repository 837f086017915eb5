r"""Local contrast: a region of a decoder's map is like itself in another view, not its neighbours.

f is a map of the first `blocks` decoder blocks through a small head. On it lie J regions of 3
voxels along each axis (or 1) at fixed places: corners at the start, the middle and the end of each
axis, and, with `centres`, at the quarters. r_j(f) is a region flattened, and projected if larger
than one voxel; s = cos / tau; the neighbours of j are the `negatives` regions nearest to it (mm).

The views are turned, zoomed and shifted, each by itself (`spatial`), and a region is read from the
map where the transform, known exactly, has moved its place of the body: each voxel of the region by
linear interpolation. Of views that share their grid of voxels the network learns to say where in
the grid it is, which the borders of the crop tell, and no anatomy: of crops of noise alone, another
one in each view, the loss fell to 0.01 in 40 steps, against 2.29 with spatial views (chance 2.40
and 2.39). A region that left a view counts neither as itself nor as a neighbour there; the grid
keeps `MARGIN` of each side from the borders.

    l(a, b, j) = -log  exp s(r_j(a), r_j(b))
                      / ( exp s(r_j(a), r_j(b)) + sum_{q near j} exp s(r_j(a), r_q(a))
                                                                + exp s(r_j(a), r_q(b)) )
    loss       = sum over the pairs and j of l / (J times the number of maps)

(where regions left, the mean over those that stayed takes the place of the sum over J).

    form   pairs (a, b)
    lr     two views of a slice, both ways
    ld     the first view and the second one; the first views of a partition in two volumes

It is the second phase after a global contrast: `frozen` leaves the encoder as it was trained, and
the decoder blocks are trained on its maps. Frozen are its weights; a BatchNorm in it keeps using
the statistics of each batch, and its running ones keep following (an instance norm has none).

Reading the log: `chance` is the loss of equal maps; without `spatial` it depends on `negatives`
alone. `kept` is the share of the regions that stayed in their view.

Source: Chaitanya, Erdil, Karani, Konukoglu, "Contrastive learning of global and local features for
medical image segmentation with limited annotations", NeurIPS 2020, arXiv:2006.10511.

Differs from the authors' code: spatial views, where theirs differ in contrast and brightness alone
(`spatial: false`); neighbours by distance instead of hand-made lists (`compat: published` takes the
lists, in 2-D), which differ between region sizes and name places off the grid, and of which the
code takes the first four for ld (`negatives: 4`); any dimension: 27 + 8 regions in 3-D. The
encoder is carried from the first phase as it is, where the code starts with fresh running
statistics. Contrast and brightness as in global contrast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Positive, Voxels
from medcl.contrast.gather import gather
from medcl.contrast.similarity import mean_over
from medcl.contrast.sphere import collapse_terms
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.networks.unet import CONVOLUTION, NORMS
from medcl.objectives.base import Batch, Embeddings, Objective, Terms, in_float32
from medcl.objectives.global_contrast import AUGMENT, Form, GlobalViews, Rows
from medcl.objectives.local_regions import cut, nearest_regions, published_regions
from medcl.views.augment import Spacing, apply
from medcl.views.coordinates import voxels_of, within

LocalForm = Literal["lr", "ld"]
SPACE = replace(AUGMENT, rotate=(1.0, 20.0), scale=(1.0, 0.2))  # of spatial views
SHIFT = 0.08  # of the shortest side across slices: how far a spatial view is shifted, at most
THIN = 0.5  # of the sides of the slices: a crop less deep than that is a slab
MARGIN = 0.125  # of a map's side, kept free of regions where views are spatial
VECTORS = 256  # at most, that show a collapse


def pairs(rows: Rows, form: LocalForm) -> tuple[Int64[Tensor, " T"], Int64[Tensor, " T"]]:
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
    vectors: Float[Tensor, "n M E"],
    rows: Rows,
    near: Int64[Tensor, "J k"],
    form: LocalForm,
    temperature: float,
    there: Bool[Tensor, "n M"] | None = None,
) -> tuple[Float[Tensor, ""], Terms]:
    """The loss and what to log; `there` tells which regions a map shows, all if None."""
    first, second = pairs(rows, form)
    u, near = F.normalize(vectors, dim=-1, eps=1e-6), near.to(vectors.device)
    if there is None:
        there = torch.ones_like(u[..., 0], dtype=torch.bool)
    a, b = u[first][:, : len(near)], u[second][:, : len(near)]
    positive = (a * b).sum(-1)
    sides = (first, second)
    others = torch.cat([torch.einsum("tje,tjke->tjk", a, u[s][:, near]) for s in sides], -1)
    seen = torch.cat([there[s][:, near] for s in sides], -1)
    counted = (there[first] & there[second])[:, : len(near)].flatten()
    logits = torch.cat([positive[..., None], others.masked_fill(~seen, -torch.inf)], -1)
    logits = logits / temperature
    losses = logits.logsumexp(-1) - logits[..., 0]
    share = len(first) / len(vectors)
    with torch.no_grad():
        equal = torch.log1p(seen.sum(-1).to(u))
        cosine = mean_over(positive.flatten(), counted)
        compared = (seen.flatten(0, 1) & counted[:, None]).flatten()
        terms: Terms = {
            "chance": share * mean_over(equal.flatten(), counted),
            "alignment": 2 - 2 * cosine,
            "positive_cosine": cosine,
            "negative_cosine": mean_over(others.flatten(), compared),
            "kept": counted.to(u).mean(),
        }
    return share * mean_over(losses.flatten(), counted), terms


@dataclass(frozen=True)
class LocalViews(GlobalViews):
    """Two views of a slab of each partition; with `spatial` each is moved by itself.

    form: of the views, gr: two changed copies of a slab.
    """

    form: Form
    spatial: bool = True

    @property
    def moves(self) -> tuple[bool, ...]:
        """Along which axes; across the slices only where the crop is no thin slab."""
        sides = [n * mm for n, mm in zip(self.size, self.spacing, strict=True)]
        across = min(side for axis, side in enumerate(sides) if axis != self.axis)
        thin = sides[self.axis] < THIN * across
        return tuple(
            self.spatial and n > 1 and not (thin and axis == self.axis)
            for axis, n in enumerate(self.size)
        )

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change contrast and brightness and, where `spatial`, the place: by `matrix`."""
        if not self.spatial:
            return super().augment(batch, generator)
        crops, pairs = batch["crops"].flatten(0, 1), batch["crops"].shape[:2]
        shift = SHIFT * min(n for n, moves in zip(self.size, self.moves, strict=True) if moves)
        strengths = replace(SPACE, shift=(1.0, shift))
        size = [n if moves else 1 for n, moves in zip(self.size, self.moves, strict=True)]
        draw = strengths.draw(
            len(crops), self.spacing, generator, size=size, channels=crops.shape[1]
        )
        changed, _ = apply(crops, None, draw)
        matrix = draw.matrix.to(crops.device)
        return {**batch, "crops": changed.unflatten(0, pairs), "matrix": matrix.unflatten(0, pairs)}


class LocalContrast(Objective):
    """Tell the regions of a decoder's map apart; see the module's text.

    form: lr: views of one slice; ld: and the same partition of other volumes together
    blocks: decoder blocks that are trained; all but two if absent (quarter resolution)
    region: voxels of a region along each axis
    negatives: neighbouring regions of each map that a region is told apart from
    centres: regions at the quarters of the axes too
    compat: published: the neighbours of the authors' code, for square maps in 2-D, and its views:
        not spatial
    spatial: turn, zoom and shift each view by itself
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
        form: LocalForm = "lr",
        blocks: Count | None = None,
        region: Literal[1, 3] = 3,
        negatives: Count = 5,
        centres: bool = True,
        compat: Literal["published"] | None = None,
        spatial: bool = True,
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
        views = LocalViews(
            spacing, crop, "gr", partitions, volumes, 1.0, spatial and compat is None
        )
        self.trained = tuple(f"{part}.{n}." for part in ("up", "merge") for n in range(blocks))
        if not frozen:
            self.trained = ("down.", *self.trained)
        super().__init__(network, views)
        self.form: LocalForm = form
        self.blocks, self.frozen = blocks, frozen
        self.spatial = views.spatial
        self.temperature = temperature
        self.axes = network.axes
        shape, sizes = [crop[axis] for axis in self.axes], [spacing[axis] for axis in self.axes]
        for stride in network.strides[: len(network.strides) - blocks]:
            shape = [n // step for n, step in zip(shape, stride, strict=True)]
            sizes = [n * step for n, step in zip(sizes, stride, strict=True)]
        self.shape, self.sizes = shape, sizes
        if compat:
            if len(set(shape)) > 1 or network.dims != 2:
                raise MedclError("LocalContrast: `compat: published` needs square maps in 2-D")
            self.regions = published_regions(
                shape[0], region=region, negatives=negatives, centres=centres
            )
        else:
            self.regions = nearest_regions(
                shape,
                sizes,
                region=region,
                negatives=negatives,
                centres=centres,
                margins=[MARGIN * views.moves[axis] for axis in self.axes],
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
        """regions: the projected regions of every row, (B, R, M, E); there: those in the view."""
        crops = batch["crops"].flatten(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.network.encode(crops)
        maps = self.head(self.network.decode(features, until=self.blocks))
        moved, there = self._moved(batch["matrix"].flatten(0, 1)) if self.spatial else (None, None)
        vectors = self.project(cut(maps, self.regions, moved))
        if there is None:
            there = torch.ones_like(vectors[..., 0], dtype=torch.bool)
        rows = batch["crops"].shape[:2]
        return {"regions": vectors.unflatten(0, rows), "there": there.unflatten(0, rows)}

    def _moved(
        self, matrix: Float[Tensor, "n 4 4"]
    ) -> tuple[Float[Tensor, "n M v d"], Bool[Tensor, "n M"]]:
        """Where each voxel of the regions lies in each map, and which regions a map shows whole."""
        voxels = self.regions.voxels().to(matrix)
        shape, sizes = [1, 1, 1], [1.0, 1.0, 1.0]
        for own, axis in enumerate(self.axes):
            shape[axis], sizes[axis] = self.shape[own], self.sizes[own]
        middle = (voxels.new_tensor(self.shape) - 1) / 2
        points = voxels.new_zeros(*voxels.shape[:2], 3)  # mm from the middle of the crop
        points[..., self.axes] = (voxels - middle) * voxels.new_tensor(self.sizes)
        points = points.flatten(0, 1).expand(len(matrix), -1, -1)
        origin = points.new_zeros(len(matrix), 3)
        x, y, z = sizes
        found = voxels_of(points, origin, (x, y, z), shape, matrix)
        found = found.unflatten(1, voxels.shape[:2])
        return found[..., self.axes], within(found, shape).all(-1)

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss, its chance level and what shows a collapse."""
        vectors = gather(embeddings["regions"]).flatten(0, 1)
        rows = Rows.of(batch)
        there = gather(embeddings["there"]).flatten(0, 1)
        near = self.regions.near
        loss, terms = local_loss(vectors, rows, near, self.form, self.temperature, there)
        shown = vectors.detach()[there]
        return loss, {**terms, **collapse_terms(shown[:: max(1, -(-len(shown) // VECTORS))])}
