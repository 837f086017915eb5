"""What one pass over the voxels of a volume tells: hash, range, clipped values, a thumbnail.

Every plane is brought into the cache once and asked everything there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8

from medcl.data.checks import Finding, check_values
from medcl.data.thumbnails import shares, thumbnail
from medcl.data.volume import Volume

CLIPPED = 0.02  # share of voxels at the highest value from which an image counts as clipped
EMPTY = 0.98  # share of voxels at the lowest value from which an image counts as nearly empty
NEGATIVE = 1e-3  # share of voxels, and of the highest value, that noise may leave below zero
FLATTEST_HU = 50.0  # noise alone spreads further in a CT


@dataclass(frozen=True)
class Survey:
    """`sha256` is that of shape and values, whatever file they came from. The values at `low`
    and `high` and those below zero are shares of all voxels. `thumbnail` is of the first channel.
    """

    sha256: str
    low: float
    high: float
    mean: float
    at_low: float
    at_high: float
    negative: float
    thumbnail: Int8[np.ndarray, "16 16 16"] | None

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


def survey(volume: Volume) -> Survey:
    """Look at every voxel once. The first axis is the fastest, as files store it."""
    array = volume.array
    digest = hashlib.sha256(repr(array.shape).encode())
    x, y, z = (shares(length) for length in volume.shape)
    means = np.zeros((len(x), len(y), len(z)), np.float32)
    low, high = np.inf, -np.inf
    at_low = at_high = negative = 0
    total, finite = 0.0, True
    for number, channel in enumerate(array):
        for index in range(channel.shape[2]):
            plane = np.ascontiguousarray(channel[:, :, index].T, dtype=np.float32)
            digest.update(plane.data)
            least, most = float(plane.min()), float(plane.max())
            if not (np.isfinite(least) and np.isfinite(most)):
                finite = False
            if not finite:
                continue
            if least < low:
                low, at_low = least, 0
            if most > high:
                high, at_high = most, 0
            if least == low:
                at_low += int(np.count_nonzero(plane == low))
            if most == high:
                at_high += int(np.count_nonzero(plane == high))
            if least < 0:
                negative += int(np.count_nonzero(plane < 0))
            total += float(plane.sum(dtype=np.float64))
            if number == 0:
                small = x @ (y @ plane).T
                parts = np.flatnonzero(z[:, index])
                means[:, :, parts] += small[:, :, None] * z[parts, index]
    size = array.size
    if not finite:
        return Survey(digest.hexdigest(), np.nan, np.nan, np.nan, 0.0, 0.0, 0.0, None)
    picture = thumbnail(means, volume.affine)
    counts = (at_low / size, at_high / size, negative / size)
    return Survey(digest.hexdigest(), low, high, total / size, *counts, picture)


def check_survey(seen: Survey, volume: Volume, path: str, modality: str) -> list[Finding]:
    """Findings on intensities: finite, not all the same, not clipped, possible for the modality."""
    if not seen.finite or seen.low == seen.high:
        return check_values(volume.array, path)
    findings = []
    if seen.at_high >= CLIPPED:
        told = f"{path}: {100 * seen.at_high:.1f} % of the voxels have the highest value"
        remedy = "export it without a display window, or in a type that holds its values"
        findings.append(Finding("saturated", "warning", f"{told}, {seen.high:g}", remedy))
    if seen.at_low >= EMPTY:
        told = f"{path}: {100 * seen.at_low:.1f} % of the voxels have the lowest value"
        remedy = "look at it: it may be a mask, or have been cut out wrongly"
        findings.append(Finding("nearly_empty", "warning", f"{told}, {seen.low:g}", remedy))
    if why := _implausible(seen, modality):
        shown = f"{path}: values {seen.low:g} to {seen.high:g}, {why}"
        remedy = "check the rescale slope and intercept of its export, or `modality`"
        findings.append(Finding("implausible_intensities", "warning", shown, remedy))
    return findings


def _implausible(seen: Survey, modality: str) -> str | None:
    """Why an image of the modality cannot have these values."""
    if modality == "CT":
        if seen.low >= 0:
            return "none below 0: no Hounsfield units, in which air and fat are negative"
        if seen.high - seen.low < FLATTEST_HU:
            return f"within {FLATTEST_HU:g}: no Hounsfield units"
    if modality in ("PET", "US") and seen.negative > NEGATIVE and -seen.low > NEGATIVE * seen.high:
        return f"{100 * seen.negative:.2g} % below 0, where {modality} has none"
    if modality == "MR" and -1100 < seen.low < -900 and seen.negative > NEGATIVE * 50:
        return "which look like the Hounsfield units of a CT"
    return None
