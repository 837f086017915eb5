import json
from pathlib import Path

import pytest

from medcl.config import Source
from medcl.data.channel_lists import Channels
from medcl.data.sources import list_entries
from medcl.errors import MedclError


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def entries(root: Path, **keys: object) -> list[tuple]:
    """(case, image, label, subject, visit), without what is skipped."""
    found = list_entries([Source.model_validate(keys)], str(root))
    return [
        (e.case, below(root, e.image), below(root, e.label), e.subject, e.visit)
        for e in found
        if not e.skipped
    ]


def below(root: Path, path: str | None) -> str | None:
    return str(Path(path).relative_to(root)) if path else None


def codes(root: Path, **keys: object) -> list[str]:
    found = list_entries([Source.model_validate(keys)], str(root))
    return [finding.code for entry in found for finding in entry.findings]


# ------------------------------------------------------------------------------ nnU-Net raw

TWO_CHANNELS = {"channel_names": {"0": "T2", "1": "ADC"}, "file_ending": ".nii.gz"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "dataset.json").write_text(json.dumps(TWO_CHANNELS))
    touch(tmp_path, *(f"imagesTr/p_01_000{channel}.nii.gz" for channel in (0, 1)))
    touch(tmp_path, *(f"imagesTs/p_02_000{channel}.nii.gz" for channel in (0, 1)))
    touch(tmp_path, "labelsTr/p_01.nii.gz")
    return tmp_path


@pytest.mark.parametrize("channel", ["ADC", "adc", 1])
def test_a_channel_of_nnunet_is_chosen_by_name_or_number(raw, channel) -> None:
    assert entries(raw, layout="nnunet", channel=channel) == [
        ("p_01", "imagesTr/p_01_0001.nii.gz", "labelsTr/p_01.nii.gz", None, ""),
        ("p_02", "imagesTs/p_02_0001.nii.gz", None, None, ""),
    ]
    assert codes(raw, layout="nnunet", channel=channel) == ["channel_chosen"] * 2


def test_a_channel_that_is_not_there_is_refused_with_those_that_are(raw) -> None:
    with pytest.raises(MedclError, match=r"channel: no channel 'ADCC' .*0 T2, 1 ADC.* mean 'ADC'"):
        entries(raw, layout="nnunet", channel="ADCC")


def test_a_case_without_the_chosen_channel_is_listed_for_ingest_to_name(raw) -> None:
    (raw / "imagesTr" / "p_01_0001.nii.gz").unlink()
    assert entries(raw, layout="nnunet", channel=1)[0][1] == "imagesTr/p_01_0001.nii.gz"


def test_labels_without_images_and_files_without_a_channel_are_told(raw) -> None:
    touch(raw, "labelsTr/p_03.nii.gz", "imagesTr/odd.nii.gz")
    told = codes(raw, layout="nnunet", channel=0)
    assert sorted(told) == ["channel_chosen"] * 2 + ["label_without_image", "not_used"]


def test_files_nnunet_lists_one_by_one_are_found_where_they_lie(raw) -> None:
    listed = {"x": {"images": ["a/t2.nii.gz", "a/adc.nii.gz"], "label": "a/seg.nii.gz"}}
    (raw / "dataset.json").write_text(json.dumps(TWO_CHANNELS | {"dataset": listed}))
    assert entries(raw, layout="nnunet", channel="ADC") == [
        ("x", "a/adc.nii.gz", "a/seg.nii.gz", None, "")
    ]


def test_channels_of_one_name_are_told_apart_by_their_number(raw) -> None:
    twice = {"channel_names": {"0": "CT", "1": "CT"}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(twice))
    for channel in ("CT_1", 1):
        found = entries(raw, layout="nnunet", channel=channel)
        assert found[0][1] == "imagesTr/p_01_0001.nii.gz"
    (whole, _) = list_entries([Source.model_validate({"layout": "nnunet"})], str(raw))
    assert whole.channels == 2 or len(whole.files) == 2
    table = {"modality": {"0": "MR", "1": "MR"}, "training": [{"image": "a.nii", "label": "b.nii"}]}
    (raw / "dataset.json").write_text(json.dumps(table))
    touch(raw, "a.nii", "b.nii")
    (entry,) = [e for e in list_entries([Source(layout="msd")], str(raw)) if e.label]
    assert entry.channels == 2


def test_an_image_that_nnunets_table_does_not_list_is_missing(raw) -> None:
    listed = {"x": {"images": ["a/t2.nii.gz"]}, "y": {"images": ["b/t2.nii.gz", "b/adc.nii.gz"]}}
    (raw / "dataset.json").write_text(json.dumps(TWO_CHANNELS | {"dataset": listed}))
    found = entries(raw, layout="nnunet", channel="ADC")
    assert [row[1] for row in found] == ["x_0001: not listed", "b/adc.nii.gz"]
    (raw / "dataset.json").write_text(json.dumps(TWO_CHANNELS | {"dataset": {"x": "a.nii"}}))
    with pytest.raises(MedclError, match=r"dataset\.x: expected `images` and `label`, got 'a.nii'"):
        entries(raw, layout="nnunet", channel="ADC")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"images": "imagesTr/a.nii.gz"}, r"images: 'imagesTr/a\.nii\.gz'; write a list of paths"),
        ({"images": [3], "label": "l.nii"}, r"images: \[3\]; write a list of paths"),
        ({"images": ["a.nii"], "label": ["l.nii"]}, r"label: \['l\.nii'\]; write the path of one"),
    ],
)
@pytest.mark.parametrize("layout", ["nnunet", "msd"])
def test_files_of_nnunets_table_that_are_no_paths_are_refused(raw, item, message, layout) -> None:
    (raw / "dataset.json").write_text(json.dumps(TWO_CHANNELS | {"dataset": {"x": item}}))
    with pytest.raises(MedclError, match=rf"dataset\.json: dataset\.x\.{message}"):
        entries(raw, layout=layout)


def test_files_that_nnunets_table_does_not_list_are_told(raw) -> None:
    listed = {"p_01": {"images": [f"imagesTr/p_01_000{n}.nii.gz" for n in (0, 1)],
                       "label": "labelsTr/p_01.nii.gz"}}  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(TWO_CHANNELS | {"dataset": listed}))
    touch(raw, "imagesTr/p_03_0000.nii.gz", "labelsTr/p_03.nii.gz")
    found = list_entries([Source(layout="nnunet", channel=0)], str(raw))
    assert [(e.case, e.skipped, [f.code for f in e.findings]) for e in found] == [
        ("p_01", False, ["channel_chosen"]),
        ("p_03_0000", True, ["not_used"]),
        ("p_03", True, ["not_used"]),
    ]


# ------------------------------------------------------------------------------------ BIDS


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    touch(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_acq-fast_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/sub-02_T2w.nii.gz",
        "derivatives/manual/sub-01/ses-b/anat/sub-01_ses-b_desc-expert_dseg.nii.gz",
        "derivatives/manual/sub-02/anat/sub-02_space-T1w_dseg.nii.gz",
        "derivatives/manual/sub-02/anat/sub-02_space-MNI_dseg.nii.gz",
    )
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsubject\nsub-02\t61\tx\n")
    return tmp_path


def test_bids_images_are_found_by_suffix_and_labels_by_the_entities_they_repeat(tree) -> None:
    (tree / "sub-01/ses-a/anat/sub-01_ses-a_acq-fast_T1w.nii.gz").unlink()
    found = entries(tree, layout="bids", images="T1w", labels="manual/dseg")
    label = "derivatives/manual/sub-01/ses-b/anat/sub-01_ses-b_desc-expert_dseg.nii.gz"
    assert [(case, label, subject, visit) for case, _, label, subject, visit in found[:3]] == [
        ("sub-01_ses-a_T1w", None, "sub-01", "ses-a"),
        ("sub-01_ses-b_T1w", label, "sub-01", "ses-b"),
        (
            "sub-02_T1w",
            "derivatives/manual/sub-02/anat/sub-02_space-T1w_dseg.nii.gz",
            "sub-02",
            "",
        ),
    ]
    assert found[3][:2] == ("sub-02_space-MNI_dseg", None)  # of another space: told, not used
    assert codes(tree, layout="bids", images="T1w", labels="dseg") == ["label_without_image"]


def test_entities_narrow_the_images(tree) -> None:
    found = entries(tree, layout="bids", images="acq-*_T1w")
    assert [case for case, *_ in found] == ["sub-01_ses-a_acq-fast_T1w"]


def test_a_label_that_fits_two_images_is_refused(tree) -> None:
    touch(tree, "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a_dseg.nii.gz")
    assert "label_ambiguous" in codes(tree, layout="bids", images="T1w", labels="dseg")
    found = entries(tree, layout="bids", images="T1w", labels="dseg")
    assert [label for _, _, label, _, visit in found if visit == "ses-a"] == [None, None]


def test_a_label_of_no_session_is_not_taken_for_that_of_one(tree) -> None:
    touch(tree, "derivatives/second/sub-01/sub-01_dseg.nii.gz")
    told = codes(tree, layout="bids", images="acq-fast_T1w", labels="second/dseg")
    assert told == ["label_without_image"]


def test_two_labels_of_one_image_are_refused(tree) -> None:
    touch(tree, "derivatives/second/sub-02/anat/sub-02_space-T1w_dseg.nii.gz")
    assert "several_labels" in codes(tree, layout="bids", images="T1w", labels="dseg")
    told = codes(tree, layout="bids", images="T1w", labels="second/dseg")
    assert "several_labels" not in told


def test_masks_of_bids_are_named_by_their_label(tree) -> None:
    folder = "derivatives/nn/sub-02/anat/"
    touch(tree, f"{folder}sub-02_label-GM_mask.nii", f"{folder}sub-02_label-WM_mask.nii")
    keys = {"layout": "bids", "images": "T1w", "labels": "label-*_mask"}
    (entry,) = (e for e in list_entries([Source.model_validate(keys)], str(tree)) if e.parts)
    assert [name for name, _ in entry.parts] == ["GM", "WM"]


def test_masks_of_bids_that_nothing_tells_apart_are_not_united(tree) -> None:
    folder = "derivatives/nn/sub-02/anat/"
    touch(tree, f"{folder}sub-02_desc-brain_mask.nii", f"{folder}sub-02_desc-lesion_mask.nii")
    assert "several_labels" in codes(tree, layout="bids", images="T1w", labels="mask")


def test_participants_give_extra_columns(tree) -> None:
    (entry,) = list_entries([Source(layout="bids", images="T2w")], str(tree))
    assert entry.extra == {"age": "61", "table_subject": "x"}


def test_bids_without_images_or_with_a_path_is_explained(tree) -> None:
    with pytest.raises(MedclError, match="required by layout bids"):
        entries(tree, layout="bids")
    with pytest.raises(MedclError, match="is no suffix"):
        entries(tree, layout="bids", images="anat/T1w.nii.gz")
    for folder in (f"{tree}/derivatives/manual", "C:\\data\\manual"):
        with pytest.raises(MedclError, match=r"labels: '.*' is an absolute path; write it as seen"):
            entries(tree, layout="bids", images="T1w", labels=f"{folder}/dseg")
    with pytest.raises(MedclError, match="has no folder 'mnual'"):
        entries(tree, layout="bids", images="T1w", labels="mnual/dseg")


# ----------------------------------------------------------------------------------- nnssl


def table(path: str, modality: str = "T1w") -> dict:
    image = {"name": "a.nii.gz", "modality": modality, "image_path": path}
    sessions = {"ses-1": {"session_id": "ses-1", "images": [image]}}
    subjects = {"sub-1": {"subject_id": "sub-1", "sessions": sessions}}
    return {"dataset_index": 1, "name": None, "subjects": subjects}


def write_table(root: Path, **datasets: dict) -> None:
    content = {"collection_index": 1, "collection_name": "c", "datasets": datasets}
    (root / "pretrain_data.json").write_text(json.dumps(content))


def test_images_of_nnssl_are_found_and_its_subjects_told_apart_by_dataset(tmp_path) -> None:
    folder = tmp_path / "Dataset001"
    touch(folder, "x/a.nii.gz", "b.nii.gz")
    other = table("b.nii.gz", "CT") | {"name": "Other"}
    write_table(folder, d1=table("$nnssl_raw/Dataset001/x/a.nii.gz") | {"name": "One"}, d2=other)
    assert entries(tmp_path, layout="nnssl", path="Dataset001") == [
        ("One_sub-1_ses-1_a", "Dataset001/x/a.nii.gz", None, "One_sub-1", "ses-1"),
        ("Other_sub-1_ses-1_a", "Dataset001/b.nii.gz", None, "Other_sub-1", "ses-1"),
    ]
    only = entries(tmp_path, layout="nnssl", path="Dataset001/pretrain_data.json", images="CT")
    assert [case for case, *_ in only] == ["Other_sub-1_ses-1_a"]


def test_a_table_that_is_none_of_nnssl_is_refused(tmp_path) -> None:
    (tmp_path / "pretrain_data.json").write_text('{"datasets": {"a": {}}}')
    with pytest.raises(MedclError, match="not a table of nnssl"):
        entries(tmp_path, layout="nnssl")


# ------------------------------------------------------------- what people get wrong, and read


def renamed(root: Path, pattern: str, change) -> None:
    for file in sorted(root.glob(pattern)):
        file.rename(file.with_name(change(file.name)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ["T2"]}, r'must map numbers to names, such as {"0": "T2"}; got'),
        ({"channel_names": {"T2": "0"}}, r'must map numbers to names, such as {"0": "T2"}; got'),
        ({"file_ending": ".nii"}, r"`file_ending` is '\.nii' .* holds \.nii\.gz files; correct it"),
    ],
)
def test_a_dataset_json_that_does_not_fit_is_refused_with_what_to_write(raw, changes, message):
    (raw / "dataset.json").write_text(json.dumps(TWO_CHANNELS | changes))
    with pytest.raises(MedclError, match=message):
        entries(raw, layout="nnunet")


def test_images_without_a_channels_number_are_told_with_the_name_to_give(raw) -> None:
    (raw / "imagesTr" / "p_01_0000.nii.gz").rename(raw / "imagesTr" / "p_01.nii.gz")
    (raw / "imagesTr" / "p_01_0001.nii.gz").unlink()
    found = list_entries([Source(layout="nnunet", channel=0)], str(raw))
    (finding,) = next(e for e in found if e.case == "p_01" and not e.skipped).findings
    assert "imagesTr/p_01.nii.gz has no channel's number; call the image p_01_0000" in str(finding)
    (raw / "imagesTs" / "p_02_0000.nii.gz").unlink()
    (raw / "imagesTs" / "p_02_0001.nii.gz").unlink()
    with pytest.raises(MedclError, match=r"p_01\.nii\.gz: no image .* such as _0000\.nii\.gz"):
        entries(raw, layout="nnunet")


def test_a_label_with_a_channels_number_is_told_with_the_name_to_give(raw) -> None:
    renamed(raw, "labelsTr/*", lambda name: name.replace(".nii", "_0000.nii"))
    found = list_entries([Source(layout="nnunet", channel=0)], str(raw))
    (told,) = [str(e.findings[0]) for e in found if e.image is None]
    assert told.endswith("labels carry no channel's number: call it p_01.nii.gz")


def test_endings_in_capitals_and_a_byte_order_mark_are_read(raw) -> None:
    for folder in ("imagesTr", "imagesTs", "labelsTr"):
        renamed(raw, f"{folder}/*", lambda name: name.replace(".nii.gz", ".NII.GZ"))
    (raw / "dataset.json").write_text("\ufeff" + json.dumps(TWO_CHANNELS), encoding="utf-8")
    assert entries(raw, layout="nnunet", channel=0) == [
        ("p_01", "imagesTr/p_01_0000.NII.GZ", "labelsTr/p_01.NII.GZ", None, ""),
        ("p_02", "imagesTs/p_02_0000.NII.GZ", None, None, ""),
    ]


def test_the_folder_above_is_named_where_the_images_are_given(raw) -> None:
    with pytest.raises(MedclError, match=f"did you mean {raw}, which holds it"):
        entries(raw, layout="nnunet", path="imagesTr")
    (raw / "imagesTr").rename(raw / "images")
    renamed(raw, "imagesTs", lambda name: "tests")
    with pytest.raises(MedclError, match="no images in imagesTr or imagesTs; it holds dataset"):
        entries(raw, layout="nnunet")


def test_suffixes_that_are_there_stand_beside_the_one_asked_for(tree) -> None:
    with pytest.raises(MedclError, match=r"is called \*_T1; there are 4 \*_T1w, 1 \*_T2w"):
        entries(tree, layout="bids", images="T1")
    with pytest.raises(MedclError, match=r"is called \*_seg; there are 3 \*_dseg; correct it"):
        entries(tree, layout="bids", images="T1w", labels="manual/seg")
    with pytest.raises(MedclError, match=r"no folder 'derivatives/manual'; it has manual; write"):
        entries(tree, layout="bids", images="T1w", labels="derivatives/manual/dseg")
    with pytest.raises(MedclError, match="has no folders sub-"):
        entries(tree, layout="bids", path="derivatives", images="T1w")


@pytest.mark.parametrize("separator", ["\t", ",", ";"])
def test_participants_are_known_with_and_without_sub_and_na_is_nothing(tree, separator) -> None:
    text = "\ufeffparticipant_id\tage\tsex\n02\tn/a\tF\nsub-01\t\n".replace("\t", separator)
    (tree / "participants.tsv").write_text(text, encoding="utf-8")
    (entry,) = list_entries([Source(layout="bids", images="T2w")], str(tree))
    assert entry.extra == {"age": "", "sex": "F"}
    (tree / "participants.tsv").write_text("participant\tage\n02\t7\n")
    with pytest.raises(MedclError, match="no column 'participant_id', only participant, age"):
        entries(tree, layout="bids", images="T2w")


def test_kinds_of_nnssl_stand_beside_the_one_asked_for_and_backslashes_are_read(tmp_path) -> None:
    touch(tmp_path, "x/a.nii.gz", "x/b.nii.gz")
    others = table("$nnssl_raw\\x\\b.nii.gz", "CT") | {"name": "O"}
    write_table(tmp_path, d=table("x\\a.nii.gz"), o=others)
    assert [row[1] for row in entries(tmp_path, layout="nnssl")] == ["x/a.nii.gz", "x/b.nii.gz"]
    with pytest.raises(MedclError, match="has the modality 'T1'; it has T1w, CT; correct it"):
        entries(tmp_path, layout="nnssl", images="T1")


def test_backslashes_in_the_decathlons_table_are_read(tmp_path) -> None:
    touch(tmp_path, "imagesTr/a_1.nii.gz", "labelsTr/a_1.nii.gz")
    pair = {"image": ".\\imagesTr\\a_1.nii.gz", "label": ".\\labelsTr\\a_1.nii.gz"}
    (tmp_path / "dataset.json").write_text(
        json.dumps({"modality": {"0": "T1"}, "training": [pair]})
    )
    expected = ("a_1", "imagesTr/a_1.nii.gz", "labelsTr/a_1.nii.gz", None, "")
    assert entries(tmp_path, layout="msd") == [expected]


# ------------------------------------------------------------ several files of the Decathlon's


def decathlon(root: Path, *training: dict, **keys: object) -> None:
    content = {"modality": {"0": "FLAIR", "1": "T1"}, "training": list(training)}
    (root / "dataset.json").write_text(json.dumps(content | keys))


def test_channels_the_decathlon_lists_as_files_are_those_of_one_case(tmp_path) -> None:
    decathlon(
        tmp_path,
        {"image": ["i/p_1_flair.nii", "i/p_1_t1.nii"], "label": "l/p_1.nii"},
        {"image": ["q/flair.nii", "q/t1.nii"], "label": "l/q.nii"},
        test=[{"image": ["i/r_0000.nii", "i/r_0001.nii"]}],
    )
    found = list_entries([Source(layout="msd")], str(tmp_path))
    assert [(e.case, e.names, below(tmp_path, e.label)) for e in found] == [
        ("p_1", ("FLAIR", "T1"), "l/p_1.nii"),
        ("q", ("FLAIR", "T1"), "l/q.nii"),
        ("r", ("FLAIR", "T1"), None),
    ]
    assert [(f.name, below(tmp_path, f.path)) for f in found[1].files] == [
        ("FLAIR", "q/flair.nii"),
        ("T1", "q/t1.nii"),
    ]
    (one, *_) = list_entries([Source(layout="msd", channel="T1")], str(tmp_path))
    assert (below(tmp_path, one.image), one.files, one.channels) == ("i/p_1_t1.nii", (), 1)
    chosen = Channels(("T1",))
    (one, *_) = list_entries([Source(layout="msd")], str(tmp_path), channels=chosen)
    assert (below(tmp_path, one.image), one.names) == ("i/p_1_t1.nii", ("T1",))


@pytest.mark.parametrize(
    ("image", "label", "names"),
    [
        ("i/{kind}_{n}.nii", "l/p_{n}.nii", ["p_1", "p_2"]),
        ("i/{kind}_{n}.nii", None, ["flair_1", "flair_2"]),
        ("i/mr_{kind}_{n}.nii", "l/p_{n}.nii", ["p_1", "p_2"]),
        ("{n}/{kind}.nii", "{n}/seg.nii", ["1", "2"]),
        ("p{n}/{kind}.nii", None, ["p1", "p2"]),
        ("i/p_{n}_{kind}.nii", "l/x_{n}.nii", ["p_1", "p_2"]),
    ],
)
def test_cases_of_several_files_have_names_of_their_own(tmp_path, image, label, names) -> None:
    pairs = [
        {
            "image": [image.format(n=n, kind=kind) for kind in ("flair", "t1")],
            "label": label and label.format(n=n),
        }
        for n in (1, 2)
    ]
    decathlon(tmp_path, *pairs)
    found = list_entries([Source(layout="msd")], str(tmp_path))
    assert [(entry.case, entry.findings) for entry in found] == [(name, ()) for name in names]


@pytest.mark.parametrize(
    ("image", "label", "keys", "message"),
    [
        (["a.nii", "b.nii"], "l.nii", {"modality": {"0": "T1"}},
         r"a\.nii is the first of 2 images of a case, but `modality` names 0 T1; name each"),
        (["a.nii", "b.nii"], "l.nii", {"modality": {"1": "T1", "2": "T2"}}, "names 1 T1, 2 T2"),
        (["a.nii", "b.nii"], "l.nii", {"modality": {}}, "names 0 image; name each channel by its"),
        ("a.nii", "l.nii", {"modality": {"1": "T1", "2": "T2"}},
         r"a\.nii is the image of a case, but `modality` names 1 T1, 2 T2; .* from 0 on"),
        ("a.nii", "l.nii", {"modality": {"1": "T1"}}, "names 1 T1"),
        ("a.nii", "l.nii", {"modality": ["T1"]}, "`modality` must map numbers to names"),
        ("a.nii", "l.nii", {"test": "abc"}, "`test` is 'abc', no list of images; it needs"),
        ("a.nii", "l.nii", {"test": [{"label": "l.nii"}]}, "`test` lists {'label': 'l.nii'}"),
        ("a.nii", "l.nii", {"test": [5]}, "image 5: expected a path"),
        ("a.nii", "l.nii", {"training": "abc"}, "`training` is 'abc'; it needs `training`, a list"),
        ("a.nii", "l.nii", {"training": [{"image": "a.nii"}]}, "`training` lists {'image': 'a"),
        ([], "l.nii", {}, r"image \[\]: expected a path, or a list with one for each channel"),
        ([{"path": "a.nii"}], "l.nii", {}, "expected a path, or a list"),
        (7, "l.nii", {}, "image 7: expected a path"),
        ("a.nii", ["l.nii"], {}, r"label \['l\.nii'\] of a\.nii: expected the path of one file"),
    ],
)  # fmt: skip
def test_images_of_the_decathlon_that_are_no_paths_are_refused(
    tmp_path, image, label, keys, message
) -> None:
    decathlon(tmp_path, {"image": image, "label": label}, **keys)
    with pytest.raises(MedclError, match=rf"dataset\.json: .*{message}"):
        list_entries([Source(layout="msd")], str(tmp_path))
