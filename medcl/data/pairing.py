"""Which RTSTRUCT or DICOM-SEG object of a tree belongs to which series.

An object belongs to the series it refers to. If that series is not in the tree, or the object
names none, it goes to the series with its frame of reference, provided there is only one.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from medcl.data.annotations import DAMAGED, KINDS, Reference
from medcl.data.checks import Finding
from medcl.data.dicom import Series
from medcl.data.drawn_on import share_a_slice, slices_of_object, slices_of_series
from medcl.data.series import Files


@dataclass(frozen=True)
class Pairing:
    """Objects by series; objects of none; all of them."""

    objects: Mapping[str, list[Path]] = field(default_factory=dict)
    unmatched: Sequence[tuple[Path, Finding]] = ()
    files: frozenset[Path] = frozenset()

    def label_of(self, uid: str, volumes: Sequence[Series], number: int) -> dict[str, Any]:
        """What the entry of `volumes[number]`, the volumes of series `uid`, is told of its label.

        Of several volumes an object belongs to those whose slices it names.
        """
        files, findings = self.objects.get(uid, []), []
        if files and len(volumes) > 1:
            slices = [slices_of_series(volume) for volume in volumes]
            used = []
            for file in files:
                named = slices_of_object(file)
                here = [share_a_slice(named, held) for held in slices]
                if not any(here):
                    findings.append(_of_several(file, len(volumes)))
                if here[number] or not any(here):
                    used.append(file)
            files = used
        if not files:
            return {}
        parts = tuple(("", str(file)) for file in files)
        return {"label": str(files[0]), "parts": parts, "findings": tuple(findings)}


def pair(tree: Iterable[Files], root: Path, pattern: str) -> Pairing:
    """`pattern` chooses the objects by their path below `root`."""
    known: set[str] = set()
    frames: dict[str, set[str]] = defaultdict(set)
    references: dict[Path, Reference] = {}
    for files in tree:
        for header in files.images:
            if uid := header.text("SeriesInstanceUID"):
                known.add(uid)
                frames[header.text("FrameOfReferenceUID")].add(uid)
        for file, header in files.others.items():
            if header.text("Modality") in KINDS and fnmatch.fnmatchcase(
                file.relative_to(root).as_posix(), pattern
            ):
                references[file] = _reference(file)
    objects: dict[str, list[Path]] = defaultdict(list)
    unmatched = []
    for file, reference in references.items():
        found = [uid for uid in reference.series if uid in known]
        alike = sorted({uid for frame in reference.frames_of_reference for uid in frames[frame]})
        if found or len(alike) == 1:
            for uid in found or alike:
                objects[uid].append(file)
        else:
            unmatched.append((file, _unmatched(file, reference, len(alike))))
    return Pairing(objects, unmatched, frozenset(references))


def _reference(file: Path) -> Reference:
    try:
        return Reference.of(pydicom.dcmread(file, stop_before_pixels=True))
    except DAMAGED:
        return Reference((), ())


def _of_several(file: Path, count: int) -> Finding:
    return Finding(
        "annotation_of_several_volumes",
        "warning",
        f"{file}: names no slice of the {count} volumes of its series, and is used for each",
        "look at it beside each, or exclude those it was not drawn on",
    )


def _unmatched(file: Path, reference: Reference, alike: int) -> Finding:
    series = reference.series[0] if reference.series else "it does not name"
    told = f"{alike} others share" if alike else "no other shares"
    return Finding(
        "annotation_unmatched",
        "error",
        f"{file}: belongs to series {series}, which is not here; {told} its frame of reference",
        "supply the series, or make the pattern `labels` of the source narrower",
    )
