"""A store reads any box of a prepared volume, and nothing but that box."""

import pickle

import numpy as np
import pytest

from medcl.data import store as store_module
from medcl.data.store import Store, inside, is_complete, write_case, write_manifest
from medcl.errors import MedclError
from medcl.files import read_json, write_json


@pytest.fixture
def image() -> np.ndarray:
    """Two channels of 3 x 4 x 5 voxels, every value another."""
    return np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)


@pytest.fixture
def label() -> np.ndarray:
    return np.arange(60, dtype=np.uint8).reshape(3, 4, 5)


@pytest.fixture
def store(tmp_path, image, label) -> Store:
    entries = [
        write_case(tmp_path, "a", "p1", image, label, spacing=(1, 2, 3), fill=(-1, -2)),
        write_case(tmp_path, "b", "p2", image + 1),
    ]
    return Store(write_manifest(tmp_path, entries, failed={"c": "a bad file"}))


def test_a_box_inside_is_the_same_as_slicing(store, image, label):
    box = ((1, 0, 2), (3, 3, 5))
    assert np.array_equal(store["a"].read(box), image[:, 1:3, 0:3, 2:5])
    assert np.array_equal(store["a"].read_label(box), label[1:3, 0:3, 2:5])
    assert store["a"].read(box).dtype == np.float32
    assert store["a"].read_label(box).dtype == np.uint8


def test_outside_the_volume_is_filled_per_channel_and_the_label_with_background(
    store, image, label
):
    got = store["a"].read(((-1, 2, 3), (2, 6, 7)))
    expected = np.empty((2, 3, 4, 4), np.float32)
    for c, x, y, z in np.ndindex(expected.shape):
        i, j, k = x - 1, y + 2, z + 3
        known = 0 <= i < 3 and 0 <= j < 4 and 0 <= k < 5
        expected[c, x, y, z] = image[c, i, j, k] if known else (-1, -2)[c]
    assert np.array_equal(got, expected)
    got = store["a"].read_label(((-1, 2, 3), (2, 6, 7)))
    assert got[0].max() == 0
    assert got[1, 0, 0] == label[0, 2, 3]


def test_a_box_wholly_outside_is_all_fill(store):
    assert np.array_equal(np.unique(store["a"].read(((5, 0, 0), (6, 2, 2)))[1]), [-2])
    assert store["a"].read_label(((-4, -4, -4), (-1, 0, 0))).max() == 0


def test_an_empty_box_is_an_error(store):
    with pytest.raises(ValueError, match="empty"):
        store["a"].read(((0, 0, 0), (1, 0, 1)))


def test_only_the_box_is_read_from_the_file(store, monkeypatch):
    opened = []
    original = store_module._open
    monkeypatch.setattr(
        store_module, "_open", lambda path: opened.append(original(path)) or opened[-1]
    )
    store["a"].read(((0, 0, 0), (1, 1, 1)))
    assert isinstance(opened[0], np.memmap)


def test_a_volume_knows_its_geometry_and_is_small_when_pickled(store):
    volume = store["a"]
    assert (volume.case, volume.subject, volume.shape) == ("a", "p1", (3, 4, 5))
    assert volume.spacing == (1.0, 2.0, 3.0)
    assert volume.affine == ((1, 0, 0, 0), (0, 2, 0, 0), (0, 0, 3, 0), (0, 0, 0, 1))
    assert volume.body == ((0, 0, 0), (3, 4, 5))
    assert volume.fill == (-1.0, -2.0)
    assert volume.has_label
    volume.read(((0, 0, 0), (3, 4, 5)))
    pickled = pickle.dumps(volume)
    assert len(pickled) < 2000
    assert pickle.loads(pickled) == volume


def test_a_case_without_a_label_says_so(store):
    assert not store["b"].has_label
    with pytest.raises(MedclError, match="'b' has no label"):
        store["b"].read_label(((0, 0, 0), (1, 1, 1)))


def test_the_store_lists_its_cases_and_names_why_one_is_missing(store):
    assert store.cases == ["a", "b"]
    assert "a" in store
    assert "c" not in store
    assert [volume.case for volume in store] == ["a", "b"]
    with pytest.raises(MedclError, match="no case 'c': it could not be prepared: a bad file"):
        store["c"]
    with pytest.raises(MedclError, match="no case 'd': the manifest does not name it"):
        store["d"]


def test_values_beyond_half_precision_are_clipped_to_finite_ones(tmp_path):
    image = np.array([1e9, -1e9, 1.0], np.float32).reshape(1, 3, 1, 1)
    entry = write_case(tmp_path, "a", "p", image)
    volume = Store(write_manifest(tmp_path, [entry]))["a"]
    assert volume.read(((0, 0, 0), (3, 1, 1))).ravel().tolist() == [65504, -65504, 1]
    assert volume.fill == (-65504.0,)


@pytest.mark.parametrize("name", ["../evil.npy", "/etc/passwd", "a/../../evil.npy"])
def test_a_path_in_a_manifest_cannot_leave_the_store(store, name):
    content = read_json(store.path)
    content["cases"][0]["image"] = name
    write_json(store.path, content)
    with pytest.raises(MedclError, match="outside this folder"):
        Store(store.path)


def test_a_case_name_cannot_leave_the_store(tmp_path, image):
    with pytest.raises(MedclError, match="outside this folder"):
        write_case(tmp_path / "store", "../evil", "p", image)
    assert not list(tmp_path.glob("*evil*"))
    assert inside(tmp_path, "a.npy") == (tmp_path / "a.npy").resolve()


def test_another_format_is_refused(store):
    write_json(store.path, {**read_json(store.path), "format": 99})
    with pytest.raises(MedclError, match=r"store format 99.*run preprocess again"):
        Store(store.path)


def test_missing_and_cut_off_files_are_not_complete(tmp_path, image, label):
    entry = write_case(tmp_path, "a", "p", image, label)
    assert is_complete(tmp_path, entry)
    path = tmp_path / "a.image.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_complete(tmp_path, entry)
    entry = write_case(tmp_path, "a", "p", image, label)
    assert not is_complete(tmp_path, {**entry, "shape": [3, 4, 6]})
    (tmp_path / "a.label.npy").unlink()
    assert not is_complete(tmp_path, entry)
