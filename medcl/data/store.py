"""Prepared volumes on disk, read box by box through a memory map.

A store is a folder: `manifest.json`, and for each case `<case>.image.npy` (float16, C X Y Z) and,
where there is a label, `<case>.label.npy` (uint8, X Y Z, class numbers: 0 is the background and k
the k-th class of the plan).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from medcl.errors import MedclError
from medcl.files import read_json, replacing, write_json

FORMAT = 2

Triple = tuple[int, int, int]
Box = tuple[Triple, Triple]  # first voxel, and the voxel after the last one, of each axis


@dataclass(frozen=True)
class StoredVolume:
    """One case of a store; a few hundred bytes when pickled.

    `spacing` is in mm along the axes of the RAS volume, `body` the box of the body in voxels,
    `fill` the value of each channel outside the volume.
    """

    case: str
    subject: str
    shape: Triple
    spacing: tuple[float, float, float]
    affine: tuple[tuple[float, ...], ...]
    body: Box
    fill: tuple[float, ...]
    image: Path
    label: Path | None

    @property
    def has_label(self) -> bool:
        return self.label is not None

    @property
    def channels(self) -> int:
        return len(self.fill)

    def read(self, box: Box) -> Float[np.ndarray, "C x y z"]:
        """Read the voxels of `box`, which may exceed the volume: there every voxel is `fill`."""
        out = np.empty((self.channels, *_size(box)), np.float32)
        out[:] = np.array(self.fill, np.float32)[:, None, None, None]
        return _copy_box(_open(self.image), box, out)

    def read_label(self, box: Box) -> UInt8[np.ndarray, "x y z"]:
        """Read the classes of the voxels of `box`; 0 outside the volume."""
        if self.label is None:
            raise MedclError(f"{self.image}: case '{self.case}' has no label in the store")
        return _copy_box(_open(self.label), box, np.zeros(_size(box), np.uint8))


class Store:
    """The cases of a manifest, by name."""

    def __init__(self, manifest: str | Path) -> None:
        self.path = Path(manifest)
        content = read_json(self.path)
        if content.get("format") != FORMAT:
            raise MedclError(
                f"{self.path}: store format {content.get('format')}, this version reads {FORMAT}; "
                "run preprocess again"
            )
        self.plan_sha256: str = content["plan_sha256"]
        self.failed: dict[str, str] = content["failed"]
        root = self.path.parent
        self._volumes = {entry["case"]: _volume(root, entry) for entry in content["cases"]}
        self.cases = list(self._volumes)

    def __getitem__(self, case: str) -> StoredVolume:
        if case in self._volumes:
            return self._volumes[case]
        reason = self.failed.get(case)
        why = f"it could not be prepared: {reason}" if reason else "the manifest does not name it"
        raise MedclError(f"{self.path}: no case '{case}': {why}")

    def __contains__(self, case: object) -> bool:
        return case in self._volumes

    def __iter__(self) -> Iterator[StoredVolume]:
        return iter(self._volumes.values())

    def __len__(self) -> int:
        return len(self._volumes)


def inside(root: str | Path, name: str) -> Path:
    """Join a name from a table or manifest to `root`; MedclError if it would leave `root`."""
    path = (Path(root) / name).resolve()
    if not path.is_relative_to(Path(root).resolve()):
        raise MedclError(f"{root}: '{name}' is outside this folder; paths must stay inside it")
    return path


def write_case(
    root: str | Path,
    case: str,
    subject: str,
    image: Float[np.ndarray, "C X Y Z"],
    label: UInt8[np.ndarray, "X Y Z"] | None = None,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    affine: Shaped[np.ndarray, "4 4"] | None = None,
    body: Box | None = None,
    fill: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Write the arrays of a case and return its entry of the manifest.

    Without `affine` the spacing alone makes it; without `body` it is the whole volume; without
    `fill` each channel is filled with its minimum. Values beyond float16 are clipped to its range.
    """
    limit = np.finfo(np.float16).max
    names = {"image": f"{case}.image.npy", "label": f"{case}.label.npy"}
    _save(inside(root, names["image"]), np.clip(image, -limit, limit).astype(np.float16))
    if label is not None:
        _save(inside(root, names["label"]), label)
    if affine is None:
        affine = np.diag([*spacing, 1.0])
    if fill is None:
        fill = [float(channel.min()) for channel in image]
    return {
        "case": case,
        "subject": subject,
        "image": names["image"],
        "label": None if label is None else names["label"],
        "shape": list(image.shape[1:]),
        "spacing": [float(value) for value in spacing],
        "affine": np.asarray(affine, float).tolist(),
        "body": [list(corner) for corner in body or ((0, 0, 0), image.shape[1:])],
        "fill": [float(np.float16(np.clip(value, -limit, limit))) for value in fill],
    }


def write_manifest(
    root: str | Path,
    entries: Sequence[dict[str, Any]],
    *,
    plan_sha256: str = "",
    failed: dict[str, str] | None = None,
) -> Path:
    """Write `manifest.json` of the cases that `write_case` wrote; `failed` maps case to reason."""
    path = Path(root) / "manifest.json"
    content = {
        "format": FORMAT,
        "plan_sha256": plan_sha256,
        "cases": list(entries),
        "failed": failed or {},
    }
    write_json(path, content)
    return path


def is_complete(root: str | Path, entry: dict[str, Any]) -> bool:
    """Tell whether the files of a manifest entry exist and hold as many voxels as it says."""
    shape = tuple(entry["shape"])
    expected: list[tuple[str, tuple[int, ...], Any]] = [
        (entry["image"], (len(entry["fill"]), *shape), np.float16)
    ]
    if entry["label"] is not None:
        expected.append((entry["label"], shape, np.uint8))
    for name, size, dtype in expected:
        try:
            array = _open(inside(root, name))
        except (OSError, ValueError):  # absent, or shorter than its header says
            return False
        if array.shape != size or array.dtype != dtype:
            return False
    return True


def _volume(root: Path, entry: dict[str, Any]) -> StoredVolume:
    low, high = entry["body"]
    return StoredVolume(
        case=entry["case"],
        subject=entry["subject"],
        shape=_triple(entry["shape"]),
        spacing=tuple(entry["spacing"]),
        affine=tuple(tuple(row) for row in entry["affine"]),
        body=(_triple(low), _triple(high)),
        fill=tuple(entry["fill"]),
        image=inside(root, entry["image"]),
        label=None if entry["label"] is None else inside(root, entry["label"]),
    )


def _triple(values: Sequence[int]) -> Triple:
    x, y, z = values
    return (int(x), int(y), int(z))


def _open(path: Path) -> np.ndarray:
    # Opened for each read (0.1 ms): nothing to pickle, and no limit on open files to run into.
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _save(path: Path, array: np.ndarray) -> None:
    with replacing(path) as partial:
        np.save(partial, np.ascontiguousarray(array), allow_pickle=False)


def _size(box: Box) -> Triple:
    size = _triple([high - low for low, high in zip(*box, strict=True)])
    if min(size) < 1:
        raise ValueError(f"box {box} is empty")
    return size


def _copy_box(source: np.ndarray, box: Box, out: np.ndarray) -> np.ndarray:
    """Copy the part of `box` that lies in `source` (trailing three axes) into `out`."""
    inner: list[Any] = [...]
    outer: list[Any] = [...]
    for low, high, length in zip(*box, source.shape[-3:], strict=True):
        first, last = max(low, 0), min(high, length)
        if first >= last:
            return out
        inner.append(slice(first, last))
        outer.append(slice(first - low, last - low))
    out[tuple(outer)] = source[tuple(inner)]
    return out
