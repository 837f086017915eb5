"""How embeddings lie on the unit sphere: the numbers that show a collapse.

With unit vectors u_i of N embeddings in D dimensions, and L the eigenvalues of their covariance:

    spread         = sqrt(D) mean_d std_i(u_id)           1 spread evenly, 0 all equal
    uniformity     = log mean_{i<j} exp(-2 |u_i - u_j|^2)  0 all equal, lower is more even
    effective rank = (sum L)^2 / sum L^2                   from 1 (a line) to min(N - 1, D)
    alignment      = mean_i |u_i - v_i|^2                  0 where each positive v_i equals u_i

and the mean cosines of positives (u_i, v_i) and of negatives (u_i, v_j), i not j: learning parts
the two, and both near 1 are a collapse.

Source of alignment and uniformity: Wang, Isola, "Understanding Contrastive Representation Learning
through Alignment and Uniformity on the Hypersphere", ICML 2020, arXiv:2005.10242. The effective
rank is the participation ratio: it needs no eigenvalues, so no step waits for the device. All are
computed in float32 without gradient, and none is read back to the CPU.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def collapse_terms(embeddings: Float[Tensor, "N D"]) -> dict[str, Tensor]:
    """Spread, uniformity and effective rank; all 0 for a single embedding."""
    u = F.normalize(embeddings.float(), dim=1)
    if len(u) < 2:
        zero = u.new_zeros(())
        return {"spread": zero, "uniformity": zero, "effective_rank": zero}
    return {
        "spread": u.std(0, correction=0).mean() * u.shape[1] ** 0.5,
        "uniformity": uniformity(u),
        "effective_rank": effective_rank(u),
    }


@torch.no_grad()
def alignment(
    embeddings: Float[Tensor, "N D"], positives: Float[Tensor, "N D"]
) -> Float[Tensor, ""]:
    """Mean squared distance between the unit vectors of each embedding and its positive."""
    u, v = F.normalize(embeddings.float(), dim=1), F.normalize(positives.float(), dim=1)
    return (u - v).square().sum(1).mean()


@torch.no_grad()
def pair_terms(
    embeddings: Float[Tensor, "N D"], positives: Float[Tensor, "N D"]
) -> dict[str, Tensor]:
    """Alignment and both mean cosines; that of the negatives is 0 for a single pair."""
    u, v = F.normalize(embeddings.float(), dim=1), F.normalize(positives.float(), dim=1)
    count, own = len(u), (u * v).sum()
    others = u.sum(0) @ v.sum(0) - own
    return {
        "alignment": alignment(u, v),
        "positive_cosine": own / count,
        "negative_cosine": others / max(1, count * (count - 1)),
    }


@torch.no_grad()
def uniformity(embeddings: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Logarithm of the mean Gaussian potential over pairs; N is at least 2."""
    u = F.normalize(embeddings.float(), dim=1)
    first, second = torch.triu_indices(len(u), len(u), 1, device=u.device)
    squared = 2 - 2 * (u @ u.T)[first, second]
    return torch.logsumexp(-2 * squared, 0) - torch.log(squared.new_tensor(len(first)))


@torch.no_grad()
def effective_rank(embeddings: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Participation ratio of the variances along the principal axes; 0 if nothing varies."""
    centred = embeddings.float() - embeddings.float().mean(0)
    products = centred @ centred.T
    total, squares = products.trace(), products.square().sum()
    return total.square() / squares.clamp_min(torch.finfo(torch.float32).tiny)
