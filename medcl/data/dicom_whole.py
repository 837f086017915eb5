"""Whether a volume is whole, judged by the others of its series and orientation.

One that another goes beyond was broken off, or lacks slices. Only stations, such as chest and
abdomen, are no measure of each other: they share few places, and show the same quantity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from medcl.config import Dicom
from medcl.data.checks import Finding
from medcl.data.dicom_planes import MARKS, Plane
from medcl.data.dicom_stack import SAME_PLACE_MM, normal_of, places_along, same_direction
from medcl.data.volume import VolumeError

Places = Float64[np.ndarray, "_"]  # of any number, along the normal, in mm, sorted
# Marks that number parts of a scan; those that differ by another mark show another quantity, and
# were meant to show it of the same places.
COUNTED = ("SeriesNumber", "AcquisitionNumber", "StackID")
QUANTITIES = tuple(mark for mark in MARKS if mark not in COUNTED)
LEAST_SHARED = 0.5  # of the places of the shorter one, from which on two volumes are no stations


def check_whole(
    where: str, part: list[Plane], parts: Sequence[tuple[str, list[Plane]]], options: Dicom
) -> list[Finding]:
    """Raise VolumeError where a volume lacks places of another one, unless both are stations.

    Where that is allowed, gaps are found again and filled as the planes are stacked; ends are not
    made up, but told.
    """
    normal = normal_of(part[0])
    own = places_along(part, normal)
    others = [
        other for _, other in parts if other is not part and same_direction(other[0], part[0])
    ]
    stations = [other for other in others if _are_stations(part, other)]
    measures = [places_along(other, normal) for other in others if other not in stations]
    told = f"{where}: the volume of {part[0].name}"
    if ends := _missing_at_ends(own, measures):
        remedy = "supply the slices, add the case to `exclude`"
        told = f"{told} lacks {ends}"
        if options.allow_missing_slices:
            told = f"{told}; it is kept as it is"
            return [Finding("slices_missing_at_end", "warning", told, "look at the case")]
        remedy = f"{remedy}, or set `dicom.allow_missing_slices`"
        raise VolumeError("slices_missing_at_end", told, remedy)
    most = max((len(held) for held in measures if _shared(held, own) == len(own)), default=0)
    if len(part) < most and not options.allow_missing_slices:
        raise VolumeError(
            "missing_slices",
            f"{where}: {most - len(part)} of {most} slices are missing in a volume of the series "
            f"(that of {part[0].name})",
            "supply the slices, add the case to `exclude`, or set `dicom.allow_missing_slices`",
        )
    if ends := _missing_at_ends(own, [places_along(other, normal) for other in stations]):
        told = f"{told} lacks {ends}, and none of them holds all of its own; taken as stations"
        return [Finding("stations", "warning", told, "make sure that none was broken off")]
    return []


def _are_stations(part: Sequence[Plane], other: Sequence[Plane]) -> bool:
    """Whether they share less than half of the shorter one's places, and no quantity differs."""
    normal = normal_of(part[0])
    shared = _shared(places_along(other, normal), places_along(part, normal))
    if shared >= LEAST_SHARED * min(len(part), len(other)):
        return False
    return all(_values(part, mark) == _values(other, mark) for mark in QUANTITIES)


def _values(planes: Sequence[Plane], mark: str) -> set[str]:
    return {plane.marks.get(mark, "") for plane in planes}


def _shared(held: Places, own: Places) -> int:
    """How many places of `own` are among those `held`."""
    return int((np.abs(held[:, None] - own).min(axis=0) <= SAME_PLACE_MM).sum())


def _missing_at_ends(own: Places, others: Sequence[Places]) -> str:
    """In words, the places of `others` that lie before the first or behind the last of `own`."""
    reach = max(np.median(np.diff(own)) / 2, SAME_PLACE_MM) if len(own) > 1 else SAME_PLACE_MM
    held = np.sort(np.concatenate([own, *others]))
    held = held[np.diff(held, prepend=-np.inf) > SAME_PLACE_MM]
    said = []
    for name, beyond in (
        ("first", held[held < own[0] - reach]),
        ("last", held[held > own[-1] + reach]),
    ):
        if len(beyond):
            span = f"{beyond[0]:.4g}" + (f" to {beyond[-1]:.4g}" if len(beyond) > 1 else "")
            said.append(f"the {name} {len(beyond)} of {len(held)} slices (at {span} mm)")
    return " and ".join(said) + " that other volumes of the series hold" if said else ""
