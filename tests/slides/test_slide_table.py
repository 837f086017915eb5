"""The table of slides, and folds that keep patients whole."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_formats import dicom

from medcl.config import Folds, SlideDataset
from medcl.errors import MedclError
from medcl.slides.table import (
    Slide,
    deal,
    files_of,
    labels_of,
    read_folds,
    read_table,
    role_of,
    write_folds,
)

CLASSES = ["normal", "tumour"]
SLIDES = [
    Slide(f"s{n}", f"s{n}.svs", f"p{n // 2}", CLASSES[n // 2 % 2], site=f"h{n // 2 % 5}")
    for n in range(24)
]


def table(folder: Path, *lines: str) -> SlideDataset:
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    return SlideDataset(name="x", root=str(folder), classes=CLASSES)


def test_every_problem_of_a_table_is_said_with_its_line(tmp_path: Path) -> None:
    dataset = table(
        tmp_path,
        "slide,path,patient,label,microns_per_pixel",
        "a,a.svs,p1,normal,",
        "a,b.svs,p1,normal,",
        "b,b.svs,,normal,",
        "c,c.svs,p2,normal,fine",
    )
    with pytest.raises(MedclError) as error:
        read_table(dataset)
    first, second, third = str(error.value).splitlines()
    assert "line 4: no patient" in first
    assert "line 5: microns_per_pixel 'fine' is no size" in second
    assert "slide 'a' stands 2 times" in third


def test_a_label_that_is_no_class_is_refused(tmp_path: Path) -> None:
    dataset = table(tmp_path, "slide,path,patient,label", "a,a.svs,p1,tumor")
    with pytest.raises(MedclError, match=r"a: no class 'tumor'; the classes are normal, tumour"):
        read_table(dataset)


def test_a_table_without_patients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedclError, match="no column 'patient'"):
        read_table(table(tmp_path, "slide,path,label", "a,a.svs,normal"))


def test_a_table_in_another_encoding_is_named_with_what_to_do(tmp_path: Path) -> None:
    dataset = table(tmp_path, "slide,path,patient,label")
    with open(tmp_path / "slides.csv", "ab") as file:
        file.write("Müller,a.svs,p1,normal\n".encode("latin-1"))
    with pytest.raises(MedclError, match=r"slides\.csv:2: byte 0xfc is no UTF-8; save"):
        read_table(dataset)


def test_a_table_of_a_spreadsheet_with_semicolons_is_read(tmp_path: Path) -> None:
    (one,) = read_table(table(tmp_path, "Slide;Path;Patient;Label", "a;a.svs;p1;normal"))
    assert (one.slide, one.patient, one.label) == ("a", "p1", "normal")


def test_the_files_of_a_slide_are_all_it_is_made_of(tmp_path: Path) -> None:
    for name in ("a.svs", "other.svs", "b.mrxs", "b/Data.dat", "m.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    series = dicom(tmp_path / "c", [np.zeros((side, side, 3), np.uint8) for side in (64, 32)], 1.0)
    (tmp_path / "c/notes").write_text("of no slide")
    at = str(tmp_path)
    slides = [
        Slide("a", f"{at}/a.svs", "p", mask=f"{at}/m.png", truth=f"{at}/t.png"),
        Slide("b", f"{at}/b.mrxs", "p"),
        Slide("c", str(series), "p"),
    ]
    found = {str(path.relative_to(tmp_path)) for path in files_of(slides)}
    levels = {"c/level0.dcm", "c/level1.dcm"}
    assert found == {"a.svs", "m.png", "t.png", "b.mrxs", "b/Data.dat", *levels}


def test_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    dataset = table(tmp_path, "slide,path,patient,label,mask", "a,x/a.svs,p1,,m.png")
    (one,) = read_table(dataset)
    assert one.path == str(tmp_path / "x" / "a.svs")
    assert one.mask == str(tmp_path / "m.png")
    assert one.truth is None


def test_folds_keep_patients_whole_and_classes_even() -> None:
    fold_of = deal(SLIDES, CLASSES, Folds(count=3))
    label_of = labels_of(SLIDES, CLASSES)
    assert set(fold_of) == {one.patient for one in SLIDES}
    for fold in range(3):
        here = Counter(label_of[patient] for patient, own in fold_of.items() if own == fold)
        assert here == {"normal": 2, "tumour": 2}


def test_folds_do_not_depend_on_the_order_of_the_table_but_on_the_seed() -> None:
    first = deal(SLIDES, CLASSES, Folds(count=3))
    assert deal(SLIDES[::-1], CLASSES, Folds(count=3)) == first
    assert deal(SLIDES, CLASSES, Folds(count=3, seed=1)) != first


def test_folds_by_site_keep_sites_whole() -> None:
    fold_of = deal(SLIDES, CLASSES, Folds(count=3, by="site"))
    folds_of_site: dict[str, set[int]] = {}
    for one in SLIDES:
        folds_of_site.setdefault(one.site, set()).add(fold_of[one.patient])
    assert all(len(folds) == 1 for folds in folds_of_site.values())


def of_site(site: str, *labels: str) -> list[Slide]:
    """Patients of one site, with a slide each."""
    return [
        Slide(f"{site}{n}", f"{site}{n}.svs", f"p{site}{n}", label, site=site)
        for n, label in enumerate(labels)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_a_site_goes_where_its_classes_are_missing(seed: int) -> None:
    """One site has tumours alone: whichever is dealt first, a site with both has to join it."""
    slides = of_site("a", *["tumour"] * 5)
    for site in "bcd":
        slides += of_site(site, "normal", "tumour")
    fold_of = deal(slides, CLASSES, Folds(count=3, by="site", seed=seed))
    for fold in range(3):
        here = {one.label for one in slides if fold_of[one.patient] == fold}
        assert here == {"normal", "tumour"}


def test_fewer_sites_than_folds_are_refused_with_the_way_out() -> None:
    slides = [*of_site("a", "normal", "tumour"), *of_site("b", "normal", "tumour")]
    with pytest.raises(MedclError, match=r"2 sites cannot be dealt to 3 folds.*by: patient"):
        deal(slides, CLASSES, Folds(count=3, by="site"))
    with pytest.raises(MedclError, match="has none"):
        deal([replace(slides[0], site=""), *slides[1:]], CLASSES, Folds(count=3, by="site"))
    wandering = [*slides, replace(slides[0], slide="x", site="b")]
    with pytest.raises(MedclError, match="patient pa0 has slides of two sites"):
        deal(wandering, CLASSES, Folds(count=3, by="site"))


def test_a_class_that_stays_at_too_few_sites_is_refused() -> None:
    slides = of_site("a", "normal", "tumour", "tumour", "tumour")
    for site in "bc":
        slides += of_site(site, "normal")
    with pytest.raises(MedclError, match=r"no patient of class 'tumour' \(3 in all\).*by: patient"):
        deal(slides, CLASSES, Folds(count=3, by="site"))


def test_no_site_is_trained_on_and_tested_by_the_same_model(tmp_path: Path) -> None:
    settings = Folds(count=3, by="site")
    write_folds(tmp_path / "folds.csv", SLIDES, deal(SLIDES, CLASSES, settings))
    dealt = read_folds(tmp_path / "folds.csv")
    for fold in range(3):
        roles = ("training", "validation", "test")
        sites = [{one.site for one in dealt.of(role, fold)} for role in roles]
        assert all(sites)
        assert sum(map(len, sites)) == len(set.union(*sites)) == 5


def test_a_fold_without_a_class_is_refused() -> None:
    few = [one for one in SLIDES if one.label == "normal" or one.patient == "p1"]
    with pytest.raises(MedclError, match=r"has no patient of class 'tumour' \(1 in all\)"):
        deal(few, CLASSES, Folds(count=3))


def test_a_patient_in_two_folds_is_leakage(tmp_path: Path) -> None:
    write_folds(tmp_path / "folds.csv", SLIDES, deal(SLIDES, CLASSES, Folds(count=3)))
    dealt = read_folds(tmp_path / "folds.csv")
    assert dealt.count == 3
    text = (tmp_path / "folds.csv").read_text().splitlines()
    text[1] = text[1][:-1] + str((int(text[1][-1]) + 1) % 3)
    (tmp_path / "folds.csv").write_text("\n".join(text) + "\n")
    with pytest.raises(MedclError, match="leakage: patient p0 stands in folds"):
        read_folds(tmp_path / "folds.csv")


def test_roles_of_a_fold_share_no_patient_and_leave_none_out(tmp_path: Path) -> None:
    write_folds(tmp_path / "folds.csv", SLIDES, deal(SLIDES, CLASSES, Folds(count=4)))
    dealt = read_folds(tmp_path / "folds.csv")
    for fold in range(4):
        roles = ("training", "validation", "test")
        patients = [{one.patient for one in dealt.of(role, fold)} for role in roles]
        assert [len(group) for group in patients] == [6, 3, 3]
        assert len(set.union(*patients)) == 12
    assert [role_of(2, fold, 4) for fold in range(4)] == [
        "training", "validation", "test", "training"
    ]  # fmt: skip


def test_the_class_of_a_patient_is_the_last_of_the_slides() -> None:
    mixed = [SLIDES[0], replace(SLIDES[1], label="tumour"), replace(SLIDES[2], label="")]
    assert labels_of(mixed, CLASSES) == {"p0": "tumour", "p1": ""}
