import json
from pathlib import Path

import numpy as np
import pytest
from dicom_objects import FRAME, datasets, square, write_rtstruct, write_series
from test_ingest import AFFINE, codes, image, ingest_folders, label, put, records, run, settings

from medcl.data.cases import read_cases
from medcl.data.dicom import read_series
from medcl.data.segmentation_object import write_segmentation
from medcl.data.volume import Volume, read_volume, reorient
from medcl.errors import MedclError
from medcl.files import read_yaml

DATASETS = Path(__file__).resolve().parents[2] / "config" / "datasets"
OTHER = "1.2.826.0.1.3680043.8.498.9"
GTV = {"GTV_1": [square(0.5, 0.5, 4.5, 3.5, 1)]}
TREE = {
    "modality": "CT",
    "classes": {"tumour": 1},
    "structures": {"tumour": ["GTV*"]},
    "sources": [{"layout": "dicom", "labels": "*"}],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A series with contours, and one without."""
    write_series(tmp_path / "dicom" / "p1" / "ct")
    write_rtstruct(tmp_path / "dicom" / "p1" / "rs" / "RS.dcm", GTV)
    write_series(
        tmp_path / "dicom" / "p2", uid=OTHER, seed=2, FrameOfReferenceUID="1.9", PatientID="p2"
    )
    return tmp_path


def ingest_tree(root: Path, **changes) -> dict[str, dict]:
    run("--settings", settings(root / "dicom", **TREE | changes), "--out", root / "out")
    return records(root / "out")


def test_contours_in_a_tree_become_the_label_map_of_their_series(tree) -> None:
    record = ingest_tree(tree)
    assert sorted(record) == ["p1_ct", "p2"]
    assert codes(record["p1_ct"]) == []
    assert codes(record["p2"], "info") == ["unlabelled"]
    case = {c.case: c for c in read_cases(tree / "out" / "cases.csv")}["p1_ct"]
    drawn = read_volume(case.label, labels=True)
    assert case.label == str(tree / "out" / "volumes" / "p1_ct.label.nii")
    assert drawn.array[0, 1:5, 1:4, 1].all()
    assert drawn.array.sum() == 12
    made_of = json.loads((tree / "out" / "volumes" / "p1_ct.label.json").read_text())
    assert made_of["structures"] == {"tumour": ["GTV_1"]}
    assert made_of["objects"] == ["RS.dcm"]


def test_series_and_objects_in_one_folder_find_each_other(tmp_path) -> None:
    folder = tmp_path / "dicom" / "export"
    for number, uid in ((3, "1.3"), (4, "1.4"), (5, "1.5")):
        write_series(tmp_path / "new", uid=uid, SeriesNumber=number, seed=number)
        folder.mkdir(parents=True, exist_ok=True)
        for file in (tmp_path / "new").iterdir():
            file.rename(folder / f"{number}_{file.name}")
    write_rtstruct(folder / "a.dcm", GTV, drawn_on="1.3")
    write_rtstruct(folder / "b.dcm", {"GTV_2": [square(0.5, 0.5, 2.5, 1.5, 2)]}, drawn_on="1.4")
    record = ingest_tree(tmp_path)
    assert {name: r["status"] for name, r in record.items()} == dict.fromkeys(
        ("export_s3", "export_s4", "export_s5"), "accepted"
    )
    cases = {case.case: case for case in read_cases(tmp_path / "out" / "cases.csv")}
    voxels = {
        name: read_volume(case.label, labels=True).array.sum()
        for name, case in cases.items()
        if case.label
    }
    assert voxels == {"export_s3": 12, "export_s4": 2}
    assert codes(record["export_s5"], "info") == ["unlabelled"]
    run("--settings", settings(tmp_path / "dicom", **TREE | {"sources": [{"layout": "dicom"}]}),
        "--out", tmp_path / "plain")  # fmt: skip
    plain = records(tmp_path / "plain")
    assert codes(plain["export_other"], "info") == ["not_an_image"]


def test_objects_lie_among_the_images_and_are_chosen_by_their_path(tree) -> None:
    folder = tree / "dicom" / "p1" / "ct"
    write_rtstruct(folder / "draft.dcm", GTV)
    assert codes(ingest_tree(tree)["p1_ct"]) == ["several_annotations"]
    chosen = [{"layout": "dicom", "labels": "*/RS.dcm"}]
    assert codes(ingest_tree(tree, sources=chosen)["p1_ct"]) == []


def test_an_object_whose_series_is_not_there_is_named(tree) -> None:
    write_rtstruct(tree / "dicom" / "stray" / "RS9.dcm", GTV, drawn_on="1.7", frame="1.6")
    record = ingest_tree(tree)
    assert codes(record["stray_RS9"]) == ["annotation_unmatched"]
    assert record["p1_ct"]["status"] == "accepted"


def test_an_object_that_names_no_series_goes_to_the_only_one_of_its_frame(tree) -> None:
    write_rtstruct(tree / "dicom" / "p1" / "rs" / "RS.dcm", GTV, drawn_on=None)
    assert ingest_tree(tree)["p1_ct"]["status"] == "accepted"
    write_series(tree / "dicom" / "p3", uid="1.5", seed=5, FrameOfReferenceUID=FRAME)
    assert codes(ingest_tree(tree)["p1_rs_RS"]) == ["annotation_unmatched"]


@pytest.fixture
def phases(tmp_path: Path) -> Path:
    """One series of two volumes at the same places."""
    for number in (1, 2):
        folder = tmp_path / "dicom" / "ct" / str(number)
        write_series(folder, seed=number, AcquisitionNumber=number)
    return tmp_path


def slices_of(root: Path, number: int) -> list[str]:
    return [ds.SOPInstanceUID for ds in datasets(root / "dicom" / "ct" / str(number))]


def labelled(root: Path) -> dict[str, bool]:
    ingest_tree(root)
    return {c.case: c.label is not None for c in read_cases(root / "out" / "cases.csv")}


def test_contours_go_to_the_volume_of_a_series_whose_slices_they_name(phases) -> None:
    first, second = slices_of(phases, 1), slices_of(phases, 2)
    file = phases / "dicom" / "RS.dcm"
    write_rtstruct(file, GTV, slices=second[1:2], listed=first + second)
    assert labelled(phases) == {"ct_1_acq1": False, "ct_2_acq2": True}
    write_rtstruct(file, GTV, listed=first)
    assert labelled(phases) == {"ct_1_acq1": True, "ct_2_acq2": False}


def test_contours_that_name_no_slice_are_used_for_each_volume_with_a_warning(phases) -> None:
    write_rtstruct(phases / "dicom" / "RS.dcm", GTV)
    assert labelled(phases) == {"ct_1_acq1": True, "ct_2_acq2": True}
    told = records(phases / "out")["ct_1_acq1"]
    assert codes(told, "warning") == ["annotation_of_several_volumes"]


def test_segments_go_to_the_volume_of_a_series_they_were_made_of(phases) -> None:
    series = read_series(phases / "dicom" / "ct" / "2")
    array = np.zeros((1, 8, 6, 4), np.uint8)
    array[0, 1:5, 1:4, 1] = 1
    made = Volume(array, series.stack.affine)
    write_segmentation(phases / "dicom" / "seg.dcm", made, series, {"GTV_1": 1})
    assert labelled(phases) == {"ct_1_acq1": False, "ct_2_acq2": True}


def test_series_can_be_chosen_by_their_folder(tree) -> None:
    record = ingest_tree(tree, sources=[{"layout": "dicom", "labels": "*", "images": "p1/*"}])
    assert [name for name, r in record.items() if r["status"] == "accepted"] == ["p1_ct"]
    assert codes(record["p2"], "info") == ["not_used"]


def test_a_wrong_name_of_a_structure_ends_with_a_suggestion(tree) -> None:
    record = ingest_tree(tree, structures={"tumour": ["GTV 1"]})
    finding = record["p1_ct"]["findings"][0]
    assert finding["code"] == "no_structure"
    assert "did you mean structures: {tumour: ['GTV_1']}?" in finding["message"]


def test_names_for_a_class_that_is_not_declared_are_refused(tree) -> None:
    with pytest.raises(MedclError, match=r"structures\.tumor: no such class; did you mean 'tum"):
        ingest_tree(tree, structures={"tumor": ["GTV"]})


def test_a_table_and_folders_name_objects_by_path(tree) -> None:
    (tree / "dicom" / "t.csv").write_text("subject,image,label\np1,p1/ct,p1/rs/RS.dcm\n")
    table = {"layout": "csv", "path": "t.csv"}
    folders = {"layout": "folders", "images": "{subject}/ct", "labels": "{subject}/rs/*.dcm"}
    for source in (table, folders):
        assert codes(ingest_tree(tree, sources=[source])["p1"]) == []
        (case,) = read_cases(tree / "out" / "cases.csv")
        assert read_volume(case.label, labels=True).array.sum() == 12


def test_an_undescribed_tree_shows_the_structures_it_holds(tree, capsys) -> None:
    run("--source", tree / "dicom", "--out", tree / "out")
    told = [f for f in records(tree / "out")["p1_ct"]["findings"] if f["code"] == "label_values"]
    assert told[0]["message"].endswith("structures 1 GTV_1")


# -------------------------------------------------------------------------- masks and grids


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A dataset with one good labelled case, so that a run with a bad one goes on."""
    put(tmp_path / "images" / "good.nii", image(seed=99))
    put(tmp_path / "labels" / "good.nii", label(1, 2))
    return tmp_path


MASKS = {
    "layout": "folders",
    "images": "images/{subject}.nii",
    "labels": "masks/{subject}/{class}.nii",
}


def test_one_mask_file_per_class_makes_one_label_map(good) -> None:
    both, inner = label(1, 1, 1), label(0, 7)
    put(good / "masks" / "good" / "Organ.nii", both)
    put(good / "masks" / "good" / "tumour.nii", inner)
    put(good / "masks" / "good" / "vessel.nii", inner)
    structures = {"lesion": ["tumour"]}
    cases, record = ingest_folders(good, sources=[MASKS], structures=structures)
    array = read_volume(cases["good"].label, labels=True).array
    assert array.ravel()[:4].tolist() == [1, 2, 1, 0]
    assert "structures_overlap" in codes(record["good"], "info")
    assert "structures_not_used" in codes(record["good"], "info")


def test_a_label_map_named_as_a_mask_is_refused(good) -> None:
    put(good / "masks" / "good" / "organ.nii", label(1, 2))
    with pytest.raises(MedclError, match="mask_not_binary"):
        ingest_folders(good, sources=[MASKS])


def test_a_mask_on_another_grid_is_refused(good) -> None:
    put(good / "masks" / "good" / "organ.nii", label(1), np.diag([2.0, 1.5, 3.0, 1]))
    with pytest.raises(MedclError, match="affine_differs"):
        ingest_folders(good, sources=[MASKS])


def test_a_label_on_another_grid_is_moved_only_where_that_is_allowed(good) -> None:
    coarse = np.zeros((3, 5, 2), np.uint8)
    coarse[1, 1:4, 0] = 2
    affine = AFFINE @ np.diag([2.0, 1, 2, 1])
    affine[:3, 3] = [0.5, 0, 1.5]  # the centre of 2 x 1 x 2 voxels
    put(good / "images" / "b.nii", np.random.default_rng(1).normal(size=(6, 5, 4)), AFFINE)
    put(good / "labels" / "b.nii", coarse, affine)
    _, record = ingest_folders(good)
    assert codes(record["b"]) == ["shape_differs"]
    cases, record = ingest_folders(good, label_grid="any")
    assert codes(record["b"], "warning") == ["label_resampled"]
    expected = np.zeros((6, 5, 4), np.uint8)
    expected[2:4, 1:4, :2] = 2
    np.testing.assert_array_equal(read_volume(cases["b"].label, labels=True).array[0], expected)


# ------------------------------------------------------------------------ the shipped examples


def example(name: str, root: Path) -> str:
    """A file of config/datasets, its data elsewhere."""
    return json.dumps(read_yaml(DATASETS / f"{name}.yaml") | {"root": str(root)})


@pytest.mark.parametrize(
    ("name", "scan", "least"),
    [("sarcoma_ct", "CT", 0.999), ("sarcoma_mr", "MR_T1", 0.999), ("sarcoma_pet", "PET", 0.97)],
)
def test_the_sarcoma_examples_give_the_reference_masks(tmp_path, data, name, scan, least) -> None:
    """CT, MR and PET of a patient share a frame of reference: only the series tells."""
    folder = data / "sts_ibsi"
    run("--settings", example(name, folder / "dicom"), "--out", tmp_path)
    cases = read_cases(tmp_path / "cases.csv")
    assert [case.subject for case in cases] == ["STS_002", "STS_003"]
    for case in cases:
        ours = read_volume(case.label, labels=True)
        file = folder / "nifti" / case.subject / f"{scan}_mask.nii.gz"
        theirs = reorient(read_volume(file, labels=True), ours.orientation).array > 0
        mine = ours.array > 0
        assert 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()) >= least


def test_the_nnunet_example_takes_the_channel_it_names(tmp_path) -> None:
    channels = {"channel_names": {"0": "ADC", "1": "T2"}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(channels))
    for number, folder in ((1, "Tr"), (2, "Ts")):
        for channel in (0, 1):
            name = f"prostate_{number:02d}_000{channel}.nii.gz"
            put(tmp_path / f"images{folder}" / name, image(seed=2 * number + channel))
    put(tmp_path / "labelsTr" / "prostate_01.nii.gz", label(1, 2))
    run("--settings", example("nnunet_raw", tmp_path), "--out", tmp_path / "out")
    first, second = read_cases(tmp_path / "out" / "cases.csv")
    assert first.image.endswith("imagesTr/prostate_01_0001.nii.gz")
    assert (first.subject, second.subject, second.label) == ("prostate_01", "prostate_02", None)


def test_the_example_of_two_channels_puts_t2_before_adc(tmp_path) -> None:
    channels = {"channel_names": {"0": "ADC", "1": "T2"}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(channels))
    for number in (1, 2):
        for channel in (0, 1)[: 3 - number]:
            name = f"prostate_{number:02d}_000{channel}.nii.gz"
            put(tmp_path / "imagesTr" / name, image(seed=2 * number + channel))
    put(tmp_path / "labelsTr" / "prostate_01.nii.gz", label(1, 2))
    run("--settings", example("prostate_two_channels", tmp_path), "--out", tmp_path / "out")
    (case,) = read_cases(tmp_path / "out" / "cases.csv")
    assert case.channel_names == ("T2", "ADC")
    assert case.image.endswith("imagesTr/prostate_01_0001.nii.gz")
    assert codes(records(tmp_path / "out")["prostate_02"]) == ["missing_channel"]


def test_the_example_of_nnssl_joins_a_labelled_dataset(good) -> None:
    images = [
        {"name": f"{kind}.nii", "modality": kind, "image_path": f"$nnssl_raw/x/{kind}.nii"}
        for kind in ("T1w", "bold")
    ]
    for number, item in enumerate(images):
        put(good / "nnssl" / "x" / item["name"], image(seed=number))
    subjects = {"sub-1": {"sessions": {"ses-1": {"images": images}}}}
    table = {"datasets": {"d": {"name": "ds1", "subjects": subjects}}}
    (good / "nnssl" / "pretrain_data.json").write_text(json.dumps(table))
    more = ("--pretrain-on", example("nnssl", good / "nnssl"))
    run("--settings", settings(good), *more, "--out", good / "out")
    cases = read_cases(good / "out" / "cases.csv")
    assert [(case.dataset, case.case, case.subject) for case in cases] == [
        ("test", "good", "good"),
        ("nnssl", "nnssl.ds1_sub-1_ses-1_T1w", "nnssl/ds1_sub-1"),
    ]


def test_labels_of_any_dataset_are_no_images_of_one_that_is_pretrained_on(good) -> None:
    put(good / "more" / "p1.nii", image(seed=7))
    put(good / "more" / "p1_seg.nii", label(1))
    flat = {"layout": "folders", "path": "more", "images": "{subject}.nii",
            "labels": "{subject}_seg.nii"}  # fmt: skip
    others = {"all": {"layout": "files"}, "flat": flat}
    words = [settings(good, name=name, sources=[source]) for name, source in others.items()]
    more = (word for text in words for word in ("--pretrain-on", text))
    run("--settings", settings(good), *more, "--out", good / "out")
    told = {name: record for name, record in records(good / "out").items()
            if name.startswith("all.") and record["status"] == "skipped"}  # fmt: skip
    assert sorted(told) == ["all.labels_good", "all.more_p1_seg"]
    assert [codes(record, "info") for record in told.values()] == [["label_among_images"]] * 2


def test_the_bids_example_draws_the_masks_of_each_session(tmp_path) -> None:
    for session in ("a", "b"):
        stem = f"sub-1/ses-{session}/anat/sub-1_ses-{session}"
        put(tmp_path / f"{stem}_FLAIR.nii", image(seed=ord(session)))
        put(tmp_path / f"{stem}_T1w.nii", image(seed=5 + ord(session)))
    mask = "derivatives/manual/sub-1/ses-b/anat/sub-1_ses-b_label-lesion_mask.nii"
    put(tmp_path / mask, label(0, 1, 1))
    run("--settings", example("bids", tmp_path), "--out", tmp_path / "out")
    first, second = read_cases(tmp_path / "out" / "cases.csv")
    assert (first.case, first.subject, first.visit) == ("sub-1_ses-a_FLAIR", "sub-1", "ses-a")
    assert first.label is None
    assert read_volume(second.label, labels=True).array.sum() == 2


def test_the_example_of_masks_unites_the_parts_of_a_class(tmp_path) -> None:
    put(tmp_path / "s1" / "ct.nii.gz", image())
    parts = {"lung_upper_lobe_left": (1,), "lung_lower_lobe_right": (0, 1), "liver": (0, 0, 1)}
    parts |= {"kidney_left": (0, 0, 0, 1), "kidney_cyst_left": (0, 0, 0, 1), "spleen": (1, 1)}
    for name, values in parts.items():
        put(tmp_path / "s1" / "segmentations" / f"{name}.nii.gz", label(*values))
    run("--settings", example("masks", tmp_path), "--out", tmp_path / "out")
    (case,) = read_cases(tmp_path / "out" / "cases.csv")
    array = read_volume(case.label, labels=True).array
    assert array.ravel()[:5].tolist() == [1, 1, 2, 3, 0]
