"""Features of bags as `embed` wrote them, standardised over the bags trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float32

from medcl.slides.features import read_features

KEPT = 2**30  # bytes of features held in memory; beyond, they are read each time
LEAST_DEVIATION = 1e-4  # below, half precision holds nothing but noise


class Stored:
    """Features in files: the vectors less `mean`, divided by `deviation`."""

    def __init__(self, files: Mapping[str, tuple[Path, str]]) -> None:
        """files: of each bag, its file and the hash of what it has to be made from.

        Raises MedclError for a file that is missing or made from something else.
        """
        self.files = files
        self.kept: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}
        room, self.width = KEPT, 0
        for bag, (path, made_from) in files.items():
            found = read_features(path, made_from).features
            self.counts[bag], self.width = found.shape
            if found.nbytes <= room:
                self.kept[bag] = found
                room -= found.nbytes
        self.mean = np.zeros(self.width, np.float32)
        self.deviation = np.ones(self.width, np.float32)

    def standardise_over(self, bags: Sequence[str]) -> None:
        """Take mean and deviation of the instances of these bags; every bag counts equally.

        One bag at a time, twice: all of them in double precision would fill the memory.
        """
        mean = sum(self._raw(bag, None).mean(0, dtype=np.float64) for bag in bags) / len(bags)
        variance = sum(self._spread(bag, mean) for bag in bags) / len(bags)
        deviation = np.maximum(np.sqrt(variance), LEAST_DEVIATION)
        self.mean, self.deviation = mean.astype(np.float32), deviation.astype(np.float32)

    def _spread(self, bag: str, mean: np.ndarray) -> np.ndarray:
        """Mean squared distance of the instances from `mean`, of each feature."""
        away = self._raw(bag, None) - mean
        return np.square(away, out=away).mean(0)

    def count(self, bag: str) -> int:
        return self.counts[bag]

    def read(self, bag: str, rows: np.ndarray | None = None) -> Float32[np.ndarray, "N D"]:
        return (self._raw(bag, rows).astype(np.float32) - self.mean) / self.deviation

    def _raw(self, bag: str, rows: np.ndarray | None) -> np.ndarray:
        if bag in self.kept:
            return self.kept[bag] if rows is None else self.kept[bag][rows]
        with h5py.File(self.files[bag][0], "r") as file:
            found: np.ndarray = file["features"][:] if rows is None else file["features"][rows]
        return found
