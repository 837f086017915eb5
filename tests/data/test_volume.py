import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medcl.data.volume import (
    Volume,
    VolumeError,
    grid_distance,
    is_sheared,
    read_volume,
    reorient,
    same_grid,
    write_nifti,
)


def oblique(spacing: tuple[float, float, float] = (0.8, 1.5, 3.0)) -> np.ndarray:
    """An affine turned by 20 degrees about z, with an origin."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * spacing
    affine[:3, 3] = (-12.5, 30.25, 7.0)
    return affine


def numbered(shape: tuple[int, ...], dtype: type = np.float32) -> Volume:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    return Volume(array, oblique())


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_volume_read_back_equals_what_was_written(tmp_path, name, channels):
    volume = numbered((channels, 3, 4, 5))
    write_nifti(tmp_path / name, volume)
    back = read_volume(tmp_path / name)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)
    assert back.array.dtype == np.float32
    assert back.shape == (3, 4, 5)
    np.testing.assert_allclose(back.spacing, (0.8, 1.5, 3.0), rtol=1e-6)


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, numbered((1, 3, 4, 5)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_label_values_stay_whole_and_exact(tmp_path):
    values = np.array([0, 1, 255, 256, 40000, 2**31 - 1]).reshape(1, 1, 2, 3)
    write_nifti(tmp_path / "l.nii", Volume(values, np.eye(4)))
    back = read_volume(tmp_path / "l.nii", labels=True)
    assert back.array.dtype.kind in "iu"
    assert back.array.ravel().tolist() == values.ravel().tolist()


def test_label_maps_stored_as_floats_are_read_as_integers(tmp_path):
    write_nifti(tmp_path / "l.nii", numbered((1, 2, 3, 4), np.float64))
    back = read_volume(tmp_path / "l.nii", labels=True)
    assert back.array.dtype == np.uint8
    assert back.array.max() == 23


def test_a_label_map_of_probabilities_is_refused(tmp_path):
    array = np.array([0, 0.25, 1, 2], np.float32).reshape(1, 1, 2, 2)
    write_nifti(tmp_path / "l.nii", Volume(array, np.eye(4)))
    with pytest.raises(
        VolumeError, match=r"1 voxels .* not whole numbers, the first is 0\.25"
    ) as e:
        read_volume(tmp_path / "l.nii", labels=True)
    assert e.value.code == "non_integer_label"


@pytest.mark.parametrize("value", [1.0000001, 255 * np.float64(np.float32(1 / 255)), 300.001])
def test_label_values_that_rounding_moved_are_whole(tmp_path, value):
    array = np.array([0, 0, value, 2], np.float64).reshape(1, 1, 2, 2)
    write_nifti(tmp_path / "l.nii", Volume(array, np.eye(4)))
    back = read_volume(tmp_path / "l.nii", labels=True).array
    assert back.ravel().tolist() == [0, 0, round(value), 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.999, 1.0001])
def test_label_values_that_are_no_numbers_or_interpolated_are_refused(tmp_path, value):
    array = np.array([0, 0, value, 2], np.float64).reshape(1, 1, 2, 2)
    write_nifti(tmp_path / "l.nii", Volume(array, np.eye(4)))
    with pytest.raises(VolumeError) as caught:
        read_volume(tmp_path / "l.nii", labels=True)
    assert caught.value.code == "non_integer_label"


def test_slope_and_intercept_of_the_file_are_applied(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((1, 2, 2))
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 0.5, -10
    header["magic"] = "n+1"
    stored = np.array([0, 2, 1, 3], "<i2").tobytes()  # the first axis is the fastest
    (tmp_path / "v.nii").write_bytes(header.binaryblock + b"\0" * 4 + stored)
    read = read_volume(tmp_path / "v.nii").array
    np.testing.assert_allclose(read, [[[[-10, -9.5], [-9, -8.5]]]])


@pytest.mark.parametrize("name", ["v.nrrd", "v.mha", "v.mhd"])
def test_nrrd_and_metaimage_are_read_like_nifti(tmp_path, name):
    volume = numbered((1, 3, 4, 5))
    write_nifti(tmp_path / "v.nii", volume)
    sitk.WriteImage(sitk.ReadImage(tmp_path / "v.nii"), tmp_path / name)
    read = read_volume(tmp_path / name)
    np.testing.assert_array_equal(read.array, volume.array)
    np.testing.assert_allclose(read.affine, volume.affine, atol=1e-5)


def test_one_image_stored_as_nifti_and_nrrd_is_the_same_volume(data):
    nifti = read_volume(data / "nifti_hard" / "FLAIR.nii.gz")
    nrrd = read_volume(data / "nifti_hard" / "FLAIR.nrrd")
    np.testing.assert_array_equal(nifti.array, nrrd.array)
    np.testing.assert_allclose(nifti.affine, nrrd.affine, atol=1e-6)
    assert same_grid(nifti, nrrd)


def test_one_volume_stored_in_24_orientations_is_one_volume(data):
    files = sorted((data / "nifti_hard" / "space24").glob("*.nii.gz"))
    assert len(files) == 24
    reference = reorient(read_volume(files[0]))
    for file in files:
        stored = read_volume(file)
        assert stored.orientation == file.name[:3]
        turned = reorient(stored)
        assert turned.orientation == "RAS"
        np.testing.assert_array_equal(turned.array, reference.array)
        np.testing.assert_allclose(turned.affine, reference.affine, atol=1e-5)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SLA"])
def test_turning_the_axes_leaves_each_voxel_where_it_lies(orientation):
    volume = numbered((2, 3, 4, 5))
    turned = reorient(volume, orientation)
    assert turned.orientation == orientation
    for index in [(0, 0, 0), (2, 3, 4), (1, 0, 3)]:
        world = volume.affine @ (*index, 1)
        there = np.linalg.solve(turned.affine, world)[:3]
        found = tuple(np.round(there).astype(int))
        np.testing.assert_allclose(there, found, atol=1e-9)
        np.testing.assert_array_equal(turned.array[:, *found], volume.array[:, *index])
    back = reorient(turned, volume.orientation)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine)


def test_grids_are_compared_by_their_corners():
    volume = numbered((1, 3, 4, 5))
    shifted = volume.affine.copy()
    shifted[0, 3] += 0.08  # a tenth of the finest spacing
    other = Volume(volume.array, shifted)
    assert grid_distance(volume, other) == pytest.approx(0.1)
    assert not same_grid(volume, other)
    shifted = volume.affine.copy()
    shifted[0, 3] += 1e-3
    assert same_grid(volume, Volume(volume.array, shifted))
    assert not same_grid(volume, Volume(volume.array[:, :2], volume.affine))


def test_a_sheared_affine_is_told_from_a_turned_one(data):
    assert not is_sheared(oblique())
    sheared = oblique()
    sheared[0, 1] += 0.1
    assert is_sheared(sheared)
    assert is_sheared(read_volume(data / "nifti_hard" / "shear.nii.gz").affine)


def code_of(path: Path) -> str:
    with pytest.raises(VolumeError) as error:
        read_volume(path)
    assert str(path) in error.value.message
    assert error.value.remedy
    return error.value.code


def test_files_that_are_no_volumes_are_refused_by_name(tmp_path):
    def save(name: str, array: np.ndarray) -> Path:
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name)
        return tmp_path / name

    rgb = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert code_of(save("complex.nii", np.zeros((2, 3, 4), np.complex64))) == "complex"
    assert code_of(save("rgb.nii.gz", rgb)) == "colour"
    assert code_of(save("flat.nii", np.zeros((2, 3), np.float32))) == "not_3d"
    assert code_of(save("5d.nii", np.zeros((2, 3, 4, 5, 6), np.float32))) == "not_3d"
    assert code_of(tmp_path / "absent.nii") == "missing_image_file"
    (tmp_path / "text.txt").write_text("no image")
    assert code_of(tmp_path / "text.txt") == "unreadable"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5), np.float32)), tmp_path / "flat.mha")
    assert code_of(tmp_path / "flat.mha") == "not_3d"


def test_a_complex_image_of_a_scanner_is_refused(data):
    assert code_of(data / "nifti_hard" / "complex.nii.gz") == "complex"


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "v.mha"])
@pytest.mark.parametrize("kept", [0, 3, 200, -40])
def test_truncated_files_are_unreadable(tmp_path, name, kept):
    noise = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(noise), tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:kept])
    assert code_of(tmp_path / name) == "unreadable"


def test_damage_within_a_compressed_file_is_noticed(tmp_path):
    write_nifti(tmp_path / "v.nii", numbered((1, 6, 7, 8)))
    data = bytearray(gzip.compress((tmp_path / "v.nii").read_bytes(), compresslevel=0))
    data[-100] ^= 1  # stored uncompressed: only the checksum can tell
    (tmp_path / "v.nii.gz").write_bytes(data)
    assert code_of(tmp_path / "v.nii.gz") == "unreadable"


def test_a_trailing_axis_of_one_is_dropped(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 1), np.float32), np.eye(4)), tmp_path / "v.nii")
    assert read_volume(tmp_path / "v.nii").array.shape == (1, 2, 3, 4)
