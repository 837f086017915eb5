"""A header tells what reading the whole file tells, without a voxel."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medcl.data import headers
from medcl.data.headers import read_header
from medcl.data.volume import VolumeError, read_volume

AFFINE = np.array([[-0.8, 0, 0, 40], [0, 0, 1.5, -20], [0, 2.5, 0, 7], [0, 0, 0, 1]])


def stored(folder: Path, suffix: str) -> Path:
    """5 x 4 x 3 voxels in a format."""
    path = folder / f"a{suffix}"
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    if suffix == ".second.nii":
        nib.save(nib.Nifti2Image(array, AFFINE), path)
    elif ".nii" in suffix:
        nib.save(nib.Nifti1Image(array, AFFINE), path)
    else:
        image = sitk.GetImageFromArray(array.T)
        image.SetSpacing((0.8, 2.5, 1.5))
        image.SetOrigin((1.0, 2.0, 3.0))
        sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".second.nii", ".nrrd", ".mha", ".mhd"])
def test_a_header_gives_the_grid_that_the_volume_has(tmp_path, suffix):
    path = stored(tmp_path, suffix)
    head, findings = read_header(path)
    whole = read_volume(path)
    assert head.array.shape == whole.array.shape
    np.testing.assert_array_equal(head.affine, whole.affine)
    assert findings == []


def test_a_header_takes_no_memory_for_its_voxels(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000, 3))
    path = tmp_path / "huge.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock))
    head, _ = read_header(path)
    assert head.array.shape == (3, 2000, 2000, 2000)
    assert head.array.strides == (0, 0, 0, 0)


def test_only_the_beginning_of_a_compressed_file_is_read(tmp_path, monkeypatch):
    path = tmp_path / "long.nii.gz"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 64)).astype(np.uint8)
    nib.save(nib.Nifti1Image(noise, AFFINE), path)
    content = path.read_bytes()
    path.write_bytes(content[: 2 * headers.CHUNK])  # the rest may be missing
    assert read_header(path)[0].shape == (64, 64, 64)
    monkeypatch.setattr(headers, "CHUNK", 7)  # a header that comes in many pieces
    assert read_header(path)[0].shape == (64, 64, 64)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "unreadable"),
        (b"\x1f\x8b not compressed", "unreadable"),
        (gzip.compress(b"too short"), "unreadable"),
        (gzip.compress(bytes(540)), "unreadable"),
    ],
)
def test_what_is_no_header_is_unreadable(tmp_path, content, code):
    (tmp_path / "bad.nii.gz").write_bytes(content)
    with pytest.raises(VolumeError) as caught:
        read_header(tmp_path / "bad.nii.gz")
    assert caught.value.code == code
    assert "bad.nii.gz" in str(caught.value)


def test_a_file_that_ends_early_is_told_by_its_size(tmp_path):
    path = stored(tmp_path, ".nii")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(VolumeError, match=r"a\.nii: ends 5 bytes early"):
        read_header(path)


def test_a_nrrd_that_names_no_space_is_a_warning(tmp_path):
    text = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 3 3 3\nspacings: 1 1 1\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(text + bytes(27))
    (finding,) = read_header(tmp_path / "a.nrrd")[1]
    assert (finding.code, finding.severity) == ("no_orientation", "warning")
    assert "names no space" in finding.message


def test_a_nrrd_with_an_axis_of_no_direction_is_a_warning(tmp_path):
    text = (
        b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 3 3 3\nspace: left-posterior-superior\n"
        b"space directions: %b (0,1,0) (0,0,1)\nencoding: raw\n\n"
    )
    for first, codes in ((b"(1,0,0)", []), (b"none", ["no_orientation"])):
        (tmp_path / "a.nrrd").write_bytes(text % first + bytes(27))
        assert [f.code for f in read_header(tmp_path / "a.nrrd")[1]] == codes


def test_a_header_may_lie_in_several_members_of_a_gzip_file(tmp_path):
    path = stored(tmp_path, ".nii.gz")
    data = gzip.decompress(path.read_bytes())
    whole = read_volume(path)
    path.write_bytes(b"".join(gzip.compress(data[k : k + 100]) for k in range(0, len(data), 100)))
    assert read_header(path)[0].shape == whole.shape
    np.testing.assert_array_equal(read_volume(path).array, whole.array)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.nii")
    for read in (read_header, read_volume):
        with pytest.raises(VolumeError, match="it is no file") as caught:
            read(tmp_path / "a.nii")
        assert caught.value.code == "unreadable"


def test_missing_files_and_foreign_formats_are_named(tmp_path):
    with pytest.raises(VolumeError) as caught:
        read_header(tmp_path / "absent.nii")
    assert caught.value.code == "missing_image_file"
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(VolumeError, match="not a format of a volume"):
        read_header(tmp_path / "a.png")
