"""The workflow as a user runs it: what is planned, what is refused, what a cluster job sees."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from micro import MICRO, ROOT, micro_study, snakemake

from medcl import workflow
from medcl.config import ConfigError, load_study

RULES = ["phantom", "ingest", "split", "plan", "preprocess", "pretrain", "finetune", "predict"]
RULES += ["evaluate", "report"]


def planned(*arguments: str, cwd: Path = ROOT) -> dict[str, int]:
    """Jobs of each rule in a dry run."""
    text = snakemake("-n", *arguments, cwd=cwd).stdout
    jobs: dict[str, int] = {}
    for line in text.partition("Job stats:")[2].splitlines()[3:]:
        words = line.split()
        if len(words) != 2 or words[0] == "total":
            break
        jobs[words[0]] = int(words[1])
    return jobs


MICRO_DATASET = {
    "name": "mine",
    "modality": "MR",
    "classes": {"liver": 1},
    "sources": [{"layout": "files"}],
}


# ------------------------------------------------------------------------------ what is planned


def test_a_bare_dry_run_plans_every_stage() -> None:
    done = snakemake("-n", "--forceall")
    for rule in RULES:
        assert f"\n{rule} " in done.stdout, rule


def test_the_finished_study_has_an_answer_and_plans_nothing_more(finished: Path) -> None:
    results = finished / "results" / "micro"
    assert "<html" in (results / "report.html").read_text()[:500].lower()
    header, *rows = (results / "comparison.csv").read_text().splitlines()
    agreed = "arm,labelled,replicates,dice,difference,low,high,p,cases,seconds,status"
    assert header == f"{agreed},p_holm,detectable,primary,metric,weights"
    assert [row.split(",")[0] for row in rows] == ["scratch", "mae"]
    assert planned("--configfile", str(finished / "micro.yaml"), cwd=finished) == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labelled": [1, 2]}, {"finetune": 2, "predict": 2, "evaluate": 2}),
        ({"replicates": 2}, {"finetune": 2, "predict": 2, "evaluate": 2}),
        (
            {"arms": MICRO["arms"] | {"voco": {"pretrain": {"objective": "voco", "steps": 2}}}},
            {"pretrain": 1, "finetune": 1, "predict": 1, "evaluate": 1},
        ),
    ],
    ids=["label count", "replicate", "arm"],
)
def test_growing_a_study_plans_only_what_is_new(
    finished: Path, tmp_path: Path, changes: dict, expected: dict
) -> None:
    jobs = planned("--configfile", micro_study(tmp_path, **changes), cwd=finished)
    assert jobs == expected | {"report": 1, "all": 1}


def test_changed_source_files_are_ingested_again(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii").write_bytes(b"1")
    dataset = MICRO_DATASET | {"root": str(tmp_path / "scans")}
    flow = workflow.Flow(load_study(MICRO | {"dataset": dataset}))
    before = flow.fingerprint(None)
    assert flow.fingerprint(None) == before
    (tmp_path / "scans" / "b.nii").write_bytes(b"2")
    assert flow.fingerprint(None) != before


def test_a_users_file_with_one_arm_plans_one_arm(tmp_path: Path) -> None:
    file = micro_study(tmp_path, arms={"scratch": {}}, study="other")
    jobs = planned("--configfile", file, cwd=tmp_path)
    assert jobs["finetune"] == 1
    assert "pretrain" not in jobs


def test_ingest_is_given_the_datasets_that_are_pretrained_on_and_watches_their_files(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"1")
    other = MICRO_DATASET | {"name": "other", "root": str(tmp_path), "plan": {"threads": 2}}
    other["sources"] = [{"layout": "folders", "images": "{subject}.nii"}]
    flow = workflow.Flow(load_study(MICRO | {"pretrain_on": [other]}))
    option, text = flow.pretrain_on({})
    assert option == "--pretrain-on"
    assert json.loads(text)["sources"][0]["images"] == "{subject}.nii"
    assert "plan" not in json.loads(text)
    before = flow.fingerprint({})
    (tmp_path / "a.nii").write_bytes(b"22")
    assert flow.fingerprint({}) != before
    assert workflow.Flow(load_study(MICRO)).pretrain_on({}) == []


def test_a_second_dataset_needs_one_new_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nroot: scans\nmodality: CT\nclasses: {liver: 1}\nsources: [{layout: files}]\n"
    )
    jobs = planned("--configfile", micro_study(tmp_path, dataset="mine.yaml"), cwd=tmp_path)
    assert jobs["ingest"] == jobs["report"] == 1
    assert "phantom" not in jobs


@pytest.mark.parametrize("file", sorted((ROOT / "config" / "studies").glob("*.yaml")), ids=str)
def test_every_shipped_study_can_be_planned(file: Path, tmp_path: Path) -> None:
    jobs = planned("--configfile", str(file), cwd=tmp_path)
    assert jobs.get("report", jobs.get("slides_report")) == 1


def test_the_slurm_profile_asks_for_gpus_memory_and_time(tmp_path: Path) -> None:
    done = snakemake(
        "-n", "--workflow-profile", "slurm", "--configfile", micro_study(tmp_path), cwd=tmp_path
    )
    part = done.stdout.partition("rule pretrain:")[2].partition("rule ")[0]
    assert "gpu=1" in part
    assert "mem_mb=16000" in part
    assert "runtime=2880" in part


LOOKS = """
from medcl import workflow as medcl_workflow
onstart:
    print("limiter before:", workflow.scheduler.job_rate_limiter is not None)
    medcl_workflow.calm(workflow)
    print("limiter after:", workflow.scheduler.job_rate_limiter is not None)
rule all:
    output: "done"
    shell: "touch {output}"
"""


def test_the_local_scheduler_does_not_look_again_after_every_job(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(LOOKS)
    done = snakemake("--cores", "1", "--snakefile", str(tmp_path / "Snakefile"), cwd=tmp_path)
    said = done.stdout + done.stderr
    assert "limiter before: True" in said
    assert "limiter after: False" in said
    assert (tmp_path / "done").exists()


def test_the_scheduler_of_a_cluster_keeps_its_limit() -> None:
    scheduler = SimpleNamespace(job_rate_limiter="a limit")
    workflow.calm(SimpleNamespace(local_exec=False, scheduler=scheduler))
    assert scheduler.job_rate_limiter == "a limit"


# ------------------------------------------------------------------------------ what is refused


def test_problems_of_the_configuration_are_shown_all_at_once(tmp_path: Path) -> None:
    file = micro_study(tmp_path, labelled=[1, 1], finetune={"step": 1})
    done = snakemake("-n", "--configfile", file, cwd=tmp_path, check=False)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "finetune.step: no such key; did you mean 'steps'?" in said
    assert "labelled: a number of labelled subjects stands twice" in said


def test_a_misspelt_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'slurm'"):
        workflow.check_command_line(["--workflow-profile", "slrum"], {}, ROOT)


def test_nested_values_on_the_command_line_are_refused() -> None:
    with pytest.raises(ConfigError, match="--configfile"):
        workflow.check_command_line([], {"finetune": {"steps": "3"}}, ROOT)
    workflow.check_command_line([], {"root": "/data"}, ROOT)


# ------------------------------------------------------------------------------ the flow itself


def test_a_replicate_starts_from_the_pretraining_that_is_its_turn() -> None:
    arms = {"scratch": {}, "mae": {"pretrain": {"objective": "mae", "steps": 3, "seeds": 2}}}
    flow = workflow.Flow(load_study(MICRO | {"arms": arms, "replicates": 3}))

    def encoder(arm: str, replicate: int) -> list[str]:
        words = {"arm": arm, "labelled": "1", "replicate": str(replicate)}
        return flow.encoder_of(type("Wildcards", (), words))

    assert encoder("mae", 1) == ["results/micro/pretrain/mae/s1/encoder.pt"]
    assert encoder("mae", 2) == ["results/micro/pretrain/mae/s0/encoder.pt"]
    assert encoder("scratch", 0) == []
    assert len([file for file in flow.made() if "/pretrain/" in file]) == 2


def test_more_pretraining_seeds_change_no_section_of_those_that_exist() -> None:
    def section(seeds: int) -> str:
        pretrain = {"objective": "mae", "steps": 3, "seeds": seeds}
        arms = {"scratch": {}, "mae": {"pretrain": pretrain}}
        wildcards = type("Wildcards", (), {"arm": "mae"})
        return workflow.Flow(load_study(MICRO | {"arms": arms})).pretrain(wildcards)

    assert section(1) == section(3)


def test_snakemakes_own_report_is_made_offline(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    study = ["--configfile", str(finished / "micro.yaml")]
    snakemake("--report", str(page), *study, cwd=finished)
    assert "Answer" in page.read_text()


# ------------------------------------------------------------------------------------- clusters

SBATCH = """#!/bin/bash
# A stand-in for sbatch: a clean environment and another working directory for each job.
script="${@: -1}"
cd /tmp
env -i PATH=/usr/bin:/bin HOME="$HOME" bash "$script" > "{log}/$$.out" 2>&1 &
echo $$
"""


@pytest.mark.slow
def test_a_cluster_job_needs_neither_our_environment_nor_our_folder(
    tmp_path: Path,
) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(SBATCH.replace("{log}", str(tmp_path)))
    sbatch.chmod(0o755)
    snakemake(
        *("--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(sbatch)),
        *("--jobs", "2", "--latency-wait", "20"),
        *("--workflow-profile", "none", "--configfile", micro_study(tmp_path)),
        cwd=tmp_path,
    )
    assert (tmp_path / "results" / "micro" / "report.html").exists()
