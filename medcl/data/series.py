"""Files in any order become series, and each series its volumes.

Files belong together by patient, study and series, wherever they lie. A series that holds several
orientations or several pictures at one place is split by what tells them apart: image type, echo,
b-value, time, acquisition; where no header says, by a regular order of the instance numbers.
Copies of a slice are used once. What is no volume is refused, or skipped if it is a localiser.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medcl.config import Dicom
from medcl.data.checks import Finding
from medcl.data.dicom_header import Header, NotDicomError, read_header, reason
from medcl.data.dicom_pixels import same_pixels
from medcl.data.dicom_planes import MARKS, Plane, planes_of
from medcl.data.dicom_stack import (
    FEWEST_SLICES,
    SAME_PLACE_MM,
    Stack,
    normal_of,
    same_direction,
    stack,
)
from medcl.data.volume import VolumeError

SCOUTS = re.compile(r"\b(loc|locali[sz]er?|scout|survey|topogram|scanogram)", re.IGNORECASE)
SCOUT_SLICES = 15  # most slices of one orientation of a localiser
SKIPPED = ("not_an_image", "localiser")  # codes of what is left out on purpose


@dataclass
class Files:
    """What lies in some folders: images, other objects and files that cannot be read."""

    images: list[Header] = field(default_factory=list)
    others: dict[Path, str] = field(default_factory=dict)
    damaged: dict[Path, NotDicomError] = field(default_factory=dict)


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
            header = read_header(path)
        except NotDicomError as error:
            files.damaged[path] = error
        except OSError as error:
            files.damaged[path] = NotDicomError(reason(error), damaged=True)
        else:
            if header.kind:
                files.others[path] = header.kind
            else:
                files.images.append(header)
    return files


def group(images: Sequence[Header]) -> list[list[Header]]:
    """The images of each series, sorted by path.

    A series may lie in several folders. Folders that hold the same objects are copies of it, and
    stay apart; so do images that name no series.
    """
    series: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    for header in sorted(images, key=lambda header: header.path):
        uid = header.text("SeriesInstanceUID")
        key = (header.text("PatientID"), header.text("StudyInstanceUID"), uid)
        series[key if uid else (*key, os.path.dirname(header.path))].append(header)
    groups = []
    for headers in series.values():
        folders: dict[str, list[Header]] = defaultdict(list)
        for header in headers:
            folders[os.path.dirname(header.path)].append(header)
        objects = [uids_of(part) for part in folders.values()]
        if sum(map(len, objects)) > len(set().union(*objects)):
            groups += list(folders.values())
        else:
            groups.append(headers)
    return groups


def uids_of(headers: Sequence[Header]) -> set[str]:
    return {header.text("SOPInstanceUID") or header.path for header in headers}


def volumes_of(where: str, headers: Sequence[Header], options: Dicom) -> list[Found]:
    """The volumes of one series; what is wrong with one stands in its place."""
    try:
        planes, findings = _without_copies(where, _planes(headers))
        parts = list(_split(where, planes, options))
    except VolumeError as error:
        return [Found(tuple(headers), "", error)]
    found = []
    for name, part in parts:
        result: Stack | VolumeError
        try:
            if not options.allow_missing_slices:
                _check_whole(where, part, parts)
            result = stack(where, part, options)
        except VolumeError as error:
            result = error
        used = dict.fromkeys(plane.header for plane in part)
        if len(parts) == 1 and len(part) < len(planes):
            findings = [*findings, *_told(where, [p for p in planes if p not in part])]
        found.append(Found(tuple(used), name, result, tuple(findings)))
    return found


def _check_whole(
    where: str, part: list[Plane], parts: Sequence[tuple[str, list[Plane]]]
) -> None:
    """A volume must not lack a place that another of its series and orientation holds."""
    most = max(len(other) for _, other in parts if same_direction(other[0], part[0]))
    if len(part) < most:
        raise VolumeError(
            "missing_slices",
            f"{where}: {most - len(part)} of {most} slices are missing in a volume of the series "
            f"(that of {part[0].name})",
            "supply the slices, add the case to `exclude`, or set `dicom.allow_missing_slices`",
        )


def _planes(headers: Sequence[Header]) -> list[Plane]:
    planes = []
    for header in headers:
        try:
            planes += planes_of(header)
        except VolumeError as error:
            if not _is_scout(headers):
                raise
            raise _localiser(os.path.dirname(header.path), len(headers)) from error
    return planes


def _without_copies(where: str, planes: list[Plane]) -> tuple[list[Plane], list[Finding]]:
    """The planes without those stored twice under one instance identifier."""
    first: dict[tuple, Plane] = {}
    copies: list[Plane] = []
    for plane in planes:
        uid = plane.header.text("SOPInstanceUID")
        marks = tuple(sorted(plane.marks.items()))
        key = (uid or plane.header.path, plane.frame, plane.position, plane.row, plane.column, marks)
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


def _told(where: str, copies: Sequence[Plane]) -> list[Finding]:
    if not copies:
        return []
    told = f"{where}: {len(copies)} slices are stored twice, such as {copies[0].name}; used once"
    return [Finding("duplicate_slices", "warning", told, "remove the copies")]


def _split(where: str, planes: list[Plane], options: Dicom) -> Iterator[tuple[str, list[Plane]]]:
    """(name, planes) of each volume; raises VolumeError where they cannot be told apart."""
    turned = _orientations(planes)
    small = max(map(len, turned)) <= SCOUT_SLICES
    scout = _is_scout([plane.header for plane in planes])
    several_turned = len(turned) > 1
    if options.localisers == "skip" and (
        (several_turned and small and (scout or len(turned) > 2))
        or (scout and len(planes) < FEWEST_SLICES)
    ):
        raise _localiser(where, len(planes))
    if several_turned and min(map(len, turned)) < FEWEST_SLICES:
        odd = min(turned, key=len)[0]
        rest = max(turned, key=len)[0] if max(turned, key=len)[0] is not odd else turned[-1][0]
        raise VolumeError(
            "mixed_orientation",
            f"{where}: {odd.name} lies in another orientation than {rest.name} "
            f"({', '.join(str(len(part)) for part in turned)} slices in {len(turned)})",
            "give each orientation a folder of its own",
        )
    names = Counter(_plane_name(part[0]) for part in turned)
    for number, part in enumerate(turned):
        name = _plane_name(part[0]) if several_turned else ""
        if name and names[name] > 1:
            name += str(number + 1)
        volumes = _split_places(where, part)
        if len(volumes) > 1 and options.several_volumes == "refuse":
            raise _several(where, part, "set `dicom.several_volumes: split`")
        for mark, volume in volumes:
            yield "_".join(filter(None, (name, mark))), volume


def _orientations(planes: Sequence[Plane]) -> list[list[Plane]]:
    groups: list[list[Plane]] = []
    for plane in planes:
        for known in groups:
            if same_direction(plane, known[0]):
                known.append(plane)
                break
        else:
            groups.append([plane])
    return groups


def _plane_name(plane: Plane) -> str:
    return ("sagittal", "coronal", "axial")[int(abs(normal_of(plane)).argmax())]


def _is_scout(headers: Sequence[Header]) -> bool:
    return all(
        "LOCALIZER" in header.text("ImageType").split("\\")
        or SCOUTS.search(header.text("SeriesDescription"))
        for header in headers
    )


def _localiser(where: str, count: int) -> VolumeError:
    return VolumeError(
        "localiser",
        f"{where}: {count} slices of a localiser",
        "nothing to do, or set `dicom.localisers: keep`",
    )


def _places(planes: Sequence[Plane]) -> dict[tuple[int, ...], list[Plane]]:
    """The planes at each position, to SAME_PLACE_MM along the normal."""
    normal = normal_of(planes[0])
    places: dict[tuple[int, ...], list[Plane]] = {}
    last, key = -1e9, 0
    for along, _, plane in sorted(
        (sum(n * p for n, p in zip(normal, plane.position, strict=True)), index, plane)
        for index, plane in enumerate(planes)
    ):
        if along - last > SAME_PLACE_MM:
            key += 1
        last = along
        places.setdefault((key,), []).append(plane)
    return places


def _split_places(where: str, planes: list[Plane]) -> list[tuple[str, list[Plane]]]:
    """Volumes with one plane at each place, named by what tells them apart.

    A mark must give whole volumes; failing that, volumes that hold at least half of the places,
    as of a series that was broken off: `_check_whole` speaks of those.
    """
    places = _places(planes)
    if len(places) == len(planes):
        return [("", planes)]
    if len(places) == 1:
        raise _several(where, planes, "supply slices at several positions")
    for share in (1.0, 0.5):
        for mark in _useful_marks(planes):
            parts: dict[str, list[Plane]] = defaultdict(list)
            for plane in planes:
                parts[plane.marks.get(mark, "")].append(plane)
            fewest = max(2.0, share * len(places))
            if len(parts) > 1 and all(len(_places(part)) >= fewest for part in parts.values()):
                return _by_mark(where, mark, parts)
    if all(same_pixels(part[0], other) for part in places.values() for other in part[1:]):
        return [("", [part[0] for part in places.values()])]  # told by volumes_of
    return _split_by_instance(where, planes, places)


def _by_mark(
    where: str, mark: str, parts: dict[str, list[Plane]]
) -> list[tuple[str, list[Plane]]]:
    volumes = []
    for value, part in sorted(parts.items(), key=lambda item: _in_order(item[0])):
        name = _mark_name(mark, value, list(parts))
        volumes += [
            ("_".join(filter(None, (name, rest))), volume)
            for rest, volume in _split_places(where, part)
        ]
    return volumes


def _useful_marks(planes: Sequence[Plane]) -> list[str]:
    """Known marks in their order, then the dimensions an enhanced object counts."""
    dimensions = sorted({m for plane in planes for m in plane.marks if m.startswith("dimension")})
    return [*MARKS, *dimensions]


def _in_order(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return 0.0, value


def _mark_name(mark: str, value: str, values: Sequence[str]) -> str:
    """Such as b800, te12.5 or the part of the image type that the others lack."""
    if mark == "ImageType":
        common = set.intersection(*(set(v.split("\\")) for v in values))
        own = [part for part in value.split("\\") if part not in common]
        text = "-".join(own) or "type0"
    elif mark.startswith("dimension"):
        text = f"d{mark.removeprefix('dimension')}-{value}"
    else:
        text = MARKS[mark] + value
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text)


def _split_by_instance(
    where: str, planes: list[Plane], places: dict[tuple[int, ...], list[Plane]]
) -> list[tuple[str, list[Plane]]]:
    """Volumes in the order of the instance numbers, where that is regular."""
    counts = {len(part) for part in places.values()}
    numbers = [plane.header.whole("InstanceNumber", -1) + (plane.frame or 0) for plane in planes]
    if len(counts) > 1 or len(set(numbers)) < len(planes) or -1 in numbers:
        raise _several(where, planes, "give each volume a folder of its own")
    count, size = counts.pop(), len(places)
    of = {id(plane): key for key, part in places.items() for plane in part}
    ordered = [plane for _, plane in sorted(zip(numbers, planes, strict=True), key=lambda x: x[0])]
    by_time = [ordered[k * size : (k + 1) * size] for k in range(count)]
    by_place = [ordered[k::count] for k in range(count)]
    for volumes in (by_time, by_place):
        if all(len({of[id(plane)] for plane in volume}) == size for volume in volumes):
            width = len(str(count))
            return [(f"t{k + 1:0{width}d}", volume) for k, volume in enumerate(volumes)]
    raise _several(where, planes, "give each volume a folder of its own")


def _several(where: str, planes: Sequence[Plane], remedy: str) -> VolumeError:
    return VolumeError(
        "several_volumes",
        f"{where}: {len(planes)} slices at {len(_places(planes))} positions, several volumes "
        "(time points, echoes, b-values) or differing copies of slices",
        remedy,
    )
