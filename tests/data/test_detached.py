"""Volumes whose voxels lie in other files than their header."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medcl.data.contract import Rules
from medcl.data.detached import detached
from medcl.data.entries import Entry
from medcl.data.headers import read_header
from medcl.data.journal import key_of, size_of
from medcl.data.volume import VolumeError, read_volume

VOXELS = np.arange(60, dtype="<i2").reshape(3, 4, 5)  # the last axis is the fastest
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "DimSize = 5 4 3\nElementSpacing = 1 1 2\nElementType = MET_SHORT\n"
)
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nspace: left-posterior-superior\n"
    "space directions: (1,0,0) (0,1,0) (0,0,2)\nencoding: raw\nendian: little\n"
)
SLICES = ["s01.raw", "s02.raw", "s03.raw"]
LIST = "\n".join(["LIST", *SLICES]) + "\n"
WHOLE = ["all [1].raw"]
HEADERS = {
    "one.mhd": (META + "ElementDataFile = all [1].raw\n", WHOLE),
    "one.mha": (META + "ElementDataFile: all [1].raw  \r\n", WHOLE),
    "list.mhd": (META + f"ElementDataFile = {LIST}", SLICES),
    "list2.mhd": (META + f"ElementDataFile = {LIST.replace('LIST', 'LIST 2')}", SLICES),
    "counted.mhd": (META + "ElementDataFile = s%02d.raw 1 3 1\n", SLICES),
    "from.mhd": (META + "ElementDataFile = s%02d.raw 1\n", SLICES),
    "uncounted.mhd": (META + "ElementDataFile = s%02d.raw\n", SLICES),
    "one.nhdr": (NRRD + "data file: all [1].raw\n", WHOLE),
    "one.nrrd": (NRRD + "DataFile: all [1].raw\n\n", WHOLE),
    "list.nhdr": (NRRD + f"data file: {LIST}", SLICES),
    "counted.nhdr": (NRRD + "data file: s%02d.raw 1 3 1\n", SLICES),
    "planes.nhdr": (NRRD + "data file: s%02d.raw 1 3 1 2\n", SLICES),
    "backwards.nhdr": (NRRD + "data file: s%02d.raw 3 1 -1\n", SLICES[::-1]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "all [1].raw").write_bytes(VOXELS.tobytes())
    for name, plane in zip(SLICES, VOXELS, strict=True):
        (tmp_path / name).write_bytes(plane.tobytes())
    return tmp_path


def hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    read_volume(path, digest=digest)
    return digest.hexdigest()


def refused(path: Path) -> VolumeError:
    """What both passes refuse the file with."""
    found = []
    for read in (read_header, read_volume):
        with pytest.raises(VolumeError) as caught:
            read(path)
        found.append(str(caught.value))
    assert found[0] == found[1]
    return caught.value


@pytest.mark.parametrize("name", HEADERS)
def test_the_files_that_a_header_names_are_those_that_are_read(folder, name):
    text, files = HEADERS[name]
    (folder / name).write_bytes(text.encode())
    found = detached(folder / name)
    assert found is not None
    assert found.files == tuple(folder / file for file in files)
    values = VOXELS[::-1] if "backwards" in name else VOXELS
    np.testing.assert_array_equal(read_volume(folder / name).array[0], values.T)
    entry = Entry("a", str(folder / name), "")
    before, hashed = key_of(entry, Rules(None)), hash_of(folder / name)
    assert size_of(entry) == len(text.encode()) + 120
    last = folder / files[-1]
    last.write_bytes(last.read_bytes()[:-2] + b"\7\7")
    assert key_of(entry, Rules(None)) != before
    assert hash_of(folder / name) != hashed
    last.unlink()
    error = refused(folder / name)
    assert error.code == "missing_voxel_file"
    assert f"{folder / name}: its voxels are in {last}, which is not there" in error.message


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_copy_under_other_names_has_the_hash_of_its_original(folder, suffix):
    hashes = []
    for name in ("a", "b", "c"):
        start = f"{META}ElementDataFile = " if suffix == ".mhd" else f"{NRRD}data file: "
        (folder / f"{name}.raw").write_bytes(VOXELS.tobytes()[:118] + b"\0" + name[:1].encode())
        (folder / f"{name}{suffix}").write_text(f"{start}{name}.raw\n")
    (folder / "b.raw").write_bytes((folder / "a.raw").read_bytes())
    hashes = [hash_of(folder / f"{name}{suffix}") for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("s%s.raw", "'s%s.raw' numbers no files"),  # each of these ends the process that reads it,
        ("s%02d.raw 1 3", "'s%02d.raw 1 3' numbers no files"),
        ("s%02d.raw 1 3 0", "'s%02d.raw 1 3 0' numbers no files"),
        ("s%02d.raw 3 1 -1", "'s%02d.raw 3 1 -1' numbers no files"),  # or is read as noise
        ("s%02d.raw 1 3 1 1", "'s%02d.raw 1 3 1 1' numbers no files"),
        ("LIST\ns01.raw\ns02.raw", "names 2 files for 3 slices"),
        ("LIST 3\nall [1].raw", "names 1 files"),
        ("LISTED.raw", "names 0 files for 3 slices"),
    ],
)
def test_files_that_cannot_be_counted_are_refused_before_they_are_read(folder, value, told):
    (folder / "a.mhd").write_text(f"{META}ElementDataFile = {value}\n")
    error = refused(folder / "a.mhd")
    assert error.code == "unreadable"
    assert told in error.message


def test_voxels_behind_their_header_are_in_no_other_file(folder):
    (folder / "a.mhd").write_bytes(f"{META}ElementDataFile = LOCAL\n".encode() + VOXELS.tobytes())
    (folder / "a.nrrd").write_bytes(f"{NRRD}\ndata file: x.raw\n".encode() + VOXELS.tobytes())
    for name in ("a.mhd", "a.nrrd"):
        assert detached(folder / name) is None
    assert hash_of(folder / "a.mhd") == hashlib.sha256((folder / "a.mhd").read_bytes()).hexdigest()
    (folder / "empty.nhdr").write_bytes(b"")
    (folder / "noise.mhd").write_bytes(bytes(200_000))
    assert refused(folder / "noise.mhd").code == "unreadable"
    assert detached(folder / "empty.nhdr") is None
    assert detached(folder / "scan.nii.gz") is None


@pytest.mark.parametrize("compressed", [False, True])
def test_a_cut_file_is_told_with_the_bytes_it_needs_and_has(tmp_path, compressed, capfd):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path), useCompression=compressed)
    content = path.read_bytes()
    needed = len(content) - content.index(b"LOCAL\n") - len(b"LOCAL\n")
    path.write_bytes(content[:-7])
    error = refused(path)
    assert error.code == "unreadable"
    told = f"{path}: is cut off: its voxels take {needed} bytes, {needed - 7} are there"
    assert error.message == told
    path.write_bytes(content[:150])
    assert "its header does not say where the voxels are" in refused(path).message
    assert capfd.readouterr().err == ""  # no word of the library that reads voxels


@pytest.mark.parametrize("name", ["one.mhd", "list.mhd", "list2.mhd", "counted.mhd"])
def test_a_file_of_voxels_that_was_cut_is_named(folder, name):
    text, files = HEADERS[name]
    (folder / name).write_text(text)
    last = folder / files[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-1])
    sizes = f"take {len(whole)} bytes, {len(whole) - 1} are there"
    assert f"is cut off: its voxels in {last} {sizes}" in refused(folder / name).message


@pytest.mark.parametrize(("skipped", "before"), [(5, 5), (-1, 8)])
def test_bytes_before_the_voxels_are_none_of_them(folder, skipped, before):
    (folder / "a.mhd").write_text(f"{META}HeaderSize = {skipped}\nElementDataFile = a.raw\n")
    (folder / "a.raw").write_bytes(b"\7" * before + VOXELS.tobytes())
    np.testing.assert_array_equal(read_volume(folder / "a.mhd").array[0], VOXELS.T)
    (folder / "a.raw").write_bytes(b"\7" * max(skipped, 0) + VOXELS.tobytes()[:-1])
    assert "take 120 bytes, 119 are there" in refused(folder / "a.mhd").message


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_damaged_compressed_voxels_are_never_read(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 3000, (7, 6, 5)).astype(np.int16)
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), useCompression=True)
    np.testing.assert_array_equal(read_volume(path).array[0], noise.T)
    found = detached(path)
    file = found.files[0] if found else path
    content = file.read_bytes()
    for place in range(20, 200, 20):
        file.write_bytes(content[:-place] + bytes([content[-place] ^ 16]) + content[1 - place :])
        with pytest.raises(VolumeError) as caught:
            read_volume(path)
        assert caught.value.code == "unreadable"


def test_voxels_that_are_called_compressed_and_are_not_are_refused(tmp_path):
    text = META.replace("DimSize", "CompressedData = True\nDimSize") + "ElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(text.encode() + VOXELS.tobytes())
    with pytest.raises(VolumeError) as caught:
        read_volume(tmp_path / "a.mha")
    assert caught.value.code == "unreadable"
