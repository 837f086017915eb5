"""Copies are found, distinct subjects are not, and thousands of cases take seconds."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from medcl.data.near import _neighbours, near_duplicates
from medcl.data.survey import survey
from medcl.data.volume import Volume, read_volume

RNG = np.random.default_rng


def picture(array: np.ndarray) -> np.ndarray:
    found = survey(Volume(np.asarray(array, np.float32)[None], np.eye(4))).thumbnail
    assert found is not None
    return found


def blobs(seed: int, shape: tuple[int, int, int] = (40, 36, 30)) -> np.ndarray:
    """A smooth random volume, different for each seed."""
    values = ndimage.gaussian_filter(RNG(seed).normal(size=shape), 3.0)
    return 100 + 50 * values / values.std()


def alike(seed: int) -> np.ndarray:
    """A member of a registered collection: the same anatomy, and a little of its own."""
    return blobs(999) + 0.2 * (blobs(seed) - 100)


def test_a_registered_collection_holds_no_duplicates_but_the_copy():
    volumes = [alike(seed) for seed in range(12)]
    pictures = [picture(volume) for volume in volumes]
    first, second = (p.ravel().astype(float) for p in pictures[:2])
    assert np.corrcoef(first, second)[0, 1] > 0.93  # the correlation alone would take them for one
    subjects = [f"p{k}" for k in range(12)]
    assert near_duplicates(np.stack(pictures), subjects) == []
    copy = picture(volumes[4] + RNG(0).normal(0, 10, volumes[4].shape))
    found = near_duplicates(np.stack([*pictures, copy]), [*subjects, "copy"])
    assert [(i, j) for i, j, *_ in found] == [(4, 12)]


def test_two_cases_of_one_subject_are_no_duplicates():
    pictures = np.stack([picture(blobs(seed)) for seed in (1, 1, 2, 3)])
    assert near_duplicates(pictures, ["a", "a", "b", "c"]) == []
    assert [(i, j) for i, j, *_ in near_duplicates(pictures, ["a", "x", "b", "c"])] == [(0, 1)]
    assert near_duplicates(pictures, ["a"] * 4) == []


def test_several_copies_are_found_with_few_and_with_many_others():
    for others in (1, 2, 10):
        seeds = [7, 7, 7, *range(20, 20 + others)]
        pictures = np.stack([picture(blobs(seed)) for seed in seeds])
        found = near_duplicates(pictures, [f"p{k}" for k in range(len(seeds))])
        assert [(i, j) for i, j, *_ in found] == [(0, 1), (0, 2), (1, 2)]


def test_many_copies_of_one_image_do_not_hide_each_other():
    for copies in (8, 20):
        rng = np.random.default_rng(copies)
        volumes = [blobs(7) + rng.normal(0, 0.01, blobs(7).shape) for _ in range(copies)]
        volumes += [blobs(seed) for seed in range(20, 50)]
        pictures = np.stack([picture(volume) for volume in volumes])
        found = near_duplicates(pictures, [f"p{k}" for k in range(len(volumes))])
        assert {case for i, j, *_ in found for case in (i, j)} == set(range(copies))


def test_a_copy_that_was_mirrored_is_found_and_called_so():
    volumes = [blobs(seed) for seed in range(8)]
    copies = [volumes[2][::-1], volumes[5][2:-2, 2:-2, 2:-2][::-1] + 10, volumes[6]]
    pictures = np.stack([picture(volume) for volume in [*volumes, *copies]])
    found = near_duplicates(pictures, [f"p{k}" for k in range(11)])
    assert [(i, j, mirrored) for i, j, _, mirrored in found] == [
        (2, 8, True), (5, 9, True), (6, 10, False),
    ]  # fmt: skip
    assert min(pair.similarity for pair in found) > 0.95
    assert near_duplicates(pictures[:, :, ::-1], [f"p{k}" for k in range(11)])  # as they lie
    subjects = ["p2" if k == 8 else f"p{k}" for k in range(11)]
    assert [pair[:2] for pair in near_duplicates(pictures, subjects)] == [(5, 9), (6, 10)]


def test_symmetric_bodies_of_different_people_are_no_copies():
    volumes = [blobs(999) + 0.35 * blobs(seed) for seed in range(12)]
    pictures = np.stack([picture(volume + volume[::-1]) for volume in volumes])
    first, second = (p.ravel().astype(float) for p in (pictures[0], pictures[1, ::-1]))
    assert np.corrcoef(first, second)[0, 1] > 0.85
    assert near_duplicates(pictures, [f"p{k}" for k in range(12)]) == []
    copies = np.concatenate([pictures, pictures[3:4]])
    (found,) = near_duplicates(copies, [f"p{k}" for k in range(13)])
    assert found[:2] == (3, 12)
    assert not found.mirrored  # it is as like as it lies


def test_flat_pictures_are_like_nothing():
    pictures = np.stack([np.zeros((16, 16, 16), np.int8)] * 3 + [picture(blobs(1))])
    assert near_duplicates(pictures, ["a", "b", "c", "d"]) == []


def test_the_blocks_of_a_large_collection_give_what_one_block_gives(monkeypatch):
    pictures = np.stack([picture(blobs(seed, (16, 16, 16))) for seed in range(40)])
    pictures = np.concatenate([pictures, pictures[[3, 30]]])
    subjects = [f"p{k}" for k in range(42)]
    whole = near_duplicates(pictures, subjects)
    assert [(i, j) for i, j, *_ in whole] == [(3, 40), (30, 41)]
    monkeypatch.setattr("medcl.data.near.BLOCK", 8)
    blocks = near_duplicates(pictures, subjects)
    assert [(i, j) for i, j, *_ in blocks] == [(i, j) for i, j, *_ in whole]


def test_distinct_pictures_are_fitted_only_where_each_is_near_the_other(monkeypatch):
    """Fitting takes nearly all of the time; smooth pictures are all alike enough to be tried."""
    smooth = [ndimage.gaussian_filter(RNG(seed).normal(size=(16,) * 3), 3) for seed in range(40)]
    pictures = np.stack([picture(volume) for volume in smooth])
    counts: list[int] = []

    def counted(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
        counts.append(len(whole))
        return np.zeros(len(whole), np.float32)

    monkeypatch.setattr("medcl.data.near._fitted", counted)
    assert near_duplicates(pictures, [f"p{k}" for k in range(40)]) == []
    near = [rows[:, :3] for rows, _ in _neighbours(pictures.astype(np.float32), np.arange(40))]
    mutual = [(i, j) for rows in near for i in range(40) for j in rows[i] if i in rows[j] and i < j]
    assert 0 < sum(counts) <= 2 * len(mutual)  # either of a pair is fitted to the other


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "scaled": lambda a: 1e-3 * a + 5,
    "eight bits": lambda a: np.round(255 * (a - a.min()) / np.ptp(a)),
    "noise": lambda a: a + RNG(1).normal(0, 0.3 * a.std(), a.shape),
    "square root": lambda a: np.sqrt(a - a.min()),
    "cut at one end": lambda a: a[2:, 2:, 2:],
    "cut at both ends": lambda a: a[2:-2, 2:-2, 2:-2],
    "finer": lambda a: ndimage.zoom(a, 1.5, order=1),
    "mirrored": lambda a: a[::-1],
    "mirrored with noise": lambda a: a[::-1] + RNG(1).normal(0, 0.3 * a.std(), a.shape),
    "mirrored and cut": lambda a: a[2:-2, 2:-2, 2:-2][::-1],
}
COPIED = 10  # of the 150


@pytest.fixture(scope="module")
def hippocampi(data) -> list[np.ndarray]:
    paths = sorted((data / "msd_hippocampus" / "images").glob("*.nii.gz"))
    return [read_volume(path).array[0] for path in paths]


def test_none_of_150_similar_crops_of_different_patients_is_taken_for_another(hippocampi):
    pictures = np.stack([picture(volume) for volume in hippocampi])
    assert near_duplicates(pictures, [str(k) for k in range(150)]) == []
    symmetric = [picture(volume + volume[::-1]) for volume in hippocampi]
    assert near_duplicates(np.stack(symmetric), [str(k) for k in range(150)]) == []


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_of_them_are_found_and_no_others(hippocampi, change):
    pictures = [picture(volume) for volume in hippocampi]
    pictures += [picture(CHANGES[change](volume)) for volume in hippocampi[:COPIED]]
    found = near_duplicates(np.stack(pictures), [str(k) for k in range(150 + COPIED)])
    assert [(i, j) for i, j, *_ in found] == [(k, 150 + k) for k in range(COPIED)]
    assert {pair.mirrored for pair in found} == {change.startswith("mirrored")}


def test_neighbours_are_those_of_a_slow_loop():
    pictures = np.stack([picture(blobs(seed, (16, 16, 16))) for seed in range(9)])
    units = [(p - p.mean()) / np.linalg.norm(p - p.mean()) for p in pictures.astype(float)]
    names = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0])
    found = _neighbours(pictures.astype(np.float32), names)
    for turn, (near, known) in zip((1, -1), found, strict=True):
        for i, unit in enumerate(units):
            like = {
                j: (unit[::turn] * other).sum()
                for j, other in enumerate(units)
                if names[j] != names[i]
            }
            best = sorted(like, key=like.get, reverse=True)
            assert near[i, 0] == best[0]
            assert known[i] == pytest.approx(min(like[j] for j in near[i]), abs=1e-5)
            assert near[i].tolist() == sorted(near[i], key=like.get, reverse=True)
