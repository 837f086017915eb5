r"""Dense position contrast: a point of the body is known again, voxel by voxel.

Bodies are alike: the same relative position shows the same anatomy. Here the embedding of every
voxel of the whole U-Net, decoder included, is compared by position, so the network that will
segment is the network that is pretrained. A batch holds subjects b around a common normalised place
and two views v of each. Points p_i are drawn inside the body of each subject and are the same in
both views; view v was made by a spatial transform T_bv, known exactly, and a change of intensity:

    e_iv = u( g( F_bv[ T_bv^-1 p_i ] ) )

with F the full-resolution decoder map, [.] linear interpolation, g a two-layer projector and u L2
normalisation. Points that leave a view are dropped. Over the N embeddings that are left, of all
views and subjects, with w_ii = 0 and the self excluded from the softmax:

    L = -1/N sum_i sum_j w_ij log softmax_j( e_i . e_j / t )

    positives: point   w_ij = 1 for the same point in the other view; all others are negatives
    positives: soft    w_ij proportional to exp(-1/2 sum_a ((p_i - p_j)_a / sigma_a)^2), 0 below
                       1e-3, rows normalised to 1

Soft targets look at places, not at subjects or views: between subjects in coordinates of the body's
box (-1 to 1 along each axis; world coordinates of different subjects mean nothing), within one
subject in mm. With another `matcher` than `position` these coordinates, and the common place of the
windows, are those of one body, the reference: see views/matchers.py. With `point` targets, which
are always of one subject, a matcher moves the windows alone: it chooses what the negatives show.

Reading the log: `chance` is log(N - 1), the loss of embeddings that say nothing. An untrained
network is a little below it, because its embeddings follow the intensities (on hippocampus 6.05
against 6.52; 3.37 after 150 steps). Soft targets cannot go below their own entropy H(w): `excess`
is L - H(w). `accuracy` is the share of points whose other view is the nearest of all.

Source: medcl's own. Kin: Xie et al., "Propagate Yourself", CVPR 2021, arXiv:2011.10043 (positives
by distance of pixels, within an image); Chaitanya et al., NeurIPS 2020, arXiv:2006.10511 (regions
by position).

A subject that stands twice in a batch, as two visits or because there are fewer subjects than the
batch has places, counts once with `point`: its points would be negatives of themselves.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn

from medcl.config import Count, Positive, Share, Voxels
from medcl.config import Triple as Sigma
from medcl.contrast.gather import gather_all
from medcl.contrast.similarity import accuracy, contrast, mean_over, unit
from medcl.contrast.sphere import collapse_terms
from medcl.data.store import Box, StoredVolume, Triple
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.objectives.base import Batch, Embeddings, Objective, Terms, Views, in_float32
from medcl.objectives.matching import Matching
from medcl.views.augment import Augment, Spacing, apply
from medcl.views.coordinates import interpolate, voxels_of, within
from medcl.views.crops import box_at, is_tissue
from medcl.views.groups import cases_in_turn
from medcl.views.matchers import POSITION, Matcher, Matches

HIDDEN, WIDTH = 64, 32  # features of the projector
LEAST_WEIGHT = 1e-3
SHIFT = 0.1  # of a side: how far the two windows of a subject may lie from the common place
PLACES = (0.1, 0.9)  # of the body: where windows are centred, before they are moved inside it
VECTORS = 256  # that show a collapse
AUGMENT = Augment(
    rotate=(1.0, 25.0),
    scale=(1.0, 0.25),
    bias=(0.5, 0.3),
    gamma=(0.5, 0.4),
    gain=(0.5, 0.25),
    offset=(0.5, 0.25),
    noise=(0.3, 0.2),
)

Positives = Literal["point", "soft"]


def soft_weights(
    places: Float[Tensor, "N 3"],
    millimetres: Float[Tensor, "N 3"],
    items: Float[Tensor, " N"],
    kept: Bool[Tensor, " N"],
    sigma: Float[Tensor, " 3"],
    sigma_mm: Float[Tensor, " N"],
) -> Float[Tensor, "N N"]:
    """w: rows that sum to 1, or to 0 for a point that is not kept or has no other near it.

    places: normalised to the body. items: the subject's place in the batch. sigma_mm: of its item.
    """
    squared = places.new_zeros(len(places), len(places))
    same = items[:, None] == items
    for axis in range(3):
        across = (places[:, None, axis] - places[:, axis]) / sigma[axis]
        inside = (millimetres[:, None, axis] - millimetres[:, axis]) / sigma_mm[:, None]
        squared += torch.where(same, inside, across).square()
    weights = torch.exp(-squared / 2)
    allowed = (weights >= LEAST_WEIGHT) & kept & kept[:, None]
    weights = weights.masked_fill(~allowed, 0).fill_diagonal_(0)
    return weights / weights.sum(1, keepdim=True).clamp_min(LEAST_WEIGHT)


def first_of_each(subjects: Tensor) -> Bool[Tensor, " B"]:
    """Tell which items are the first of their subject in the batch."""
    return ~(subjects[:, None] == subjects).tril(-1).any(1)


@dataclass(frozen=True)
class DenseViews(Views):
    """Two windows around a common normalised place and points in both; `spacing` in mm.

    place: of the step, from 0 to 1 along each axis of the common frame; drawn by item if None.
    matches: where the frame's places lie in each body.
    turn: of the item: the seed of the step's order of the cases, and its place in that order.
    """

    spacing: Spacing
    size: Triple
    points: int
    mirror: float = 0.0
    place: tuple[float, float, float] | None = None
    turn: tuple[int, int] | None = None
    matches: Matches = POSITION

    def for_step(self, rng: np.random.Generator, index: int) -> DenseViews:
        """Every item of a step has the same place, and another case."""
        x, y, z = rng.uniform(*PLACES, 3)
        return replace(self, place=(x, y, z), turn=(int(rng.integers(2**63)), index))

    def groups(self, cases: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
        if self.turn is None:
            return super().groups(cases, rng)
        return cases_in_turn(cases, 1, self.turn)

    def crop(self, volumes: tuple[StoredVolume, ...], rng: np.random.Generator) -> Batch:
        """image: two windows; centres, points: mm from the body's low corner; body: its mm.

        places: of the points in the common frame, from 0 to 1 along each axis of its box.
        """
        (volume,) = volumes
        place = rng.uniform(*PLACES, 3) if self.place is None else np.array(self.place)
        place = self.matches.own(volume.case, place)
        boxes = [self._window(volume, place, rng) for _ in range(2)]
        images = [volume.read(box) for box in boxes]
        low, spacing = np.array(volume.body[0]), np.array(self.spacing)
        voxels = self._points(volume, boxes, images[0], rng)
        corners = np.array([box[0] for box in boxes])
        sides = np.array(volume.body[1]) - low
        numbers = {
            "places": self.matches.common(volume.case, (voxels + 0.5 - low) / sides),
            "centres": (corners + np.array(self.size) / 2 - low) * spacing,
            "points": (voxels + 0.5 - low) * spacing,
            "body": sides * spacing,
        }
        batch = {name: torch.from_numpy(value).float() for name, value in numbers.items()}
        subject = torch.tensor(zlib.crc32(volume.subject.encode()))
        return {"image": torch.from_numpy(np.stack(images)), "subject": subject, **batch}

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """voxels: where the points are in each view; kept: those that are in it."""
        images = batch["image"].flatten(0, 1)
        strengths = replace(AUGMENT, flip=(self.mirror, self.mirror, self.mirror))
        draw = strengths.draw(
            len(images), self.spacing, generator, size=self.size, channels=images.shape[1]
        )
        changed, _ = apply(images, None, draw)
        points = batch["points"].repeat_interleave(2, 0)
        where = (points, batch["centres"].flatten(0, 1), self.spacing, self.size)
        voxels = voxels_of(*where, draw.matrix)
        kept = within(voxels, self.size) & within(voxels_of(*where), self.size)
        pairs = batch["image"].shape[:2]
        return {
            **batch,
            "image": changed.unflatten(0, pairs),
            "voxels": voxels.unflatten(0, pairs),
            "kept": kept.unflatten(0, pairs),
        }

    def _window(self, volume: StoredVolume, place: np.ndarray, rng: np.random.Generator) -> Box:
        """A box around the place, moved into the body, or around it where the body is smaller."""
        corner = []
        axes = zip(volume.shape, *volume.body, self.size, place, strict=True)
        for length, low, high, side, share in axes:
            reach = round(SHIFT * side)
            middle = low + share * (high - low) + rng.integers(-reach, reach + 1)
            first, last = sorted((low, high - side))
            edges = sorted((0, length - side))
            first, last = max(first, edges[0]), min(last, edges[1])
            corner.append(int(np.clip(round(middle - side / 2), first, last)))
        return box_at(corner, self.size)

    def _points(
        self,
        volume: StoredVolume,
        boxes: list[Box],
        image: Float32[np.ndarray, "C X Y Z"],
        rng: np.random.Generator,
    ) -> Float64[np.ndarray, "P 3"]:
        """Draw points in voxels of the volume: in both windows and the body, and not in air."""
        inner = np.array([*boxes, volume.body])
        low, high = inner[:, 0].max(0), inner[:, 1].min(0)
        if (low >= high).any():
            low, high = inner[:2, 0].max(0), inner[:2, 1].min(0)
        start = low - np.array(boxes[0][0])
        part = tuple(slice(a, a + n) for a, n in zip(start, high - low, strict=True))
        values = image[(slice(None), *part)]
        tissue = np.argwhere(is_tissue(values, volume.fill))
        if not len(tissue):
            tissue = np.argwhere(np.ones(values.shape[1:], bool))
        chosen = tissue[rng.integers(len(tissue), size=self.points)] + low
        between = rng.uniform(-0.5, 0.5, chosen.shape) * (np.array(self.size) > 1)
        return chosen + between


class Dense(Objective):
    """Know a point of the body again in another view; see the module's text.

    positives: point: the same point in the other view; soft: all points, weighted by distance
    temperature: of the softmax
    points: of a subject and step
    sigma: soft: along each axis, between subjects; the body is 2 long
    sigma_mm: soft: within a subject, in mm; sigma on the mean side of its body if absent
    mirror: probability of mirroring a view along each axis
    matcher: which places of two bodies are the same: position: the same share of the way through
        both; affine: after registration; nearest: where the embeddings are alike
    refresh_every: nearest: steps between two searches, each of which passes the pool through the
        network; a quarter of all steps, 500 at most, if absent
    crop: voxels of a view; the plan's crop if absent
    """

    trained = ("down.", "up.", "merge.")

    def __init__(
        self,
        network: Network,
        spacing: Spacing = (1.0, 1.0, 1.0),
        *,
        positives: Positives = "point",
        temperature: Positive = 0.1,
        points: Count = 150,
        sigma: Sigma = (0.12, 0.12, 0.12),
        sigma_mm: Positive | None = None,
        mirror: Share = 0.0,
        matcher: Matcher = "position",
        refresh_every: Count | None = None,
        crop: Voxels | None = None,
    ) -> None:
        if crop is None:
            raise MedclError("Dense: no `crop`; build it with the plan's, or give the voxels")
        super().__init__(network, DenseViews(spacing, crop, points, mirror))
        self.positives, self.temperature = positives, temperature
        self.sigma, self.sigma_mm = sigma, sigma_mm
        self.matching = Matching(matcher, refresh_every)
        self.project = nn.Sequential(
            nn.Linear(network.channels[0], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)
        )

    def embed(self, batch: Batch) -> Embeddings:
        """points: an embedding of each point in each view, (B, 2, P, 32), not yet normalised."""
        embedded = self._embedded(batch["image"].flatten(0, 1), batch["voxels"].flatten(0, 1))
        return {"points": embedded.unflatten(0, batch["image"].shape[:2])}

    def _embedded(
        self, images: Float[Tensor, "B C X Y Z"], voxels: Float[Tensor, "B P 3"]
    ) -> Float[Tensor, "B P E"]:
        features = self.network.decode(self.network.encode(images))
        return self.project(interpolate(features, voxels[..., self.network.axes]))

    def begin(self, steps: int, volumes: Sequence[StoredVolume]) -> None:
        self.matching.begin(steps, volumes)
        self.refresh_every = self.matching.every

    def remarks(self) -> list[str]:
        return self.matching.remarks()

    def refresh(self, volumes: Sequence[StoredVolume], step: int) -> Views:
        assert isinstance(self.views, DenseViews)
        training = self.training
        self.eval()
        matches = self.matching.refresh(volumes, step, self.views.size, self._embedded)
        self.train(training)
        self.views = replace(self.views, matches=matches)
        return self.views

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss, its chance level and what shows a collapse."""
        embedded = gather_all(embeddings)["points"]
        names = ("kept", "points", "places", "body", "subject")
        known = gather_all({name: batch[name] for name in names})
        rows = unit(embedded).flatten(0, 2)
        shape = embedded.shape[:3]
        places = torch.arange(
            len(rows), device=rows.device
        )  # each its own id: the self is left out
        if self.positives == "point":
            pairs = known["kept"].all(1) & first_of_each(known["subject"])[:, None]
            kept = pairs[:, None].expand(shape).flatten()
            ids = torch.where(kept, places, -1)
            targets = places.view(shape).flip(1).flatten()
            losses = contrast(
                rows, rows, targets, temperature=self.temperature, ids=ids, key_ids=ids
            )
            loss = mean_over(losses, kept)
            terms: Terms = {"accuracy": accuracy(rows, rows, targets, ids=ids, key_ids=ids)}
        else:
            pairs, kept = known["kept"].all(1), known["kept"].flatten()
            weights = self._weights(known)
            ids = torch.where(kept, places, -1)
            losses = contrast(
                rows, rows, weights, temperature=self.temperature, ids=ids, key_ids=ids
            )
            counted = kept & (weights.sum(1) > 0)
            loss = mean_over(losses, counted)
            entropy = mean_over(torch.special.entr(weights).sum(1), counted)
            terms = {"excess": (loss - entropy).detach()}
        terms["chance"] = (kept.sum() - 1).clamp_min(1).to(rows).log()
        return loss, {**terms, **_cosines(rows.detach().view(*shape, -1), pairs)}

    def _weights(self, known: Batch) -> Float[Tensor, "N N"]:
        """w of all points of all views; `points` and `body` in mm."""
        points, body, kept = known["points"], known["body"], known["kept"]
        count = kept.shape[1] * kept.shape[2]
        sigma = points.new_tensor(self.sigma)
        each = (sigma * body / 2).mean(1)
        if self.sigma_mm is not None:
            each = torch.full_like(each, self.sigma_mm)
        both, places = (
            known[name][:, None].expand(*kept.shape, 3) for name in ("points", "places")
        )
        items = torch.arange(len(points), device=points.device).repeat_interleave(count)
        return soft_weights(
            2 * places.flatten(0, 2) - 1,
            both.flatten(0, 2),
            items.to(points),
            kept.flatten(),
            sigma,
            each.repeat_interleave(count),
        )


@torch.no_grad()
def _cosines(rows: Float[Tensor, "B 2 P D"], pairs: Bool[Tensor, "B P"]) -> Terms:
    """How near the two views of a point are, how near all others, and whether all collapse."""
    first, second = (rows[:, view] * pairs[..., None] for view in range(2))
    count = pairs.sum()
    positive = (first * second).sum()
    everything = (first + second).sum((0, 1)).square().sum()
    negative = everything - 2 * count - 2 * positive
    mean = positive / count.clamp_min(1)
    vectors = rows.flatten(0, 2)
    return {
        "alignment": 2 - 2 * mean,
        "positive_cosine": mean,
        "negative_cosine": negative / (2 * count * (2 * count - 2)).clamp_min(1),
        **collapse_terms(vectors[:: -(-len(vectors) // VECTORS)]),
    }
