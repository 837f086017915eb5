import json
import os
from pathlib import Path

import pytest

from medcl.config import Source
from medcl.data.entries import Entry
from medcl.data.guess import guess_sources
from medcl.data.sources import list_entries
from medcl.errors import MedclError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def source(layout: str, path: str = ".", **keys) -> Source:
    return Source.model_validate({"layout": layout, "path": path, **keys})


def codes(entry: Entry) -> list[str]:
    return [finding.code for finding in entry.findings]


def relative(entry: Entry, root: Path) -> tuple[str | None, str | None]:
    image, label = (
        path and str(Path(path).relative_to(root)) for path in (entry.image, entry.label)
    )
    return image, label


def test_folder_patterns_pair_images_and_labels_by_subject_and_visit(tmp_path):
    touch(
        tmp_path,
        *("sub-a/ses-1/anat/sub-a_ses-1_T1w.nii.gz", "sub-a/ses-2/anat/sub-a_ses-2_T1w.nii.gz"),
        *("sub-b/ses-1/anat/sub-b_ses-1_T1w.nii.gz", "sub-b/ses-1/anat/sub-c_ses-1_T1w.nii.gz"),
        *("seg/a_2.nii", "seg/x_1.nii", "seg/._a_2.nii"),
    )
    entries = list_entries(
        [
            source(
                "folders",
                images="sub-{subject}/ses-{visit}/anat/sub-{subject}_ses-{visit}_T1w.nii.gz",
                labels="seg/{subject}_{visit}.nii",
            )
        ],
        str(tmp_path),
    )
    assert [(e.case, e.subject, e.visit) for e in entries[:4]] == [
        ("a_1", "a", "1"),
        ("a_2", "a", "2"),
        ("b_1", "b", "1"),
        ("x_1", "x", "1"),
    ]
    assert relative(entries[1], tmp_path)[1] == "seg/a_2.nii"
    assert entries[0].label is None
    assert codes(entries[3]) == ["label_without_image"]
    # One subject in the folder, another in the file name: no case, and not passed over.
    assert [(e.case, codes(e), e.skipped) for e in entries[4:]] == [
        ("sub-c_ses-1_T1w", ["not_used"], True)
    ]


def test_two_labels_for_one_image_are_a_finding(tmp_path):
    touch(tmp_path, "i/a.nii", "l/a_ann.nii", "l/a_bob.nii")
    (entry,) = list_entries(
        [source("folders", images="i/{subject}.nii", labels="l/{subject}_*.nii")], str(tmp_path)
    )
    assert codes(entry) == ["several_labels"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, r"sources\[0\]\.images: this key is required"),
        ({"images": "*.nii"}, r"sources\[0\]\.images: '\*\.nii' must hold {subject}"),
        ({"images": "{subject}_{session}.nii"}, "may hold {visit}"),
        ({"images": "{subject}_{visit}.nii", "labels": "l/{subject}.nii"}, "use it in both"),
        ({"images": "{subject}.nii", "subject": "[a-"}, r"sources\[0\]\.subject: '\[a-'"),
        ({"images": "{subject}.nii", "subject": "a"}, "a regular expression with a group"),
        ({"images": "{subject}.nii", "exclude": ["a_l"]}, "no case is called 'a_l'; did you mean"),
        ({"images": "{subject}.nii", "modality": "MRI"}, "'MRI' is none of CT, MR"),
        ({"images": "{subject}.mha"}, r"no path in .* fits .* holds a_1\.nii; correct the pattern"),
        ({"path": "absent", "images": "{subject}.nii"}, r"sources\[0\]\.path: .*does not exist"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_by_key(tmp_path, keys, message):
    touch(tmp_path, "a_1.nii")
    with pytest.raises(MedclError, match=message):
        list_entries([source("folders", **keys)], str(tmp_path))


def test_subjects_come_from_the_case_name_by_an_expression(tmp_path):
    touch(tmp_path, "p01_left.nii", "p01_right.nii", "phantom.nii")
    entries = list_entries([source("files", subject=r"(p\d+)_")], str(tmp_path))
    assert [e.subject for e in entries] == ["p01", "p01", None]
    assert codes(entries[2]) == ["unknown_subject"]


def test_files_in_subfolders_are_named_after_their_way(tmp_path):
    touch(tmp_path, "b/t1.nii.gz", "a/t1.nii.gz", "c d.mha", ".hidden/x.nii", "read.me", "s.nrrd")
    entries = list_entries([source("files")], str(tmp_path))
    assert [e.case for e in entries] == ["c_d", "s", "a_t1", "b_t1"]
    assert [e.subject for e in entries] == [None] * 4


def test_excluded_cases_are_skipped_and_said(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    entries = list_entries([source("files", exclude=["a"])], str(tmp_path))
    assert [(e.case, e.skipped, codes(e)) for e in entries] == [
        ("a", True, ["excluded"]),
        ("b", False, []),
    ]


def test_inputs_of_one_name_are_refused_unless_they_are_one_file(tmp_path):
    touch(tmp_path, "one/a.nii", "two/a.nii", "two/b.nii")
    sources = [source("files", "one"), source("files", "two"), source("files", "two/b.nii")]
    entries = list_entries(sources, str(tmp_path))
    assert [(e.case, codes(e), e.skipped) for e in entries] == [
        ("a", ["duplicate_name"], False),
        ("a", ["duplicate_name"], False),
        ("b", [], False),
        ("b", ["duplicate_name"], True),
    ]
    assert entries[0].findings[0].severity == "error"
    assert "one/a.nii" in entries[0].findings[0].message
    assert "two/a.nii" in entries[0].findings[0].message


@pytest.mark.parametrize(
    ("rows", "used", "severity"),
    [
        ("p1,a.nii,\np1,a.nii,l1.nii\n", ["l1.nii"], "info"),
        ("p1,a.nii,l1.nii\np1,a.nii,\n", ["l1.nii"], "info"),
        ("p1,a.nii,l1.nii\np1,a.nii,l1.nii\n", ["l1.nii"], "info"),
        ("p1,a.nii,l1.nii\np1,a.nii,l2.nii\n", [], "error"),
    ],
)
def test_no_label_of_an_image_that_stands_twice_is_lost(tmp_path, rows, used, severity):
    touch(tmp_path, "a.nii", "l1.nii", "l2.nii")
    (tmp_path / "t.csv").write_text("case,image,label\n" + rows)
    entries = list_entries([source("csv", "t.csv")], str(tmp_path))
    told = [finding for e in entries for finding in e.findings if finding.code == "duplicate_name"]
    assert {finding.severity for finding in told} == {severity}
    good = [e for e in entries if not e.skipped and "duplicate_name" not in codes(e)]
    assert [e.label and e.label.rpartition("/")[2] for e in good] == used
    if severity == "error":
        assert "one image has several labels" in told[0].message


def test_a_table_names_subjects_files_and_keeps_its_other_columns(tmp_path):
    touch(tmp_path, "data/i1.nii", "data/l1.nii")
    (tmp_path / "table.csv").write_text(
        "\ufeffpatient;visit;file;label;modality;site;shape\n"
        "p1;1;data/i1.nii;data/l1.nii;PET;Bern;big\n"
        "p1;2;data/i2.nii;;;Basel;\n"
        "p2;1;;data/l3.nii;;;\n"
        "p3;1;;;;;\n"
        "p4;1;data/i4.nii;;X-ray;;\n",
        encoding="utf-8",
    )
    columns = {"subject": "patient", "image": "file"}
    entries = list_entries([source("csv", "table.csv", columns=columns)], str(tmp_path))
    assert [(e.case, e.subject, e.visit) for e in entries[:2]] == [
        ("p1_1", "p1", "1"),
        ("p1_2", "p1", "2"),
    ]
    assert relative(entries[0], tmp_path) == ("data/i1.nii", "data/l1.nii")
    assert entries[0].extra == {"site": "Bern", "table_shape": "big"}
    assert [e.modality for e in entries] == ["PET", None, None, None, None]
    assert [codes(e) for e in entries] == [
        [],
        [],
        ["label_without_image"],
        ["missing_image_file"],
        ["unknown_modality"],
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"subject": "patients"}, "has no column 'patients'; did you mean 'patient'"),
        ({"mask": "label"}, r"sources\[0\]\.columns\.mask: no such column; use case, subject"),
        ({}, r"no column 'image', only patient, file"),
    ],
)
def test_a_table_without_the_named_columns_is_refused(tmp_path, columns, message):
    (tmp_path / "t.csv").write_text("patient,file\np,f\n")
    with pytest.raises(MedclError, match=message):
        list_entries([source("csv", "t.csv", columns=columns)], str(tmp_path))


def test_the_decathlons_tests_join_without_labels(tmp_path):
    touch(
        tmp_path, *("imagesTr/a_1.nii.gz", "labelsTr/a_1.nii.gz", "imagesTs/a_2.nii.gz"),
        *("imagesTr/a_9.nii.gz", "imagesTr/._a_1.nii.gz"),
    )  # fmt: skip
    table = {
        "modality": {"0": "T1", "1": "T2"},
        "training": [{"image": "./imagesTr/a_1.nii.gz", "label": "./labelsTr/a_1.nii.gz"}],
        "test": ["./imagesTs/a_2.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    entries = list_entries([source("msd")], str(tmp_path))
    assert [(e.case, *relative(e, tmp_path)) for e in entries] == [
        ("a_1", "imagesTr/a_1.nii.gz", "labelsTr/a_1.nii.gz"),
        ("a_2", "imagesTs/a_2.nii.gz", None),
        ("a_9", "imagesTr/a_9.nii.gz", None),
    ]
    assert [e.channels for e in entries[:2]] == [2, 2]
    assert codes(entries[2]) == ["not_used"]


@pytest.mark.parametrize("content", ["{", "[]", '{"training": [1]}', '{"numTraining": 3}'])
def test_another_dataset_json_is_refused(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(MedclError, match=r"dataset\.json: not a table of the Decathlon"):
        list_entries([source("msd")], str(tmp_path))


def test_nnunets_raw_folder_is_read_by_its_ending(tmp_path):
    touch(tmp_path, *("imagesTr/a_0000.mha", "labelsTr/a.mha", "imagesTs/b_0000.mha"))
    table = {"channel_names": {"0": "CT"}, "file_ending": ".mha", "numTraining": 1}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    entries = list_entries([source("msd")], str(tmp_path))
    assert [(e.case, *relative(e, tmp_path)) for e in entries] == [
        ("a", "imagesTr/a_0000.mha", "labelsTr/a.mha"),
        ("b", "imagesTs/b_0000.mha", None),
    ]


def test_every_folder_with_dicom_is_a_case_named_after_its_way(tmp_path):
    touch(tmp_path, "p1/CT thin/1.dcm", "p1/notes.txt", "p2/ref.nii.gz")
    (tmp_path / "p2" / "MR").mkdir()
    (tmp_path / "p2" / "MR" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "p2" / "MR" / "loop").symlink_to(tmp_path / "p2")
    entries = list_entries([source("dicom")], str(tmp_path))
    assert [(e.case, codes(e)) for e in entries] == [
        ("p1_CT_thin", ["unreadable"]),
        ("p2_MR", ["unreadable"]),
        ("ref", ["not_used"]),
    ]


@pytest.mark.parametrize(
    ("files", "layout", "images"),
    [
        (["imagesTr/a_0000.nii", "labelsTr/a.nii"], "folders", "imagesTr/{subject}_0000.nii"),
        (["images/a.nrrd", "images/b.nrrd", "images/c.nii", "labels/a.nrrd"], "folders",
         "images/{subject}.nrrd"),
        (["dataset.json", "imagesTr/a.nii", "labelsTr/a.nii"], "msd", None),
        (["p/1.dcm"], "dicom", None),
        (["p/1.nii"], "files", None),
    ],
)  # fmt: skip
def test_the_layout_of_a_folder_is_guessed(tmp_path, files, layout, images):
    (guessed,) = guess_sources(touch(tmp_path, *files))
    assert (guessed.layout, guessed.images) == (layout, images)


def test_labels_are_guessed_only_where_there_are_some(tmp_path):
    touch(tmp_path, "images/a.nii", "labels/b.mha")
    assert guess_sources(tmp_path)[0].labels == "labels/{subject}.mha"
    (tmp_path / "labels" / "b.mha").unlink()
    assert guess_sources(tmp_path)[0].labels is None


def test_what_cannot_be_guessed_is_said(tmp_path):
    assert guess_sources(touch(tmp_path, "t.csv") / "t.csv")[0].layout == "csv"
    assert guess_sources(touch(tmp_path, "v.mha") / "v.mha")[0].layout == "files"
    with pytest.raises(MedclError, match="no such file or folder"):
        guess_sources(tmp_path / "absent")
    touch(tmp_path, *("imagesTr/a_0000.nii", "imagesTr/a_0001.nii", "labelsTr/a.nii"))
    with pytest.raises(MedclError, match=r"several files per case \(a_0001\)"):
        guess_sources(tmp_path)
    touch(tmp_path / "x", *("images/read.me", "labels/a.nii"))
    with pytest.raises(MedclError, match="no images"):
        guess_sources(tmp_path / "x")


def test_pipes_and_dead_links_stop_no_guess(tmp_path):
    touch(tmp_path, "a.nii")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dead").symlink_to("nowhere")
    (guessed,) = guess_sources(tmp_path)
    assert guessed.layout == "files"
