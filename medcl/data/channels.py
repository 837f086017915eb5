"""Several images of a case become the channels of one volume, on the grid of one of them.

The others are interpolated linearly at the places (mm in the world) of the reference's voxels;
within the outer half voxel of a channel its border goes on. A voxel that lies outside a channel
is NaN there: the intensity rule must not see it, and `filled` gives it the channel's least value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from scipy import ndimage

from medcl.data.cases import Case
from medcl.data.checks import Finding
from medcl.data.entries import ChannelFile
from medcl.data.volume import (
    Volume,
    VolumeError,
    read_volume,
    reorient,
    same_grid,
    turned_grid,
)
from medcl.files import sha256_of

Triple = tuple[int, int, int]

LEAST_COVERED = 0.5  # share of the reference's voxels a channel must show
EDGE = 1e-4  # voxels: a centre on the face of a channel lies inside
NUMBERED = re.compile(r"(.+)\[(\d+)\]")


def file_of(path: str) -> tuple[str, int | None]:
    """The file of a channel, and which of its volumes: `scan.nii.gz[1]` is its second."""
    match = NUMBERED.fullmatch(path)
    return (match[1], int(match[2])) if match else (path, None)


def read_channel(path: str) -> Volume:
    """One channel; raises VolumeError as `read_volume` does, or where there is no such number."""
    return numbered(read_volume(file_of(path)[0]), path)


def numbered(volume: Volume, path: str) -> Volume:
    """The volume of a file that `path` asks for; raises VolumeError where there is none."""
    file, number = file_of(path)
    if number is None:
        return volume
    if number >= len(volume.array):
        raise VolumeError(
            "missing_channel",
            f"{file}: has {len(volume.array)} channels, number {number} (from 0) was asked for",
            "correct dataset.json, or supply the file with all channels",
        )
    return Volume(volume.array[number : number + 1], volume.affine)


def read_image(case: Case) -> Volume:
    """The image of a case with all its channels, NaN where one of them shows nothing."""
    if not case.channel_images:
        return read_volume(case.image)
    volumes = [read_channel(path) for path in case.channel_images]
    return stack(volumes, reference_of(case.image, case.channel_images))[0]


def reference_of(image: str, files: Sequence[str]) -> int:
    """The channel that lies on the grid of the case."""
    return [file_of(path)[0] for path in files].index(image)


def stack(volumes: Sequence[Volume], reference: int) -> tuple[Volume, list[float | None]]:
    """The channels on the grid of one of them.

    Also the share of that grid's voxels each channel shows; None where nothing was interpolated.
    """
    grid = volumes[reference]
    array = np.empty((len(volumes), *grid.shape), np.float32)
    shares = [share_shown(volume, grid) for volume in volumes]
    for channel, volume, share in zip(array, volumes, shares, strict=True):
        if share is not None:
            channel[:] = _onto(volume, grid.shape, grid.affine)
        elif same_grid(volume, grid):
            channel[:] = volume.array[0]
        else:
            channel[:] = reorient(volume, grid.orientation).array[0]
    return Volume(array, grid.affine), shares


def share_shown(volume: Volume, grid: Volume) -> float | None:
    """The share of the voxels of `grid` whose centres lie in `volume`; no voxel is looked at.

    None where both are one grid, be it with other axes.
    """
    if same_grid(volume, grid) or same_grid(turned_grid(volume, grid.orientation), grid):
        return None
    change = np.linalg.inv(volume.affine) @ grid.affine
    x, y = np.arange(grid.shape[0])[:, None], np.arange(grid.shape[1])
    first = np.zeros(grid.shape[:2])
    last = np.full(grid.shape[:2], grid.shape[2] - 1.0)
    for row, length in zip(change[:3], volume.shape, strict=True):  # along z the inside is a range
        start, low, high = row[0] * x + row[1] * y + row[3], -0.5 - EDGE, length - 0.5 + EDGE
        if abs(row[2]) * grid.shape[2] < EDGE / 100:
            last[(start < low) | (start > high)] = -1
            continue
        ends = np.sort([(low - start) / row[2], (high - start) / row[2]], axis=0)
        np.maximum(first, np.ceil(ends[0]), out=first)
        np.minimum(last, np.floor(ends[1]), out=last)
    return float(np.maximum(last - first + 1, 0).sum() / math.prod(grid.shape))


def filled(volume: Volume) -> Volume:
    """NaN replaced by the least value of its channel (0 where a channel shows nothing)."""
    if not np.isnan(volume.array.min()):
        return volume
    array = volume.array.copy()
    for channel in array:
        seen = channel[~np.isnan(channel)]
        channel[np.isnan(channel)] = seen.min() if seen.size else 0
    return Volume(array, volume.affine)


def assemble(
    case: str, files: Sequence[ChannelFile], volumes: Sequence[Volume], reference: int
) -> tuple[Volume, list[Finding]]:
    """Stack the channels, and tell what each shows of the grid of the reference."""
    volume, shares = stack(volumes, reference)
    findings: list[Finding] = []
    for file, share in zip(files, shares, strict=True):
        findings += check_share(case, file, share, files[reference].name)
    return volume, findings


def check_share(case: str, file: ChannelFile, share: float | None, reference: str) -> list[Finding]:
    """Findings on what share of the reference a channel shows."""
    if share is None:
        return []
    if share == 1:
        told = f"{file.path}: {file.name} was interpolated onto the grid of {reference}"
        return [Finding("channel_resampled", "info", told)]
    part = f"{file.path}: {file.name} shows {100 * share:.1f} % of the voxels of {reference}"
    if share < LEAST_COVERED:
        remedy = f"check that both are of case {case}, or choose another `reference`"
        least = f"{part}, at least {100 * LEAST_COVERED:g} % are needed"
        return [Finding("channel_outside", "error", least, remedy)]
    return [
        Finding(
            "channel_partly_outside",
            "warning",
            f"{part}; elsewhere it is background",
            "check that both were registered; `reference` may be the smaller one",
        )
    ]


def _onto(
    volume: Volume, shape: Triple, affine: Float64[np.ndarray, "4 4"]
) -> Float32[np.ndarray, "X Y Z"]:
    """Linear interpolation on another grid; NaN outside the faces of the outermost voxels."""
    change = np.linalg.inv(volume.affine) @ affine
    values = volume.array[0].astype(np.float32, copy=False)
    out: np.ndarray = ndimage.affine_transform(
        values, change[:3, :3], change[:3, 3], shape, order=1, mode="nearest"
    )
    y, z = np.arange(shape[1])[:, None], np.arange(shape[2])
    for x in range(shape[0]):  # plane by plane, so that no array of places is made
        for row, length in zip(change[:3], volume.shape, strict=True):
            place = row[0] * x + row[1] * y + row[2] * z + row[3]
            out[x][(place < -0.5 - EDGE) | (place > length - 0.5 + EDGE)] = np.nan
    return out


def exists(path: str) -> bool:
    return Path(file_of(path)[0]).exists()


def content_sha256(files: Sequence[str], hashes: Sequence[str], reference: int) -> str:
    """Hash of the contents of a case's files, in their order; of one file, the file's own."""
    numbers = [file_of(path)[1] for path in files]
    if numbers == [None]:
        return hashes[0]
    return sha256_of({"files": list(zip(hashes, numbers, strict=True)), "reference": reference})
