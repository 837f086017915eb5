"""Pictures of a study whose report is made in another folder than the one it was run in."""

import csv
import shutil
from pathlib import Path

import pytest
from make_results import Fake, make
from report_pages import text_of

from medcl.files import read_json, read_yaml, write_json, write_yaml
from medcl.study import drawing
from medcl.study.places import NotThere, located
from medcl.study.report import make_report
from medcl.study.results import Results, read_results


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "render", lambda figure, kind: b"<svg></svg>")


def relative(base: Path) -> Path:
    """A study run in `base`: its paths are relative to it."""
    config = make(base / "results/a", Fake(labelled=(1,), tests=4, effects={"voco": 0.06}))
    write_yaml(config, read_yaml(config) | {"results": "results"})
    table = config.parent / "ingest/cases.csv"
    table.write_text(table.read_text().replace(f"{base}/", ""))
    for file in config.parent.glob("finetune/*/*/*/predictions/predictions.json"):
        made = read_json(file)
        for case in made["cases"]:
            for weights in ("last", "selected"):
                case[weights] = case[weights].replace(f"{base}/", "")
        write_json(file, made)
    with open(table, newline="") as lines:
        assert next(csv.DictReader(lines))["image"].startswith("results/a/data/")
    return config


def page_of(results: Results) -> str:
    return make_report(results).html


def test_pictures_are_found_from_any_folder_also_through_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = relative(tmp_path / "here")
    away = tmp_path / "away/a"
    away.mkdir(parents=True)
    monkeypatch.chdir(away.parent)
    for item in config.parent.iterdir():
        (away / item.name).symlink_to(item)
    for results in (
        read_results(config, config.parent),  # the results folder says where
        read_results(away / config.name, away),  # only what the configuration links to does
    ):
        page = page_of(results)
        assert "cannot be shown" not in page
        assert page.count("<title>axial slice of") == 8


def test_what_lies_in_the_results_is_found_where_they_were_moved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = relative(tmp_path / "here")
    shutil.move(config.parent, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    results = read_results(tmp_path / "moved" / config.name, tmp_path / "moved")
    assert "cannot be shown" not in page_of(results)


def test_pictures_that_are_nowhere_are_one_sentence_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = relative(tmp_path / "here")
    shutil.move(config.parent / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    text = text_of(page_of(read_results(config, config.parent)))
    said = (
        "4 cases cannot be shown: images, labels or predictions are not found from here; run the "
        "report in the folder the study was run in."
    )
    assert text.count("cannot be shown") == text.count(said) == 1


def test_the_number_of_a_channel_stays_behind_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = relative(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    results = read_results(config, config.parent)
    image = results.cases[0].image
    assert located(results, f"{image}[1]") == f"{tmp_path}/here/{image}[1]"


def test_a_file_of_that_name_in_a_folder_far_above_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = relative(tmp_path / "here")
    (tmp_path / "x.nii.gz").touch()
    monkeypatch.chdir(config.parent)
    with pytest.raises(NotThere, match=r"x\.nii\.gz: no such file; run the report in the folder"):
        located(read_results(config, config.parent), "x.nii.gz")


def test_a_link_to_the_results_leads_to_the_folder_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration is a copy elsewhere, and the file is none of the results."""
    config = relative(tmp_path / "here")
    (tmp_path / "here/raw.nii.gz").touch()
    (tmp_path / "link").symlink_to(config.parent)
    shutil.copy(config, tmp_path / "copy.yaml")
    monkeypatch.chdir(tmp_path)
    results = read_results(tmp_path / "copy.yaml", tmp_path / "link")
    assert located(results, "raw.nii.gz") == f"{tmp_path}/here/raw.nii.gz"
