r"""The four published losses of VoCo, named by `variant`; what each is trained with is in voco.py.

l_nk is the share of random crop n in cell k, p_nk the predicted one, from 0 to 1, e = 1e-6; sums
run over the n and k of a volume, and volumes are averaged:

    v1     pos = sum -l log(1 - |l - p| + e) / (sum l + e)
           neg = sum 1[l=0] p^2 / (sum 1[l=0] + e)
    v0     as v1, but pos weighted by 1[l>0] instead of l
    v2     as v1, but neg with -log(1 - p + e) for p^2
    nnssl  as v1, but the sums run over all volumes, without e in pos and with it in each summand
           of neg's normaliser

The regulariser keeps the cells q_k apart, with r_ab = [cos(q_a, q_b)]_+ over pairs of cells:

    v1, v2   mean r_ab^2, where only the earlier cell of a pair gets a gradient
    v0       mean r_ab^2, gradient to both
    nnssl    mean r_ab,   gradient to both

v2 adds the same loss for the cells of another volume of the batch, with the teacher's prediction
as the share: p_nk of student crops and student cells, l_nk of the teacher's.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from medcl.objectives.voco_chance import EPSILON

Variant = Literal["v0", "v1", "v2", "nnssl"]


def cosines(a: Float[Tensor, "B n E"], b: Float[Tensor, "B m E"]) -> Float64[Tensor, "B n m"]:
    """Cosine of every pair, 0 for a zero vector.

    In float32 the gradient at a collapse is rounding noise, which Adam would turn into full steps.
    """
    return F.normalize(a.double(), dim=-1) @ F.normalize(b.double(), dim=-1).mT


def rectified(a: Float[Tensor, "B n E"], b: Float[Tensor, "B m E"]) -> Float64[Tensor, "B n m"]:
    """Cosine of every pair, 0 where it is negative."""
    return cosines(a, b).relu()


def position_logits(
    crops_student: Float[Tensor, "B n E"],
    cells_student: Float[Tensor, "B K E"],
    crops_teacher: Float[Tensor, "B n E"],
    cells_teacher: Float[Tensor, "B K E"],
) -> Float[Tensor, "B n K"]:
    """v1's predicted shares p, from 0 to 1; the teacher's vectors are constants."""
    forth = rectified(crops_student, cells_teacher.detach())
    back = rectified(crops_teacher.detach(), cells_student)
    return (forth + back) / 2


def position_loss(
    p: Float[Tensor, "B n K"], overlaps: Float[Tensor, "B n K"], variant: Variant = "v1"
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """pos and neg, averaged over volumes."""
    inside, outside = overlaps > 0, (overlaps == 0).to(p)
    weight = inside.to(p) if variant == "v0" else overlaps
    closeness = weight * (1 - (overlaps - p).abs() + EPSILON).log()
    excess = outside * (-(1 - p + EPSILON).log() if variant == "v2" else p.square())
    if variant == "nnssl":
        return -closeness.sum() / weight.sum(), excess.sum() / (outside + EPSILON).sum()
    pos = -closeness.sum((1, 2)) / (weight.sum((1, 2)) + EPSILON)
    neg = excess.sum((1, 2)) / (outside.sum((1, 2)) + EPSILON)
    return pos.mean(), neg.mean()


def next_volume_loss(
    crops_student: Float[Tensor, "B n E"],
    cells_student: Float[Tensor, "B K E"],
    crops_teacher: Float[Tensor, "B n E"],
    cells_teacher: Float[Tensor, "B K E"],
) -> Float[Tensor, ""]:
    """v2's loss for the cells of the next volume of the batch; of one volume, its own."""
    shares = rectified(crops_teacher, cells_teacher.roll(-1, 0)).detach()
    pos, neg = position_loss(rectified(crops_student, cells_student.roll(-1, 0)), shares, "v2")
    return pos + neg


def cell_regulariser(cells: Float[Tensor, "B K E"], variant: Variant = "v1") -> Float[Tensor, ""]:
    """reg, averaged over volumes."""
    count = cells.shape[1]
    others = cells.detach() if variant in ("v1", "v2") else cells
    likeness = rectified(cells, others)
    likeness = likeness if variant == "nnssl" else likeness.square()
    return (2 / (count * (count - 1)) * likeness.triu(diagonal=1).sum((1, 2))).mean()
