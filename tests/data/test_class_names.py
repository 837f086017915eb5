"""The classes of a dataset beside those of its dataset.json, in both forms."""

import json
from pathlib import Path

import pytest

from medcl.config import Dataset, Dicom
from medcl.data.combined import list_dataset
from medcl.errors import MedclError

V2 = {"background": 0, "liver": 1, "tumour": 2}
V1 = {"0": "background", "1": "liver", "2": "tumour"}


def told(root: Path, labels: object, classes: dict[str, int], layout: str) -> list[str]:
    """Findings on the one labelled case of a folder, of which another case has no label."""
    table = {"labels": labels, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}}
    pair = {"image": "./imagesTr/a_0000.nii.gz", "label": "./labelsTr/a.nii.gz"}
    if layout == "msd":
        table = {"labels": labels, "modality": {"0": "CT"}, "training": [pair]}
        table["test"] = ["./imagesTs/b_0000.nii.gz"]
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / "dataset.json").write_text(json.dumps(table))
    dataset = Dataset.model_validate(
        {"name": "d", "root": str(root), "modality": "CT", "sources": [{"layout": layout}]}
        | {"classes": classes}
    )
    labelled, plain = list_dataset(dataset, Dicom())
    assert plain.findings == ()
    return [f"{f.severity} {f.code}: {f}" for f in labelled.findings]


@pytest.mark.parametrize(("labels", "layout"), [(V2, "nnunet"), (V1, "msd"), (V1, "nnunet")])
def test_a_name_with_another_value_stops_the_run(tmp_path, labels, layout):
    with pytest.raises(MedclError) as error:
        told(tmp_path, labels, {"tumour": 1, "liver": 2}, layout)
    file = tmp_path / "dataset.json"
    assert str(error.value).splitlines() == [
        f"classes.liver: is 2, but 'liver' in {file} is 1; correct the one that is wrong",
        f"classes.tumour: is 1, but 'tumour' in {file} is 2; correct the one that is wrong",
    ]
    assert told(tmp_path, labels, {"Liver": 1, "TUMOUR": 2}, layout) == []


@pytest.mark.parametrize(("labels", "layout"), [(V2, "nnunet"), (V1, "msd")])
def test_a_value_with_another_name_is_a_warning(tmp_path, labels, layout):
    (said,) = told(tmp_path, labels, {"liver": 1, "lesion": 2}, layout)
    assert said.startswith("warning class_differs")
    assert "value 2 is 'tumour', `classes` calls it lesion" in said


def test_a_value_of_one_side_alone_is_a_warning(tmp_path):
    (said,) = told(tmp_path, V2, {"liver": 1}, "nnunet")
    assert said.startswith("warning class_left_out")
    assert "value 2 (tumour) is not among `classes`" in said
    (said,) = told(tmp_path, V2, {"liver": 1, "tumour": 2, "cyst": 3}, "nnunet")
    assert "has no value 3, which `classes` calls cyst" in said
    assert "1 liver, 2 tumour" in said


def test_a_region_is_the_values_it_lists_and_no_class(tmp_path):
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    names = {"oedema": 1, "necrosis": 2, "enhancing": 3}
    assert told(tmp_path, regions, names, "nnunet") == []
    (said,) = told(tmp_path, regions, {"oedema": 1, "necrosis": 2}, "nnunet")
    assert "value 3 (enhancing) is not among" in said
    with pytest.raises(MedclError, match=r"'whole' in .* is a region of the values 1, 2, 3"):
        told(tmp_path, regions, {"whole": 1}, "nnunet")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "background", "1": "liver", "2": "liver"}, "calls 1 'liver' and 2 'liver': one"),
        ({"0": "background", "1": "Liver", "2": "liver "}, "calls 1 'Liver' and 2 'liver ': one"),
        ({"0": "background", "1": "background", "2": "liver"}, "calls 0 'background' and 1"),
        ({"background": 0, "left_liver": 1, "left liver": 2}, "calls 1 'left_liver' and 2"),
    ],
)
@pytest.mark.parametrize("layout", ["msd", "nnunet"])
def test_two_values_of_one_name_are_refused(tmp_path, labels, message, layout):
    with pytest.raises(MedclError, match=rf"dataset\.json: `labels` {message}"):
        told(tmp_path, labels, {"liver": 1}, layout)


@pytest.mark.parametrize("labels", [{}, {"background": 0}])
def test_a_file_without_classes_says_nothing(tmp_path, labels):
    assert told(tmp_path, labels, {"liver": 1}, "nnunet") == []


@pytest.mark.parametrize("labels", [{"liver": "one"}, ["liver"], {"liver": {"value": 1}}])
def test_labels_that_are_no_mapping_of_names_and_values_are_refused(tmp_path, labels):
    with pytest.raises(MedclError, match=r"dataset\.json: `labels` must map names to values"):
        told(tmp_path, labels, {"liver": 1}, "nnunet")
