"""Aggregators and bags small enough for every test here."""

import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

from medcl.slides.features import FORMAT
from medcl.slides.mil import build
from medcl.slides.mil.stored import Stored

OPTIONS = {
    "abmil": {"width": 8, "attention": 6},
    "clam": {"width": 8, "attention": 6, "instances": 2, "dropout": 0.0},
    "dsmil": {"query": 6},
    "ins": {"width": 8, "projection": 6, "attention": 6, "queue": 16, "warm_steps": 2},
    "max": {"width": 8},
    "mean": {"width": 8},
    "scmil": {"width": 8, "attention": 6, "projection": 6},
    "transmil": {"width": 16, "heads": 2, "landmarks": 4, "dropout": 0.0},
}
FEATURES = 5


def model(name, classes=3, class_weights=None, **options):
    torch.manual_seed(0)
    given = {"name": name, **OPTIONS[name], **options}
    return build(given, features=FEATURES, classes=classes, class_weights=class_weights)


def batch(lengths=(4, 7, 2, 5), labels=(0, 1, 2, 1), seed=0):
    """Bags filled up with numbers that must count for nothing."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    features = torch.randn(len(lengths), longest, FEATURES, generator=generator)
    features[~mask] = 1e4
    places = torch.arange(mask.numel()).view(mask.shape)
    return {
        "features": features,
        "mask": mask,
        "label": torch.tensor(labels),
        "instance": torch.where(mask, places, -1),
    }


def write_features(folder, bags):
    """Arrays (N, D) by bag as `embed` would write them; their files and what they are made from."""
    files = {}
    for name, rows in bags.items():
        files[name] = (Path(folder) / f"{name}.h5", "tiles")
        with h5py.File(files[name][0], "w") as file:
            file["features"] = np.asarray(rows, np.float16)
            file["coords"] = np.zeros((len(rows), 2), np.int32)
            file.attrs.update({"side": 1, "made_from": "tiles", "format": FORMAT})
    return files


def stored(bags):
    """The same, held in memory as so few are."""
    with tempfile.TemporaryDirectory() as folder:
        return Stored(write_features(folder, bags))
