"""What VoCo's loss is for an answer that ignores the image: its chance level."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from scipy.optimize import minimize_scalar

from medcl.data.store import Triple

EPSILON = 1e-6  # of the loss, as in the authors' code; a perfect prediction gives -1e-6
NODES = 16  # of the quadrature between two places where a crop covers a cell exactly
BINS = 2000  # of shares, for the expectation


@cache
def chance(grid: Triple, cell: Triple, targets: int, variant: str = "v1") -> float:
    """Expected pos + neg of the best constant answer for each cell, drawn as `VoCoViews` draws.

    `cell` in voxels: crops lie at whole voxels, so small cells are more often covered exactly.
    With two cells along each axis, only such places have a neg.
    """
    axes = [_axis_shares(count, side) for count, side in zip(grid, cell, strict=True)]
    weight = np.einsum("i,j,k->ijk", *(weights for weights, _ in axes)).ravel()
    touched = [(shares > 0).sum(1) for _, shares in axes]
    count = int(np.prod(grid))
    zeros = count - np.einsum("i,j,k->ijk", *touched).ravel()
    # Normalisers count the entries of all targets: the distribution of one target's, convolved.
    one = np.bincount(zeros, weight)
    others = np.ones(1)
    for _ in range(targets - 1):
        others = np.convolve(others, one)
    total = np.arange(len(one))[:, None] + np.arange(len(others))
    of_zeros = targets * (_inverse(total) @ others)[zeros]
    of_others = targets * (_inverse(targets * count - total) @ others)[zeros]
    expected = 0.0
    for place in product(*(range(count) for count in grid)):
        columns = [shares[:, i] for i, (_, shares) in zip(place, axes, strict=True)]
        share = np.einsum("i,j,k->ijk", *columns).ravel()
        factor = float((weight * of_zeros) @ (share == 0))
        weighted = of_others * (share > 0) if variant == "v0" else share
        expected += _best_constant(share, weight * weighted, factor, variant == "v2")
    return expected


def _inverse(counts: np.ndarray) -> np.ndarray:
    return np.divide(1.0, counts, out=np.zeros(counts.shape), where=counts > 0)


def _axis_shares(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of a crop along one axis: their probabilities, and its share in each cell there."""
    if side - 1 <= NODES:
        between, weights = np.arange(1, side) / side, np.ones(side - 1)
    else:
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        between = 0.5 + nodes * (side - 1) / (2 * side)  # half a voxel short of either end
        weights = weights / 2 * (side - 1)
    starts = np.arange(max(1, count - 1))
    if count == 1:
        between, weights = between[:0], weights[:0]
    places = (starts[:, None] + np.append(0.0, between)).ravel()
    probabilities = np.tile(np.append(1.0, weights), len(starts))
    shares = np.clip(1 - np.abs(places[:, None] - np.arange(count)), 0, None)
    return probabilities / probabilities.sum(), shares


def _best_constant(share: np.ndarray, weight: np.ndarray, factor: float, log: bool) -> float:
    """Least expected loss of one cell over constants; the loss is convex in the constant."""
    place = (share * BINS).astype(int)  # many shares are nearly equal: add up their weights
    weights = np.bincount(place, weight)
    shares = np.bincount(place, weight * share)[weights > 0] / weights[weights > 0]
    weights = weights[weights > 0]

    def expected(constant: float) -> float:
        closeness = np.log(1 - np.abs(shares - constant) + EPSILON)
        excess = -np.log(1 - constant + EPSILON) if log else constant**2
        return float(-weights @ closeness + factor * excess)

    return float(minimize_scalar(expected, bounds=(0, 1), method="bounded").fun)
