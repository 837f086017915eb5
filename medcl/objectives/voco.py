r"""VoCo: predict where a random crop lies from its likeness to the cells of a grid.

The body of a volume is divided into K cells; their embeddings q_k act as class centres. A random
crop n of the size of a cell lies in cell k by the share l_nk of its volume. With p_nk the mean of
the two rectified cosines (student's crop, teacher's cell) and (teacher's crop, student's cell), and
e = 1e-6, v1 (the default) is:

    pos  = sum_nk -l_nk log(1 - |l_nk - p_nk| + e) / (sum_nk l_nk + e)
    neg  = sum_nk 1[l_nk = 0] p_nk^2 / (sum_nk 1[l_nk = 0] + e)
    reg  = 2 / (K (K - 1)) sum_{a<b} [cos(q_a, sg q_b)]_+^2
    loss = pos + neg + reg, averaged over volumes

An embedding is the mean over space of every encoder level, concatenated, through a projector. The
teacher follows the student by an exponential moving average and receives no gradient. Only the
encoder is trained.

Other forms were published under the same name; `variant` chooses, voco_losses.py has their losses:

    v0     one network and no teacher, the coarsest level alone; cells are constants in pos and neg
    v2     the teacher is one of the projector alone; cosines (student's crop, teacher's cell); the
           cells of the batch's next volume, where the teacher's prediction is the share (`inter`)
    nnssl  as v0 with every level; its projector standardises by sample: starts near a collapse

Reading the log: `pos + neg` at or above `chance`, the best answer that ignores the image, means
nothing has been learnt (single steps scatter: average many). In v2 they are the published `intra`;
for nnssl, which sums over the batch, the level is that of one volume. `zero_logits` is the share of
zeros where a crop touches a cell (elsewhere 0 is the right answer): near 1 it means dead
rectifiers, and `cell_cosine` near 1 a collapse; in both the gradient is zero and training does not
recover. Positives are a crop and the cell that holds most of it, negatives a crop and a cell it
does not touch. With 2 cells along each axis nearly every crop touches all cells, and neg is idle.

Source: Wu, Zhuang, Chen, "VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework for 3D
Medical Image Analysis", CVPR 2024, arXiv:2402.17300 (v0); the same authors' code (v1) and its
successor Large-Scale-Medical (v2); Wald et al., ICCV 2025 (nnssl).

Differs from the paper: the teacher and the split into pos and neg are the authors' later code,
which v1 follows; v0 is the form of the paper's first code.

Differs from the authors' code: the teacher starts as a copy of the student. It moves after the
optimiser step instead of between the two forward passes of the next step, which gives the same
weights. The grid may have any shape, the depth included: l is a share of volume, and cells divide
the body as it is instead of a volume resized to 384x384x96 (`cells: fixed` gives cells of exactly
`crop` voxels). Crops are not mirrored by default, because mirrored crops of the left and the right
look alike: on generated volumes pos + neg fell to 0.09 without mirroring and to 0.16 with it (200
steps, chance 0.21). Nor are they turned by 90 degrees, which unequal sides do not allow. v2 drops
no whole crops (its one-dimensional dropout does). With several devices, statistics and the next
volume are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Share, Voxels
from medcl.contrast.gather import gather_all
from medcl.contrast.sphere import alignment, collapse_terms
from medcl.contrast.teacher import Teacher
from medcl.data.store import Box, StoredVolume, Triple
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.networks.heads import pool, projector
from medcl.objectives.base import (
    Batch,
    Embeddings,
    Objective,
    Terms,
    Views,
    in_float32,
    refuse_slices,
)
from medcl.objectives.voco_chance import chance
from medcl.objectives.voco_losses import (
    Variant,
    cell_regulariser,
    cosines,
    next_volume_loss,
    position_logits,
    position_loss,
    rectified,
)
from medcl.views.augment import Augment, Spacing, apply
from medcl.views.crops import box_at, grid_boxes, overlap_fractions, random_box

AUGMENT = Augment(  # intensity alone; VoCoViews adds mirroring
    rotate=(0.0, 0.0),
    scale=(0.0, 0.0),
    bias=(0.0, 0.0),
    coarse=(0.0, 0.0),
)

Cells = Literal["own", "fixed"]


@dataclass(frozen=True)
class VoCoViews(Views):
    """Cells of a grid over the body and random crops of the size of a cell; `spacing` in mm."""

    spacing: Spacing
    grid: Triple
    size: Triple
    targets: int
    cells: Cells
    mirror: float = 0.0
    variant: Variant = "v1"

    def cell(self, volume: StoredVolume) -> Triple:
        """Voxels of a cell of a volume that lacks nothing."""
        if self.cells == "fixed":
            return self.size
        x, y, z = (side // n for side, n in zip(_sides(volume.body), self.grid, strict=True))
        return x, y, z

    def lacks(self, volume: StoredVolume) -> str | None:
        """The voxels that the grid needs, where the volume has fewer along an axis."""
        needed = _times(self.grid, self.size) if self.cells == "fixed" else self.grid
        sides = volume.shape if self.cells == "fixed" else _sides(volume.body)
        if all(side >= least for side, least in zip(sides, needed, strict=True)):
            return None
        if self.cells == "own":
            return f"a body of {needed} voxels, one for each cell of VoCo's `grid` (lower it)"
        return (
            f"the {needed} voxels of VoCo's {self.grid} grid of {self.size}-voxel crops (lower "
            "`crop` or `grid`, choose a finer `spacing`, or use `cells: own`)"
        )

    def crop(self, volumes: tuple[StoredVolume, ...], rng: np.random.Generator) -> Batch:
        """crops: the targets, then the cells; overlaps: the shares l; chance: of this geometry."""
        (volume,) = volumes
        cell = self.cell(volume)
        region = random_box(volume.shape, volume.body, _times(self.grid, cell), rng)
        cells = grid_boxes(region[0], cell, self.grid)
        targets = [self._target(region, cell, rng) for _ in range(self.targets)]
        overlaps = overlap_fractions(targets, cells).astype(np.float32)
        return {
            "crops": torch.stack([self._read(volume, box) for box in (*targets, *cells)]),
            "overlaps": torch.from_numpy(overlaps),
            "chance": torch.tensor(chance(self.grid, cell, self.targets, self.variant)),
        }

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change each crop by itself; its place stays as it is."""
        crops = batch["crops"].flatten(0, 1)
        strengths = replace(AUGMENT, flip=(self.mirror, self.mirror, self.mirror))
        draw = strengths.draw(len(crops), self.spacing, generator, channels=crops.shape[1])
        changed, _ = apply(crops, None, draw)
        return {**batch, "crops": changed.view_as(batch["crops"])}

    def _target(self, region: Box, cell: Triple, rng: np.random.Generator) -> Box:
        """Draw a crop; as in the authors' code, the last place along each axis is never drawn."""
        free = [max(1, (count - 1) * side) for count, side in zip(self.grid, cell, strict=True)]
        places = [int(rng.integers(low, low + n)) for low, n in zip(region[0], free, strict=True)]
        return box_at(places, cell)

    def _read(self, volume: StoredVolume, box: Box) -> Float32[Tensor, "C X Y Z"]:
        voxels = torch.from_numpy(volume.read(box))
        if tuple(voxels.shape[1:]) == self.size:
            return voxels
        return F.interpolate(voxels[None], self.size, mode="trilinear", align_corners=False)[0]


def _times(a: Sequence[int], b: Sequence[int]) -> Triple:
    x, y, z = (i * j for i, j in zip(a, b, strict=True))
    return x, y, z


def _sides(box: Box) -> Triple:
    x, y, z = (last - first for first, last in zip(*box, strict=True))
    return x, y, z


def _by_row(module: nn.Module, x: Float[Tensor, "B n E"]) -> Float[Tensor, "B n width"]:
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class VoCo(Objective):
    """Predict where a random crop lies in its volume; see the module's text.

    variant: the published form: v0, v1, v2 or nnssl
    grid: cells along each axis
    crop: voxels each crop is resampled to; the plan's crop if absent
    targets: random crops of a volume
    width: features of the projector's layers
    momentum: of the teacher of v1 and v2; 1 would never move it
    cells: own: the body divided by the grid; fixed: cells of exactly `crop` voxels
    mirror: probability of mirroring a crop along each axis; 0.2 in the authors' code
    """

    compared_with_chance = ("pos", "neg")

    def __init__(
        self,
        network: Network,
        spacing: Spacing = (1.0, 1.0, 1.0),
        *,
        variant: Variant = "v1",
        grid: Voxels = (2, 2, 2),
        crop: Voxels | None = None,
        targets: Count = 4,
        width: Count = 512,
        momentum: Share = 0.9,
        cells: Cells = "own",
        mirror: Share = 0.0,
    ) -> None:
        if crop is None:
            raise MedclError("VoCo: no `crop`; build it with the plan's, or give the voxels")
        refuse_slices(network, "VoCo")
        if max(grid) < 2:
            raise MedclError(f"VoCo: grid {tuple(grid)} is one cell; use at least two")
        views = VoCoViews(spacing, grid, crop, targets, cells, mirror, variant)
        self.trained = network.bottleneck if variant == "v0" else ("down.",)
        super().__init__(network, views)
        self.targets, self.variant = targets, variant
        channels = network.channels[-1:] if variant == "v0" else network.channels
        self.project = projector(sum(channels), width, by_row=variant == "nnssl")
        self.teacher: Teacher | None = None
        if variant == "v1":
            self.teacher = Teacher(self.project, network, momentum=momentum)
        elif variant == "v2":
            self.teacher = Teacher(self.project, momentum=momentum)

    def lacks(self, volume: StoredVolume) -> str | None:
        assert isinstance(self.views, VoCoViews)
        return self.views.lacks(volume)

    def embed(self, batch: Batch) -> Embeddings:
        """student and, in v1, teacher: pooled features of targets and cells, (B, n + K, E)."""
        crops = batch["crops"].flatten(0, 1)
        shape = batch["crops"].shape[:2]
        levels = self.network.encode(crops)
        student = pool(levels[-1:] if self.variant == "v0" else levels)
        found = {"student": student.unflatten(0, shape)}
        if self.variant == "v1":
            assert self.teacher is not None
            with torch.no_grad():
                teacher = pool(cast(Network, self.teacher.copies[1]).encode(crops))
            found["teacher"] = teacher.unflatten(0, shape)
        return found

    def _losses(
        self, student: Tensor, teacher: Tensor | None, overlaps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Predicted shares, and the terms whose sum is the loss."""
        crops, cells = self._sides(student)
        terms = {}
        if teacher is None:
            p = rectified(crops, cells.detach())
        elif self.variant == "v1":
            p = position_logits(crops, cells, *self._sides(teacher))
        else:
            crops_teacher, cells_teacher = self._sides(teacher)
            p = rectified(crops, cells_teacher.detach())
            terms["inter"] = next_volume_loss(crops, cells, crops_teacher, cells_teacher)
        pos, neg = position_loss(p, overlaps, self.variant)
        return p, {"pos": pos, "neg": neg, **terms, "reg": cell_regulariser(cells, self.variant)}

    def _sides(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """The random crops and the cells."""
        return embedded[:, : self.targets], embedded[:, self.targets :]

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss, its terms, the chance level and what shows a collapse."""
        features = gather_all(embeddings)
        known = gather_all({name: batch[name] for name in ("overlaps", "chance")})
        overlaps = known["overlaps"]
        student = _by_row(self.project, features["student"])
        teacher = None
        if self.teacher is not None:
            given = features.get("teacher", features["student"])
            with torch.no_grad():
                teacher = _by_row(self.teacher.copies[0], given)
        p, losses = self._losses(student, teacher, overlaps)
        crops, cells = self._sides(student)
        count = cells.shape[1]
        likeness = cosines(cells, cells).detach() * (1 - torch.eye(count).to(p))
        apart = (overlaps == 0).to(p)
        unlike = (cosines(crops, cells).detach() * apart).sum() / apart.sum().clamp_min(1)
        nearest = overlaps.argmax(-1, keepdim=True).expand(-1, -1, cells.shape[-1])
        distance = alignment(crops.flatten(0, 1), cells.gather(1, nearest).flatten(0, 1))
        terms: Terms = {
            **{name: value.detach() for name, value in losses.items()},
            "chance": known["chance"].mean(),
            "zero_logits": ((p == 0) & (overlaps > 0)).sum() / (overlaps > 0).sum().clamp_min(1),
            "cell_cosine": likeness.abs().sum((1, 2)).mean() / (count * (count - 1)),
            "alignment": distance,
            "positive_cosine": 1 - distance / 2,
            "negative_cosine": unlike,
            **collapse_terms(student.flatten(0, 1)),
        }
        return torch.stack(list(losses.values())).sum().float(), terms

    def after_step(self) -> None:
        if self.teacher is not None:
            self.teacher.update()
