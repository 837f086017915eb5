"""What a report compares with what, and what that cost."""

import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from make_results import Fake, make
from report_pages import QUICK, quick, rows_of, run, text_of

from medcl.files import read_json, read_yaml, write_json, write_yaml
from medcl.study import drawing
from medcl.study.caveats import caveats
from medcl.study.comparison import case_table, compare, compare_further, difference_of
from medcl.study.cost import costs
from medcl.study.report import make_report
from medcl.study.results import read_results
from medcl.study.statistics import detectable_difference


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures take most of the time of a report, and nothing here depends on them."""
    monkeypatch.setattr(drawing, "render", lambda figure, kind: b"<svg></svg>")


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


def test_what_a_primary_comparison_could_have_seen_heeds_the_size_of_its_family(tmp_path):
    results, _ = quick(tmp_path / "a", effects={"voco": 0.06, "order": -0.03})
    _, first, _ = compare(results)
    found = first.difference
    expected = detectable_difference(found.error, found.degrees, level=0.05 / 2)
    assert found.detectable == pytest.approx(expected)
    assert found.detectable > detectable_difference(found.error, found.degrees)


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
    assert "this encoder (mae) and training from scratch" in sentences[1]  # a control: not primary
    assert all("these 3 encoders (voco)" in words for words in sentences[2:])
    assert [" mae (" in words for words in sentences] == [False, False, False, True]
    assert "scratch-long and mae are further controls" in text
    assert "scratch-long is trained from scratch for longer: what the pretraining of" in text


def test_the_bound_with_all_labels_is_drawn_and_told(tmp_path):
    results, page = quick(tmp_path / "a", bound=2)
    by_subject = {}  # one of them was seen twice
    for made in results.bound:
        for (case, _), value in made.scores["last", "dice"].items():
            by_subject.setdefault(results.splits.subject_of[case], []).append(value)
    mean = 100 * float(np.mean([np.mean(values) for values in by_subject.values()]))
    said = text_of(page)
    assert "Dashed: the bound with every labelled candidate (in brackets" in said
    assert f"scratch {mean:.1f} (2)" in said
    assert re.search(rf"all \(10\) scratch {mean:.1f} – 2 ", said)
    assert f"Of the {mean:.1f} Dice points that scratch reaches with all 10 labelled" in said
    _, page = quick(tmp_path / "b")
    assert "bound with every labelled candidate" not in page
    assert "that scratch reaches" not in page


def test_a_waived_finding_heads_the_report(tmp_path):
    waived = ({"kind": "near_duplicate", "cases": ["patient-000a", "patient-013a"]},)
    _, page = quick(tmp_path / "a", waived=waived)
    text = text_of(page)
    words = "Waived finding of the leakage audit: near duplicate (case-"
    assert text.index(words) < text.index("Does pretraining help?")
    assert "patient-0" not in page


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


def test_what_the_intervals_do_not_cover_is_said(tmp_path):
    results, _ = quick(tmp_path / "a", labelled=(1, 6), seeds={})
    said = " ".join(caveats(results))
    assert "Holm's correction covers the 2 primary comparisons" in said
    assert "With 6 of 10 labelled candidates" in said
    assert "Fewer than 5 pretraining seeds (voco)" in said


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


def test_the_cost_has_rows_of_the_tuning_and_of_the_bound(tmp_path):
    config = make(tmp_path / "a", Fake(**QUICK, bound=2))
    write_yaml(config, read_yaml(config) | {"tune": {"learning_rates": [0.1, 0.2], "labelled": 1}})
    tried = [{"learning_rate": 0.1, "seconds": 30.5}, {"learning_rate": 0.2, "seconds": None}]
    tuned = {"status": "ok", "learning_rate": 0.1, "device": "cpu", "tried": tried}
    write_yaml(tmp_path / "a/tune/voco/tuned.yaml", tuned)
    folder = tmp_path / "a/benchmark"
    folder.mkdir()
    head = "s\th:m:s\tmax_rss\tmax_vms\n"
    (folder / "tune.voco.tsv").write_text(f"{head}40\t0:00:40\t700.5\t900\n")
    for replicate in (0, 1):
        for stage, seconds in (("finetune", 90), ("predict", 20), ("evaluate", 0.4)):
            file = folder / f"{stage}_bound.scratch.r{replicate}.tsv"
            file.write_text(f"{head}{seconds}\t0:00:04\t{1200 + replicate}\t-\n")
    found = {(c.stage, c.arm): c for c in costs(read_results(config, config.parent))}
    tuning = found["tune", "voco"]
    assert (tuning.jobs, tuning.seconds, tuning.memory_mb, tuning.device) == (1, 30.5, 700.5, "cpu")
    bound = found["finetune, bound", "scratch"]
    assert (bound.jobs, bound.memory_mb, bound.device) == (2, 1201.0, "cpu")
    assert found["finetune", "scratch"].jobs == 5
    predicted = found["predict, bound", "scratch"]
    assert (predicted.jobs, predicted.seconds) == (2, 40.0)
    # Snakemake saw too little of so short a job to know its memory.
    assert found["evaluate, bound", "scratch"].memory_mb is None


def test_a_bound_that_was_resumed_or_left_a_case_out_is_marked(tmp_path):
    results, _ = quick(tmp_path / "a", bound=1)
    place = tmp_path / "a/bound/scratch/r0"
    write_json(
        place / "summary.json",
        read_json(place / "summary.json") | {"resumed": ["with 2 threads instead of 1"]},
    )
    file = place / "predictions/predictions.json"
    write_json(file, read_json(file) | {"failed": {"patient-002a": "damaged"}})
    again = read_results(results.folder / "config.resolved.yaml", results.folder)
    text = text_of(make_report(again).html)
    assert "scratch, all labelled, replicate 0 was resumed: with 2 threads instead of 1" in text
    assert re.search(
        r"scratch, all labelled, replicate 0: no prediction of case-\w+: damaged", text
    )


def test_every_arm_that_starts_from_weights_says_what_it_took_over(tmp_path):
    config = make(tmp_path / "a", Fake(**{**QUICK, "effects": {"voco": 0, "own": 0, "short": 0}}))
    study = read_yaml(config)
    study["arms"] |= {"own": {"weights": "mine/model.pt"}, "short": {"start": "voco"}}
    study["arms"]["self"] = {"selftrain": {"of": "voco"}}
    study["bound"] = {"arm": "voco", "replicates": 1}
    write_yaml(config, study)
    for source, made in (("own/n1/r0", "finetune/self/n1/r0"), ("voco/n1/r0", "bound/voco/r0")):
        shutil.copytree(tmp_path / "a/finetune" / source, tmp_path / "a" / made)
    file = tmp_path / "a/finetune/own/n1/r1/summary.json"
    summary = read_json(file)
    summary["transfer"]["differing"] = ["spacing: made with [2, 2, 2], here [1, 1, 3]"]
    write_json(file, summary)
    results = read_results(config, config.parent)
    text = text_of(make_report(results).html)
    start = "61 % of the pretrained parameters (12 tensors) taken"
    for name, source in (
        ("voco", "pretrained by voco"),
        ("voco, all labels", "pretrained by voco"),
        ("own", "given"),
        ("short", "pretrained by voco"),
        ("self", "pretrained by voco"),
    ):
        assert f"{name} {source} {start}" in text
    assert "spacing: made with [2, 2, 2], here [1, 1, 3]" in text


def test_a_report_says_that_no_control_has_the_time_of_the_pretraining(tmp_path):
    results, _ = quick(tmp_path / "a")
    words = "voco had the time of a pretraining more than scratch, and no control of equal cost"
    assert words in " ".join(caveats(results))
    results, _ = quick(tmp_path / "b", long=True)
    assert "control of equal cost" not in " ".join(caveats(results))


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


def test_what_ensembles_cost_stands_beside_what_single_networks_do(tmp_path):
    config = make(tmp_path / "a", Fake(**QUICK))
    folder = tmp_path / "a/benchmark"
    folder.mkdir()
    jobs = {"predict.voco.n1.r0": 3, "predict_ensemble.voco.n1": 9, "predict_bound.voco.r0": 4}
    for name, seconds in (jobs | {"evaluate_ensemble.voco.n2": 2}).items():
        (folder / f"{name}.tsv").write_text(f"s\tmax_rss\n{seconds}\t100\n")
    found = {(c.stage, c.arm): c for c in costs(read_results(config, config.parent))}
    assert found["predict", "voco"].seconds == 3
    assert found["predict, ensemble", "voco"].seconds == 9
    assert found["evaluate, ensemble", "voco"].seconds == 2


def test_a_class_that_one_arm_lost_costs_the_other_nothing(tmp_path):
    values = {
        "voco": {"heart": 5.0, "small": 30.0},
        "scratch": {"heart": 8.0, "small": math.nan},
    }
    results, _ = quick(tmp_path / "a")
    runs = [
        replace(
            run,
            scores={
                ("last", "hd95_mm"): {
                    (case, name): values.get(run.arm, values["scratch"])[other]
                    for case in results.test_cases
                    for name, other in zip(
                        results.study.dataset.classes, ("heart", "small"), strict=False
                    )
                }
            },
        )
        for run in results.runs
    ]
    changed = replace(results, runs=runs)
    found = difference_of(changed, "voco", 1, "scratch", metric="hd95_mm")
    assert found.mean == pytest.approx(-3.0)


def test_a_pretraining_that_read_labels_is_named_beside_the_answer(tmp_path):
    config = make(tmp_path / "torso", Fake(**QUICK))
    for file in config.parent.glob("pretrain/voco/*/summary.json"):
        write_json(file, read_json(file) | {"labels_read": 12})
    results = read_results(config, config.parent)
    (said,) = [words for words in caveats(results) if "read the voxel labels" in words]
    assert said.startswith("The pretraining of voco read the voxel labels of 12 pool cases")
    assert said in text_of(make_report(results).html)
