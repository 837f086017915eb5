"""Pretext tasks by name. A new one is one file here and one line below, or `file.py:Class`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcl.config import Voxels
from medcl.data.strides import nearest_crop, product
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.objectives.alice import Alice
from medcl.objectives.base import Objective
from medcl.objectives.dense import Dense
from medcl.objectives.global_contrast import GlobalContrast
from medcl.objectives.hybrid import Hybrid
from medcl.objectives.lesion_patches import LesionPatches
from medcl.objectives.local_contrast import LocalContrast
from medcl.objectives.mae import MAE
from medcl.objectives.sepclr import SepCLR
from medcl.objectives.voco import VoCo
from medcl.options import check, resolve
from medcl.views.augment import Spacing

OBJECTIVES: dict[str, type[Objective]] = {
    "alice": Alice,
    "dense": Dense,
    "global_contrast": GlobalContrast,
    "hybrid": Hybrid,
    "lesion_patches": LesionPatches,
    "local_contrast": LocalContrast,
    "mae": MAE,
    "sepclr": SepCLR,
    "voco": VoCo,
}


def build(
    options: Mapping[str, Any], network: Network, *, crop: Voxels, spacing: Spacing
) -> Objective:
    """Build the objective called `options["name"]`; the other options are its keyword arguments.

    `crop` (voxels) and `spacing` (mm) are the plan's; an option `crop` wins. Raises MedclError for
    an unknown name or option, a value out of range, and a crop the network cannot halve as often
    as it has to.
    """
    if "name" not in options:
        raise MedclError(f"objective.name: this key is required; one of {', '.join(OBJECTIVES)}")
    name = str(options["name"])
    kind: Any = resolve(OBJECTIVES, name, "objective")
    if not issubclass(kind, Objective):
        raise MedclError(f"objective {name}: {kind.__name__} is no medcl.objectives.base.Objective")
    given = {key: value for key, value in options.items() if key != "name"}
    checked = check(kind, given, f"objective {name}")
    if "crop" in checked:
        checked["crop"] = checked["crop"] or crop
        _fits(checked["crop"], network, name)
    return kind(network, spacing, **checked)


def _fits(crop: Voxels, network: Network, name: str) -> None:
    if network.dims == 2 and crop[network.across] != 1:
        raise MedclError(
            f"objective {name}: crop: {tuple(crop)} voxels are no slice, and the network is 2-D; "
            f"its side along axis {network.across} must be 1"
        )
    sides, needed = [crop[axis] for axis in network.axes], product(network.strides)
    if any(side % step for side, step in zip(sides, needed, strict=True)):
        raise MedclError(
            f"objective {name}: crop: {tuple(sides)} voxels are no multiple of {needed}, by which "
            f"the network goes down; choose another `crop`, such as {nearest_crop(sides, needed)}"
        )
    if sides == list(needed):
        larger = tuple(2 * step if step > 1 else 1 for step in needed)
        raise MedclError(
            f"objective {name}: crop: {tuple(sides)} voxels are a single one at the lowest level "
            f"of the network, which goes down by {needed}, and a single one has no deviation to "
            f"normalise by; choose a larger `crop`, such as {larger}, or fewer `plan.strides`"
        )
