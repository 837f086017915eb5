"""The body is found by intensity, in CT, MR and PET, and nowhere invented."""

import numpy as np
import pytest

from medcl.data.body import find_body
from medcl.data.volume import Volume, read_volume, reorient


def ball(shape, centre, radii) -> np.ndarray:
    grid = np.indices(shape).astype(float)
    apart = [(g - c) / r for g, c, r in zip(grid, centre, radii, strict=True)]
    return sum(d**2 for d in apart) <= 1


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 44, 30)).astype(np.float32)


def volume(array: np.ndarray, spacing=(5.0, 5.0, 5.0)) -> Volume:
    return Volume(array.astype(np.float32)[None], np.diag([*spacing, 1.0]))


def test_ct_body_is_what_is_denser_than_air_with_its_lungs_and_without_the_table(noise):
    body = ball(noise.shape, (20, 22, 15), (10, 12, 9))
    lung = ball(noise.shape, (20, 22, 15), (4, 4, 4))
    array = np.where(body, 40.0, -1000.0) + noise
    array[lung] = -800
    array[:, 40:42] = 100  # a table, apart from the body
    array[:, 40:42, 10:] = -1000
    found = find_body(volume(array), threshold=-500)
    assert found.box == ((10, 10, 6), (31, 35, 25))
    assert found.crop == ((8, 8, 4), (33, 37, 27))  # 10 mm are two voxels
    assert found.mask[20, 22, 15]
    assert found.values(volume(array).array).shape == (1, found.mask.sum())


@pytest.mark.parametrize("bright", [1.0, 60.0])  # 60: a tumour or bladder in PET
def test_without_a_threshold_the_body_is_found_beside_things_much_brighter(noise, bright):
    body = ball(noise.shape, (18, 22, 15), (10, 12, 9))
    hot = ball(noise.shape, (18, 22, 15), (2, 2, 2))
    array = np.abs(noise) + 100 * body * (1 + hot * (bright - 1))
    found = find_body(volume(array))
    for low, high, expected in zip(*found.box, ((8, 29), (10, 35), (6, 25)), strict=True):
        assert abs(low - expected[0]) <= 2
        assert abs(high - expected[1]) <= 2


def test_a_patch_without_air_is_kept_whole(noise):
    tissue = np.where(ball(noise.shape, (20, 22, 15), (15, 15, 12)), 500.0, 300.0) + 40 * noise
    found = find_body(volume(tissue))
    assert found.box == found.crop == ((0, 0, 0), (40, 44, 30))
    assert found.mask.all()


def test_a_ct_patch_from_inside_the_body_is_kept_whole(noise):
    lung_and_tissue = np.where(noise > 0, 40.0, -850.0)
    assert find_body(volume(lung_and_tissue), threshold=-500).mask.all()


@pytest.mark.parametrize("value", [0.0, -1000.0, 7.0])
@pytest.mark.parametrize("threshold", [None, -500.0])
def test_constant_volumes_are_kept_whole(value, threshold):
    found = find_body(volume(np.full((4, 5, 6), value)), threshold=threshold)
    assert found.crop == ((0, 0, 0), (4, 5, 6))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (2, 3, 200)])
def test_degenerate_shapes_do_not_fail(shape):
    array = np.random.default_rng(0).random(shape)
    found = find_body(volume(array))
    assert all(low < high for low, high in zip(*found.crop, strict=True))


def test_a_crop_that_saves_little_is_not_made(noise):
    body = ball(noise.shape, (20, 22, 15), (18, 20, 14))
    found = find_body(volume(np.where(body, 100.0, 0.0) + np.abs(noise), (20.0, 20.0, 20.0)))
    assert found.crop == ((0, 0, 0), (40, 44, 30))
    assert found.box != found.crop


def test_channels_are_joined(noise):
    left = ball(noise.shape, (14, 22, 15), (7, 9, 7))
    right = ball(noise.shape, (24, 22, 15), (7, 9, 7))
    both = np.stack([np.where(part, 100.0, 0.0) for part in (left, right)]).astype(np.float32)
    found = find_body(Volume(both, np.diag([5.0, 5.0, 5.0, 1.0])))
    assert abs(found.box[0][0] - 7) <= 2
    assert abs(found.box[1][0] - 32) <= 2


def test_large_volumes_are_looked_at_on_every_nth_voxel():
    body = ball((200, 40, 40), (100, 20, 20), (60, 10, 10))
    found = find_body(volume(np.where(body, 100.0, 0.0), (1.0, 3.0, 3.0)))
    assert found.step == (3, 1, 1)
    (low, *_), (high, *_) = found.box
    assert abs(low - 40) <= 4
    assert abs(high - 161) <= 4


REAL = [
    ("sts_ibsi/nifti/STS_002/MR_T1", None),
    ("sts_ibsi/nifti/STS_003/PET", None),
    ("sts_ibsi/nifti/STS_002/CT", -500.0),
]


@pytest.mark.parametrize(("name", "threshold"), REAL)
def test_no_tumour_voxel_of_the_sarcoma_patients_lies_outside_the_body(data, name, threshold):
    image = reorient(read_volume(data / f"{name}_image.nii.gz"))
    tumour = reorient(read_volume(data / f"{name}_mask.nii.gz", labels=True)).array[0] > 0
    found = find_body(image, threshold=threshold)
    part = tuple(slice(low, high) for low, high in zip(*found.box, strict=True))
    assert tumour[part].sum() == tumour.sum() > 0
    assert 0.5 < found.mask.mean() < 0.9


def test_hippocampus_patches_are_kept_whole(data):
    paths = sorted((data / "msd_hippocampus/images").glob("*.nii.gz"))[:10]
    assert all(find_body(reorient(read_volume(path))).mask.all() for path in paths)
