"""What a network gets from a volume, and how its output finds back to the file's voxels."""

from dataclasses import replace

import numpy as np
import pytest

from medcl.config import Intensity
from medcl.data.plan import Plan
from medcl.data.preprocess import Prepared, prepare, prepare_label, restore
from medcl.data.resample import resample
from medcl.data.volume import Volume, read_volume, reorient
from medcl.errors import MedclError

PLAN = Plan(
    modality="CT",
    classes={"organ": 3, "tumour": 7},
    spacing=(2.0, 2.0, 2.0),
    crop=(16, 16, 16),
    strides=((1, 1, 1), (2, 2, 2)),
    channels=1,
    intensity=Intensity(rule="window", low=-100.0, high=300.0),
    body_threshold=-500.0,
    threads=1,
    fingerprint={},
)


def oblique_lpi() -> np.ndarray:
    """Axes to left, posterior and inferior, 1.5 x 1.0 x 4.0 mm, turned by some degrees."""
    a, b = np.deg2rad([9, 6])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ np.diag([-1.5, -1.0, -4.0])
    affine[:3, 3] = (30, -12, 7)
    return affine


@pytest.fixture
def scan() -> tuple[Volume, Volume]:
    """A body in air, off centre, with an organ and in it a tumour; and its label map."""
    shape = (60, 80, 24)
    grid = np.indices(shape).astype(float)

    def ball(centre, mm):
        parts = zip(grid, centre, (1.5, 1.0, 4.0), strict=True)
        return sum(((g - c) * s) ** 2 for g, c, s in parts) < mm**2

    body, organ, tumour = ball((25, 45, 12), 32), ball((22, 48, 11), 18), ball((20, 50, 11), 9)
    array = np.full(shape, -1000.0, np.float32)
    array[body], array[organ], array[tumour] = 0, 100, 300
    labels = (organ * 3).astype(np.uint8)
    labels[tumour] = 7
    return Volume(array[None], oblique_lpi()), Volume(labels[None], oblique_lpi())


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    return np.stack([classes == k for k in range(count)]).astype(np.float32)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_a_label_prepared_and_restored_is_the_label_on_the_files_grid(scan):
    image, label = scan
    prepared = prepare(image, PLAN)
    classes, outside = prepare_label(label, prepared, PLAN)
    assert classes.shape == prepared.shape
    assert outside == 0
    assert set(np.unique(classes)) == {0, 1, 2}
    restored = restore(one_hot(classes, 3), prepared, PLAN.values)
    assert restored.shape == image.shape
    assert restored.dtype == np.uint8
    assert dice(restored > 0, label.array[0] > 0) > 0.97
    assert dice(restored == 7, label.array[0] == 7) > 0.93  # nine millimetres, slices of four
    assert set(np.unique(restored)) == {0, 3, 7}


def test_without_resampling_the_way_back_is_exact(scan):
    image, label = scan
    plan = replace(PLAN, spacing=reorient(image).spacing)
    prepared = prepare(image, plan)
    assert prepared.shape != reorient(image).shape  # cropped all the same
    classes, _ = prepare_label(label, prepared, plan)
    assert np.array_equal(restore(one_hot(classes, 3), prepared, plan.values), label.array[0])


def test_the_prepared_grid_is_where_the_body_is_in_the_world(scan):
    image, _ = scan
    prepared = prepare(image, PLAN)
    assert prepared.spacing == (2.0, 2.0, 2.0)
    tumour = np.argwhere(prepared.array[0] > 0.9).mean(axis=0)
    expected = image.affine @ [20, 50, 11, 1]
    found = prepared.affine @ [*tumour, 1]
    assert np.linalg.norm((found - expected)[:3]) < 1.0
    assert Volume(prepared.array, prepared.affine).orientation == "RAS"


def test_the_body_box_holds_the_body_in_voxels_of_the_array(scan):
    prepared = prepare(scan[0], PLAN)
    inside = np.argwhere(prepared.array[0] > 0)
    low, high = np.array(prepared.body)
    assert np.all(np.abs(inside.min(axis=0) - low) <= 2)
    assert np.all(np.abs(inside.max(axis=0) + 1 - high) <= 2)
    assert np.all(low >= 1)
    assert np.all(high <= np.array(prepared.shape) - 1)


def test_the_window_maps_its_limits_to_zero_and_one(scan):
    prepared = prepare(scan[0], PLAN)
    assert prepared.array.dtype == np.float32
    assert prepared.array.min() == 0
    assert prepared.array.max() == 1
    assert np.median(prepared.array[prepared.array > 0.1]) == pytest.approx(0.25, abs=0.02)
    assert prepared.fill == (0.0,)


def test_percentiles_and_zscore_are_those_of_the_body_not_of_the_air():
    rng = np.random.default_rng(0)
    array = np.zeros((1, 40, 40, 40), np.float32)
    array[:, 10:30, 10:30, 10:30] = rng.normal(1000, 100, (20, 20, 20))
    image = Volume(array, np.diag([3.0, 3.0, 3.0, 1.0]))
    plan = replace(PLAN, spacing=(3.0, 3.0, 3.0), body_threshold=None, modality="MR")
    z = prepare(image, replace(plan, intensity=Intensity(rule="zscore", low=None, high=None)))
    cube = z.array[0][z.array[0] > -5]
    assert abs(cube.mean()) < 0.05
    assert cube.std() == pytest.approx(1, abs=0.05)
    assert z.fill == (pytest.approx(float(z.array.min())),)
    p = prepare(image, replace(plan, intensity=Intensity(rule="percentiles", low=10, high=90)))
    assert np.mean(p.array[0][z.array[0] > -5] == 1) == pytest.approx(0.1, abs=0.02)
    assert p.fill == (0.0,)


@pytest.mark.parametrize("rule", ["window", "percentiles", "zscore"])
def test_a_constant_volume_is_prepared_to_finite_numbers(rule):
    intensity = Intensity(rule=rule, low=1.0, high=99.0)
    image = Volume(np.full((1, 6, 7, 8), 50.0, np.float32), np.eye(4))
    prepared = prepare(image, replace(PLAN, body_threshold=None, intensity=intensity))
    assert np.isfinite(prepared.array).all()
    assert np.isfinite(prepared.fill).all()


def test_label_values_of_no_class_become_background(scan):
    image, label = scan
    prepared = prepare(image, PLAN)
    plan = replace(PLAN, classes={"tumour": 7})
    classes, _ = prepare_label(label, prepared, plan)
    both, _ = prepare_label(label, prepared, PLAN)
    assert set(np.unique(classes)) == {0, 1}
    assert dice(classes == 1, both == 2) > 0.99


def test_labelled_voxels_outside_the_body_are_counted(scan):
    image, label = scan
    stray = label.array.copy()
    stray[0, 59, 0, :2] = 3
    _, outside = prepare_label(Volume(stray, label.affine), prepare(image, PLAN), PLAN)
    assert outside == 2


def test_a_label_on_another_grid_is_refused_with_both_grids(scan):
    image, label = scan
    moved = Volume(label.array, label.affine + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3))
    with pytest.raises(MedclError, match=r"60x80x24 voxels of 1.5 x 1 x 4 mm from \(33.0, -12.0"):
        prepare_label(moved, prepare(image, PLAN), PLAN)
    with pytest.raises(MedclError, match="resample the label to the image"):
        prepare_label(Volume(label.array[:, 1:], label.affine), prepare(image, PLAN), PLAN)


def test_another_number_of_channels_is_refused(scan):
    with pytest.raises(MedclError, match="1 channels, the plan's images have 2"):
        prepare(scan[0], replace(PLAN, channels=2))


def test_a_volume_thinner_than_half_a_voxel_is_refused_with_a_remedy():
    image = Volume(np.zeros((1, 20, 20, 1), np.float32), np.diag([1.0, 1.0, 0.5, 1.0]))
    with pytest.raises(MedclError, match=r"along Z.*choose a finer `spacing`"):
        prepare(image, PLAN)


def test_probabilities_of_another_shape_are_refused(scan):
    prepared = prepare(scan[0], PLAN)
    with pytest.raises(ValueError, match="expected probabilities of"):
        restore(np.zeros((2, 3, 3, 3), np.float32), prepared)


def round_trip(image: Volume, label: Volume, plan: Plan) -> tuple[Prepared, np.ndarray]:
    prepared = prepare(image, plan)
    classes, outside = prepare_label(label, prepared, plan)
    assert outside == 0
    return prepared, restore(one_hot(classes, len(plan.values)), prepared, plan.values)


def test_a_real_ct_and_its_organs_survive_the_round_trip(data):
    folder = data / "totalsegmentator"
    image = read_volume(folder / "example_ct_sm.nii.gz")
    label = read_volume(folder / "example_seg.nii.gz", labels=True)
    largest = np.bincount(label.array.ravel())[1:].argsort()[::-1][:4] + 1
    plan = replace(
        PLAN, spacing=(2.5, 2.5, 2.5), classes={f"c{v}": int(v) for v in sorted(largest)}
    )
    prepared, restored = round_trip(image, label, plan)
    assert 0 < prepared.array.mean() < 1
    for value in largest:
        assert dice(restored == value, label.array[0] == value) > 0.97


def test_a_real_hippocampus_survives_the_round_trip(data):
    folder = data / "msd_hippocampus"
    path = sorted((folder / "images").glob("*.nii.gz"))[0]
    image = read_volume(path)
    label = read_volume(folder / "labels" / path.name, labels=True)
    plan = replace(
        PLAN,
        modality="MR",
        classes={"anterior": 1, "posterior": 2},
        spacing=(0.8, 0.8, 0.8),
        body_threshold=None,
        intensity=Intensity(rule="percentiles", low=1, high=99),
    )
    _, restored = round_trip(image, label, plan)
    for value in (1, 2):
        assert dice(restored == value, label.array[0] == value) > 0.97


def test_restored_probabilities_are_interpolated_before_the_decision(scan):
    """A map one voxel off would show here: the edge of a ramp falls where the ramp says."""
    image, _ = scan
    prepared = prepare(image, PLAN)
    ramp = np.linspace(0, 1, prepared.shape[2], dtype=np.float32)
    probabilities = np.stack([np.broadcast_to(p, prepared.shape) for p in (1 - ramp, ramp)])
    canonical = reorient(Volume(restore(probabilities, prepared)[None], image.affine))
    low, high = prepared.crop
    column = canonical.array[0, (low[0] + high[0]) // 2, (low[1] + high[1]) // 2]
    edge = np.flatnonzero(column)[0] - 0.5
    assert abs(edge - ((low[2] + high[2]) / 2 - 0.5)) <= 0.5


def test_slices_of_a_2d_plan_keep_their_distance_and_nothing_crosses_between_them(scan):
    image, _ = scan  # slices of 4 mm along the last axis
    flat = replace(PLAN, crop=(16, 16, 1), across=2)
    prepared = prepare(image, flat)
    assert prepared.spacing == pytest.approx((2.0, 2.0, 4.0))
    canonical = reorient(image, "RAS")
    low, high = prepared.crop
    part = canonical.array[:, *(slice(a, b) for a, b in zip(low, high, strict=True))]
    assert prepared.shape[2] == part.shape[3]
    middle = part.shape[3] // 2
    alone = np.diag([*canonical.spacing[:2], 2.0, 1.0])
    one = resample(Volume(part[..., middle : middle + 1], alone), (2.0, 2.0, 2.0))
    expected = np.clip((one.array[..., 0] + 100) / 400, 0, 1)
    np.testing.assert_allclose(prepared.array[..., middle], expected, atol=1e-5)


def test_what_a_2d_plan_changed_is_restored_to_the_files_grid(scan):
    image, label = scan
    flat = replace(PLAN, crop=(16, 16, 1), across=2, spacing=(1.5, 1.0, 9.0))
    prepared = prepare(image, flat)
    classes, _ = prepare_label(label, prepared, flat)
    found = restore(one_hot(classes, 3), prepared, flat.values)
    np.testing.assert_array_equal(found, label.array[0])
