"""Roles by subject, seeded orders, and the table they are written to."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcl.config import Split
from medcl.data.cases import Case
from medcl.data.splits import ORDERS, ROLES, assign, read_splits, write_splits
from medcl.errors import MedclError


def case(name: str, subject: str | None = None, *, label: bool = True, voxels: str = "") -> Case:
    return Case(
        case=name,
        subject=subject or name,
        visit="",
        image=f"{name}.nii",
        label=f"{name}_label.nii" if label else None,
        modality="MR",
        channels=1,
        shape=(4, 4, 4),
        spacing=(1.0, 1.0, 1.0),
        orientation="RAS",
        image_sha256=f"i{voxels or name}",
        voxel_sha256=f"v{voxels or name}",
        label_sha256=f"l{name}" if label else None,
        source="files",
    )


def cohort(labelled: int, unlabelled: int = 0) -> list[Case]:
    return [case(f"p{i:02d}", label=i < labelled) for i in range(labelled + unlabelled)]


def test_the_default_split_holds_out_five_for_test_and_four_for_validation():
    splits = assign(cohort(20, 4), Split())
    assert [len(splits.subjects(role)) for role in ROLES] == [15, 4, 5]
    assert len(splits.candidates(0)) == 11


def test_only_labelled_subjects_are_held_out():
    splits = assign(cohort(6, 30), Split(test=2, validation=3))
    held_out = {*splits.subjects("test"), *splits.subjects("validation")}
    assert held_out < {f"p{i:02d}" for i in range(6)}
    assert splits.candidates(0) == splits.candidates(31) != []


def test_the_order_of_the_rows_does_not_matter():
    cases = cohort(12, 3)
    assert assign(cases, Split(seed=3)) == assign(cases[::-1], Split(seed=3))


def test_another_seed_gives_another_split():
    cases = cohort(20)
    tests = {tuple(assign(cases, Split(seed=seed)).subjects("test")) for seed in range(5)}
    assert len(tests) == 5


def test_nothing_but_case_subject_and_presence_of_a_label_decides():
    cases = cohort(12, 2)
    changed = [
        replace(c, image="x", voxel_sha256="same", image_sha256="same", shape=(9, 9, 9), visit="2")
        for c in cases
    ]
    assert assign(cases, Split()) == assign(changed, Split())


def test_another_number_of_validation_subjects_leaves_the_test_subjects():
    few, many = (assign(cohort(20), Split(validation=v)) for v in (1, 8))
    assert few.subjects("test") == many.subjects("test")
    assert set(few.subjects("validation")) < set(many.subjects("validation"))


def test_all_visits_of_a_subject_share_role_and_ranks():
    cases = [case(f"s{i}_v{v}", f"s{i}", label=v == 0) for i in range(12) for v in range(3)]
    splits = assign(cases, Split())
    for i in range(12):
        rows = [row for row in splits.rows if row.subject == f"s{i}"]
        assert len(rows) == 3
        assert len({(row.role, row.ranks) for row in rows}) == 1
    assert splits.cases_of(["s7", "s3"]) == [f"s{i}_v{v}" for i in (7, 3) for v in range(3)]


def test_a_subject_who_loses_a_label_changes_no_place_of_the_others():
    before = assign(cohort(20), Split(test=4, validation=3, seed=5))
    unchosen = before.candidates(0)[-1]
    fewer = [c if c.subject != unchosen else replace(c, label=None) for c in cohort(20)]
    after = assign(fewer, Split(test=4, validation=3, seed=5))
    for role in ("test", "validation"):
        assert after.subjects(role) == before.subjects(role)
    for r in range(ORDERS):
        assert after.candidates(r) == [s for s in before.candidates(r) if s != unchosen]


def test_the_32_orders_differ():
    splits = assign(cohort(40), Split())
    assert len({tuple(splits.candidates(r)) for r in range(ORDERS)}) == ORDERS


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 20), st.integers(0, 5), st.integers(0, 2**70), st.integers(0, 31))
def test_subsets_are_nested_labelled_and_disjoint_from_what_is_held_out(labelled, more, seed, r):
    cases = cohort(labelled, more)
    splits = assign(cases, Split(test=2, validation=2, seed=seed))
    largest = splits.subset(labelled - 4, r)
    for n in range(1, labelled - 3):
        assert splits.subset(n, r) == largest[:n]
    held_out = {*splits.subjects("test"), *splits.subjects("validation")}
    assert set(largest).isdisjoint(held_out)
    assert {*largest, *held_out} == {c.subject for c in cases if c.label}


def test_a_run_with_few_labels_uses_as_few_validation_subjects_but_two():
    splits = assign(cohort(20), Split(validation=5))
    assert [len(splits.validation(n, 0)) for n in (1, 2, 3, 16)] == [2, 2, 3, 5]
    assert splits.validation(3, 1)[:2] == splits.validation(1, 1)
    assert len({tuple(splits.validation(5, r)) for r in range(ORDERS)}) > 5


def test_named_subjects_are_held_out_and_the_others_drawn_around_them():
    splits = assign(cohort(10), Split(test=["p03", "p05"], validation=["p00"]))
    assert splits.subjects("test") == ["p03", "p05"]
    assert splits.subjects("validation") == ["p00"]
    for seed in range(20):
        drawn = assign(cohort(10), Split(test=3, validation=["p00"], seed=seed))
        assert "p00" not in drawn.subjects("test")
        assert len(drawn.subjects("test")) == 3


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (Split(test=["p99"]), "no subject 'p99'"),
        (Split(test=["p7"]), "did you mean 'p0"),
        (Split(test=["p11"]), "subject 'p11' has no label"),
        (Split(validation=["p05_b"]), "'p05_b' is a case; name its subject, 'p05'"),
        (Split(validation=[]), "list is empty"),
        (Split(seed=-1), "must be 0 or more, got -1"),
        (Split(test=6), "10 labelled subjects less 6 for test and 4 for validation leave 0"),
        (Split(test=["p00"], validation=9), "less 1 for test and 9 for validation leave 0"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused_with_advice(split, words):
    with pytest.raises(MedclError) as error:
        assign([*cohort(10, 2), case("p05_b", "p05")], split)
    assert words in str(error.value)


def test_more_labels_than_candidates_are_refused_with_the_number_there_is():
    splits = assign(cohort(10), Split(test=2, validation=2))
    with pytest.raises(MedclError, match="7 labelled subjects were asked for and there are 6"):
        splits.subset(7, 0)
    with pytest.raises(MedclError, match="no order 32; replicates go from 0 to 31"):
        splits.subset(1, 32)


def test_the_table_read_back_equals_what_was_written(tmp_path):
    splits = assign([*cohort(10, 3), case("with, comma", "a subject")], Split())
    write_splits(tmp_path / "splits.csv", splits)
    back = read_splits(tmp_path / "splits.csv")
    assert back.rows == splits.rows
    assert back.subject_of == splits.subject_of
    header, first = (tmp_path / "splits.csv").read_text().splitlines()[:2]
    assert header.split(",")[:5] == ["case", "subject", "role", "order_00", "order_01"]
    assert len(header.split(",")) == len(first.split(",")) == 3 + ORDERS


def test_a_damaged_table_is_named_with_its_line(tmp_path):
    path = tmp_path / "splits.csv"
    write_splits(path, assign(cohort(8), Split(test=2, validation=2)))
    text = path.read_text()
    path.write_text(text.replace("p03,p03,", "p03,p03,x"))
    with pytest.raises(MedclError, match=r"splits\.csv: line 5: role 'x"):
        read_splits(path)
    path.write_text(text.replace("order_31", "order_xx"))
    with pytest.raises(MedclError, match="no column 'order_31'"):
        read_splits(path)
    with pytest.raises(MedclError, match="no such file; run `medcl split`"):
        read_splits(tmp_path / "none.csv")
