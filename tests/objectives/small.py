"""A network, stored volumes and batches small enough for every test here."""

import numpy as np
import torch

from medcl.data.store import Store, write_case, write_manifest
from medcl.networks.unet import UNet

PROTOTYPES = {"hidden": 8, "width": 6, "prototypes": 12}
# Of every objective, all that makes it small, and its forms.
OPTIONS = {
    "alice": [PROTOTYPES | {"heads": 2}],
    "dense": [{"points": 12}, {"points": 12, "positives": "soft", "sigma": [0.5, 0.5, 0.5]}],
    "global_contrast": [{"form": f, "hidden": 8, "width": 6} for f in ("gr", "gd-", "gd")],
    "hybrid": [{"points": 12, "partitions": 2}],
    "lesion_patches": [PROTOTYPES | {"block": [2, 2, 2], "lower": 0.5}],
    "local_contrast": [{"form": f, "region": 1, "width": 6} for f in ("lr", "ld")],
    "mae": [{}],
    "sepclr": [{"width": 6, "attributes": ["age"]}],
    "voco": [{"variant": v, "width": 8} for v in ("v0", "v1", "v2", "nnssl")],
}


def network():
    return UNet(1, [(1, 1, 1), (2, 2, 2)], 2, width=4)


def stored(folder, image=None, body=None):
    """The volume of case 'c'; random of 16 voxels along each axis unless given."""
    if image is None:
        image = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    return Store(write_manifest(folder, [write_case(folder, "c", "s", image, body=body)]))["c"]


def cohort(folder, cases=4):
    """A store of subjects with all that any objective needs: a lesion and a cohort."""
    entries = []
    for number in range(cases):
        rng, name = np.random.default_rng(number), f"c{number}"
        image = rng.normal(size=(1, 16, 16, 16)).astype(np.float32)
        label = np.zeros((16, 16, 16), np.uint8)
        label[4 : 10 + number % 2, 4:12, 4:12] = 1
        extra = {"cohort": "healthy" if number % 2 else "ill", "age": f"{30 + number}"}
        entries.append(write_case(folder, name, name, image, label) | {"extra": extra})
    return Store(write_manifest(folder, entries))


def batch_of(objective, store, items=4, seed=0):
    """A batch as the loop draws it: each item by its own generator, the step's in common."""
    drawn = []
    for number in range(items):
        rng = np.random.default_rng([seed, number])
        views = objective.views.for_step(np.random.default_rng(seed), number)
        group = views.groups(store.cases, rng)
        drawn.append(views.crop(tuple(store[case] for case in group), rng))
    batch = {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}
    return objective.views.augment(batch, torch.Generator().manual_seed(seed))
