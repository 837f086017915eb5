"""The report of a study: what it says, what it hides, and what it survives."""

import csv
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from make_results import Fake, make
from report_pages import QUICK, quick, rows_of, run, text_of

from medcl.files import read_json, read_yaml, write_json, write_yaml
from medcl.study import drawing, methods
from medcl.study.cost import seconds_of
from medcl.study.report import make_report
from medcl.study.results import read_results

FULL = Fake(
    failed=(("voco", 2, 3),),
    collapsed=(("scratch", 1, 0, "spleen"), ("scratch", 1, 2, "spleen")),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return run(make(tmp_path_factory.mktemp("results") / "torso", FULL), command="snakemake --x")


@pytest.fixture(scope="module")
def page(written):
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take most of the time of a report: leave them out where nothing depends on them."""
    monkeypatch.setattr(drawing, "render", lambda figure, kind: b"<svg></svg>")


class Checker(HTMLParser):
    """Collects ids and addresses; fails on an element closed in the wrong place."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.addresses, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.ids += [value for key, value in attributes if key == "id"]
        self.addresses += [v for k, v in attributes if k in {"href", "src", "xlink:href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in checker.addresses)
    assert not checker.tags & {"script", "link", "img", "iframe"}
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_every_reference_within_a_figure_leads_to_an_element_of_the_page(page):
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    used = re.findall(r'(?:href="|url\()#([^")]+)', page)
    assert used
    assert set(used) <= ids


def test_the_answer_comes_first_and_speaks_of_every_arm_and_label_count(page):
    text = text_of(page)
    first = re.search(r"With 1 labelled subject, [^.]*these 3 encoders \(voco\)", text).start()
    assert text.index("The answer") < first < text.index("Curves")
    for labelled in ("1 labelled subject,", "2 labelled subjects,", "4 labelled subjects,"):
        assert len(re.findall(f"With {labelled}.*?(voco|order)", text)) == 3  # headline and arms
    assert "this encoder (order) loses" in text


def test_two_reports_of_one_study_are_equal(tmp_path):
    results, first = quick(tmp_path / "a")
    assert make_report(results, command="snakemake --cores 2").html == first


@pytest.mark.usefixtures("undrawn")
def test_unknown_subjects_are_said_before_anything_else(tmp_path):
    _, page = quick(tmp_path / "a", unknown_subjects=True)
    text = text_of(page)
    words = "subject ids unknown: cases are treated as subjects"
    assert text.index(words) < text.index("The answer")
    _, page = quick(tmp_path / "b")
    assert words not in page


def test_a_lost_class_is_named_with_its_arm_and_label_count(page):
    said = "Class collapse: spleen (scratch with 1 labelled). The table counts the replicates in"
    assert said in text_of(page)


def test_excluded_inputs_are_grouped_by_finding_with_what_to_do(page):
    text = text_of(page)
    assert text.count(" missing_slices ") == 1
    assert "2 of 118 slices are missing between z = 44.0 and 50.0 mm" in text
    assert "supply the slices, or set allow_missing_slices" in text
    assert "label_without_image" in text


@pytest.mark.usefixtures("undrawn")
def test_subjects_called_alike_stand_in_the_leakage_audit_without_their_names(tmp_path):
    _, page = quick(tmp_path)
    said = re.search(r"The test subject (.*) and (.*), who is pretrained on", text_of(page))
    assert said is not None
    assert said[1].startswith("subject-")
    assert said[2] == "a subject"


def test_subjects_of_each_role_are_counted(page):
    assert "pool, labelled 10 10 pool, unlabelled 5 5 validation 4 4 test 8 9" in text_of(page)
    assert "Validation subjects used: 2 with 1 labelled, 2 with 2 labelled and 4 with 4" in page


def test_the_command_and_the_versions_stand_in_the_page(page):
    assert "<code>snakemake --x</code>" in page
    assert f"numpy {np.__version__}" in text_of(page)


def test_a_pretraining_at_chance_is_said_in_plain_words(page):
    assert "the loss stayed at chance: nothing has been learnt" in text_of(page)


def test_undefined_distances_are_counted_beside_their_mean(page):
    # spleen of 9 test cases in 2 replicates has an empty prediction
    assert re.search(r"1 scratch \d+\.\d \[18\] \d+\.\d+ \[18\]", text_of(page))


def test_lost_classes_stand_beside_the_gain_they_may_explain(page):
    text = text_of(page)
    assert re.search(
        r"With 1 labelled subject, [^▲▼○]*these 3 encoders \(voco\)[^▲▼○]*"
        r"Replicates that lost a class \(mean Dice below 1 point\): scratch: spleen 2/5\.",
        text,
    )
    assert re.search(r"1 scratch [\d.]+ \([\d. to]+\) spleen 2/5 5 ", text)


def test_no_source_name_is_in_the_report_or_in_a_file_name(written, page):
    files = " ".join(str(file.relative_to(written)) for file in (written / "figures").iterdir())
    svgs = "".join(file.read_text() for file in (written / "figures").glob("*.svg"))
    assert "patient-" not in page + files + svgs
    assert re.search(r"worst: case-[0-9a-f]{4}", page)
    with open(written / "identifiers.csv", newline="") as file:
        shown = {(row["kind"], row["name"]): row["shown"] for row in csv.DictReader(file)}
    assert shown["case", "patient-000a"] in page


@pytest.mark.usefixtures("undrawn")
def test_names_are_kept_where_the_study_says_so(tmp_path):
    results, page = quick(tmp_path / "a", identifiers="keep")
    assert "patient-901a" in page
    folder = run(results.folder / "config.resolved.yaml")
    assert not (folder / "identifiers.csv").exists()


def slow_dice(folder, arm, replicate, case):
    """Mean over the classes of one case, read from metrics.csv line by line."""
    found = []
    with open(folder / f"finetune/{arm}/n4/r{replicate}/metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            primary = row["weights"] == "last" and row["metric"] == "dice"
            if primary and row["case"] == case and row["value"]:
                found.append(float(row["value"]))
    return sum(found) / len(found)


def test_the_table_holds_the_numbers_found_by_hand(written):
    row = rows_of(written)["voco", "4"]
    subjects = [["patient-000a", "patient-000b"], *([f"patient-{n:03d}a"] for n in range(1, 8))]
    dice, difference = 0.0, 0.0
    for replicate in range(5):
        for cases in subjects:
            mine = sum(slow_dice(written, "voco", replicate, c) for c in cases) / len(cases)
            other = sum(slow_dice(written, "scratch", replicate, c) for c in cases) / len(cases)
            dice += mine / 40
            difference += (mine - other) / 40
    assert float(row["dice"]) == pytest.approx(dice, rel=1e-5)
    assert float(row["difference"]) == pytest.approx(difference, rel=1e-4)
    assert float(row["low"]) < difference < float(row["high"])
    assert (row["replicates"], row["cases"], row["status"]) == ("5", "9", "ok")


def test_the_table_has_the_agreed_columns_and_an_empty_difference_for_scratch(written):
    header = (written / "comparison.csv").read_text().splitlines()[0]
    agreed = "arm,labelled,replicates,dice,difference,low,high,p,cases,seconds,status"
    assert header == f"{agreed},p_holm,detectable,primary,metric,weights"
    row = rows_of(written)["scratch", "1"]
    assert (row["difference"], row["low"], row["high"], row["p"]) == ("", "", "", "")
    assert (row["p_holm"], row["primary"]) == ("", "no")
    assert rows_of(written)["voco", "1"]["primary"] == "yes"


def test_a_failed_run_makes_its_comparison_partial_and_is_named(written, page):
    row = rows_of(written)["voco", "2"]
    assert (row["replicates"], row["status"]) == ("4", "partial")
    text = text_of(page)
    assert "4 of 5 replicates" in text
    assert "Missing: voco with 2 labelled, replicate 3." in text
    assert "out of memory: lower batch" in text


def test_a_study_that_has_not_begun_gets_a_partial_report(tmp_path):
    config = make(tmp_path / "a", Fake(**QUICK))
    for folder in ("ingest", "split", "plan", "pretrain", "finetune"):
        shutil.rmtree(config.parent / folder)
    run(config, partial=True)
    text = text_of((config.parent / "report_partial.html").read_text(encoding="utf-8"))
    assert "The data have not been split yet." in text
    assert "the fine-tuning has not been made" in text
    assert not (config.parent / "comparison.csv").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_case_without_a_prediction_is_named_with_its_reason(tmp_path):
    results, _ = quick(tmp_path / "a")
    file = results.folder / "finetune/voco/n1/r0/predictions/predictions.json"
    write_json(
        file, {**read_json(file), "failed": {"patient-002a": "raw/patient-002a.nii: damaged"}}
    )
    again = read_results(results.folder / "config.resolved.yaml", results.folder)
    words = r"replicate 0: no prediction of case-[0-9a-f]{4}: \[file\]: damaged"
    assert re.search(words, text_of(make_report(again).html))


def test_a_missing_prediction_file_leaves_its_picture_out_and_says_so(tmp_path):
    config = make(tmp_path / "a", Fake(labelled=(1,), tests=4))
    shutil.rmtree(config.parent / "finetune/voco/n1/r0/predictions/last")
    results = read_results(config, config.parent)
    text = text_of(make_report(results).html)
    assert "4 cases cannot be shown: images, labels or predictions are not found from here" in text


@pytest.mark.usefixtures("undrawn")
def test_the_stage_says_what_it_read_and_wrote(tmp_path, capsys):
    run(make(tmp_path / "a", Fake(**QUICK, failed=(("voco", 1, 0),))))
    said = capsys.readouterr().out
    assert "9 of 10 runs finished" in said
    assert "voco, 1 labelled, replicate 0: failed: fine-tuning: out of memory" in said
    assert "With 1 labelled subject" in said
    assert "report.html" in said


def test_the_cost_of_a_model_is_its_fine_tuning_and_one_whole_pretraining(written):
    results = read_results(written / "config.resolved.yaml", written)
    runs = [read_json(written / f"finetune/voco/n4/r{r}/summary.json") for r in range(5)]
    expected = sum(run["seconds"] for run in runs) / 5 + 1834.2
    assert seconds_of(results, "voco", 4) == pytest.approx(expected)


def test_figures_are_well_formed_and_told_apart(written):
    files = sorted((written / "figures").glob("*.svg"))
    names = {file.stem for file in files}
    assert {"learning-curves", "gains", "cost", "classes-n4", "cases-voco-n4"} <= names
    assert "pretraining-order" in names
    assert sum(name.startswith("overlay-case-") for name in names) == 8
    for file in files:
        ET.parse(file)
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_protocol_has_the_numbers_of_the_study(written):
    results = read_results(written / "config.resolved.yaml", written)
    text = " ".join(methods.protocol(results).values())
    for words in (
        "8 test subjects, 4 validation subjects and a pool of 15, of which 10 have a label",
        "2000 steps of batch 2",
        "1, 2 and 4 labelled subjects, 5 replicates each",
        "300 steps with 1, 300 steps with 2 and 600 steps with 4",
        "Satterthwaite",
        "Primary are 6 comparisons: mean Dice of voco and order against scratch with 1, 2 and 4",
        "corrected after Holm",
        "with a power of 80 % at the level 0.05 / 6",
        "medcl tuned no setting",
        "3 seeds",
    ):
        assert words in text


def slow_holm(p):
    """Holm's adjusted p values of a dictionary, by its definition."""
    order, found, highest = sorted(p, key=p.get), {}, 0.0
    for rank, key in enumerate(order):
        highest = max(highest, min(1.0, p[key] * (len(p) - rank)))
        found[key] = highest
    return found


def test_holm_runs_over_exactly_the_primary_comparisons(written):
    rows = {key: row for key, row in rows_of(written).items() if row["primary"] == "yes"}
    assert set(rows) == {(arm, n) for arm in ("voco", "order") for n in ("1", "2", "4")}
    # the comparison that lost a replicate has no p value and still counts as one of the six
    known = {key: float(row["p"]) for key, row in rows.items() if row["p"]}
    assert set(rows) - set(known) == {("voco", "2")}
    expected = slow_holm({**known, ("voco", "2"): 1.0})
    for key in known:
        assert float(rows[key]["p_holm"]) == pytest.approx(min(1.0, expected[key]), rel=1e-4)
    assert rows["voco", "2"]["p_holm"] == ""


def test_tables_are_written_as_csv_and_latex(written):
    files = {file.name for file in (written / "tables").iterdir()}
    for name in ("answer", "variance", "cost", "classes", "class_differences", "metrics"):
        assert {f"{name}.csv", f"{name}.tex"} <= files
    with open(written / "tables/answer.csv", newline="") as file:
        rows = {(row["arm"], row["labelled"]): row for row in csv.DictReader(file)}
    agreed = rows_of(written)["voco", "4"]
    shown = rows["voco", "4"]
    for key, name in (
        ("mean", "dice"),
        ("difference_low", "low"),
        ("p", "p"),
        ("seconds", "seconds"),
    ):
        assert float(shown[key]) == pytest.approx(
            float(agreed[name]), abs=0.1 * (name == "seconds")
        )
    with open(written / "tables/metrics_per_class.csv", newline="") as file:
        row = next(
            r for r in csv.DictReader(file) if (r["class"], r["metric"]) == ("spleen", "hd95_mm")
        )
    assert row["replicates"] == "3"  # two of five have no spleen to measure a distance to


@pytest.mark.usefixtures("undrawn")
def test_an_arm_of_some_label_counts_is_compared_there_alone(tmp_path):
    config = make(tmp_path / "a", Fake(volumes=False))
    study = read_yaml(config)
    study["arms"]["order"]["labelled"] = [1, 2]
    write_yaml(config, study)
    shutil.rmtree(config.parent / "finetune/order/n4")
    folder = run(config)
    counts = [n for arm, n in rows_of(folder) if arm == "order"]
    assert counts == ["1", "2"]
    assert {row["status"] for row in rows_of(folder).values()} == {"ok"}
    text = text_of((folder / "report.html").read_text(encoding="utf-8"))
    assert "order is run with 1 and 2 labelled only." in text
