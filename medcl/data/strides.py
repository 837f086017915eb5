"""How large a training crop is and how an encoder halves it, level by level and axis by axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from medcl.errors import MedclError

BUDGET = 32 * 48 * 32  # voxels of a crop: a training step of some tenths of a second on two cores
BOTTLENECK = 4  # fewest voxels of an axis at the lowest level
LEVELS = (2, 5)  # fewest and most

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


def natural_strides(size: Sequence[float], spacing: Spacing) -> tuple[Triple, ...]:
    """Halve, level by level, every axis that leaves BOTTLENECK voxels and is not yet coarser.

    An axis waits while its voxels are at least twice as long as the shortest that can be halved.
    """
    return _strides(spacing, lambda axis, by: size[axis] / (2 * by) >= BOTTLENECK)


def dividing_strides(crop: Triple, spacing: Spacing) -> tuple[Triple, ...]:
    """As `natural_strides`, for a given crop: only what divides it."""

    def can_halve(axis: int, by: int) -> bool:
        return crop[axis] % (2 * by) == 0 and crop[axis] / (2 * by) >= BOTTLENECK

    strides, natural = _strides(spacing, can_halve), natural_strides(crop, spacing)
    if product(strides) == (1, 1, 1) != product(natural):
        raise MedclError(
            f"plan.crop: {list(crop)} can be halved along no axis; the nearest valid crop is "
            f"{list(nearest_crop(crop, product(natural)))}"
        )
    return strides


def fit_crop(needed: Triple, spacing: Spacing, step: Triple) -> Triple:
    """The largest crop of multiples of `step` that fits the budget and the body needs.

    It starts as nearly a cube in mm as these allow; what is left of the budget goes to the axes
    of which least is seen.
    """
    most = [math.ceil(length / by) * by for length, by in zip(needed, step, strict=True)]
    # At least BOTTLENECK voxels must reach the lowest level, where the body has them.
    least = [min(BOTTLENECK * by, length) for length, by in zip(most, step, strict=True)]
    crop = [
        max(int(length // by) * by, low)
        for length, by, low in zip(shrunk(needed, spacing), step, least, strict=True)
    ]
    while True:
        larger = [
            (crop[axis] / needed[axis], axis)
            for axis in range(3)
            if crop[axis] + step[axis] <= most[axis]
            and math.prod(crop) // crop[axis] * (crop[axis] + step[axis]) <= BUDGET
        ]
        if not larger:
            return triple(crop)
        axis = min(larger)[1]
        crop[axis] += step[axis]


def nearest_crop(crop: Sequence[int], step: Sequence[int]) -> tuple[int, ...]:
    """The multiples of `step` nearest to `crop`, at least one of each; in 2-D or 3-D."""
    return tuple(
        max(1, math.floor(length / by + 0.5)) * by for length, by in zip(crop, step, strict=True)
    )


def shrunk(needed: Triple, spacing: Spacing) -> tuple[float, ...]:
    """Cut the longest sides (mm) until the voxels fit the budget; not yet whole numbers."""

    def sizes(side_mm: float) -> tuple[float, ...]:
        return tuple(
            min(float(n), max(side_mm / mm, 1)) for n, mm in zip(needed, spacing, strict=True)
        )

    low, high = 0.0, max(n * mm for n, mm in zip(needed, spacing, strict=True))
    if math.prod(needed) <= BUDGET:
        return sizes(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(sizes(middle)) <= BUDGET else (low, middle)
    return sizes(low)


def check_strides(strides: tuple[Triple, ...]) -> tuple[Triple, ...]:
    """Return given strides; raises MedclError unless they start at full resolution."""
    if strides[0] != (1, 1, 1):
        raise MedclError(
            f"plan.strides: the first level must be [1, 1, 1], got {list(strides[0])}; put "
            "[1, 1, 1] before it"
        )
    if len(strides) < LEVELS[0]:
        raise MedclError("plan.strides: one level is no encoder; add at least one, as [2, 2, 2]")
    return strides


def check_divisible(crop: Triple, strides: Sequence[Triple]) -> None:
    """Raises MedclError, with the nearest valid crop, if the strides do not divide the crop."""
    step = product(strides)
    if any(length % by for length, by in zip(crop, step, strict=True)):
        raise MedclError(
            f"plan.crop: {list(crop)} is not divisible by the product of plan.strides, "
            f"{list(step)}; the nearest valid crop is {list(nearest_crop(crop, step))}"
        )


def check_slices(crop: Triple | None, strides: Sequence[Triple] | None, across: int) -> None:
    """Raises MedclError if a given crop or stride of a 2-D plan reaches `across` the slices."""
    if crop and crop[across] != 1:
        flat = [1 if axis == across else side for axis, side in enumerate(crop)]
        raise MedclError(
            f"plan.crop: {list(crop)} is no slice, and plan.dims is 2; axis {across} has the "
            f"largest spacing, so give {flat}"
        )
    if wrong := [list(stride) for stride in strides or () if stride[across] != 1]:
        flat = [1 if axis == across else step for axis, step in enumerate(wrong[0])]
        raise MedclError(
            f"plan.strides: {wrong[0]} goes down across the slices, and plan.dims is 2; axis "
            f"{across} has the largest spacing, so give {flat}"
        )


def thick_axis(spacing: Sequence[float]) -> int:
    """Axis along which slices are counted: of the largest spacing, the last of equal ones."""
    return max(range(len(spacing)), key=lambda axis: (spacing[axis], axis))


def product(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Voxels of the input that one voxel of the lowest level stands for, along each axis."""
    return tuple(math.prod(steps) for steps in zip(*strides, strict=True))


def triple(values: Iterable[float]) -> Triple:
    x, y, z = (int(value) for value in values)
    return x, y, z


def _strides(spacing: Spacing, can_halve: Callable[[int, int], bool]) -> tuple[Triple, ...]:
    strides, by = [(1, 1, 1)], [1, 1, 1]
    while len(strides) < LEVELS[1]:
        able = [axis for axis in range(3) if can_halve(axis, by[axis])]
        if not able:
            break
        length = [mm * n for mm, n in zip(spacing, by, strict=True)]
        shortest = min(length[axis] for axis in able)
        stride = triple(
            2 if axis in able and length[axis] < 2 * shortest else 1 for axis in range(3)
        )
        by = [a * b for a, b in zip(by, stride, strict=True)]
        strides.append(stride)
    while len(strides) < LEVELS[0]:  # tiny volumes: a second level that does not halve
        strides.append((1, 1, 1))
    return tuple(strides)
