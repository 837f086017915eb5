"""Resampling agrees with scipy and SimpleITK, and keeps things where they are."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medcl.data.resample import axis_matrices, axis_matrix, most_probable, new_shape, resample
from medcl.data.volume import Volume


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 9, 12, 7)).astype(np.float32)


OBLIQUE = np.array(
    [[-1.2, 0.3, 0.1, 10.0], [0.4, 1.5, -0.2, -20.0], [0.2, 0.1, 3.0, 5.0], [0, 0, 0, 1.0]]
)


def world(affine: np.ndarray, voxel) -> np.ndarray:
    return affine[:3, :3] @ np.asarray(voxel) + affine[:3, 3]


def positions(old: Volume, new: Volume) -> list[np.ndarray]:
    """Voxel centres of `new` along each axis, in voxels of `old`, by way of the affines."""
    lines = []
    for axis in range(3):
        index = np.zeros((new.shape[axis], 4))
        index[:, axis] = np.arange(new.shape[axis])
        index[:, 3] = 1
        lines.append((index @ new.affine.T @ np.linalg.inv(old.affine).T)[:, axis])
    return lines


@pytest.mark.parametrize("spacing", [(0.7, 0.9, 0.5), (1.0, 0.31, 1.0)])
def test_cubic_is_scipys_spline_at_the_positions_the_affine_gives(noise, spacing):
    old = Volume(noise, np.diag([1.0, 1.0, 1.0, 1.0]))
    new = resample(old, spacing)
    # Beyond the outermost voxel centres the border voxels go on.
    lines = [np.clip(p, 0, n - 1) for p, n in zip(positions(old, new), old.shape, strict=True)]
    for channel in range(2):
        expected = ndimage.map_coordinates(
            noise[channel].astype(float), np.meshgrid(*lines, indexing="ij"), order=3, mode="mirror"
        )
        np.testing.assert_allclose(new.array[channel], expected, atol=2e-5)


def test_cubic_inside_is_simpleitks_b_spline(noise):
    old = Volume(noise[:1], np.diag([2.0, 2.0, 2.0, 1.0]))
    new = resample(old, (1.5, 1.2, 1.0))
    image = sitk.GetImageFromArray(noise[0].transpose(2, 1, 0))
    image.SetSpacing((2.0, 2.0, 2.0))
    grid = sitk.Image(new.shape, sitk.sitkFloat32)
    grid.SetSpacing(new.spacing)
    grid.SetOrigin(new.affine[:3, 3].tolist())  # one octant of LPS: signs do not matter here
    expected = sitk.GetArrayFromImage(
        sitk.Resample(image, grid, sitk.Transform(), sitk.sitkBSpline)
    )
    inner = (slice(1, -1), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(new.array[0][inner], expected.transpose(2, 1, 0)[inner], atol=2e-5)


def test_the_centre_and_the_directions_stay_and_the_spacing_is_the_one_asked_for(noise):
    old = Volume(noise, OBLIQUE)
    new = resample(old, (0.8, 0.8, 2.0))
    np.testing.assert_allclose(new.spacing, (0.8, 0.8, 2.0))
    centres = [world(v.affine, (np.array(v.shape) - 1) / 2) for v in (old, new)]
    np.testing.assert_allclose(*centres, atol=1e-12)
    directions = [v.affine[:3, :3] / v.spacing for v in (old, new)]
    np.testing.assert_allclose(*directions, atol=1e-12)


@given(
    length=st.integers(1, 40),
    old=st.floats(0.2, 6),
    new=st.floats(0.2, 6),
    order=st.sampled_from([1, 3]),
)
@settings(max_examples=60, deadline=None)
def test_field_of_view_is_kept_to_half_a_voxel_and_constants_stay_constant(length, old, new, order):
    if length * old < new * 0.6:
        return
    (count, _, _) = new_shape((length, 1, 1), (old, 1, 1), (new, 1, 1))
    assert abs(count * new - length * old) <= new / 2 * (1 + 1e-4)
    rows = axis_matrix(length, count, round(new / old, 9), order=order).sum(axis=1)
    np.testing.assert_allclose(rows, 1, atol=1e-5)


def test_a_straight_ramp_stays_the_same_ramp_in_mm():
    x = np.arange(20, dtype=np.float32) * 2.0
    old = Volume(np.tile(x[None, :, None, None], (1, 1, 3, 3)), np.diag([2.0, 2.0, 2.0, 1.0]))
    new = resample(old, (1.3, 2.0, 2.0))
    mm = new.affine[0, 3] + np.arange(new.shape[0]) * 1.3
    # Away from the ends, where the mirrored spline flattens.
    np.testing.assert_allclose(new.array[0, 8:-8, 1, 1], mm[8:-8], atol=1e-3)


def test_detail_finer_than_the_new_voxels_does_not_come_back_as_a_coarse_wave():
    x = np.arange(64)
    wave = np.cos(np.pi * 0.9 * x).astype(np.float32)  # 2.2 voxels a period
    old = Volume(np.tile(wave[None, :, None, None], (1, 1, 2, 2)), np.eye(4))
    lines = positions(old, resample(old, (2.5, 1, 1)))[0]
    plain = ndimage.map_coordinates(wave.astype(float), [lines], order=3, mode="mirror")
    assert np.abs(plain).max() > 0.7  # what interpolation alone gives
    assert np.abs(resample(old, (2.5, 1, 1)).array[0, 2:-2]).max() < 0.2


def test_the_average_over_a_larger_voxel_has_the_width_that_variances_demand():
    row = axis_matrix(81, 27, 3.0, order=1)[13].astype(float)
    offsets = np.arange(81) - 40
    variance = (row * offsets**2).sum() - (row * offsets).sum() ** 2
    # Linear interpolation adds 1/6 of a voxel squared on average over positions.
    assert variance == pytest.approx((3.0**2 - 1) / 12 + 1 / 6, rel=0.05)


def test_the_same_grid_returns_the_same_voxels(noise):
    old = Volume(noise, np.diag([0.9765625, 1.0, 1.0, 1.0]))
    new = resample(old, (0.976562, 1.0, 1.0))  # rounded, as in a plan
    assert np.array_equal(new.array, noise)


def test_single_slices_and_pairs_are_resampled(noise):
    thin = Volume(noise[:, :1, :2], np.eye(4))
    assert resample(thin, (0.5, 0.5, 1.0)).shape == (2, 4, 7)
    assert np.array_equal(resample(thin, (0.5, 1, 1)).array[:, 0], noise[:, 0, :2])


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_a_spacing_must_be_positive(noise, spacing):
    with pytest.raises(ValueError, match="spacing must be positive"):
        resample(Volume(noise, np.eye(4)), spacing)


def test_an_axis_shorter_than_one_voxel_is_refused(noise):
    with pytest.raises(ValueError, match="7 voxels of 1 mm along Z are shorter than one of 20 mm"):
        resample(Volume(noise, np.eye(4)), (1.0, 1.0, 20.0))


def slow_labels(labels: np.ndarray, axes) -> np.ndarray:
    """The most probable label, one voxel and one label at a time."""
    values = np.unique(labels)
    shape = tuple(len(matrix) for matrix in axes)
    out = np.zeros(shape, labels.dtype)
    for x, y, z in np.ndindex(shape):
        weights = np.einsum("i,j,k->ijk", axes[0][x], axes[1][y], axes[2][z], dtype=float)
        shares = np.array([weights[labels == value].sum() for value in values])
        out[x, y, z] = values[np.flatnonzero(shares >= shares.max() - 1e-5)[0]]
    return out


@pytest.mark.parametrize("spacing", [(0.6, 0.75, 1.0), (0.5, 0.5, 0.5), (1.7, 1.0, 2.3)])
@pytest.mark.parametrize("background", [0, 4])
def test_labels_are_the_most_probable_ones_and_ties_go_to_the_lower(spacing, background):
    rng = np.random.default_rng(1)
    labels = rng.choice(np.array([0, 2, 4, 9], np.int16), size=(5, 6, 4), p=[0.4, 0.2, 0.2, 0.2])
    labels[:2] = background
    volume = Volume(labels[None], np.eye(4))
    new = resample(volume, spacing, labels=True)
    axes = axis_matrices(volume.shape, volume.spacing, new.shape, spacing, order=1)
    assert np.array_equal(new.array[0], slow_labels(labels, axes))
    assert new.array.dtype == np.int16


def test_labels_on_the_same_grid_are_untouched():
    labels = np.random.default_rng(2).integers(0, 5, (1, 4, 5, 6)).astype(np.uint8)
    assert np.array_equal(resample(Volume(labels, np.eye(4)), (1, 1, 1), labels=True).array, labels)


def test_probabilities_in_small_chunks_give_the_same_map(monkeypatch):
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(3), size=(6, 5, 4)).transpose(3, 0, 1, 2)
    probabilities = np.ascontiguousarray(probabilities, dtype=np.float32)
    axes = axis_matrices((6, 5, 4), (2, 2, 2), (12, 7, 3), (1, 1.4, 2.6), order=1)
    whole = most_probable(probabilities, axes)
    expected = np.einsum("kxyz,ax,by,cz->kabc", probabilities.astype(float), *axes).argmax(0)
    assert np.array_equal(whole, expected)
    monkeypatch.setattr("medcl.data.resample.CHUNK_VALUES", 100)
    assert np.array_equal(most_probable(probabilities, axes), whole)
