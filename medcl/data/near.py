"""Which images of different subjects are nearly the same: one picture saved, scaled or cut anew.

Similarity is the correlation of two thumbnails. Anatomy makes distinct subjects alike, more so in
registered collections, so a pair must also stand out: it must be several times closer than either
is to its RANK-th nearest other subject. A thumbnail that was cut a little is first fitted: each
axis of one is stretched over the window that agrees best with the other. Measured on 150 crops of
the hippocampus: distinct subjects reach 0.856, after fitting 0.894; copies with noise of 0.3
standard deviations or a square root stay above 0.98, those cut by 2 voxels at every face of
26 to 56 voxels reach 0.955 after fitting, at most 0.15 of that distance. The generated torsos,
which are alike by design, reach 0.933 after fitting, at 0.38 of it. Of crops cut by 12 % at one
end of each axis the least alike correlates by 0.47 before it is fitted.

Each is compared as it is and mirrored from left to right: some collections hold images that were
turned over, voxels without their affine. Of a mirrored pair the distance to the RANK-th neighbour
is the lesser of both kinds, so that a symmetric body is no copy of another. Distinct crops of the
hippocampus reach 0.318 mirrored, and 0.903 at 0.42 of that distance if each is made symmetric;
40 generated torsos 0.928, at 0.43.

Neighbours are found by products of blocks of matrices, so that 10 000 cases take half a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8

from medcl.data.thumbnails import SIDE

ALIKE = 0.93  # least correlation of copies
STANDS_OUT = 0.25  # most of the distance to the RANK-th neighbour that copies may be apart
RANK = 5
ALONE = 0.98  # least correlation where there are too few others to compare with
CLOSEST = 3  # neighbours of a case that are fitted to it
BLOCK = 256  # cases or pairs computed together
FITTED = 8  # pairs fitted together: the windows of so few stay in a core's cache
WORTH = 0.3  # least correlation of a pair that fitting may make copies of
ROUNDS = 2  # of the fit, over the three axes
MARGINS = np.arange(5) * 0.03  # shares of an axis that the fit may cut off at either end


class Pair(NamedTuple):
    """Cases `first` < `second`. `mirrored`: nearly the same once one is turned over sideways."""

    first: int
    second: int
    similarity: float
    mirrored: bool


def near_duplicates(
    thumbnails: Int8[np.ndarray, "n 16 16 16"], subjects: Sequence[str]
) -> list[Pair]:
    """The pairs of cases of different subjects that are nearly the same, in order."""
    names = np.unique(np.asarray(subjects), return_inverse=True)[1]
    if len(set(subjects)) < 2:
        return []
    images = thumbnails.astype(np.float32)
    (near, known), (turned, known_turned) = _neighbours(images, names)
    found = [  # of equally similar ones the plain one, which comes later, is told
        *_copies(images, turned[:, :CLOSEST], np.maximum(known, known_turned), mirrored=True),
        *_copies(images, near[:, :CLOSEST], known, mirrored=False),
    ]
    best = {pair[:2]: pair for pair in sorted(found, key=lambda pair: pair.similarity)}
    return sorted(best.values())


def _copies(
    images: Float32[np.ndarray, "n 16 16 16"],
    near: Int[np.ndarray, "n k"],
    known: Float32[np.ndarray, " n"],
    *,
    mirrored: bool,
) -> list[Pair]:
    """The copies among neighbours, fitted to each other where they must be.

    Fitting is what takes time. A case has neighbours closer than a copy of it only if these are
    copies too: a pair is fitted if each is near the other, or if one of them has a copy already.
    """
    pairs, mutual = _close(near)
    similarity = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), BLOCK):
        a, b = pairs[start : start + BLOCK].T
        one, other = _unit(_turned(images[a], mirrored)), _unit(images[b])
        similarity[start : start + BLOCK] = (one * other).sum(axis=1)
    has_copy, fitted = np.zeros(len(images), bool), np.zeros(len(pairs), bool)
    while True:
        copies = _are_copies(similarity, *known[pairs].T)
        has_copy[pairs[copies]] = True
        fit = (mutual | has_copy[pairs].any(axis=1)) & (similarity >= WORTH) & ~copies & ~fitted
        if not fit.any():
            break
        fitted |= fit
        rows = np.flatnonzero(fit)
        for block in np.split(rows, range(FITTED, len(rows), FITTED)):
            one, other = _turned(images[pairs[block, 0]], mirrored), images[pairs[block, 1]]
            best = np.maximum(_fitted(one, other), _fitted(other, one))
            similarity[block] = np.maximum(similarity[block], best)
    return [
        Pair(int(a), int(b), float(alike), mirrored)
        for (a, b), alike in zip(pairs[copies], similarity[copies], strict=True)
    ]


def _are_copies(
    similarity: Float32[np.ndarray, " p"],
    known_a: Float32[np.ndarray, " p"],
    known_b: Float32[np.ndarray, " p"],
) -> np.ndarray:
    """`known_*`: similarity of the RANK-th neighbour, -inf where there is none."""
    nearest = np.maximum(known_a, known_b)
    alone = np.isinf(nearest)
    stands_out = 1 - similarity <= STANDS_OUT * (1 - np.where(alone, 0, nearest))
    # Several copies of one image hide each other from `stands_out`, but nothing else is so alike.
    return (similarity >= ALONE) | (~alone & (similarity >= ALIKE) & stands_out)


def _neighbours(
    images: Float32[np.ndarray, "n 16 16 16"], names: Int[np.ndarray, " n"]
) -> tuple[tuple[Int[np.ndarray, "n k"], Float32[np.ndarray, " n"]], ...]:
    """The RANK nearest cases of other subjects (fewer where there are fewer), nearest first.

    Also the similarity of the RANK-th, -inf where there is none. Then both for images that are
    turned over. Cases are chosen by thumbnails of half the side, and ordered by those of full size;
    a case with too few others has itself in their place.
    """
    units, (even, odd) = _unit(images), _symmetries(images)
    count = min(RANK, len(images) - 1)
    near = np.empty((2, len(images), count), int)
    known = np.full((2, len(images)), -np.inf, np.float32)
    for start in range(0, len(images), BLOCK):
        rows = slice(start, start + BLOCK)
        same = names[rows, None] == names
        both, opposed = even[rows] @ even.T, odd[rows] @ odd.T
        for kind, likeness in enumerate((both + opposed, both - opposed)):
            likeness[same] = -np.inf
            chosen = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
            valid = np.isfinite(np.take_along_axis(likeness, chosen, axis=1))
            own = _unit(_turned(images[rows], bool(kind)))
            exact = np.where(valid, np.einsum("nv,nkv->nk", own, units[chosen]), -np.inf)
            order = np.argsort(-exact, axis=1)
            exact, chosen = (np.take_along_axis(table, order, axis=1) for table in (exact, chosen))
            itself = np.arange(start, start + len(exact))[:, None]
            near[kind, rows] = np.where(np.isfinite(exact), chosen, itself)
            if count == RANK:
                known[kind, rows] = exact[:, -1]
    return (near[0], known[0]), (near[1], known[1])


def _symmetries(images: Float32[np.ndarray, "n 16 16 16"]) -> tuple[np.ndarray, np.ndarray]:
    """The symmetric and the antisymmetric part of each image at half the side, as vectors.

    The sum of both parts' products is the correlation of two images, their difference that of one
    with the other turned over: one product of matrices gives both.
    """
    half = SIDE // 2
    halves = images.reshape(len(images), half, 2, half, 2, half, 2).mean(axis=(2, 4, 6))
    small = _unit(halves).reshape(halves.shape)
    left, right = small[:, : half // 2], small[:, : half // 2 - 1 : -1]
    even, odd = (part.reshape(len(images), -1) for part in (left + right, left - right))
    return even / np.sqrt(np.float32(2)), odd / np.sqrt(np.float32(2))


def _turned(images: Float32[np.ndarray, "n ..."], mirrored: bool) -> Float32[np.ndarray, "n ..."]:
    """The images, mirrored from left to right if asked for."""
    return images[:, ::-1] if mirrored else images


def _close(near: Int[np.ndarray, "n k"]) -> tuple[Int[np.ndarray, "p 2"], Bool[np.ndarray, " p"]]:
    """Pairs i < j of which either is among the other's neighbours, and whether both are.

    Of many copies of one image, some are among the closest of no other one.
    """
    one = np.repeat(np.arange(len(near)), near.shape[1])
    ends = np.sort(np.stack([one, near.ravel()], axis=1), axis=1)
    pairs, times = np.unique(ends[ends[:, 0] < ends[:, 1]], axis=0, return_counts=True)
    return pairs, times == 2


def _fitted(
    whole: Float32[np.ndarray, "p 16 16 16"], part: Float32[np.ndarray, "p 16 16 16"]
) -> Float32[np.ndarray, " p"]:
    """The correlation of `part` with the window of `whole` that agrees best, axis by axis."""
    target = _unit(part)
    chosen = np.zeros((3, len(whole)), int)  # the first window is the whole axis
    best = np.full(len(whole), -1, np.float32)
    for axis in [0, 1, 2] * ROUNDS:
        others = [k for k in range(3) if k != axis]
        image = whole
        for k in others:
            moved = np.moveaxis(image, k + 1, 1).reshape(len(whole), SIDE, -1)
            seen = (WINDOWS[chosen[k]] @ moved).reshape(-1, SIDE, SIDE, SIDE)
            image = np.moveaxis(seen, 1, k + 1)
        rows = np.moveaxis(image, axis + 1, 1).reshape(len(whole), SIDE, -1)
        goal = np.moveaxis(target.reshape(part.shape), axis + 1, 1).reshape(len(whole), -1)
        windows = (WINDOWS.reshape(-1, SIDE) @ rows).reshape(len(whole), len(WINDOWS), -1)
        spread = np.linalg.norm(windows - windows.mean(axis=2, keepdims=True), axis=2)
        agreement = (windows @ goal[:, :, None])[:, :, 0] / np.maximum(spread, 1e-6)
        chosen[axis] = agreement.argmax(axis=1)
        best = agreement.max(axis=1)
    return best


def _windows() -> Float32[np.ndarray, "w 16 16"]:
    """Linear interpolation of an axis from a window of itself; the first is the whole of it."""
    centres = (np.arange(SIDE) + 0.5) / SIDE
    windows = []
    for low in MARGINS:
        for high in MARGINS:
            places = (low + (1 - low - high) * centres) * SIDE - 0.5
            rows = np.clip(1 - np.abs(places[:, None] - np.arange(SIDE)), 0, None)
            windows.append(rows / rows.sum(axis=1, keepdims=True))
    return np.array(windows, np.float32)


def _unit(images: Float32[np.ndarray, "n ..."]) -> Float32[np.ndarray, "n v"]:
    """Each image as a vector of mean 0 and length 1, or 0 where all its values are equal."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


WINDOWS = _windows()
