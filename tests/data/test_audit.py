"""What the audit stops, and what it only tells."""

from dataclasses import replace

import numpy as np

from medcl.config import Split
from medcl.data.audit import audit
from medcl.data.cases import Case
from medcl.data.splits import Row, Splits
from medcl.study.prose import waived_words

SPLIT = Split()


def case(name: str, *, voxels: str | None = None, label: str | None = None) -> Case:
    return Case(
        case=name,
        subject=f"subject of {name}",
        visit="",
        image=name,
        label="label.nii" if label else None,
        modality="MR",
        channels=1,
        shape=(4, 4, 4),
        spacing=(1.0, 1.0, 1.0),
        orientation="RAS",
        image_sha256=name,
        voxel_sha256=voxels or name,
        label_sha256=label,
        source="files",
    )


def splits(**roles: str) -> Splits:
    return Splits(tuple(Row(name, f"subject of {name}", role) for name, role in roles.items()))


def test_a_clean_split_goes_on():
    found = audit([case("a"), case("b")], splits(a="pool", b="test"), SPLIT)
    assert found == {
        "format": 1,
        "overlaps": [],
        "duplicates": [],
        "near_duplicates": None,
        "waived": [],
        "warnings": [],
        "same_names": [],
        "unknown_subjects": False,
        "stopped": False,
        "reason": None,
    }


def test_the_same_voxels_in_pool_and_test_stop_the_run_with_both_cases_named():
    cases = [case("b", voxels="same"), case("a", voxels="same"), case("c")]
    found = audit(cases, splits(a="pool", b="test", c="test"), SPLIT)
    assert found["duplicates"] == [
        {
            "kind": "voxels",
            "cases": ["a", "b"],
            "subjects": ["subject of a", "subject of b"],
            "roles": ["pool", "test"],
        }
    ]
    assert found["stopped"]
    assert "cases a, b hold the same voxels and are in pool and test" in found["reason"]
    assert "one subject" in found["reason"]
    assert "exclude" in found["reason"]


def test_the_same_voxels_in_validation_and_test_stop_the_run():
    cases = [case("a", voxels="same"), case("b", voxels="same")]
    assert audit(cases, splits(a="validation", b="test"), SPLIT)["stopped"]


def test_the_same_voxels_within_a_role_are_listed_and_go_on():
    cases = [case("a", voxels="same"), case("b", voxels="same")]
    found = audit(cases, splits(a="pool", b="pool"), SPLIT)
    assert [d["cases"] for d in found["duplicates"]] == [["a", "b"]]
    assert not found["stopped"]


def test_a_subject_with_two_roles_in_the_table_stops_the_run():
    rows = (Row("a1", "a", "pool"), Row("a2", "a", "test"), Row("b", "b", "pool"))
    cases = [replace(case(row.case), subject=row.subject) for row in rows]
    found = audit(cases, Splits(rows), SPLIT)
    assert found["overlaps"] == [{"subject": "a", "roles": ["pool", "test"], "cases": ["a1", "a2"]}]
    assert found["stopped"]
    assert "subject 'a' (cases a1, a2) is in pool and test" in found["reason"]


def test_a_subject_named_for_two_roles_stops_the_run():
    rows = (Row("a", "a", "test"), Row("b", "b", "validation"), Row("c", "c", "pool"))
    cases = [replace(case(row.case), subject=row.subject) for row in rows]
    found = audit(cases, Splits(rows), Split(test=["a"], validation=["a", "b"]))
    assert [o["roles"] for o in found["overlaps"]] == [["validation", "test"]]
    assert found["stopped"]


def test_one_label_map_for_different_images_across_roles_is_a_warning():
    cases = [case("a", label="same"), case("b", label="same"), case("c"), case("d")]
    found = audit(cases, splits(a="pool", b="test", c="pool", d="test"), SPLIT)
    assert [w["cases"] for w in found["warnings"]] == [["a", "b"]]
    assert not found["stopped"]
    assert not audit(cases, splits(a="pool", b="pool", c="pool", d="test"), SPLIT)["warnings"]


def pictures(**seeds: int) -> dict[str, np.ndarray]:
    """Case -> thumbnail: those of one seed are nearly the same."""
    found = {}
    for number, (name, seed) in enumerate(seeds.items()):
        values = np.random.default_rng(seed).integers(-100, 100, (16, 16, 16))
        values += np.random.default_rng(1000 + number).integers(-5, 5, values.shape)
        found[name] = values.astype(np.int8)
    return found


def test_nearly_the_same_images_of_two_subjects_in_two_roles_stop_the_run():
    cases = [case(name) for name in "abc"]
    thumbnails = pictures(a=1, b=2, c=1)
    found = audit(cases, splits(a="pool", b="pool", c="test"), SPLIT, thumbnails=thumbnails)
    (near,) = found["near_duplicates"]
    assert near["cases"] == ["a", "c"]
    assert near["subjects"] == ["subject of a", "subject of c"]
    assert near["roles"] == ["pool", "test"]
    assert near["similarity"] > 0.98
    assert found["stopped"]
    assert (
        "cases a, c of subjects subject of a, subject of c are nearly the same" in found["reason"]
    )
    assert "split.waive: [near_duplicates]" in found["reason"]
    assert not near["mirrored"]
    thumbnails["c"] = thumbnails["c"][::-1]
    found = audit(cases, splits(a="pool", b="pool", c="test"), SPLIT, thumbnails=thumbnails)
    assert found["near_duplicates"][0]["mirrored"]
    assert "nearly the same image (correlation 0.99" in found["reason"]
    assert ", mirrored from left to right) and are in pool and test" in found["reason"]


def test_the_same_voxels_pass_where_they_are_waived_by_their_own_name():
    cases = [case("a", voxels="1"), case("b", voxels="2"), case("c", voxels="1")]
    roles = splits(a="pool", b="validation", c="test")
    assert "split.waive: [duplicates]" in audit(cases, roles, Split())["reason"]
    assert audit(cases, roles, Split(waive=["near_duplicates"]))["stopped"]
    found = audit(cases, roles, Split(waive=["duplicates"]))
    assert not found["stopped"]
    (told,) = waived_words(found, str.upper)
    assert "the same voxels stand in pool and test and were let pass by split.waive" in told
    assert "(A and C)" in told


def test_near_duplicates_pass_where_they_are_waived_and_that_is_told():
    cases = [case(name) for name in "abc"]
    roles = splits(a="pool", b="pool", c="test")
    waive = Split(waive=["near_duplicates"])
    found = audit(cases, roles, waive, thumbnails=pictures(a=1, b=2, c=1))
    assert len(found["near_duplicates"]) == 1
    (told,) = waived_words(found, str.upper)
    assert "nearly the same image (correlation 0.99" in told
    assert "stands in pool and test and was let pass by split.waive" in told
    assert "(A and C)" in told
    assert not found["stopped"]
    assert audit(cases, roles, waive, thumbnails=pictures(a=1, b=2, c=3))["waived"] == []
    same = [replace(c, voxel_sha256="same") for c in cases]
    assert audit(same, roles, waive, thumbnails=pictures(a=1, b=2, c=3))["stopped"]


def test_near_duplicates_within_a_role_are_listed_and_equal_voxels_only_once():
    cases = [case(name) for name in "abc"]
    roles = splits(a="pool", b="test", c="pool")
    found = audit(cases, roles, SPLIT, thumbnails=pictures(a=1, b=2, c=1))
    assert [near["roles"] for near in found["near_duplicates"]] == [["pool"]]
    assert not found["stopped"]
    cases = [case("a", voxels="same"), case("b"), case("c", voxels="same")]
    found = audit(cases, roles, SPLIT, thumbnails=pictures(a=1, b=2, c=1))
    assert found["near_duplicates"] == []
    assert [d["cases"] for d in found["duplicates"]] == [["a", "c"]]


def test_unknown_subjects_are_passed_on():
    found = audit([case("a")], splits(a="pool"), SPLIT, unknown_subjects=True)
    assert found["unknown_subjects"]
    assert not found["stopped"]
