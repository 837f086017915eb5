"""Which images of different subjects are nearly the same: one picture saved, scaled or cut anew.

Similarity is the correlation of two thumbnails. Anatomy makes distinct subjects alike, more so in
registered collections, so a pair must also stand out: it must be several times closer than either
is to its RANK-th nearest other subject. A thumbnail that was cut a little is first fitted: each
axis of one is stretched over the window that agrees best with the other. Measured on 150 crops of
the hippocampus: distinct subjects reach 0.856, after fitting 0.894; copies with noise of 0.3
standard deviations or a square root stay above 0.98, those cut by 2 voxels at every face of
26 to 56 voxels reach 0.955 after fitting, at most 0.15 of that distance. The generated torsos,
which are alike by design, reach 0.933 after fitting, at 0.38 of it.

Neighbours are found by products of blocks of matrices, so that 10 000 cases take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int, Int8

from medcl.data.thumbnails import SIDE

ALIKE = 0.93  # least correlation of copies
STANDS_OUT = 0.25  # most of the distance to the RANK-th neighbour that copies may be apart
RANK = 5
ALONE = 0.98  # least correlation where there are too few others to compare with
CLOSEST = 3  # neighbours of a case that are fitted to it
BLOCK = 256  # cases or pairs computed together
ROUNDS = 2  # of the fit, over the three axes
MARGINS = np.arange(5) * 0.03  # shares of an axis that the fit may cut off at either end

Pairs = list[tuple[int, int, float]]


def near_duplicates(thumbnails: Int8[np.ndarray, "n 16 16 16"], subjects: Sequence[str]) -> Pairs:
    """(i, j, similarity) of the cases i < j of different subjects that are nearly the same."""
    names = np.unique(np.asarray(subjects), return_inverse=True)[1]
    if len(set(subjects)) < 2:
        return []
    images = thumbnails.astype(np.float32)
    units = _unit(images)
    near, closeness = _neighbours(images, units, names)
    pairs = _mutual(near[:, :CLOSEST])
    known = closeness[:, -1] if near.shape[1] == RANK else np.full_like(closeness[:, 0], -np.inf)
    found = []
    for start in range(0, len(pairs), BLOCK):
        a, b = pairs[start : start + BLOCK].T
        similarity = (units[a] * units[b]).sum(axis=1)
        left = np.flatnonzero(~_are_copies(similarity, known[a], known[b]))
        if left.size:
            one, other = images[a[left]], images[b[left]]
            fitted = np.maximum(_fitted(one, other), _fitted(other, one))
            similarity[left] = np.maximum(similarity[left], fitted)
        for at in np.flatnonzero(_are_copies(similarity, known[a], known[b])):
            found.append((int(a[at]), int(b[at]), float(similarity[at])))
    return sorted(found)


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
    images: Float32[np.ndarray, "n 16 16 16"],
    units: Float32[np.ndarray, "n v"],
    names: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The RANK nearest cases of other subjects (fewer where there are fewer), nearest first.

    They are chosen by thumbnails of half the side, and ordered by those of full size; a case with
    too few others has itself in their place, with similarity -inf.
    """
    half = SIDE // 2
    small = _unit(images.reshape(len(images), half, 2, half, 2, half, 2).mean(axis=(2, 4, 6)))
    count = min(RANK, len(images) - 1)
    near = np.empty((len(images), count), int)
    closeness = np.empty((len(images), count), np.float32)
    for start in range(0, len(images), BLOCK):
        rows = slice(start, start + BLOCK)
        likeness = small[rows] @ small.T
        likeness[names[rows, None] == names] = -np.inf
        chosen = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        valid = np.isfinite(np.take_along_axis(likeness, chosen, axis=1))
        exact = np.einsum("nv,nkv->nk", units[rows], units[chosen])
        exact = np.where(valid, exact, -np.inf)
        order = np.argsort(-exact, axis=1)
        near[rows] = np.take_along_axis(chosen, order, axis=1)
        closeness[rows] = np.take_along_axis(exact, order, axis=1)
    return np.where(np.isfinite(closeness), near, np.arange(len(images))[:, None]), closeness


def _mutual(near: Int[np.ndarray, "n k"]) -> Int[np.ndarray, "p 2"]:
    """Pairs i < j that are among each other's neighbours."""
    count = len(near)
    one = np.repeat(np.arange(count), near.shape[1])
    other = near.ravel()
    forward, backward = one * count + other, other * count + one
    both = np.isin(forward, backward) & (one < other)
    return np.stack([one[both], other[both]], axis=1)


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
