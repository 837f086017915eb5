"""Every objective learns from volumes of two channels, from the store to the gradient."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from medcl.data.store import Store, write_case, write_manifest
from medcl.networks.unet import UNet
from medcl.objectives import OBJECTIVES, build
from medcl.training.pretext import PretextItems

SMALL = {
    "global_contrast": {"form": "gd-", "partitions": 2, "hidden": 8, "width": 4},
    "local_contrast": {"region": 1, "width": 4, "frozen": False},
    "sepclr": {"width": 4},
    "alice": {"prototypes": 8, "hidden": 8, "width": 4, "heads": 2},
    "lesion_patches": {"hidden": 8, "width": 4, "prototypes": 8, "block": [2, 2, 2]},
    "voco": {"width": 8, "crop": [8, 8, 8]},
    "dense": {"points": 10},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    entries = []
    for number in range(4):
        image = np.random.default_rng(number).random((2, 24, 24, 16)).astype(np.float32)
        label = np.zeros((24, 24, 16), np.uint8)
        label[8:16, 8:16, 4:12] = 1
        entry = write_case(folder, f"c{number}", f"s{number}", image, label, spacing=(1, 1, 3))
        entries.append({**entry, "extra": {"cohort": "healthy" if number % 2 else "ill"}})
    return Store(write_manifest(folder, entries))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_learns_from_two_channels(store, name):
    torch.manual_seed(0)
    network = UNet(2, [(1, 1, 1), (2, 2, 1), (2, 2, 2)], 2, width=4)
    options = {"name": name, **SMALL.get(name, {})}
    objective = build(options, network, crop=(16, 16, 8), spacing=(1.0, 1.0, 3.0))
    rng = np.random.default_rng(0)
    items = PretextItems(store, store.cases, objective.views).for_step(rng, 0)
    batch = default_collate([items.item(rng) for _ in range(2)])
    batch = items.augment(batch, torch.Generator().manual_seed(0))
    loss, _ = objective(batch)
    loss.backward()
    assert torch.isfinite(loss)
    first = next(weight for weight in network.parameters() if weight.ndim == 5)
    assert first.shape[1] == 2
    for channel in range(2):
        assert first.grad[:, channel].abs().sum() > 0
