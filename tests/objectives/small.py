"""A network and a stored volume small enough for every test here."""

import numpy as np

from medcl.data.store import Store, write_case, write_manifest
from medcl.networks.unet import UNet


def network():
    return UNet(1, [(1, 1, 1), (2, 2, 2)], 2, width=4)


def stored(folder, image=None, body=None):
    """The volume of case 'c'; random of 16 voxels along each axis unless given."""
    if image is None:
        image = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    return Store(write_manifest(folder, [write_case(folder, "c", "s", image, body=body)]))["c"]
