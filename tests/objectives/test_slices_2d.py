"""Pretext tasks on a 2-D network: slices across any axis, in every task that can."""

import numpy as np
import pytest
import torch
from objectives.small import stored

from medcl import networks
from medcl.errors import MedclError
from medcl.objectives import OBJECTIVES, build

SMALL = {
    "dense": {"points": 20},
    "global_contrast": {"form": "gd-", "hidden": 8, "width": 4},
    "local_contrast": {"frozen": False, "blocks": 2, "width": 8},
    "hybrid": {"form": "gd-", "points": 20},
    "mae": {},
    "sepclr": {"width": 4},
}


def plan(across):
    """Crop, spacing and strides of slices across an axis of 8 mm."""
    crop, spacing = [16, 8], [1.0, 1.0]
    crop.insert(across, 1)
    spacing.insert(across, 8.0)
    strides = [[1, 1, 1], *([1 if axis == across else 2 for axis in range(3)] for _ in range(2))]
    return tuple(crop), tuple(spacing), strides


def flat(across):
    torch.manual_seed(0)
    _, _, strides = plan(across)
    options = {"name": "unet", "width": 4}
    return networks.build(options, channels_in=1, strides=strides, channels_out=1, across=across)


@pytest.mark.parametrize("across", [0, 2])
@pytest.mark.parametrize("name", SMALL)
def test_slices_train_all_the_parts_a_task_says_it_trains(tmp_path, name, across):
    crop, spacing, _ = plan(across)
    objective = build({"name": name, **SMALL[name]}, flat(across), crop=crop, spacing=spacing)
    volume = stored(tmp_path)
    volume.extra["cohort"] = "patient"
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    group = [volume] * len(objective.views.groups(["a", "b", "c"], rng))
    items = [objective.views.crop(tuple(group), rng) for _ in range(3)]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    loss, _ = objective(objective.views.augment(batch, generator))
    loss.backward()
    assert torch.isfinite(loss)
    found = {n for n, p in objective.network.named_parameters() if p.grad is not None}
    asked = {n for n, p in objective.network.named_parameters() if p.requires_grad}
    assert found == asked
    assert found


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - set(SMALL)))
def test_a_task_of_volumes_refuses_a_2d_network(name):
    crop, spacing, _ = plan(2)
    with pytest.raises(MedclError, match="needs a network in 3-D"):
        build({"name": name}, flat(2), crop=crop, spacing=spacing)


def test_a_crop_that_is_no_slice_is_refused_with_its_axis():
    crop, spacing, _ = plan(0)
    with pytest.raises(MedclError, match="its side along axis 0 must be 1"):
        build({"name": "mae", "crop": [8, 8, 8]}, flat(0), crop=crop, spacing=spacing)
    with pytest.raises(MedclError, match=r"no multiple of \(4, 4\).*such as \(16, 12\)"):
        build({"name": "mae", "crop": [1, 15, 10]}, flat(0), crop=crop, spacing=spacing)
