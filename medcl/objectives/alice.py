r"""Alice: crops that show the same anatomy of two subjects are described alike.

An item is two volumes A, B with a crop of each at matching places: the views 0 and 1. The student
sees them with the share `mask` of the columns along the thick axis hidden, the teacher whole. From
a network come the pooled bottleneck, its tokens q, the tokens d of the first decoder map, and a
reconstruction y. Heads as DINO's give K logits of each. The tokens meet in a cross-attention block
shared by both: student CASA(q_s, d_s) and teacher CASA(q_s, d_t), the same q_s in both (conditional
alignment). With t the teacher's logits, s the student's, centres c and c', temperatures T and tau,

    H(t, s; c) = mean over rows of  - softmax((t - c) / T) . log softmax(s / tau)
    cls        = ( H(t_0, s_1; c) + H(t_1, s_0; c) ) / 2           across the subjects
    patch      = ( H(t_0, s_0; c') + H(t_1, s_1; c') ) / 2         of the CASA outputs
    recon      = ( mean (y_0 - x_0)^2 + mean (y_1 - x_1)^2 ) / 2    over all voxels
    loss       = cls + patch + 5 recon

After the loss c <- 0.9 c + 0.1 mean t, and c' likewise. T rises from 0.04 to 0.07 over the first
`warm` of the steps. The teacher follows the student with a momentum that rises from 0.996 to 1 over
the steps; it has no CASA of its own.

Matches are by `position`: the same share of the way through both bodies along each axis; or by one
of the other matchers of views/matchers.py, where the centre of B's crop is the match of A's.

Reading the log: `recon` is already times 5. `chance` = log K is what `cls` of a student is that
answers all prototypes alike: at or above it, subjects are not matched. `target_entropy` near 0 with
`effective_rank` near 1 is a collapse to one prototype, near log K one to all of them.

Source: Jiang et al., "Anatomical Invariance Modeling and Semantic Alignment for Self-supervised
Learning in 3D Medical Image Analysis", ICCV 2023, arXiv:2302.05615.

Differs from the paper: matches by normalised position, by registration or by the embedding that is
being learnt, instead of by a frozen network's; a U-Net instead of a Swin transformer;
reconstruction has half the stated weight of 10, as in the numbers of the authors' code.
Differs from the authors' code, which cannot be run: views change in intensity, where the code
computes changes and does not use them; each item draws its own pair of volumes instead of the batch
before; no dropout, so that a resumed run is exact and a batch may be embedded in parts; bottleneck
and decoder tokens have heads of their own; heads are standardised over the rows of a batch, without
which all embeddings were equal after 200 steps on generated volumes; the prototypes learn from the
first step; optimiser and learning rate as everywhere here. T is DINO's, not the code's 0.008 to
0.01. On 16 generated volumes (K 128, log K 4.85, batch 4, one seed) cls after 60 steps was 5.34
with the code's temperatures and 5.13 with DINO's, and an item's match the most alike of 32 unseen
items in 28 and 37.5 % (50 % after 90 steps, cls 5.01). A likely reason, not isolated: logits are
cosines, those of a small batch move by more than 0.01 with the batch alone, and such a target is
one prototype drawn nearly at random. 5.01 is still above log K: a student that is sure of what it
cannot know yet pays more than one that says nothing.
Give it many more steps, and batches of 4 items at least: heads standardised over one item's two
views make them opposites.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medcl.config import Count, Positive, Share, Voxels
from medcl.contrast.gather import averaged, gather_all
from medcl.contrast.sphere import collapse_terms, pair_terms
from medcl.contrast.teacher import Teacher, rising_momentum
from medcl.data.store import Box, StoredVolume, Triple
from medcl.data.strides import thick_axis
from medcl.errors import MedclError
from medcl.networks.attention import CrossAttention
from medcl.networks.base import Network
from medcl.networks.heads import Prototypes
from medcl.networks.unet import CONVOLUTION
from medcl.objectives.base import (
    Batch,
    Embeddings,
    Objective,
    Terms,
    Views,
    in_float32,
    refuse_slices,
)
from medcl.objectives.mae import blocks_to_voxels, draw_blocks
from medcl.objectives.matching import Matching
from medcl.views.augment import Augment, Spacing, apply
from medcl.views.coordinates import interpolate
from medcl.views.groups import different_cases
from medcl.views.matchers import POSITION, Matcher, Matches, centred_box
from medcl.views.slices import matched_box

STUDENT_TEMPERATURE = 0.1
PUBLISHED = (0.008, 0.01)  # teacher's temperatures at the start and after the warm-up
CENTRE_MOMENTUM = 0.9
# Of the code's 10 half is left: it divides the sum over the two views by four.
WEIGHTS = {"cls": 1.0, "patch": 1.0, "recon": 5.0}
CELLS = 4  # columns across an axis; 16 voxels of 64 in the authors' code
AUGMENT = Augment(rotate=(0.0, 0.0), scale=(0.0, 0.0), bias=(0.0, 0.0), coarse=(0.0, 0.0))


def teacher_temperature(step: int, warm: int, ends: tuple[float, float] = PUBLISHED) -> float:
    """Temperature after `step` steps, of which the first `warm` rise from `ends` to `ends`."""
    start, end = ends
    return start + (end - start) * min(1.0, step / max(1, warm - 1))


def cross_entropy(
    teacher: Float[Tensor, "*rows K"],
    student: Float[Tensor, "*rows K"],
    centre: Float[Tensor, "*ones K"],
    temperatures: tuple[float, float],
) -> Float[Tensor, ""]:
    """H(t, s; c); `temperatures` of student and teacher. The teacher is a constant."""
    tau, warm = temperatures
    target = F.softmax((teacher.detach() - centre) / warm, dim=-1)
    return -(target * F.log_softmax(student / tau, dim=-1)).sum(-1).mean()


def alice_terms(
    student: dict[str, Tensor],
    teacher: dict[str, Tensor],
    images: Float[Tensor, "2 B *image"],
    centres: dict[str, Tensor],
    temperatures: tuple[float, float],
) -> dict[str, Tensor]:
    """cls, patch and recon with their weights; their sum is the loss.

    student: cls (2, B, K), patch (2, B, T, K), recon like `images`; teacher: cls and patch. The
    first axis is the view. Tokens are those of all ranks, images this rank's own.
    """
    cls = [
        cross_entropy(teacher["cls"][a], student["cls"][1 - a], centres["cls"], temperatures)
        for a in range(2)
    ]
    patch = [
        cross_entropy(teacher["patch"][a], student["patch"][a], centres["patch"], temperatures)
        for a in range(2)
    ]
    recon = [averaged(F.mse_loss(student["recon"][a], images[a])) for a in range(2)]
    terms = {"cls": cls, "patch": patch, "recon": recon}
    return {name: WEIGHTS[name] * (first + last) / 2 for name, (first, last) in terms.items()}


@torch.no_grad()
def moved_centre(
    centre: Float[Tensor, "*ones K"], teacher: Float[Tensor, "*rows K"]
) -> Float[Tensor, "*ones K"]:
    """The centre after a batch: the mean over all rows enters with 0.1."""
    mean = teacher.flatten(0, -2).mean(0)
    return centre * CENTRE_MOMENTUM + mean * (1 - CENTRE_MOMENTUM)


@dataclass(frozen=True)
class AliceViews(Views):
    """Matching crops of two volumes, and the columns hidden from them; `spacing` in mm."""

    spacing: Spacing
    size: Triple
    mask: float
    matches: Matches = POSITION

    def groups(self, cases: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
        """Draw two different cases."""
        return different_cases(cases, 2, rng)

    def crop(self, volumes: tuple[StoredVolume, ...], rng: np.random.Generator) -> Batch:
        """crops: of both volumes, at places that match."""
        place = rng.random(3).tolist()
        boxes = [matched_box(v.shape, v.body, self.size, place) for v in volumes]
        if self.matches.shifts is not None:
            boxes[1] = self._match(volumes, boxes[0])
        read = zip(volumes, boxes, strict=True)
        return {"crops": torch.stack([torch.from_numpy(v.read(box)) for v, box in read])}

    def _match(self, volumes: tuple[StoredVolume, ...], box: Box) -> Box:
        """The box of the second volume whose centre matches that of the first one's `box`."""
        first, second = volumes
        low, high = (np.array(corner) for corner in first.body)
        place = (np.array(box).mean(0) - low) / (high - low)
        place = self.matches.own(second.case, self.matches.common(first.case, place))
        return centred_box(second, self.size, place.tolist())

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """crops: changed in intensity; visible: what the student sees of them."""
        shape = batch["crops"].shape[:2]
        crops = batch["crops"].flatten(0, 1)
        draw = AUGMENT.draw(len(crops), self.spacing, generator, channels=crops.shape[1])
        crops, _ = apply(crops, None, draw)
        axis = thick_axis(self.spacing)
        block = [n if here == axis else max(1, n // CELLS) for here, n in enumerate(self.size)]
        x, y, z = (-(-n // side) for n, side in zip(self.size, block, strict=True))
        blocks = draw_blocks(len(crops), (x, y, z), self.mask, generator)
        visible = blocks_to_voxels(blocks, (block[0], block[1], block[2]), self.size)
        return {
            "crops": crops.unflatten(0, shape),
            "visible": visible.to(crops.device).unflatten(0, shape),
        }


class Alice(Objective):
    """Describe matching crops of two subjects alike; see the module's text.

    matcher: position: the same share of the way through both bodies; affine: after registration;
        nearest: where the maps of the teacher are alike
    refresh_every: nearest: steps between two searches, each of which passes the pool through the
        network; a quarter of all steps, 500 at most, if absent
    mask: share of the columns that is hidden from the student
    momentum: of the teacher at the start; it rises to 1
    temperatures: of the teacher, before and after they rise; 0.008 and 0.01 in the authors' code
    warm: share of the steps over which the teacher's temperature rises
    prototypes: K
    hidden: features of the heads' layers
    width: features of the heads' unit vectors
    heads: of the cross-attention
    crop: voxels of a crop; the plan's crop if absent
    """

    trained = ("down.", "up.", "merge.")
    compared_with_chance = ("cls",)
    done: Tensor
    centre: Tensor
    centre_patch: Tensor

    def __init__(
        self,
        network: Network,
        spacing: Spacing = (1.0, 1.0, 1.0),
        *,
        matcher: Matcher = "position",
        refresh_every: Count | None = None,
        mask: Share = 0.75,
        momentum: Share = 0.996,
        temperatures: tuple[Positive, Positive] = (0.04, 0.07),
        warm: Share = 0.03,
        prototypes: Count = 512,
        hidden: Count = 512,
        width: Count = 256,
        heads: Count = 8,
        crop: Voxels | None = None,
    ) -> None:
        if crop is None:
            raise MedclError("Alice: no `crop`; build it with the plan's, or give the voxels")
        refuse_slices(network, "Alice")
        super().__init__(network, AliceViews(spacing, crop, mask))
        sizes = {"hidden": hidden, "width": width, "prototypes": prototypes}
        self.head = Prototypes(network.channels[-1], **sizes)
        self.head_query = Prototypes(network.channels[-1], **sizes)
        self.head_tokens = Prototypes(network.channels[-2], **sizes)
        self.casa = CrossAttention(
            prototypes, heads=heads, size=max(1, prototypes // heads), hidden=4 * prototypes
        )
        self.reconstruct = CONVOLUTION[3](network.channels[0], network.channels_in, 1)
        self.teacher = Teacher(network, self.head, self.head_tokens, momentum=momentum)
        self.start, self.warm, self.steps = momentum, warm, 1
        self.temperatures = temperatures
        self.matching = Matching(matcher, refresh_every)
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("centre", torch.zeros(1, prototypes))
        self.register_buffer("centre_patch", torch.zeros(1, 1, prototypes))

    def begin(self, steps: int, volumes: Sequence[StoredVolume]) -> None:
        self.steps = steps
        self.matching.begin(steps, volumes)
        self.refresh_every = self.matching.every

    def remarks(self) -> list[str]:
        return self.matching.remarks()

    def refresh(self, volumes: Sequence[StoredVolume], step: int) -> Views:
        assert isinstance(self.views, AliceViews)
        training = self.training
        self.eval()
        matches = self.matching.refresh(volumes, step, self.views.size, self._described)
        self.train(training)
        self.views = replace(self.views, matches=matches)
        return self.views

    def _described(
        self, images: Float[Tensor, "B C X Y Z"], voxels: Float[Tensor, "B P 3"]
    ) -> Float[Tensor, "B P E"]:
        """What the teacher's last decoder map says at the voxels."""
        network = cast(Network, self.teacher.copies[0])
        return interpolate(network.decode(network.encode(images)), voxels)

    def embed(self, batch: Batch) -> Embeddings:
        """Tokens of the bottleneck and of the first decoder map, of both networks; recon."""
        crops, visible = batch["crops"].flatten(0, 1), batch["visible"].flatten(0, 1)
        features = self.network.encode(crops * visible)
        found = {
            "deep": features[-1],
            "decoded": self.network.decode(features, until=1),
            "recon": self.reconstruct(self.network.decode(features)),
        }
        with torch.no_grad():
            network = cast(Network, self.teacher.copies[0])
            whole = network.encode(crops)
            found["teacher_deep"] = whole[-1]
            found["teacher_decoded"] = network.decode(whole, until=1)
        for name, value in found.items():
            tokens = value if name == "recon" else value.flatten(2).mT
            found[name] = tokens.unflatten(0, (-1, 2))
        return found

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss, its terms, the entropy of the targets and what shows a collapse."""
        tokens = {name: value for name, value in embeddings.items() if name != "recon"}
        by_view = {name: value.transpose(0, 1) for name, value in gather_all(tokens).items()}
        query = self.head_query(by_view["deep"]).flatten(0, 1)
        decoded = self.head_tokens(by_view["decoded"]).flatten(0, 1)
        recon = embeddings["recon"].transpose(0, 1)
        student = {"cls": self.head(by_view["deep"].mean(2)), "recon": recon}
        student["patch"] = self.casa(query, decoded).unflatten(0, (2, -1))
        with torch.no_grad():
            _, head, head_tokens = self.teacher.copies
            teacher = {"cls": head(by_view["teacher_deep"].mean(2))}
            decoded = head_tokens(by_view["teacher_decoded"]).flatten(0, 1)
            teacher["patch"] = self.casa(query, decoded).unflatten(0, (2, -1))
        step, warm = int(self.done), round(self.warm * self.steps)
        teachers = teacher_temperature(step, warm, self.temperatures)
        temperatures = (STUDENT_TEMPERATURE, teachers)
        centres = {"cls": self.centre, "patch": self.centre_patch}
        images = batch["crops"].transpose(0, 1)
        terms = alice_terms(student, teacher, images, centres, temperatures)
        target = F.softmax((teacher["cls"] - self.centre) / temperatures[1], -1)
        logged: Terms = {
            **{name: value.detach() for name, value in terms.items()},
            "target_entropy": torch.special.entr(target).sum(-1).mean(),
            "chance": math.log(target.shape[-1]),
            **pair_terms(student["cls"][0], student["cls"][1]),
            **collapse_terms(student["cls"].flatten(0, 1)),
        }
        if self.training:
            self.centre.copy_(moved_centre(self.centre, teacher["cls"]))
            self.centre_patch.copy_(moved_centre(self.centre_patch, teacher["patch"]))
        return terms["cls"] + terms["patch"] + terms["recon"], logged

    def after_step(self) -> None:
        self.teacher.momentum = rising_momentum(int(self.done), self.steps, self.start)
        self.teacher.update()
        self.done += 1
