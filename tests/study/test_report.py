"""The report of a study: what it says, what it hides, and what it survives."""

import argparse
import csv
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from make_results import Fake, make

from medcl.files import read_json, write_json
from medcl.stages import report as stage
from medcl.study import drawing, methods
from medcl.study.comparison import case_table, compare, compare_further
from medcl.study.cost import costs, seconds_of
from medcl.study.report import make_report
from medcl.study.results import read_results
from medcl.study.statistics import detectable_difference

FULL = Fake(
    failed=(("voco", 2, 3),),
    collapsed=(("scratch", 1, 0, "spleen"), ("scratch", 1, 2, "spleen")),
)
QUICK = {"volumes": False, "labelled": (1,), "tests": 4, "effects": {"voco": 0.06}}


def run(config, **changes):
    given = {"study": str(config), "out": str(config.parent), "command": None, "partial": False}
    stage.run(argparse.Namespace(**{**given, **changes}))
    return config.parent


def quick(folder, **changes):
    """A small study without pictures, and its report as plain text."""
    config = make(folder, Fake(**{**QUICK, **changes}))
    results = read_results(config, config.parent)
    return results, make_report(results, command="snakemake --cores 2").html


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


def text_of(page):
    """The words of a page."""
    page = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", page).replace("\u00a0", " ").split())


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


# ------------------------------------------------------------------------------- the page


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
    first = re.search(r"With 1 labelled subject, [^.]*this method \(voco\)", text).start()
    assert text.index("The answer") < first < text.index("Curves")
    for labelled in ("1 labelled subject,", "2 labelled subjects,", "4 labelled subjects,"):
        assert len(re.findall(f"With {labelled}.*?(voco|order)", text)) == 2
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


def test_a_lost_class_is_named_with_its_arm_and_replicates(page):
    assert "spleen is lost in replicates 0 and 2 of scratch with 1 labelled" in text_of(page)


def test_excluded_inputs_are_grouped_by_finding_with_what_to_do(page):
    text = text_of(page)
    assert text.count(" missing_slices ") == 1
    assert "2 of 118 slices are missing between z = 44.0 and 50.0 mm" in text
    assert "supply the slices, or set allow_missing_slices" in text
    assert "label_without_image" in text


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
        r"With 1 labelled subject, [^▲▼○]*this method \(voco\)[^▲▼○]*"
        r"Replicates with a class at Dice 0: scratch: spleen 2/5\.",
        text,
    )
    assert re.search(r"1 scratch [\d.]+ \([\d. to]+\) spleen 2/5 5 ", text)


# ------------------------------------------------------------------------------- names


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


# ------------------------------------------------------------------------------- the table


def rows_of(folder):
    with open(folder / "comparison.csv", newline="") as file:
        return {(row["arm"], row["labelled"]): row for row in csv.DictReader(file)}


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


def test_an_arm_whose_pretraining_failed_has_failed_and_the_others_go_on(tmp_path):
    results, page = quick(
        tmp_path / "a", effects={"voco": 0.1, "order": 0.1}, failed_pretraining=("voco",)
    )
    run(results.folder / "config.resolved.yaml")
    rows = rows_of(results.folder)
    assert rows["voco", "1"]["status"] == "failed"
    assert (rows["voco", "1"]["dice"], rows["voco", "1"]["seconds"]) == ("", "")
    assert rows["order", "1"]["status"] == "ok"
    assert "could not be compared with training from scratch" in text_of(page)
    assert "loss is nan at step 812" in page


def test_three_replicates_give_differences_without_intervals(tmp_path):
    _, page = quick(tmp_path / "a", replicates=3)
    text = text_of(page)
    assert "3 replicates; an interval needs at least 5" in text
    assert not re.search(r"\) gains|\) loses", text)


def test_a_single_arm_is_reported_by_its_means(tmp_path):
    results, page = quick(tmp_path / "a", effects={}, seeds={})
    assert "scratch reaches a mean Dice of" in text_of(page)
    assert "difference to scratch" not in page
    assert compare(results)[0].difference is None


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
    assert re.search(r"case-[0-9a-f]{4} cannot be shown: .*no such file", text)


@pytest.mark.usefixtures("undrawn")
def test_a_case_undefined_in_one_run_leaves_every_comparison_it_belongs_to(tmp_path):
    results, _ = quick(tmp_path / "a")
    file = results.folder / "finetune/voco/n1/r0/metrics.csv"
    lines = file.read_text().splitlines()
    gone = [
        re.sub(r",dice,[\d.]+,", ",dice,,both empty", line)
        if line.startswith("patient-001a")
        else line
        for line in lines
    ]
    file.write_text("\n".join(gone) + "\n")
    again = read_results(results.folder / "config.resolved.yaml", results.folder)
    scratch, voco = compare(again)
    assert (scratch.mean.undefined_cases, voco.difference.undefined_cases) == (0, 1)
    assert np.isnan(case_table(again, "voco", 1)).sum() == 1
    assert "1 test case left out" in text_of(make_report(again).html)


@pytest.mark.usefixtures("undrawn")
def test_the_stage_says_what_it_read_and_wrote(tmp_path, capsys):
    run(make(tmp_path / "a", Fake(**QUICK, failed=(("voco", 1, 0),))))
    said = capsys.readouterr().out
    assert "9 of 10 runs finished" in said
    assert "voco, 1 labelled, replicate 0: failed: fine-tuning: out of memory" in said
    assert "With 1 labelled subject" in said
    assert "report.html" in said


# ------------------------------------------------------------------------------- cost


def test_the_cost_of_a_model_is_its_fine_tuning_and_one_whole_pretraining(written):
    results = read_results(written / "config.resolved.yaml", written)
    runs = [read_json(written / f"finetune/voco/n4/r{r}/summary.json") for r in range(5)]
    expected = sum(run["seconds"] for run in runs) / 5 + 1834.2
    assert seconds_of(results, "voco", 4) == pytest.approx(expected)


def test_benchmark_files_time_the_stages_that_do_not_time_themselves(tmp_path):
    config = make(tmp_path / "a", Fake(**QUICK))
    folder = tmp_path / "a/benchmark"
    folder.mkdir()
    head = "s\th:m:s\tmax_rss\tmax_vms\n"
    (folder / "ingest.tsv").write_text(f"{head}12.5\t0:00:12\t210.5\t900\n")
    for replicate in (0, 1):
        file = folder / f"evaluate.voco.n1.r{replicate}.tsv"
        file.write_text(f"{head}{4 + replicate}\t0:00:04\tNA\t-\n")
    found = {(c.stage, c.arm): c for c in costs(read_results(config, config.parent))}
    assert (found["ingest", None].seconds, found["ingest", None].memory_mb) == (12.5, 210.5)
    evaluated = found["evaluate", "voco"]
    assert (evaluated.jobs, evaluated.seconds, evaluated.memory_mb) == (2, 9.0, None)
    assert (found["pretrain", "voco"].jobs, found["pretrain", "voco"].memory_mb) == (3, 1310.5)


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
    text = " ".join(methods.protocol(results))
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


@pytest.mark.usefixtures("undrawn")
def test_what_the_intervals_do_not_cover_is_said(tmp_path):
    results, _ = quick(tmp_path / "a", labelled=(1, 6), seeds={})
    said = " ".join(methods.caveats(results))
    assert "Holm's correction covers the 2 primary comparisons" in said
    assert "With 6 of 10 labelled candidates" in said
    assert "Fewer than 3 pretraining seeds (voco)" in said


# ------------------------------------------------------------------- primary and secondary


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


@pytest.mark.usefixtures("undrawn")
def test_the_primary_comparisons_are_those_the_study_names(tmp_path):
    results, page = quick(
        tmp_path / "a",
        labelled=(1, 2),
        effects={"voco": 0.06, "order": -0.03},
        primary={"arms": ["order"], "labelled": [2], "metric": "nsd"},
    )
    found = {(c.arm, c.labelled): c for c in compare(results)}
    assert [key for key, item in found.items() if item.primary] == [("order", 2)]
    assert found["order", 2].p_holm == found["order", 2].difference.p
    assert found["voco", 2].p_holm is None
    text = text_of(page)
    assert "Primary is 1 comparison: mean NSD of order against scratch with 2 labelled" in text
    assert re.search(
        r"With 2 labelled subjects, [^.]*\(voco\)[^;]*NSD points[^;]*; secondary", text
    )
    assert text.index("this encoder (order)") < text.index("(voco)")  # primary arms come first
    alone = found["order", 2].difference
    assert alone.detectable == detectable_difference(alone.error, alone.degrees)
    row = run(results.folder / "config.resolved.yaml") and rows_of(results.folder)["order", "2"]
    assert (row["metric"], row["primary"]) == ("nsd", "yes")
    cases = case_table(results, "order", 2).mean(axis=0)
    subjects = [(cases[0] + cases[1]) / 2, *cases[2:]]  # the first one was seen twice
    assert float(row["dice"]) == pytest.approx(np.mean(subjects), rel=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_what_a_primary_comparison_could_have_seen_heeds_the_size_of_its_family(tmp_path):
    results, _ = quick(tmp_path / "a", effects={"voco": 0.06, "order": -0.03})
    _, first, _ = compare(results)
    found = first.difference
    expected = detectable_difference(found.error, found.degrees, level=0.05 / 2)
    assert found.detectable == pytest.approx(expected)
    assert found.detectable > detectable_difference(found.error, found.degrees)


@pytest.mark.usefixtures("undrawn")
def test_pretrained_arms_are_set_beside_every_further_control(tmp_path):
    results, page = quick(
        tmp_path / "a",
        effects={"voco": 0.06, "mae": 0.02},
        controls=("mae",),
        long=True,
    )
    pairs = [(c.arm, c.control) for c in compare_further(results)]
    assert pairs == [("voco", "scratch-long"), ("voco", "mae")]
    found = compare_further(results)[1]
    expected = np.mean(case_table(results, "voco", 1) - case_table(results, "mae", 1), axis=0)
    both = (expected[0] + expected[1]) / 2  # two visits of one subject
    assert found.difference.mean == pytest.approx(np.mean([both, *expected[2:]]))
    assert (found.primary, found.p_holm) == (False, None)
    text = text_of(page)
    sentences = [words for words in text.split("With ") if "; secondary" in words]
    assert "between scratch-long and training from scratch" in sentences[0]
    assert all("this method (voco)" in words for words in sentences[1:])
    assert [" mae (" in words for words in sentences] == [False, False, True]
    assert "scratch-long and mae are further controls" in text
    assert "scratch-long is trained from scratch for as many further steps" in text


@pytest.mark.usefixtures("undrawn")
def test_the_bound_with_all_labels_is_drawn_and_told(tmp_path):
    results, page = quick(tmp_path / "a", bound=2)
    values = [
        value
        for run in results.bound
        for (weights, metric), table in run.scores.items()
        for value in table.values()
        if (weights, metric) == ("last", "dice")
    ]
    mean = 100 * float(np.mean(values))
    said = text_of(page)
    assert "Dashed: the bound with every labelled candidate (in brackets" in said
    assert f"scratch {mean:.1f} (2)" in said
    _, page = quick(tmp_path / "b")
    assert "bound with every labelled candidate" not in page


@pytest.mark.usefixtures("undrawn")
def test_a_waived_finding_heads_the_report(tmp_path):
    waived = ({"kind": "near_duplicate", "cases": ["patient-000a", "patient-013a"]},)
    _, page = quick(tmp_path / "a", waived=waived)
    text = text_of(page)
    words = "Waived finding of the leakage audit: near duplicate (case-"
    assert text.index(words) < text.index("Does pretraining help?")
    assert "patient-0" not in page


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


def test_the_cost_names_device_and_memory_of_each_arm(tmp_path):
    config = make(tmp_path / "a", Fake(**QUICK))
    folder = tmp_path / "a/benchmark"
    folder.mkdir()
    head = "s\th:m:s\tmax_rss\tmax_vms\n"
    (folder / "pretrain.voco.s0.tsv").write_text(f"{head}12.5\t0:00:12\t4210.5\t900\n")
    file = tmp_path / "a/pretrain/voco/s0/summary.json"
    write_json(file, {**read_json(file), "device": "cuda", "peak_memory_mb": 20000.0})
    found = {(c.stage, c.arm): c for c in costs(read_results(config, config.parent))}
    pretrain = found["pretrain", "voco"]
    assert (pretrain.memory_mb, pretrain.device_mb) == (4210.5, 20000.0)
    assert pretrain.device == "cpu, cuda"
    assert (found["finetune", "voco"].device, found["finetune", "voco"].device_mb) == ("cpu", None)
