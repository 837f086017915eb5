"""Features in files, standardised over the bags trained on."""

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from medcl.slides.features import FORMAT
from medcl.slides.mil import stored
from medcl.slides.mil.stored import LEAST_DEVIATION, Stored

LENGTHS = (300, 500, 40)
WIDTH = 16


def written(folder: Path, lengths: tuple[int, ...] = LENGTHS) -> tuple[Stored, list[np.ndarray]]:
    """Bags 0, 1, ... as files, and their features; the last feature is the same everywhere."""
    rng, files, arrays = np.random.default_rng(0), {}, []
    for number, length in enumerate(lengths):
        array = (rng.normal(number, 1 + number, (length, WIDTH))).astype(np.float16)
        array[:, -1] = 3
        path = folder / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file["features"], file["coords"] = array, np.zeros((length, 2), np.int32)
            file.attrs["side"], file.attrs["made_from"] = 256, "x"
            file.attrs["format"] = FORMAT
        files[str(number)] = (path, "x")
        arrays.append(array)
    return Stored(files), arrays


@pytest.mark.parametrize("kept", [0, 2**30])
def test_every_bag_counts_equally_in_mean_and_deviation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(stored, "KEPT", kept)
    found, arrays = written(tmp_path)
    found.standardise_over(["0", "1"])
    for feature in range(WIDTH):
        bags = [[float(value) for value in array[:, feature]] for array in arrays[:2]]
        mean = sum(sum(bag) / len(bag) for bag in bags) / 2
        variance = sum(sum((v - mean) ** 2 for v in bag) / len(bag) for bag in bags) / 2
        assert found.mean[feature] == pytest.approx(mean, rel=1e-6)
        expected = max(variance**0.5, LEAST_DEVIATION)
        assert found.deviation[feature] == pytest.approx(expected, rel=1e-6)
    assert found.deviation[-1] == np.float32(LEAST_DEVIATION)
    read = found.read("2", np.array([1, 5]))
    raw = arrays[2][[1, 5]].astype(np.float32)
    np.testing.assert_array_equal(read, (raw - found.mean) / found.deviation)


def test_standardising_holds_one_bag_in_double_precision_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "KEPT", 0)
    found, arrays = written(tmp_path, (1000,) * 12)
    tracemalloc.start()
    found.standardise_over(list(found.files))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 8 * arrays[0].size
