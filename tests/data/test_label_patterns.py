"""Labels are known by the subjects and the classes there are, never by where a name may be cut."""

from pathlib import Path

import pytest

from medcl.config import Source
from medcl.data.entries import Entry
from medcl.data.sources import list_entries
from medcl.data.structures import Naming
from medcl.errors import MedclError

KIDNEYS = Naming({"left_kidney": 1, "right_kidney": 2, "liver": 3})
KEYS = {"images": "i/{subject}.nii.gz", "labels": "m/{subject}_{class}.nii.gz"}


def listed(root: Path, *files: str, naming: Naming = KIDNEYS, **keys: str) -> dict[str, Entry]:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    source = Source.model_validate({"layout": "folders", **KEYS, **keys})
    return {entry.case: entry for entry in list_entries([source], str(root), naming=naming)}


def masks(entry: Entry) -> dict[str, str]:
    return {structure: Path(path).name for structure, path in entry.parts}


def codes(entry: Entry) -> list[str]:
    return [finding.code for finding in entry.findings]


def test_a_class_with_an_underscore_is_not_cut(tmp_path):
    names = [f"m/p_1_{name}.nii.gz" for name in KIDNEYS.classes]
    entries = listed(tmp_path, "i/p_1.nii.gz", *names)
    assert list(entries) == ["p_1"]
    assert masks(entries["p_1"]) == {name: f"p_1_{name}.nii.gz" for name in KIDNEYS.classes}
    assert codes(entries["p_1"]) == []


def test_visits_are_known_by_their_images_too(tmp_path):
    keys = {"images": "i/{subject}_{visit}.nii", "labels": "m/{subject}_{visit}_{class}.nii"}
    entries = listed(tmp_path, "i/a_b_1.nii", "m/a_b_1_left_kidney.nii", **keys)
    assert (entries["a_b_1"].subject, entries["a_b_1"].visit) == ("a_b", "1")
    assert list(masks(entries["a_b_1"])) == ["left_kidney"]


def test_of_two_subjects_the_one_whose_mask_names_a_class_has_it(tmp_path):
    files = ("i/p1.nii.gz", "i/p1_left.nii.gz", "m/p1_left_kidney.nii.gz", "m/p1_left_liver.nii.gz")
    entries = listed(tmp_path, *files)
    assert list(masks(entries["p1"])) == ["left_kidney"]
    assert list(masks(entries["p1_left"])) == ["liver"]


def test_a_misspelt_mask_goes_to_the_subject_whose_class_it_resembles(tmp_path):
    files = ("i/p1.nii.gz", "i/p1_left.nii.gz", "m/p1_left_kidny.nii.gz", "m/p1_left_liver.nii.gz")
    assert list(masks(listed(tmp_path, *files)["p1"])) == ["left_kidny"]


def test_a_mask_of_no_class_goes_to_the_longest_subject(tmp_path):
    entries = listed(tmp_path, "i/p1.nii.gz", "i/p1_b.nii.gz", "m/p1_b_gall_bladder.nii.gz")
    assert list(masks(entries["p1_b"])) == ["gall_bladder"]
    assert masks(entries["p1"]) == {}


def test_a_mask_that_may_be_of_two_subjects_stops_both(tmp_path):
    naming = Naming({"left_kidney": 1, "kidney": 2})
    files = ("i/p1.nii.gz", "i/p1_left.nii.gz", "i/p2.nii.gz")
    marks = ("m/p1_left_kidney.nii.gz", "m/p1_kidney.nii.gz", "m/p2_kidney.nii.gz")
    entries = listed(tmp_path, *files, *marks, naming=naming)
    assert {name: codes(entry) for name, entry in entries.items()} == {
        "p1": ["label_ambiguous"],
        "p1_left": ["label_ambiguous"],
        "p2": [],
    }
    (finding,) = entries["p1"].findings
    assert "'kidney' of 'p1_left' or 'left_kidney' of 'p1'" in finding.message
    known = Naming({"left_kidney": 1}, ignored=["kidney"])
    assert codes(listed(tmp_path, naming=known)["p1"]) == ["label_ambiguous"]


def test_masks_of_nobody_are_one_finding_of_the_subject_their_classes_tell(tmp_path):
    lonely = ("m/p_2_left_kidney.nii.gz", "m/p_2_liver.nii.gz")
    entries = listed(tmp_path, "i/p1.nii.gz", "m/p1_liver.nii.gz", *lonely)
    assert list(entries) == ["p1", "p_2"]
    assert codes(entries["p_2"]) == ["label_without_image"]


def test_a_label_with_one_word_more_ends_in_the_pattern_to_write(tmp_path):
    files = ("i/p1.nii.gz", "m/p1_seg.nii.gz")
    entries = listed(tmp_path, *files, labels="m/{subject}.nii.gz")
    assert codes(entries["p1"]) == []
    assert entries["p1"].label is None
    assert "write {subject}_seg in `labels`" in str(entries["p1_seg"].findings[0])


def test_a_star_takes_no_part_of_a_subject_that_has_an_image(tmp_path):
    files = ("i/p1.nii", "i/p1_b.nii", "m/p1_b_seg.nii", "m/p1_new_seg.nii")
    keys = {"images": "i/{subject}.nii", "labels": "m/{subject}_*.nii"}
    entries = listed(tmp_path, *files, **keys)
    assert Path(entries["p1_b"].label).name == "p1_b_seg.nii"
    assert Path(entries["p1"].label).name == "p1_new_seg.nii"


def test_a_subject_is_a_text_and_no_expression(tmp_path):
    entries = listed(tmp_path, "i/p.1+[x].nii.gz", "m/p.1+[x]_liver.nii.gz", "m/pa1_liver.nii.gz")
    assert [codes(entry) for entry in entries.values()] == [[], ["label_without_image"]]


def test_the_suffix_of_a_volume_fits_in_any_letter_case(tmp_path):
    entries = listed(tmp_path, "i/p1.NII.GZ", "m/p1_liver.Nii.gz")
    assert list(masks(entries["p1"])) == ["liver"]


def test_backslashes_part_folders_in_a_pattern(tmp_path):
    entries = listed(
        tmp_path, "i/p1.nii", "m/p1.nii", images="i\\{subject}.nii", labels="m\\{subject}.nii"
    )
    assert list(entries) == ["p1"]
    assert entries["p1"].label


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"images": "I/{subject}.nii"}, r"images: no path in .* fits 'I/.* holds i, m; correct"),
        ({"labels": "l/{subject}.nii"}, r"labels: no path in .* holds i, m; correct the pattern"),
        (
            {"labels": "m/{subject}.nii"},
            r"labels: no path in .*/m holds p1_liver\.nii\.gz; correct",
        ),
        ({"images": "/data/{subject}.nii"}, "is an absolute path; write it as seen from"),
        ({"images": "C:\\{subject}.nii"}, "is an absolute path; write it as seen from"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused_with_what_is_there(tmp_path, keys, message):
    with pytest.raises(MedclError, match=message):
        listed(tmp_path, "i/p1.nii.gz", "m/p1_liver.nii.gz", **keys)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    with pytest.raises(MedclError, match=r"images: .*p1\.nii\.gz is no folder; layout files takes"):
        listed(tmp_path, "i/p1.nii.gz", path="i/p1.nii.gz")
