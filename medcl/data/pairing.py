"""Which RTSTRUCT or DICOM-SEG object of a tree belongs to which series.

An object belongs to the series it refers to. If that series is not in the tree, or the object
names none, it goes to the series with its frame of reference, provided there is only one.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from medcl.data.annotations import DAMAGED, KINDS, Reference
from medcl.data.checks import Finding

TAGS = ["Modality", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows"]


@dataclass(frozen=True)
class Pairing:
    """Objects by series; objects of none; folders in which there is nothing but objects."""

    objects: Mapping[str, list[Path]] = field(default_factory=dict)
    series_in: Mapping[Path, list[str]] = field(default_factory=dict)
    unmatched: Sequence[tuple[Path, Finding]] = ()
    hold_no_image: frozenset[Path] = frozenset()

    def label_of(self, folder: Path) -> dict[str, Any]:
        """The keys `label` and `parts` of the entry of a folder."""
        files = [
            file for uid in self.series_in.get(folder, []) for file in self.objects.get(uid, [])
        ]
        if not files:
            return {}
        return {"label": str(files[0]), "parts": tuple(("", str(file)) for file in files)}


def pair(folders: Mapping[Path, Sequence[Path]], root: Path, pattern: str) -> Pairing:
    """Read the headers of all files; `pattern` chooses the objects by their path below `root`."""
    series_in: dict[Path, list[str]] = {}
    frames: dict[str, set[str]] = defaultdict(set)
    references: dict[Path, Reference] = {}
    hold_no_image = set()
    for folder, files in folders.items():
        others = 0
        for file in files:
            header = _header(file)
            modality = str(header.get("Modality", "")) if header is not None else ""
            if header is None or (modality not in KINDS and "Rows" not in header):
                others += 1
            elif modality in KINDS:
                if fnmatch.fnmatchcase(file.relative_to(root).as_posix(), pattern):
                    references[file] = _reference(file)
                else:
                    others += 1
            else:
                uid = str(header.get("SeriesInstanceUID", ""))
                if uid not in series_in.setdefault(folder, []):
                    series_in[folder].append(uid)
                frames[str(header.get("FrameOfReferenceUID", "") or "")].add(uid)
        if folder not in series_in and not others:
            hold_no_image.add(folder)
    objects: dict[str, list[Path]] = defaultdict(list)
    unmatched = []
    known = {uid for uids in series_in.values() for uid in uids}
    for file, reference in references.items():
        found = [uid for uid in reference.series if uid in known]
        alike = sorted({uid for frame in reference.frames_of_reference for uid in frames[frame]})
        if found or len(alike) == 1:
            for uid in found or alike:
                objects[uid].append(file)
        else:
            unmatched.append((file, _unmatched(file, reference, len(alike))))
    return Pairing(objects, series_in, unmatched, frozenset(hold_no_image))


def _header(file: Path) -> Dataset | None:
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
    except DAMAGED:
        return None  # for the reading of the series to name


def _reference(file: Path) -> Reference:
    try:
        return Reference.of(pydicom.dcmread(file, stop_before_pixels=True))
    except DAMAGED:
        return Reference((), ())


def _unmatched(file: Path, reference: Reference, alike: int) -> Finding:
    series = reference.series[0] if reference.series else "it does not name"
    told = f"{alike} others share" if alike else "no other shares"
    return Finding(
        "annotation_unmatched",
        "error",
        f"{file}: belongs to series {series}, which is not here; {told} its frame of reference",
        "supply the series, or make the pattern `labels` of the source narrower",
    )
