"""The page that reports of volumes and of slides have in common."""

import re
from pathlib import Path

import pytest
from report_pages import quick

from medcl.config import load_slide_study
from medcl.files import write_yaml
from medcl.study import drawing
from medcl.study.markup import paragraph, section
from medcl.study.page import document, header
from medcl.study.slides_report import slide_page
from medcl.study.slides_results import read_slide_results

SLIDES = {
    "kind": "slides",
    "study": "six",
    "dataset": {"name": "six", "classes": ["normal", "tumour"]},
    "encoders": {"random": {}},
    "aggregators": {"mean": {"name": "mean"}},
}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "render", lambda figure, kind: b"<svg></svg>")


def test_the_contents_link_to_every_section_that_has_something_to_say() -> None:
    sections = [
        section("A & B", paragraph("x"), anchor="first"),
        section("Empty", anchor="empty"),
        section("Unnamed", paragraph("y")),
        section("Last", paragraph("z"), anchor="last"),
    ]
    page = document("t", header("s", "t"), sections)
    links = re.findall(r'<a href="#(\w+)">(.*?)</a>', page)
    assert links == [("first", "A &amp; B"), ("last", "Last")]
    assert page.index("</header>") < page.index("<nav") < page.index('id="first"')
    assert "<nav" not in document("t", header("s", "t"), sections[:1])


def test_reports_of_slides_and_of_volumes_begin_alike(tmp_path: Path) -> None:
    write_yaml(tmp_path / "six.yaml", load_slide_study(SLIDES).model_dump(mode="json"))
    slides = slide_page(read_slide_results(tmp_path / "six.yaml", tmp_path / "nothing"))
    _, volumes = quick(tmp_path / "a")
    for page, study in ((slides, "six"), (volumes, "a")):
        assert f'<p class="kicker">medcl · study {study}</p>' in page
        assert page.startswith('<!doctype html>\n<html lang="en">')
    head = re.compile(r"<title>.*?</title>")
    ends = [head.sub("", page[: page.index("</head>")]) for page in (slides, volumes)]
    assert ends[0] == ends[1]
