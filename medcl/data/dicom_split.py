"""One series with several volumes is split by what tells them apart.

Orientations first; then, where several pictures share a place, by image type, echo, b-value, time
or acquisition; where no header says, by a regular order of the instance numbers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from medcl.config import Dicom
from medcl.data.dicom_header import Header
from medcl.data.dicom_pixels import same_pixels
from medcl.data.dicom_planes import MARKS, Plane
from medcl.data.dicom_stack import FEWEST_SLICES, SAME_PLACE_MM, normal_of, same_direction
from medcl.data.volume import VolumeError

SCOUTS = re.compile(
    r"(?<![a-z])(loc|locali[sz]ers?|scouts?|survey|topogram|scanogram)(?![a-z])", re.IGNORECASE
)
SCOUT_SLICES = 15  # most slices of one orientation of a localiser


def split(where: str, planes: list[Plane], options: Dicom) -> Iterator[tuple[str, list[Plane]]]:
    """(name, planes) of each volume; raises VolumeError where they cannot be told apart."""
    turned = _orientations(planes)
    small = max(map(len, turned)) <= SCOUT_SLICES
    scout = is_scout([plane.header for plane in planes])
    several_turned = len(turned) > 1
    if options.localisers == "skip" and (
        (several_turned and small and (scout or len(turned) > 2))
        or (scout and len(planes) < FEWEST_SLICES)
    ):
        raise localiser(where, len(planes))
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


def is_scout(headers: Sequence[Header]) -> bool:
    return all(
        "LOCALIZER" in header.text("ImageType").split("\\")
        or SCOUTS.search(header.text("SeriesDescription"))
        for header in headers
    )


def localiser(where: str, count: int) -> VolumeError:
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

    A mark must give whole volumes, or else the order of the instance numbers. Failing both,
    volumes that hold at least half of the places, as of a series that was broken off, or unbroken
    runs of places, as stations do: `check_whole` speaks of those.
    """
    places = _places(planes)
    if len(places) == len(planes):
        return [("", planes)]
    if len(places) == 1:
        raise _several(where, planes, "supply slices at several positions")
    for mark, parts in _marked(planes):
        if all(len(_places(part)) == len(places) for part in parts.values()):
            return _by_mark(where, mark, parts)
    if (volumes := _by_instance(planes, places)) and not _are_copies(places):
        return volumes
    half = max(2.0, 0.5 * len(places))
    for mark, parts in _marked(planes):
        if all(len(_places(part)) >= half for part in parts.values()):
            return _by_mark(where, mark, parts)
    if _are_copies(places):
        return [("", [part[0] for part in places.values()])]  # told by volumes_of
    for mark, parts in _marked(planes):
        if all(_is_run(part, places) for part in parts.values()):
            return _by_mark(where, mark, parts)
    raise _several(where, planes, "give each volume a folder of its own")


def _are_copies(places: dict[tuple[int, ...], list[Plane]]) -> bool:
    return all(same_pixels(part[0], other) for part in places.values() for other in part[1:])


def _marked(planes: Sequence[Plane]) -> Iterator[tuple[str, dict[str, list[Plane]]]]:
    """The planes by the values of each mark that has several of them."""
    for mark in _useful_marks(planes):
        parts: dict[str, list[Plane]] = defaultdict(list)
        for plane in planes:
            parts[plane.marks.get(mark, "")].append(plane)
        if len(parts) > 1:
            yield mark, parts


def _is_run(part: Sequence[Plane], places: dict[tuple[int, ...], list[Plane]]) -> bool:
    """Whether the planes are enough, no two at one place, and no place between them is left out."""
    own = {id(plane) for plane in part}
    held = [any(id(plane) in own for plane in here) for here in places.values()]
    first, count = held.index(True), sum(held)
    return len(part) == count >= FEWEST_SLICES and all(held[first : first + count])


def _by_mark(where: str, mark: str, parts: dict[str, list[Plane]]) -> list[tuple[str, list[Plane]]]:
    volumes = []
    for value, part in parts.items():
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


def _by_instance(
    planes: list[Plane], places: dict[tuple[int, ...], list[Plane]]
) -> list[tuple[str, list[Plane]]]:
    """Volumes in the order of the instance numbers, where that is regular; else none."""
    counts = {len(part) for part in places.values()}
    numbers = [plane.header.whole("InstanceNumber", -1) + (plane.frame or 0) for plane in planes]
    if len(counts) > 1 or len(set(numbers)) < len(planes) or -1 in numbers:
        return []
    count, size = counts.pop(), len(places)
    of = {id(plane): key for key, part in places.items() for plane in part}
    ordered = [plane for _, plane in sorted(zip(numbers, planes, strict=True), key=lambda x: x[0])]
    by_time = [ordered[k * size : (k + 1) * size] for k in range(count)]
    by_place = [ordered[k::count] for k in range(count)]
    for volumes in (by_time, by_place):
        if all(len({of[id(plane)] for plane in volume}) == size for volume in volumes):
            width = len(str(count))
            return [(f"t{k + 1:0{width}d}", volume) for k, volume in enumerate(volumes)]
    return []


def _several(where: str, planes: Sequence[Plane], remedy: str) -> VolumeError:
    count = len(_places(planes))
    return VolumeError(
        "several_volumes",
        f"{where}: {len(planes)} slices at {count} positions, several volumes "
        "(time points, echoes, b-values) or differing copies of slices",
        remedy,
    )
