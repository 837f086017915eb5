import pytest
import torch
from objectives.small import network

from medcl.errors import MedclError
from medcl.objectives import OBJECTIVES, build
from medcl.options import schemas

PLAN = {"crop": (16, 16, 8), "spacing": (1.0, 1.0, 3.0)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_built_with_the_plans_crop_unless_one_is_given(name):
    depth = 2 if name == "global_contrast" else 8  # a slab of each of four partitions
    views = build({"name": name}, network(), **PLAN).views
    assert views.size == (16, 16, depth)
    assert views.spacing == (1.0, 1.0, 3.0)
    assert build({"name": name, "crop": [8, 8, 8]}, network(), **PLAN).views.size == (8, 8, depth)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "objective.name: this key is required; one of .*mae.*voco"),
        ({"name": "vocoo"}, "did you mean 'voco'"),
        ({"name": "mae", "mask": 1.5}, r"objective mae\.mask: .*got 1.5"),
        ({"name": "voco", "targts": 2}, r"objective voco\.targts"),
        (
            {"name": "voco", "crop": [9, 8, 8]},
            r"crop: \(9, 8, 8\) voxels are no multiple of \(2, 2, 2\)",
        ),
        (
            {"name": "dense", "crop": [2, 2, 2]},
            r"crop: \(2, 2, 2\) voxels are a single one .* such as \(4, 4, 4\)",
        ),
        ({"name": "nowhere.py:Mine"}, "no file nowhere.py"),
    ],
)
def test_a_mistake_in_the_options_is_named(options, message):
    with pytest.raises(MedclError, match=message):
        build(options, network(), **PLAN)


def test_every_option_is_described_and_closed():
    for entry in schemas(OBJECTIVES).values():
        assert entry["additionalProperties"] is False
        for option in entry["properties"].values():
            assert option["description"]


OUTSIDE = '''
from medcl.config import Voxels
from medcl.objectives.mae import MAE

class Mine(MAE):
    """Masked reconstruction with another default.

    mask: share that is hidden
    """

    def __init__(self, network, spacing, *, mask: float = 0.25, crop: Voxels | None = None):
        super().__init__(network, spacing, mask=mask, crop=crop)

class Other:
    pass
'''


def test_a_class_from_outside_the_tree_is_an_objective_too(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OUTSIDE)
    mine = build({"name": f"{file}:Mine"}, network(), **PLAN)
    assert mine.views.mask == 0.25
    assert mine.views.size == (16, 16, 8)
    assert isinstance(mine, torch.nn.Module)
    with pytest.raises(MedclError, match="Other is no"):
        build({"name": f"{file}:Other"}, network(), **PLAN)
    with pytest.raises(MedclError, match="no class Third"):
        build({"name": f"{file}:Third"}, network(), **PLAN)
