"""One look at the voxels tells hash, range and shares as separate looks do."""

import hashlib

import numpy as np
import pytest

from medcl.data.survey import check_survey, survey
from medcl.data.thumbnails import SIDE, read_thumbnails, shares, thumbnail, write_thumbnails
from medcl.data.volume import Volume, reorient
from medcl.errors import MedclError

SHAPE = (20, 17, 35)


def volume(array: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    return Volume(array[None], np.diag([1.0, 2, 3, 1]) if affine is None else affine)


def noise(low: float = 0.0, high: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, SHAPE).astype(np.float32)


def codes(array: np.ndarray, modality: str) -> list[str]:
    case = volume(array)
    return [finding.code for finding in check_survey(survey(case), case, "a.nii", modality)]


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_numbers_are_those_of_the_whole_array(order):
    ramp = np.where(np.arange(SHAPE[2]) % 2, 1, -1) * np.arange(SHAPE[2])  # new extremes come late
    array = np.asarray(noise(-3, 9).round() + ramp.astype(np.float32), order=order)
    low, high = array.min(), array.max()
    seen = survey(volume(array))
    assert (seen.low, seen.high) == (low, high)
    assert seen.mean == pytest.approx(array.mean(dtype=np.float64))
    assert seen.at_low == (array == low).mean()
    assert seen.at_high == (array == high).mean()
    assert seen.negative == (array < 0).mean()
    digest = hashlib.sha256(repr((1, *SHAPE)).encode() + array.tobytes(order="F"))
    assert seen.sha256 == digest.hexdigest()


def test_the_thumbnail_is_the_mean_of_each_part_spread_over_eight_bits():
    array = noise()
    means = np.zeros((SIDE,) * 3)
    rows = [shares(length) for length in SHAPE]
    for i in range(SIDE):
        for j in range(SIDE):
            for k in range(SIDE):
                weight = np.einsum("x,y,z->xyz", rows[0][i], rows[1][j], rows[2][k])
                means[i, j, k] = (weight * array).sum()
    low, high = np.percentile(means, (1, 99))
    expected = np.clip((means - low) / (high - low), 0, 1) * 254 - 127
    seen = survey(volume(array))
    assert seen.thumbnail is not None
    assert np.abs(seen.thumbnail - expected).max() <= 0.51


def test_the_parts_of_an_axis_share_its_voxels():
    np.testing.assert_allclose(shares(32)[3], [0] * 6 + [0.5, 0.5] + [0] * 24)
    np.testing.assert_allclose(shares(8)[3], [0, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(shares(24)[1] * 1.5, [0, 0.5, 1] + [0] * 21)


def test_a_thumbnail_does_not_depend_on_how_the_axes_are_stored():
    case = volume(noise())
    first, second = survey(case).thumbnail, survey(reorient(case, "PIL")).thumbnail
    assert np.abs(first.astype(int) - second).max() <= 1


def test_a_flat_volume_has_an_empty_thumbnail():
    flat = np.zeros((SIDE,) * 3, np.float32)
    assert not thumbnail(flat, np.eye(4)).any()


def test_possible_values_are_no_finding():
    assert codes(noise(-1000, 1500), "CT") == []
    assert codes(noise(0, 4000), "MR") == []
    assert codes(noise(-3, 3), "MR") == []
    assert codes(noise(-0.001, 9), "PET") == []
    assert codes(noise(-1000, 1500), "other") == []


@pytest.mark.parametrize(
    ("low", "high", "modality"),
    [(0, 4095, "CT"), (-1, 1, "CT"), (-2, 9, "PET"), (-2, 9, "US"), (-1024, 2000, "MR")],
)
def test_values_that_a_modality_cannot_have_are_a_warning(low, high, modality):
    assert codes(noise(low, high), modality) == ["implausible_intensities"]


def test_clipped_and_nearly_empty_images_are_warnings():
    window = noise(0, 100).clip(0, 97)
    assert codes(window, "MR") == ["saturated"]
    assert codes(noise(0, 100).clip(0, 98.9), "MR") == []
    assert codes(noise(0, 100).clip(98.5, None), "MR") == ["nearly_empty"]
    assert codes(noise(0, 100).clip(60, None), "MR") == []  # a black background
    case = volume(window)
    (finding,) = check_survey(survey(case), case, "a.nii", "MR")
    assert "a.nii: 3.0 % of the voxels have the highest value, 97" in finding.message
    assert finding.severity == "warning"


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_an_error(wrong):
    array = noise()
    array[3, 4, 30] = wrong
    seen = survey(volume(array))
    assert not seen.finite
    assert seen.thumbnail is None
    assert codes(array, "MR") == ["not_finite"]
    assert codes(np.full(SHAPE, 3, np.int16), "MR") == ["constant"]


def test_thumbnails_come_back_by_case_and_the_same_give_the_same_bytes(tmp_path):
    pictures = [("b", survey(volume(noise())).thumbnail), ("long name", np.ones((SIDE,) * 3, "i1"))]
    for name in ("one.npy", "two.npy"):
        write_thumbnails(tmp_path / name, pictures)
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
    back = read_thumbnails(tmp_path / "one.npy")
    assert list(back) == ["b", "long name"]
    np.testing.assert_array_equal(back["b"], pictures[0][1])
    with pytest.raises(MedclError, match="no such file"):
        read_thumbnails(tmp_path / "absent.npy")
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(MedclError, match="no thumbnails"):
        read_thumbnails(tmp_path / "bad.npy")
