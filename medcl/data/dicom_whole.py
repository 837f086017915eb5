"""Whether a volume is whole, judged by the others of its series and orientation.

One that another volume covers and goes beyond was broken off, or lacks slices. Where volumes go on
beyond each other, none is the measure of the others: they are stations, such as chest and abdomen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from medcl.config import Dicom
from medcl.data.checks import Finding
from medcl.data.dicom_planes import Plane
from medcl.data.dicom_stack import SAME_PLACE_MM, normal_of, places_along, same_direction
from medcl.data.volume import VolumeError

Places = Float64[np.ndarray, "_"]  # of any number, along the normal, in mm, sorted


def check_whole(
    where: str, part: list[Plane], parts: Sequence[tuple[str, list[Plane]]], options: Dicom
) -> list[Finding]:
    """Raise VolumeError where a volume lacks places of another one that covers it.

    Where that is allowed, gaps are found again and filled as the planes are stacked; ends are not
    made up, but told.
    """
    normal = normal_of(part[0])
    own = places_along(part, normal)
    others = [
        places_along(other, normal)
        for _, other in parts
        if other is not part and same_direction(other[0], part[0])
    ]
    covering = [held for held in others if _holds(held, own)]
    told = f"{where}: the volume of {part[0].name}"
    if ends := _missing_at_ends(own, covering):
        remedy = "supply the slices, add the case to `exclude`"
        told = f"{told} lacks {ends}"
        if options.allow_missing_slices:
            told = f"{told}; it is kept as it is, shorter than those"
            return [Finding("slices_missing_at_end", "warning", told, "look at the case")]
        remedy = f"{remedy}, or set `dicom.allow_missing_slices`"
        raise VolumeError("slices_missing_at_end", told, remedy)
    most = max(map(len, covering), default=0)
    if len(part) < most and not options.allow_missing_slices:
        raise VolumeError(
            "missing_slices",
            f"{where}: {most - len(part)} of {most} slices are missing in a volume of the series "
            f"(that of {part[0].name})",
            "supply the slices, add the case to `exclude`, or set `dicom.allow_missing_slices`",
        )
    if ends := _missing_at_ends(own, others):
        told = f"{told} lacks {ends}, and none of them holds all of its own; taken as stations"
        return [Finding("stations", "warning", told, "make sure that none was broken off")]
    return []


def _holds(held: Places, own: Places) -> bool:
    """Whether all places of `own` are among those `held`."""
    return bool(np.abs(held[:, None] - own).min(axis=0).max() <= SAME_PLACE_MM)


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
