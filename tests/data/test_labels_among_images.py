"""What is known to be a label is never an image: nothing is pretrained on a label map."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from medcl.config import Dataset, Dicom, Source
from medcl.data.channel_lists import NONE, Channels
from medcl.data.combined import images_of, joining, list_dataset
from medcl.data.entries import Entry
from medcl.data.sources import list_entries
from medcl.data.structures import Naming
from medcl.errors import MedclError

FLAT = {"layout": "folders", "images": "{subject}.nii", "labels": "{subject}_seg.nii"}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(root: Path, *sources: dict, **options) -> list[Entry]:
    return list_entries([Source.model_validate(keys) for keys in sources], str(root), **options)


def used(entries: list[Entry]) -> dict[str, str | None]:
    """Case -> name of its label."""
    return {e.case: e.label and Path(e.label).name for e in entries if e.image and not e.skipped}


def told(entries: list[Entry]) -> list[tuple[str, str, bool]]:
    """(name of the image, code, skipped)."""
    return [(Path(str(e.image)).name, f.code, e.skipped) for e in entries for f in e.findings]


def dataset(root: Path, name: str, **keys) -> Dataset:
    content = {"name": name, "root": str(root), "modality": "MR", "classes": {"liver": 1}}
    return Dataset.model_validate(content | {"sources": [keys]})


def joined(dataset: Dataset, others: Sequence[Entry] = ()) -> list[Entry]:
    return joining(dataset, images_of(dataset, Dicom(), NONE), others)


def test_a_file_that_fits_the_pattern_of_labels_is_skipped_as_an_image(tmp_path):
    touch(tmp_path, "p1.nii", "p1_seg.nii", "p2.nii", "p3_seg.nii")
    entries = listed(tmp_path, FLAT)
    assert used(entries) == {"p1": "p1_seg.nii", "p2": None}
    assert told(entries) == [
        ("p1_seg.nii", "label_among_images", True),
        ("p3_seg.nii", "label_among_images", True),
        ("None", "label_without_image", False),
    ]


MASKS = {"layout": "folders", "images": "{subject}.nii", "labels": "{subject}_{class}.nii"}


def parts(entries: list[Entry]) -> dict[str, list[str]]:
    """Case -> its masks; of what is not used, or with an error, nothing."""
    return {e.case: [Path(path).stem for _, path in e.parts] for e in entries
            if e.image and not e.skipped and not e.findings}  # fmt: skip


def test_masks_beside_images_are_known_by_their_class(tmp_path):
    touch(tmp_path, "p_1.nii", "p_1_liver.nii", "p_1_spleen.nii", "p_2.nii", "p_3_liver.nii")
    entries = listed(tmp_path, MASKS, naming=Naming({"liver": 1}, ignored=["spleen"]))
    assert parts(entries) == {"p_1": ["p_1_liver", "p_1_spleen"], "p_2": []}
    assert [e.label and Path(e.label).name for e in entries if e.image is None] == ["p_3_liver.nii"]


def test_an_image_with_masks_of_its_own_is_no_mask_of_another(tmp_path):
    touch(tmp_path, "p.nii", "p_fu.nii", "p_liver.nii", "p_fu_liver.nii")
    liver = Naming({"liver": 1})
    own = {"p": ["p_liver"], "p_fu": ["p_fu_liver"]}
    assert parts(listed(tmp_path, MASKS, naming=liver)) == own
    assert list(parts(listed(tmp_path, MASKS, naming=liver, labels=False))) == ["p", "p_fu"]
    touch(tmp_path / "x", "case.nii", "case_1.nii", "case_2.nii")
    touch(tmp_path / "x", "case_1_liver.nii", "case_2_liver.nii")
    assert parts(listed(tmp_path / "x", MASKS, naming=liver)) == {
        "case": [], "case_1": ["case_1_liver"], "case_2": ["case_2_liver"],
    }  # fmt: skip


def test_a_mask_of_one_of_two_images_is_refused_and_not_given_to_either(tmp_path):
    touch(tmp_path, "p.nii", "p_left.nii", "p_kidney.nii", "p_left_kidney.nii")
    kidneys = Naming({"kidney": 1, "left_kidney": 2})
    assert told(listed(tmp_path, MASKS, naming=kidneys)) == [
        ("p.nii", "label_ambiguous", False),
        ("p_left.nii", "label_ambiguous", False),
        ("p_kidney.nii", "label_among_images", True),
        ("p_left_kidney.nii", "label_among_images", True),
    ]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize(
    ("files", "classes"),
    [
        ("p p_liver p_2", ["liver"]),  # another visit, or a structure nobody named
        ("p p_tumour p_tumour_liver p_2", ["liver", "tumour"]),
    ],
)
def test_what_may_be_an_image_or_a_mask_is_refused(tmp_path, files, classes, labels):
    touch(tmp_path, *(f"{file}.nii" for file in files.split()))
    naming = Naming({name: value for value, name in enumerate(classes, 1)})
    entries = listed(tmp_path, MASKS, naming=naming, labels=labels)
    found = [(e.case, f.code, f.severity) for e in entries for f in e.findings if not e.skipped]
    assert ("p_2", "label_ambiguous", "error") in found
    assert list(parts(entries)) == ["p"]
    keys = MASKS | {"images": "{subject}.nii"}
    pool = joined(dataset(tmp_path, "o", **keys))
    assert ("p_2.nii", "label_ambiguous", False) in told(pool)


def test_a_mark_of_images_is_no_class_of_their_own(tmp_path):
    touch(tmp_path, "p_T2.nii", "p_liver.nii", "q_T2.nii")
    keys = MASKS | {"images": "{subject}_T2.nii"}
    entries = listed(tmp_path, keys, naming=Naming({"liver": 1}))
    assert parts(entries) == {"p": ["p_liver"], "q": []}


def test_a_class_of_two_words_is_no_mask_on_the_first(tmp_path):
    touch(tmp_path, "p.nii", "p_liver.nii", "p_tumour.nii", "p_liver_tumour.nii", "p_livr.nii")
    naming = Naming({"liver": 1, "tumour": 2, "liver_tumour": 3})
    entries = listed(tmp_path, MASKS, naming=naming)
    assert parts(entries) == {"p": ["p_liver", "p_liver_tumour", "p_livr", "p_tumour"]}


def test_images_that_all_fit_the_pattern_of_labels_are_refused_by_key(tmp_path):
    touch(tmp_path, "p/t1.nii", "p/seg.nii")
    keys = {"layout": "folders", "images": "{subject}/t1.nii", "labels": "{subject}/*.nii"}
    with pytest.raises(MedclError, match=r"labels: all 1 paths that fit .* fit .* too; make it na"):
        listed(tmp_path, keys)


def test_labels_are_no_channels_either(tmp_path):
    touch(tmp_path, "a_T2.nii", "a_ADC.nii", "a_ADC_seg.nii")
    images = {"T2": "{subject}_T2.nii", "ADC": "{subject}_ADC*.nii"}
    keys = FLAT | {"images": images, "labels": "{subject}_ADC_seg.nii"}
    entries = listed(tmp_path, keys, channels=Channels(("T2", "ADC")))
    assert used(entries) == {"a": "a_ADC_seg.nii"}
    assert told(entries) == [("a_ADC_seg.nii", "label_among_images", True)]


def test_the_label_of_one_source_is_no_image_of_another(tmp_path):
    touch(tmp_path, "i/a.nii", "l/a_map.nii", "b.nii")
    (tmp_path / "linked.nii").symlink_to(tmp_path / "l" / "a_map.nii")
    (tmp_path / "t.csv").write_text("case,image,label\nx,i/a.nii,l/a_map.nii\n")
    entries = listed(tmp_path, {"layout": "csv", "path": "t.csv"}, {"layout": "files"})
    assert used(entries) == {"x": "a_map.nii", "b": None, "i_a": None}
    assert sorted(told(entries)) == [
        ("a_map.nii", "label_among_images", True),
        ("linked.nii", "label_among_images", True),
    ]


@pytest.mark.parametrize("rows", ["a,a.nii,a.nii\n", "a,a.nii,b.nii\nb,b.nii,c.nii\n"])
def test_a_labelled_image_that_is_a_label_too_is_an_error(tmp_path, rows):
    touch(tmp_path, "a.nii", "b.nii", "c.nii")
    (tmp_path / "t.csv").write_text("case,image,label\n" + rows)
    entries = listed(tmp_path, {"layout": "csv", "path": "t.csv"})
    ((name, code, skipped),) = told(entries)
    assert (name, code, skipped) == (Path(str(entries[-1].image)).name, "label_among_images", False)
    assert entries[-1].findings[0].severity == "error"


@pytest.mark.parametrize(
    ("keys", "label", "cases"),
    [
        (FLAT, "p1_seg.nii", ["o.p1", "o.p2"]),
        (FLAT | {"labels": "{subject}_{class}.nii"}, "p1_liver.nii", ["o.p1", "o.p2"]),
        ({"layout": "csv", "path": "t.csv"}, "p1_seg.nii", ["o.p1"]),
    ],
)
def test_no_label_map_joins_the_pool_of_another_dataset(tmp_path, keys, label, cases):
    touch(tmp_path, "p1.nii", label, "p2.nii")
    (tmp_path / "t.csv").write_text("case,image,label\np1,p1.nii,p1_seg.nii\nq,p1_seg.nii,\n")
    found = joined(dataset(tmp_path, "o", **keys))
    assert list(used(found)) == cases
    assert set(used(found).values()) == {None}
    assert told(found) == [(label, "label_among_images", True)]


def test_labels_that_are_not_there_stop_no_pretraining(tmp_path):
    touch(tmp_path, "p1.nii")
    keys = FLAT | {"labels": "labels/{subject}.nii"}
    assert list(used(joined(dataset(tmp_path, "o", **keys)))) == ["o.p1"]


def test_labels_of_the_labelled_dataset_are_no_images_of_those_it_is_pretrained_on(tmp_path):
    touch(tmp_path, "images/p1.nii", "labels/p1.nii", "more/p2.nii")
    keys = {"layout": "folders", "images": "images/{subject}.nii", "labels": "labels/{subject}.nii"}
    labelled = list_dataset(dataset(tmp_path, "d", **keys), Dicom())
    found = joined(dataset(tmp_path, "o", layout="files"), labelled)
    assert list(used(found)) == ["o.images_p1", "o.more_p2"]
    assert told(found) == [("p1.nii", "label_among_images", True)]


BIDS = {"layout": "bids", "images": "T1w", "labels": "m/dseg"}


@pytest.mark.parametrize(
    ("source", "files", "drawn"),
    [
        (FLAT, ["p1.nii"], ["p1_seg.nii", "p2_seg.nii"]),
        (FLAT | {"labels": "l/{subject}.nii"}, ["p1.nii"], ["l/p1.nii", "l/p2.nii"]),
        (FLAT | {"labels": "{subject}_{class}.nii"}, ["p1.nii"], ["p1_liver.nii"]),
        (
            BIDS,
            ["sub-1/sub-1_T1w.nii"],
            [f"derivatives/m/sub-{n}/sub-{n}_dseg.nii" for n in (1, 2)],
        ),
        ({"layout": "csv", "path": "t.csv"}, ["p1.nii"], ["p1_seg.nii", "p2_seg.nii"]),
    ],
)
def test_labels_that_nobody_asked_for_are_no_images_of_another_source(
    tmp_path, source, files, drawn
):
    touch(tmp_path, *files, *drawn)
    (tmp_path / "t.csv").write_text("case,image,label\nx,p1.nii,p1_seg.nii\ny,,p2_seg.nii\n")
    naming = Naming({"liver": 1})
    entries = listed(tmp_path, source, {"layout": "files"}, labels=False, naming=naming)
    images = {Path(str(e.image)).name for e in entries if e.image and not e.skipped}
    assert images == {Path(file).name for file in files}
    own = dataset(tmp_path, "o", **source)
    every = images_of(own, Dicom(), NONE)
    pool = joined(dataset(tmp_path, "f", layout="files"), every)
    assert [Path(str(e.image)).name for e in pool if not e.skipped] == [Path(files[0]).name]


def test_classes_of_a_dataset_that_is_pretrained_on_are_not_compared(tmp_path):
    pair = {"image": "a.nii", "label": "b.nii"}
    table = {"modality": {"0": "MR"}, "labels": {"1": "lung"}, "training": [pair]}
    (touch(tmp_path, "a.nii", "b.nii") / "dataset.json").write_text(json.dumps(table))
    (entry,) = joined(dataset(tmp_path, "o", layout="msd"))
    assert (entry.case, entry.label, entry.findings) == ("o.a", None, ())
