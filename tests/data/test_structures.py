import pytest

from medcl.data.structures import Naming, assign
from medcl.data.volume import VolumeError

ORGANS = {"liver": 1, "kidney": 2}


def codes(names: list[str], naming: Naming) -> list[str]:
    return [finding.code for finding in assign(names, naming, "rs.dcm")[1]]


def test_a_class_is_found_under_its_own_name_in_any_case() -> None:
    assert assign(["LIVER ", "Kidney"], Naming(ORGANS), "x")[0] == ["liver", "kidney"]


def test_several_names_and_patterns_may_make_one_class() -> None:
    naming = Naming(ORGANS, {"kidney": ["kidney_*", "ren"]})
    found, _ = assign(["Liver", "kidney_left", "REN", "kidney (r)"], naming, "x")
    assert found == ["liver", "kidney", "kidney", None]


def test_an_exact_name_wins_over_a_pattern() -> None:
    naming = Naming({"organ": 1, "vessel": 2}, {"organ": ["liver*"], "vessel": ["liver_vessel"]})
    assert assign(["liver", "liver_vessel"], naming, "x")[0] == ["organ", "vessel"]


def test_a_structure_of_two_classes_is_refused() -> None:
    naming = Naming({"a": 1, "b": 2}, {"a": ["gtv*"], "b": ["*mass"]})
    with pytest.raises(VolumeError) as error:
        assign(["gtv_mass"], naming, "x")
    assert error.value.code == "structure_ambiguous"


def test_no_structure_at_all_is_refused_with_what_there_is_and_a_suggestion() -> None:
    with pytest.raises(VolumeError) as error:
        assign(["Skin", "GTV_Mass_CT"], Naming({"tumour": 1}, {"tumour": ["GTV"]}), "rs.dcm")
    assert error.value.code == "no_structure"
    assert "'Skin', 'GTV_Mass_CT'" in str(error.value)
    assert "did you mean structures: {tumour: ['GTV_Mass_CT']}" in str(error.value)


def test_another_spelling_of_a_missing_class_is_an_error_with_the_mending() -> None:
    findings = assign(["liver", "Kidny"], Naming(ORGANS), "rs.dcm")[1]
    assert (findings[0].code, findings[0].severity) == ("structure_near_miss", "error")
    assert "'Kidny'" in findings[0].message
    assert "structures.kidney" in findings[0].remedy
    assert "structure_near_miss" not in codes(["liver", "Kidny"], Naming(ORGANS, {}, ["kidny"]))
    sides = Naming({"left_kidney": 1, "liver": 2})
    assert "structure_near_miss" in codes(["liver", "kidney_left"], sides)
    assert "structure_near_miss" not in codes(["liver", "kidney_right"], sides)


def test_names_that_differ_in_a_number_are_different_things() -> None:
    spine = Naming({"vertebra_L1": 1, "vertebra_L2": 2})
    assert codes(["vertebra_L2", "vertebra_L3"], spine) == [
        "structure_missing",
        "structures_not_used",
    ]


def test_a_missing_class_is_background_with_a_warning() -> None:
    assert codes(["liver", "spleen"], Naming(ORGANS)) == [
        "structure_missing",
        "structures_not_used",
    ]
