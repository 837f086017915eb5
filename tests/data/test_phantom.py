"""The drawn torsos: their files, their geometry, and what makes them hard enough to learn from."""

import argparse
import csv
import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcl.config import Dataset, PhantomKeys, Split, load_section
from medcl.data.cases import Case
from medcl.data.checks import align_label, check_image
from medcl.data.dicom import read_series
from medcl.data.phantom import BROKEN, Scan, write_phantom
from medcl.data.phantom_torso import CLASSES, Ellipsoid, _waves, draw_torso, paint
from medcl.data.splits import assign
from medcl.data.volume import Volume, VolumeError, read_volume, reorient, same_grid
from medcl.errors import MedclError
from medcl.stages import phantom as stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phantom")


@pytest.fixture(scope="module")
def scans(folder: Path) -> list[Scan]:
    """The default phantom, drawn once."""
    return write_phantom(folder, PhantomKeys())


@pytest.fixture(scope="module")
def volumes(folder: Path, scans: list[Scan]) -> dict[str, tuple[Volume, Volume | None]]:
    """Image and label of every valid case, as stored."""
    return {
        scan.case: (
            read(folder / scan.image),
            read_volume(folder / scan.label, labels=True) if scan.label else None,
        )
        for scan in scans
        if scan.code is None
    }


def read(path: Path) -> Volume:
    return read_series(path).decode() if path.is_dir() else read_volume(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def test_the_default_phantom_leaves_twelve_subjects_in_the_pool(scans):
    valid = [scan for scan in scans if scan.code is None]
    cases = [
        Case(
            case=scan.case,
            subject=scan.subject,
            visit=scan.visit,
            image=scan.image,
            label=scan.label or None,
            modality="MR",
            channels=1,
            shape=(1, 1, 1),
            spacing=(1.0, 1.0, 1.0),
            orientation="RAS",
            image_sha256="",
            voxel_sha256="",
            label_sha256=None,
            source="phantom.csv",
        )
        for scan in valid
    ]
    splits = assign(cases, Split())
    assert len({scan.subject for scan in valid}) == 24
    assert len(splits.subjects("pool")) == 15
    assert len(splits.candidates(0)) == 11


def test_every_kind_of_case_is_there(scans):
    valid = [scan for scan in scans if scan.code is None]
    subjects = {scan.subject: scan for scan in valid}
    assert Counter(scan.cohort for scan in subjects.values()) == {"lesions": 12, "healthy": 12}
    assert len(valid) - len(subjects) == 2
    labelled = {scan.subject for scan in valid if scan.label}
    assert len(subjects) - len(labelled) == 4
    series = [scan for scan in valid if not scan.image.endswith(".nii")]
    assert Counter((bool(s.label), s.in_table) for s in series) == {
        (True, True): 4,
        (False, False): 2,
    }
    assert {s.orientation for s in series} == {"LPS", "LIP", "PIR"}
    assert len({scan.orientation for scan in valid}) > 12
    assert {scan.code for scan in scans} == {None, *BROKEN}


def test_the_listing_and_the_table_name_what_was_written(folder, scans):
    listing = json.loads((folder / "phantom.json").read_text())
    assert [case["case"] for case in listing["cases"]] == [scan.case for scan in scans]
    with open(folder / "phantom.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["subject", "visit", "image", "label", "cohort"]
    assert [r["image"] for r in rows] == [s.image for s in scans if s.in_table]
    named = {path for scan in scans for path in (scan.image, scan.label) if path}
    assert all((folder / path).exists() for path in named)
    written = {p for p in contents(folder) if Path(p).parts[0] in ("images", "labels")}
    assert written == {path for path in named if path.startswith(("images", "labels"))}


def test_images_are_stored_as_listed_and_lie_on_the_grid_of_their_labels(scans, volumes):
    for scan in (s for s in scans if s.code is None):
        image, label = volumes[scan.case]
        assert image.orientation == scan.orientation
        if label is not None:
            assert same_grid(image, align_label(label, image, "label", "image")[0])
        assert not check_image(image, scan.case)


def test_the_organs_lie_on_their_sides_of_the_body(volumes):
    for image, label in volumes.values():
        if label is None:
            continue
        label = reorient(label)
        middle = {
            name: (np.argwhere(label.array[0] == value) @ label.affine[:3, :3].T).mean(axis=0)
            for name, value in CLASSES.items()
            if name != "lesion"
        }
        body = reorient(image)
        bright = body.array[0] > 0.35 * np.percentile(body.array[0], 99)
        centre = (np.argwhere(bright) @ body.affine[:3, :3].T).mean(axis=0)
        assert middle["liver"][0] > centre[0] + 10 > centre[0] - 10 > middle["spleen"][0]
        assert middle["liver"][2] > middle["kidneys"][2]
        assert middle["liver"][1] > middle["kidneys"][1]


def test_a_cohort_says_who_has_lesions(scans, volumes):
    for scan in scans:
        if scan.code is None and scan.label:
            lesion = np.count_nonzero(volumes[scan.case][1].array == CLASSES["lesion"])
            assert (lesion >= 15) == (scan.cohort == "lesions"), scan.case
            assert set(np.unique(volumes[scan.case][1].array)) >= {0, 1, 2, 3}


def test_two_visits_show_the_same_torso_on_other_grids(volumes):
    def litres(case: str) -> float:
        label = volumes[case][1]
        return np.count_nonzero(label.array == CLASSES["liver"]) * np.prod(label.spacing) / 1e6

    first, second = volumes["p01_1"][0], volumes["p01_2"][0]
    assert first.shape != second.shape
    assert litres("p01_1") == pytest.approx(litres("p01_2"), rel=0.1)
    others = [litres(case) for case, (_, label) in volumes.items() if label is not None]
    assert max(others) > 1.4 * min(others)


def test_scales_differ_by_orders_of_magnitude_and_some_scans_are_tilted(volumes):
    images = [image for image, _ in volumes.values()]
    # Those stored as whole numbers use up to 4000, whatever the scanner's scale was.
    tops = [np.percentile(i.array, 99) for i in images if i.array.max() != 4000]
    assert len(tops) > 10
    assert max(tops) > 1000 * min(tops)
    tilted = [np.count_nonzero(image.affine[:3, :3]) > 3 for image in images]
    assert 3 < sum(tilted) < 15


def test_no_window_of_intensities_alone_finds_an_organ(volumes):
    for case in ("p01_1", "p05", "p08", "p11"):
        image, label = (reorient(v) for v in volumes[case])
        values = image.array[0]
        edges = np.quantile(values, np.linspace(0, 1, 60))
        for organ in (1, 2, 3):
            inside = label.array[0] == organ
            hits = np.histogram(values[inside], edges)[0].cumsum()
            taken = np.histogram(values, edges)[0].cumsum()
            low, high = np.triu_indices(len(hits), 1)
            dice = 2 * (hits[high] - hits[low]) / (taken[high] - taken[low] + inside.sum())
            assert dice.max() < 0.75, (case, organ)


def test_subjects_are_the_same_bytes_whoever_else_is_drawn_and_no_leftovers_stay(tmp_path):
    six, seven = (PhantomKeys(subjects=n, broken=False, seed=5) for n in (6, 7))
    write_phantom(tmp_path / "a", six)
    write_phantom(tmp_path / "b", seven)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    voxels = {name for name in a if not name.startswith("phantom.")}
    assert {name: a[name] for name in voxels} == {name: b[name] for name in voxels}
    assert "images/p07.nii" in b
    (tmp_path / "b" / "notes.txt").write_bytes(b"mine")
    write_phantom(tmp_path / "b", six)
    assert contents(tmp_path / "b") == {**a, "notes.txt": b"mine"}


def test_a_folder_with_other_data_is_left_alone(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.nii").write_bytes(b"mine")
    with pytest.raises(MedclError, match="did not write; choose an empty folder"):
        write_phantom(tmp_path, PhantomKeys())
    assert contents(tmp_path) == {"images/mine.nii": b"mine"}


def test_too_few_subjects_are_refused(tmp_path):
    with pytest.raises(MedclError, match=r"phantom\.subjects: 5 are too few.*give 6 or more"):
        write_phantom(tmp_path, PhantomKeys(subjects=5))


def test_each_broken_case_is_broken_as_it_says(folder, scans):
    broken = {scan.code: scan for scan in scans if scan.code}

    def refused(code: str) -> str:
        with pytest.raises(VolumeError) as error:
            read(folder / broken[code].image)
        return error.value.code

    assert refused("unreadable") == "unreadable"
    assert refused("missing_slices") == "missing_slices"
    assert refused("not_3d") == "not_3d"
    holes = read_volume(folder / broken["not_finite"].image)
    assert [finding.code for finding in check_image(holes, "")] == ["not_finite"]
    odd = read_volume(folder / broken["undeclared_label_values"].label, labels=True)
    assert set(np.unique(odd.array)) - {0, *CLASSES.values()} == {9}
    other = broken["shape_differs"]
    image, label = (nib.load(folder / path) for path in (other.image, other.label))
    assert image.shape[0] - label.shape[0] == 3
    assert broken["label_without_image"].image == ""
    assert (folder / broken["label_without_image"].label).exists()


def test_the_dataset_file_fits_what_is_drawn():
    file = Path(__file__).parents[2] / "config" / "datasets" / "phantom.yaml"
    dataset = load_section(Dataset, str(file))
    assert dataset.classes == CLASSES
    assert [source.path for source in dataset.sources] == ["phantom.csv", "archive"]
    assert dataset.phantom == PhantomKeys()


def test_the_stage_says_what_it_wrote_and_another_seed_writes_something_else(
    folder, scans, tmp_path, capsys
):
    parser = argparse.ArgumentParser()
    stage.add_arguments(parser)
    settings = '{"subjects": 6, "broken": false, "seed": 1}'
    stage.run(parser.parse_args(["--settings", settings, "--out", str(tmp_path / "out")]))
    assert "wrote 8 cases (6 labelled) and 0 broken ones" in capsys.readouterr().out
    ours = contents(tmp_path / "out")
    assert "phantom.json" in ours
    assert ours["images/p02.nii"] != (folder / "images/p02.nii").read_bytes()


def test_depth_in_a_sphere_is_the_distance_to_its_surface():
    sphere = Ellipsoid(np.ones(3, np.float32), np.eye(3, dtype=np.float32) / 10)
    points = np.array([[4, 1, 1], [1, 1, 11], [1, 16, 1]], np.float32)
    np.testing.assert_allclose(sphere.depth(points), [7, 0, -5], atol=0.02)


def test_a_field_of_waves_varies_by_one_around_zero():
    field = _waves(np.random.default_rng(3), 20, 16)
    values = field(np.random.default_rng(0).uniform(-500, 500, (20000, 3)).astype(np.float32))
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1, abs=0.05)


def test_painting_draws_nothing_at_random():
    torso = draw_torso(np.random.default_rng(0), lesions=True)
    points = np.random.default_rng(1).uniform(-60, 60, (500, 3)).astype(np.float32)
    signal, label = paint(torso, points)
    again = paint(torso, points[::-1].copy())
    np.testing.assert_allclose(signal, again[0][::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(label, again[1][::-1])
