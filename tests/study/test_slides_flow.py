"""What makes the slides of a study be examined again, and what does not."""

import json
import os
from pathlib import Path

import pytest

from medcl.config import load_slide_study
from medcl.study.slides_flow import SlideFlow


def flow(**dataset: object) -> SlideFlow:
    given = {"name": "s", "classes": ["normal", "tumour"], **dataset}
    study = {"kind": "slides", "study": "s", "dataset": given, "encoders": {"random": {}}}
    return SlideFlow(load_slide_study(study | {"aggregators": {"abmil": "abmil"}}))


@pytest.fixture
def slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study beside its table; one slide lies elsewhere."""
    work = tmp_path / "work"
    (work / "results").mkdir(parents=True)
    (tmp_path / "far.svs").write_text("far")
    (work / "near.svs").write_text("near")
    rows = [
        "slide,path,patient,label,mask",
        f"far,{tmp_path}/far.svs,p,normal,",
        "near,near.svs,q,,m.png",
    ]
    (work / "slides.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(work)
    return tmp_path


def test_a_result_below_the_root_makes_nothing_new(slides: Path) -> None:
    before = flow().fingerprint(None)
    (slides / "work/results/report.html").write_text("a result")
    assert flow().fingerprint(None) == before


@pytest.mark.parametrize("file", ["far.svs", "work/near.svs", "work/m.png", "work/slides.csv"])
def test_whatever_the_table_names_is_seen_to_change(slides: Path, file: str) -> None:
    before = flow().fingerprint(None)
    with open(slides / file, "a") as opened:
        opened.write("\n")
    after = flow().fingerprint(None)
    assert after != before
    os.utime(slides / file, ns=(0, 0))
    assert flow().fingerprint(None) != after


def test_a_table_that_cannot_be_read_is_left_to_the_rule(slides: Path) -> None:
    (slides / "work/slides.csv").write_bytes(b"slide\xfc")
    assert flow().fingerprint(None) != flow(table="none.csv").fingerprint(None)
    assert flow(phantom={}).fingerprint(None) == ""


def test_another_value_of_the_truth_examines_no_slide_again() -> None:
    one, two = flow(truth=1), flow(truth=255)
    assert one.dataset_decides(None) == two.dataset_decides(None)
    assert json.loads(two.dataset(None, "slides.csv"))["truth"] == 255
    other = flow(tissue={"saturation": 0.05})
    assert one.dataset_decides(None) != other.dataset_decides(None)
