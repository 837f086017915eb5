"""The layout of folders nobody described, as people lay them out."""

import json
import os
import re
from pathlib import Path

import pytest

from medcl.config import Source
from medcl.data.channel_lists import Channels
from medcl.data.entries import Entry
from medcl.data.guess import guess_sources
from medcl.data.name_marks import Marks, label_marks, marks_of
from medcl.data.sources import list_entries
from medcl.data.undescribed import list_undescribed
from medcl.errors import MedclError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def guessed(root: Path, channels: Channels | None = None) -> list[Source]:
    return guess_sources(root, channels or Channels())


def cases(root: Path) -> dict[str, tuple[str | None, str | None]]:
    """What is read of a folder: case -> image and label, without what is skipped."""
    found = list_entries(guessed(root))
    return {
        entry.case: (below(root, entry.image), below(root, entry.label))
        for entry in found
        if not entry.skipped
    }


def below(root: Path, path: str | None) -> str | None:
    return path and Path(path).relative_to(root).as_posix()


# ---------------------------------------------------------------- images and labels in folders


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        # A number both have is part of the name, one that labels lack is a channel.
        (["p_0001", "p_0002"], ["p_0001"], ("", "", "", "")),
        (["p_0000", "q_0000"], ["p_0000", "q_0000"], ("", "", "", "")),
        (["p_0000", "q_0000", "atlas"], ["p", "q"], ("", "_0000", "", "")),
        (["p_0000", "p_0001"], ["p"], ("", "_0000", "", "")),
        (["p_0001", "q_0001"], ["p", "q"], ("", "_0001", "", "")),
        # Without labels: a channel where each subject has its first.
        (["p_0000", "q_0000", "q_0001"], [], ("", "_0000", "", "")),
        (["p_0000", "p_0001", "p_0002"], [], ("", "", "", "")),
        (["p_0001", "q_0001"], [], ("", "", "", "")),
        (["p_0000", "q"], [], ("", "", "", "")),
        # Labels with a word more, and words before a number.
        (["p1", "p10"], ["p1_seg", "p10_seg"], ("", "", "", "_seg")),
        (["img0001", "img0002"], ["label0001", "label0002"], ("img", "", "label", "")),
    ],
)
def test_a_number_is_a_channel_only_where_labels_lack_it(images, labels, expected):
    assert marks_of(images, labels) == Marks(*expected)


@pytest.mark.parametrize(
    ("files", "images", "labels"),
    [
        (
            ["images/p_0001.nii.gz", "images/p_0002.nii.gz", "labels/p_0001.nii.gz"],
            "images/{subject}.nii.gz",
            "labels/{subject}.nii.gz",
        ),
        (
            ["imagesTr/p_0000.nii.gz", "imagesTr/notes.txt", "labelsTr/p.nii.gz"],
            "imagesTr/{subject}_0000.nii.gz",
            "labelsTr/{subject}.nii.gz",
        ),
        (
            ["images/p_0000.nii", "images/q_0000.nii", "labels/p_0000.nii"],
            "images/{subject}.nii",
            "labels/{subject}.nii",
        ),
        (
            ["images/img1.nii", "images/img2.nii", "labels/seg1.nii"],
            "images/img{subject}.nii",
            "labels/seg{subject}.nii",
        ),
    ],
)
def test_two_folders_are_read_by_the_names_that_both_have(tmp_path, files, images, labels):
    (source,) = guessed(touch(tmp_path, *files))
    assert (source.layout, source.images, source.labels) == ("folders", images, labels)
    assert [label is not None for _, label in cases(tmp_path).values()].count(True) == 1


def test_notes_hide_no_channels(tmp_path):
    touch(tmp_path, "imagesTr/p_0000.nii", "imagesTr/p_0001.nii", "imagesTr/notes.txt")
    touch(tmp_path, "labelsTr/p.nii")
    both = Channels(("T2", "ADC"))
    (source,) = guessed(tmp_path, both)
    assert source.images == {name: f"imagesTr/{{subject}}_000{n}.nii" for n, name in
                             enumerate(both.names)}  # fmt: skip
    with pytest.raises(MedclError, match=r"several files per case \(p_0001\)"):
        guessed(tmp_path)


@pytest.mark.parametrize("maps", ["masks", "Segmentations", "label"])
def test_folders_of_labels_have_several_names(tmp_path, maps):
    touch(tmp_path, "img/p1.nii", f"{maps}/p1.nii", "notes/read.me")
    assert cases(tmp_path) == {"p1": ("img/p1.nii", f"{maps}/p1.nii")}


def test_folders_without_an_image_are_no_reason_to_take_labels_for_images(tmp_path):
    for images, maps in (("imagesTr", "labelsTr"), ("scans", "masks")):
        touch(tmp_path / images, f"{images}/read.me", f"{maps}/p1.nii")
        with pytest.raises(MedclError, match=f"{images}: no images"):
            guessed(tmp_path / images)
    touch(tmp_path / "d", "scans/p1/1.dcm", "masks/p1.nii")
    assert [s.layout for s in guessed(tmp_path / "d")] == ["dicom"]


def test_nnunets_tests_are_read_beside_its_training_without_a_dataset_json(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii", "labelsTr/a.nii", "imagesTs/b_0000.nii")
    assert cases(tmp_path) == {
        "a": ("imagesTr/a_0000.nii", "labelsTr/a.nii"),
        "b": ("imagesTs/b_0000.nii", None),
    }


def test_a_description_stands_for_its_folder_and_other_files_end_with_what_to_do(tmp_path):
    pair = {"image": "i/a.nii", "label": "l/a.nii"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [pair]}))
    touch(tmp_path, "i/a.nii", "l/a.nii", "mine.yaml")
    (source,) = guessed(tmp_path / "dataset.json")
    assert (source.layout, source.path) == ("msd", str(tmp_path))
    with pytest.raises(MedclError, match=r"mine\.yaml: describes a dataset; give it as --settings"):
        guessed(tmp_path / "mine.yaml")
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(MedclError, match="is a spreadsheet; export it as CSV"):
        list_entries(guessed(tmp_path / "t.xlsx"))


# ------------------------------------------------------------------- labels among the images


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["p1", "p1_seg", "p2", "p2_seg", "p3"], {"p1": "p1_seg", "p2": "p2_seg", "p3": None}),
        (["p1_ct", "p1_label", "p2_ct"], {"p1": "p1_label", "p2": None}),
        (["volume-0", "segmentation-0", "volume-1"], {"0": "segmentation-0", "1": None}),
        (["p1", "p1_fu", "p1_fu-mask"], {"p1": None, "p1_fu": "p1_fu-mask"}),
        (["x_seg", "y_seg"], {"x_seg": None, "y_seg": None}),  # names of images, as far as is known
    ],
)
def test_labels_beside_their_images_are_no_cases(tmp_path, files, expected):
    touch(tmp_path, *(f"{file}.nii.gz" for file in files))
    found = {case: label and label.removesuffix(".nii.gz")
             for case, (_, label) in cases(tmp_path).items()}  # fmt: skip
    assert found == expected


def test_labels_of_several_images_are_told_and_no_cases(tmp_path):
    touch(tmp_path, "p1_t1.nii", "p1_t2.nii", "p1_seg.nii")
    found = list_entries(guessed(tmp_path))
    assert [e.case for e in found if e.image and not e.skipped] == ["p1_t1", "p1_t2"]
    assert [f.code for e in found if e.label for f in e.findings] == ["label_without_image"]
    touch(tmp_path / "x", "p1.nii", "p1_liver_mask.nii", "p1_lung_mask.nii")
    assert label_marks(["p1", "p1_liver_mask", "p1_lung_mask"]) == Marks(behind_label="_mask")
    found = list_entries(guessed(tmp_path / "x"))
    assert [e.case for e in found if e.image and not e.skipped] == ["p1"]


def test_folders_below_a_flat_one_are_read_too(tmp_path):
    touch(tmp_path, "p1.nii", "p1_seg.nii", "more/p2.nii", "empty/read.me")
    assert cases(tmp_path) == {"p1": ("p1.nii", "p1_seg.nii"), "p2": ("more/p2.nii", None)}


def test_a_folder_for_each_subject_holds_its_image_and_label(tmp_path):
    touch(tmp_path / "a", *(f"case_{n}/{name}.nii.gz" for n in (0, 1) for name in ("ct", "seg")))
    assert cases(tmp_path / "a")["case_1"] == ("case_1/ct.nii.gz", "case_1/seg.nii.gz")
    touch(tmp_path / "b", "p1/p1_f01.nii.gz", "p1/p1_f01_gt.nii.gz", "p2/p2_f03.nii.gz")
    assert cases(tmp_path / "b") == {
        "p1_f01": ("p1/p1_f01.nii.gz", "p1/p1_f01_gt.nii.gz"),
        "p2_f03": ("p2/p2_f03.nii.gz", None),
    }


def test_scans_to_predict_are_those_without_labels(tmp_path):
    touch(tmp_path, "p1.nii", "p1_seg.nii", "p2.nii")
    found = list_entries(guessed(tmp_path), labels=False)
    assert [(e.case, e.label) for e in found if not e.skipped] == [("p1", None), ("p2", None)]
    both = Channels(("T2", "ADC"))
    touch(tmp_path / "x", "p_T2.nii", "p_ADC.nii", "p_seg.nii")
    found = list_entries(guessed(tmp_path / "x", both), channels=both, labels=False)
    assert [(e.case, len(e.files)) for e in found if not e.skipped] == [("p", 2)]


# ------------------------------------------------------- labels of nobody, images left over

UNKNOWN = [
    ["p1.nii", "labels/p1.nii"],
    ["CT/p1.nii", "masks/p1.nii"],
    ["train/images/p1.nii", "train/labels/p1.nii", "test/images/p2.nii"],
    ["images/p1.nii", "labels/p1.nii", "masks/p1.nii"],
    ["imagesTs/p1_0000.nii", "labelsTr/p1.nii"],
    ["p1/ct.nii", "p1/seg.nii", "p2/CT.nii"],
    ["p1/t1.nii", "p1/t2.nii", "p1/seg.nii"],
    ["a/b/p1.nii", "a/b/p1_seg.nii"],
    ["p1.nii", "p1_seg.nii", "labels/p2.nii"],
    ["a/volume-1.nii", "a/ct-2.nii", "a/segmentation-1.nii"],
]


@pytest.mark.parametrize("files", UNKNOWN)
def test_labels_of_nobody_are_refused_and_are_no_scans_to_predict(tmp_path, files):
    touch(tmp_path, *files)
    with pytest.raises(MedclError, match=r"holds labels, such as .*(labels|masks|seg).* YAML"):
        list_undescribed(tmp_path)
    found = list_undescribed(tmp_path, labels=False)[1]
    used = {below(tmp_path, e.image) for e in found if not e.skipped}
    assert used == {file for file in files if not re.search("label|mask|seg", file)}
    assert {below(tmp_path, e.image) for e in found} | asides(tmp_path, found) == set(files)


def asides(root: Path, entries: list[Entry]) -> set[str | None]:
    return {below(root, path) for entry in entries for path in entry.aside}


def test_names_of_images_without_their_like_are_no_labels(tmp_path):
    touch(tmp_path, "a/x_seg.nii", "a/y_seg.nii", "b/gt12.nii", "labels/read.me")
    assert len([e for e in list_undescribed(tmp_path)[1] if not e.skipped]) == 3


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (["p1/p1.nii.gz", "p1/p1_seg.nii.gz", "p2/p2.nii.gz", "p3/p3.mha"], "p3/p3.mha"),
        (["images/p1.nii", "labels/p1.nii", "images/more/p2.nii"], "images/more/p2.nii"),
        (["images/p1.nii", "labels/p1.nii", "test/p2.nii"], "test/p2.nii"),
    ],
)
def test_a_scan_that_does_not_fit_the_guess_is_told(tmp_path, files, left):
    touch(tmp_path, *files)
    for labels in (True, False):
        *_, last = list_undescribed(tmp_path, labels=labels)[1]
        assert (below(tmp_path, last.image), last.skipped) == (left, True)
        assert [f.code for f in last.findings] == ["not_used"]
        assert "describe the folder in a dataset YAML" in str(last.findings[0])


def test_a_folder_that_may_not_be_looked_into_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "p1/ct.nii", "p1/seg.nii", "p2/ct.nii", "p2/seg.nii")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("p2"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    entries = list_undescribed(tmp_path)[1]
    assert [(Path(str(e.image)).name, [f.code for f in e.findings]) for e in entries] == [
        ("ct.nii", []),
        ("p2", ["unreadable"]),
    ]


def test_a_name_that_is_no_text_is_told_once(tmp_path):
    touch(tmp_path, "p1.nii", "p1_seg.nii", os.fsdecode(b"p\xff.nii"), os.fsdecode(b"q\xff.mha"))
    found = list_undescribed(tmp_path)[1]
    told = [(e.case, [f.code for f in e.findings]) for e in found if e.image and not e.label]
    assert [codes for _, codes in told if codes != ["label_among_images"]] == [
        ["unusable_name"], ["unusable_name"],
    ]  # fmt: skip
    assert all(str(e.image).encode() for e in found)


@pytest.mark.parametrize("other", ["p2_mask.nii", "p2_Seg.nii", "p2_seg2.nii"])
def test_a_label_with_another_mark_is_no_image(tmp_path, other):
    touch(tmp_path, "p1.nii", "p1_seg.nii", "p2.nii", "p3.nii", "p3_seg.nii", other)
    for labels in (True, False):
        found = list_undescribed(tmp_path, labels=labels)[1]
        assert [e.case for e in found if not e.skipped] == ["p1", "p2", "p3"]
        told = {below(tmp_path, e.image): f.code for e in found for f in e.findings}
        assert told[other] == "label_among_images"


def test_images_in_folders_of_their_own_are_told_with_their_pattern(tmp_path):
    touch(tmp_path / "a", "images/p1/ct.nii.gz", "labels/p1/seg.nii.gz")
    with pytest.raises(MedclError, match=r"such as .*/ct.nii.gz; .*images/{subject}/ct.nii.gz"):
        guessed(tmp_path / "a")
    touch(tmp_path / "b", "images/p1/v1/p1_ct.nii", "labels/p1.nii")
    with pytest.raises(MedclError, match=r"images: images/{subject}/\*/{subject}_ct.nii"):
        guessed(tmp_path / "b")


# ------------------------------------------------------------------------------------ BIDS


def bids(root: Path, *names: str) -> Path:
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x"}))
    return touch(root, *names)


def test_a_bids_root_is_read_as_one_and_its_derivatives_are_no_images(tmp_path):
    folder = "derivatives/manual/sub-2/anat"
    bids(
        tmp_path,
        *("sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii.gz"),
        *("sub-1/func/sub-1_bold.nii.gz", "sub-2/func/sub-2_bold.nii.gz"),
        *(f"{folder}/sub-2_desc-x_dseg.nii.gz", f"{folder}/sub-2_desc-brain_mask.nii.gz"),
        "derivatives/prep/sub-1/anat/sub-1_desc-preproc_T1w.nii.gz",
    )
    sources = guessed(tmp_path)
    assert [(s.layout, s.images, s.labels) for s in sources] == [
        ("bids", "T1w", "manual/dseg"),
        ("bids", "bold", None),
    ]
    found = cases(tmp_path)
    assert list(found) == ["sub-1_T1w", "sub-2_T1w", "sub-1_bold", "sub-2_bold"]
    assert found["sub-2_T1w"][1] == f"{folder}/sub-2_desc-x_dseg.nii.gz"


def test_labels_of_bids_go_to_the_images_they_fit(tmp_path):
    bids(tmp_path, "sub-1/anat/sub-1_T1w.nii", "sub-1/anat/sub-1_FLAIR.nii")
    touch(tmp_path, "sub-2/anat/sub-2_T1w.nii")
    touch(tmp_path, "derivatives/m/sub-1/anat/sub-1_space-FLAIR_label-lesion_mask.nii")
    sources = {s.images: s.labels for s in guessed(tmp_path)}
    assert sources == {"T1w": None, "FLAIR": "m/label-*_mask"}
    both = Channels(("T1w", "FLAIR"))
    (source,) = guessed(tmp_path, both)
    (first, second) = list_entries([source], channels=both)
    assert [file.name for file in first.files] == ["T1w", "FLAIR"]
    assert [finding.code for finding in second.findings] == ["missing_channel"]


def test_labels_of_bids_are_those_of_which_most_images_have_one(tmp_path):
    """Three label maps of a pipeline for every image, and a mask drawn for one of them."""
    bids(tmp_path, *(f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in (1, 2)))
    made, drawn = "derivatives/fmriprep/sub-{n}/anat/sub-{n}", "derivatives/manual/sub-{n}/anat"
    maps = ("dseg", "desc-aseg_dseg", "desc-aparcaseg_dseg", "desc-brain_mask")
    for n in (1, 2):
        touch(tmp_path, *(f"{made.format(n=n)}_{name}.nii.gz" for name in maps))
    told: list[str] = []
    (source,) = guess_sources(tmp_path, tell=told.append)
    assert source.labels is None
    assert "fmriprep/dseg (*_T1w: one label for 0 images, several for 2); to use them" in told[0]

    lesion, cyst = (f"{drawn.format(n=2)}/sub-2_label-{x}_mask.nii.gz" for x in ("lesion", "cyst"))
    touch(tmp_path, lesion, cyst)
    told.clear()
    (source,) = guess_sources(tmp_path, tell=told.append)
    assert source.labels == "manual/label-*_mask"
    assert len(told) == 1
    assert "manual" not in told[0]
    found = list_entries([source])
    assert [[name for name, _ in entry.parts] for entry in found] == [[], ["cyst", "lesion"]]
    assert [entry.findings for entry in found] == [(), ()]

    again = [lesion.replace("_label", f"_desc-{reader}_label") for reader in "ab"]
    touch(tmp_path, *again)
    told.clear()
    (source,) = guess_sources(tmp_path, tell=told.append)
    assert source.labels is None
    assert "manual/label-*_mask (*_T1w: one label for 0 images, several for 1)" in told[0]


def test_labels_of_bids_that_are_all_used_are_not_told(tmp_path):
    bids(tmp_path, "sub-1/anat/sub-1_T1w.nii", "derivatives/m/sub-1/anat/sub-1_dseg.nii")
    told: list[str] = []
    (source,) = guess_sources(tmp_path, tell=told.append)
    assert (source.labels, told) == ("m/dseg", [])


def test_a_description_without_subjects_is_no_bids(tmp_path):
    bids(tmp_path, "a.nii")
    assert [s.layout for s in guessed(tmp_path)] == ["files"]
