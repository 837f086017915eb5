"""The workflow as a user runs it: what is planned, what is refused, what a cluster job sees."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medcl import workflow
from medcl.config import ConfigError, load_study

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
RULES = ["phantom", "ingest", "split", "plan", "preprocess", "pretrain", "finetune", "predict"]
RULES += ["evaluate", "report"]
CLEAN = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}


def snakemake(*arguments: str, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess:
    """Run Snakemake from an un-activated environment."""
    command = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), *arguments]
    done = subprocess.run(command, cwd=cwd, env=CLEAN, capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


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


MICRO = {
    "study": "micro",
    "dataset": "config/datasets/phantom.yaml",
    "split": {"test": 2, "validation": 2},
    "network": {"name": "unet", "width": 2},
    "arms": {"scratch": {}, "mae": {"pretrain": {"objective": "mae", "steps": 3, "batch": 1}}},
    "labelled": [1],
    "replicates": 1,
    "finetune": {"steps": 3, "batch": 1, "validate_every": 3},
    "predict": {"overlap": 0.0},
}


def write(folder: Path, changes: dict, name: str = "micro.yaml") -> str:
    """The micro study with some keys changed, as a file."""
    study = copy.deepcopy(MICRO) | changes
    (folder / name).write_text(yaml.safe_dump(study))
    return str(folder / name)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the finished micro study."""
    folder = tmp_path_factory.mktemp("finished")
    snakemake("--cores", "2", "--configfile", write(folder, {}), cwd=folder)
    return folder


# ------------------------------------------------------------------------------ what is planned


def test_a_bare_dry_run_plans_every_stage() -> None:
    done = snakemake("-n", "--forceall")
    for rule in RULES:
        assert f"\n{rule} " in done.stdout, rule


def test_the_finished_study_has_an_answer_and_plans_nothing_more(finished: Path) -> None:
    results = finished / "results" / "micro"
    assert "<html" in (results / "report.html").read_text()[:500].lower()
    header, *rows = (results / "comparison.csv").read_text().splitlines()
    assert header == (
        "arm,labelled,replicates,dice,difference,low,high,p,cases,seconds,status"
    )
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
    jobs = planned("--configfile", write(tmp_path, changes), cwd=finished)
    assert jobs == expected | {"report": 1, "all": 1}


def test_a_users_file_with_one_arm_plans_one_arm(tmp_path: Path) -> None:
    file = write(tmp_path, {"arms": {"scratch": {}}, "study": "other"})
    jobs = planned("--configfile", file, cwd=tmp_path)
    assert jobs["finetune"] == 1
    assert "pretrain" not in jobs


def test_a_second_dataset_needs_one_new_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nroot: scans\nmodality: CT\nclasses: {liver: 1}\n"
        "sources: [{layout: files}]\n"
    )
    jobs = planned("--configfile", write(tmp_path, {"dataset": "mine.yaml"}), cwd=tmp_path)
    assert jobs["ingest"] == jobs["report"] == 1
    assert "phantom" not in jobs


@pytest.mark.parametrize("file", sorted((ROOT / "config" / "studies").glob("*.yaml")), ids=str)
def test_every_shipped_study_can_be_planned(file: Path, tmp_path: Path) -> None:
    assert planned("--configfile", str(file), cwd=tmp_path)["report"] == 1


def test_the_slurm_profile_asks_for_gpus_memory_and_time(tmp_path: Path) -> None:
    done = snakemake(
        "-n", "--workflow-profile", "slurm", "--configfile", write(tmp_path, {}), cwd=tmp_path
    )
    part = done.stdout.partition("rule pretrain:")[2].partition("rule ")[0]
    assert "gpu=1" in part
    assert "mem_mb=16000" in part
    assert "runtime=2880" in part


# ------------------------------------------------------------------------------ what is refused


def test_problems_of_the_configuration_are_shown_all_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, {"labelled": [1, 1], "finetune": {"step": 1}})
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


def test_pretraining_seeds_are_assigned_to_replicates_in_turn() -> None:
    arms = {"scratch": {}, "mae": {"pretrain": {"objective": "mae", "steps": 3, "seeds": 2}}}
    flow = workflow.Flow(load_study(MICRO | {"arms": arms, "replicates": 3}))
    seeds = [flow.encoder("mae", replicate).split("/")[-2] for replicate in range(3)]
    assert seeds == ["s0", "s1", "s0"]
    assert len(flow.pretrainings("summary.json")) == 2
    assert flow.encoder("scratch", 0) == ""


def test_more_pretraining_seeds_change_no_section_of_those_that_exist() -> None:
    def section(seeds: int) -> str:
        pretrain = {"objective": "mae", "steps": 3, "seeds": seeds}
        arms = {"scratch": {}, "mae": {"pretrain": pretrain}}
        wildcards = type("Wildcards", (), {"arm": "mae"})
        return workflow.Flow(load_study(MICRO | {"arms": arms})).pretrain(wildcards)

    assert section(1) == section(3)


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
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "results", tmp_path / "results", symlinks=True)
    for name in ("report.html", "comparison.csv"):
        (tmp_path / "results" / "micro" / name).unlink()
    shutil.rmtree(tmp_path / "results" / "micro" / "finetune")
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(SBATCH.replace("{log}", str(tmp_path)))
    sbatch.chmod(0o755)
    snakemake(
        *("--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(sbatch)),
        *("--jobs", "2", "--latency-wait", "20", "--rerun-triggers", "mtime"),
        *("--workflow-profile", "none", "--configfile", write(tmp_path, {})),
        cwd=tmp_path,
    )
    assert (tmp_path / "results" / "micro" / "report.html").exists()
