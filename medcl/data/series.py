"""Files in any order become series, and each series its volumes.

Files belong together by patient, study and series, wherever they lie. Copies of a slice are used
once. What is no volume is refused by name, or skipped if it is a localiser.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medcl.config import Dicom
from medcl.data.checks import Finding
from medcl.data.dicom_header import Header, NotDicomError, read_header, reason
from medcl.data.dicom_pixels import same_pixels
from medcl.data.dicom_planes import Plane, planes_of
from medcl.data.dicom_split import is_scout, localiser, split
from medcl.data.dicom_stack import Stack, stack
from medcl.data.dicom_whole import check_whole
from medcl.data.volume import VolumeError, check_file

SKIPPED = ("not_an_image", "localiser")  # codes of what is left out on purpose


@dataclass
class Files:
    """What lies in some folders: images, other objects and files that cannot be read."""

    images: list[Header] = field(default_factory=list)
    others: dict[Path, Header] = field(default_factory=dict)
    damaged: dict[Path, NotDicomError] = field(default_factory=dict)

    def without(self, paths: Collection[Path]) -> Files:
        """The same without some of the other objects."""
        left = {path: header for path, header in self.others.items() if path not in paths}
        return replace(self, others=left)


@dataclass(frozen=True, eq=False)
class Found:
    """One volume of a series, or why there is none. `name` tells it from others of its series."""

    headers: tuple[Header, ...]
    name: str
    result: Stack | VolumeError
    findings: tuple[Finding, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder all its files lie in."""
        parents = {os.path.dirname(header.path) for header in self.headers}
        return Path(os.path.commonpath(parents) if len(parents) > 1 else parents.pop())


def read_files(paths: Sequence[Path]) -> Files:
    """Read every header once."""
    files = Files()
    for path in paths:
        try:
            check_file(path)
            header = read_header(path)
        except NotDicomError as error:
            files.damaged[path] = error
        except OSError as error:
            files.damaged[path] = NotDicomError(reason(error), damaged=True)
        else:
            if header.kind:
                files.others[path] = header
            else:
                files.images.append(header)
    return files


def group(images: Sequence[Header]) -> list[list[Header]]:
    """The images of each series, sorted by path.

    A series may lie in several folders, and a slice in two of them. A folder of which another one
    holds every slice is a copy, and stays apart; so do images that name no series.
    """
    series: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    for header in sorted(images, key=lambda header: header.path):
        uid = header.text("SeriesInstanceUID")
        key = (header.text("PatientID"), header.text("StudyInstanceUID"), uid)
        series[key if uid else (*key, os.path.dirname(header.path))].append(header)
    return [part for headers in series.values() for part in _apart(headers)]


def _apart(headers: Sequence[Header]) -> Iterator[list[Header]]:
    """The files of one series, and apart from them those of folders that are copies.

    The copies are told apart in the same way: several folders may make up one of them.
    """
    folders: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        folders[os.path.dirname(header.path)].append(header)
    slices = {folder: slices_of(part) for folder, part in folders.items()}
    left = sorted(slices, key=lambda folder: -len(slices[folder]))
    while left:
        holders: dict[tuple, list[str]] = defaultdict(list)
        copies = []
        for folder in left:
            own = slices[folder]
            if any(own <= slices[other] for other in holders.get(next(iter(own)), ())):
                copies.append(folder)
                continue
            for one in own:
                holders[one].append(folder)
        here = set(left) - set(copies)
        yield [header for header in headers if os.path.dirname(header.path) in here]
        left = copies


def slices_of(headers: Sequence[Header]) -> set[tuple]:
    """What tells the slices of a series apart, the same for a copy of the file."""
    return {_mark_of(header) for header in headers}


def _mark_of(header: Header) -> tuple:
    uid, place = header.text("SOPInstanceUID"), header.values.get("ImagePositionPatient")
    return (uid, place, header.text("InstanceNumber")) if uid or place else (header.path,)


def volumes_of(where: str, headers: Sequence[Header], options: Dicom) -> list[Found]:
    """The volumes of one series; what is wrong with one stands in its place."""
    try:
        planes, findings = _without_copies(where, _planes(headers))
        findings += _inverted(where, headers)
        parts = list(split(where, planes, options))
    except VolumeError as error:
        return [Found(tuple(headers), "", error)]
    found = []
    for name, part in parts:
        result: Stack | VolumeError
        shorter: list[Finding] = []
        try:
            _check_one_kind(where, part)
            shorter = check_whole(where, part, parts, options)
            result = stack(where, part, options)
        except VolumeError as error:
            result = error
        used = dict.fromkeys(plane.header for plane in part)
        if len(parts) == 1 and len(part) < len(planes):
            findings = [*findings, *_told(where, [p for p in planes if p not in part])]
        found.append(Found(tuple(used), name, result, (*findings, *shorter)))
    return found


def _check_one_kind(where: str, part: list[Plane]) -> None:
    """What high values mean must not change from slice to slice."""
    for keyword in ("Modality", "PhotometricInterpretation"):
        kinds = Counter(plane.header.text(keyword) for plane in part)
        if len(kinds) > 1:
            shown = ", ".join(f"{count} slices of {kind!r}" for kind, count in kinds.most_common())
            raise VolumeError(
                "mixed_kind",
                f"{where}: {keyword} differs from slice to slice ({shown})",
                "supply slices of one acquisition, or correct the tag",
            )


def _planes(headers: Sequence[Header]) -> list[Plane]:
    planes = []
    for header in headers:
        try:
            planes += planes_of(header)
        except VolumeError as error:
            if not is_scout(headers):
                raise
            raise localiser(os.path.dirname(header.path), len(headers)) from error
    return planes


def _without_copies(where: str, planes: list[Plane]) -> tuple[list[Plane], list[Finding]]:
    """The planes without those stored twice under one instance identifier."""
    first: dict[tuple, Plane] = {}
    copies: list[Plane] = []
    for plane in planes:
        uid = plane.header.text("SOPInstanceUID")
        marks = tuple(sorted(plane.marks.items()))
        key = (
            uid or plane.header.path,
            plane.frame,
            plane.position,
            plane.row,
            plane.column,
            marks,
        )
        if first.setdefault(key, plane) is plane:
            continue
        if not same_pixels(first[key], plane):
            raise VolumeError(
                "duplicate_slices",
                f"{where}: {first[key].name} and {plane.name} carry one identifier and differ",
                "remove the wrong one",
            )
        copies.append(plane)
    return list(first.values()), _told(where, copies)


def _inverted(where: str, headers: Sequence[Header]) -> list[Finding]:
    if all(h.text("PhotometricInterpretation") != "MONOCHROME1" for h in headers):
        return []
    told = f"{where}: high values are meant to be dark (MONOCHROME1); they are kept as stored"
    return [Finding("inverted", "warning", told, "invert them if other cases are not so")]


def _told(where: str, copies: Sequence[Plane]) -> list[Finding]:
    if not copies:
        return []
    told = f"{where}: {len(copies)} slices are stored twice, such as {copies[0].name}; used once"
    return [Finding("duplicate_slices", "warning", told, "remove the copies")]
