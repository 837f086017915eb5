"""What the Snakefile asks: the checked study, its paths and targets, and each rule's section.

Rules hold no logic, because nothing can unit-test it there. Each rule is given only its own
section, so that another arm, label count or replicate re-runs nothing that stands already.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medcl.config import UNDECIDING, ConfigError, Study, kind_of, load_slide_study, load_study
from medcl.files import sha256_of, write_text, write_yaml
from medcl.study import projection, protocol
from medcl.study.slides_flow import SlideFlow

SUMMARY = "summary.json"


def use_this_interpreter() -> None:
    """Let the rules' `python` be the one that runs Snakemake, also from an un-activated venv."""
    folder = str(Path(sys.executable).parent)
    paths = os.environ.get("PATH", "").split(os.pathsep)
    if paths[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, *paths])


def calm(workflow: Any) -> None:
    """Let a local scheduler wait for jobs to end; called when a run starts.

    Snakemake 9 looks again a second after every look because it limits jobs per second, and every
    job that ends adds such a chain of looks: 260 jobs kept a quarter of a core busy. On one machine
    the cores are the limit. A cluster's scheduler keeps its own.
    """
    if workflow.local_exec and hasattr(workflow.scheduler, "job_rate_limiter"):
        workflow.scheduler.job_rate_limiter = None


def check_command_line(arguments: Sequence[str], overrides: Mapping[str, Any], base: Path) -> None:
    """Refuse what Snakemake takes silently: a misspelt profile, and nested values of --config.

    Raises ConfigError.
    """
    for position, word in enumerate(arguments):
        name = None
        if word.startswith("--workflow-profile="):
            name = word.partition("=")[2]
        elif word == "--workflow-profile" and position + 1 < len(arguments):
            name = arguments[position + 1]
        if not name or name == "none":
            continue
        places = [Path(name), Path("profiles") / name, base / "profiles" / name]
        if not any(place.exists() for place in places):
            shipped = sorted(path.name for path in (base / "profiles").iterdir())
            near = difflib.get_close_matches(name, shipped, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(shipped)}"
            raise ConfigError(f"--workflow-profile {name}: no such profile; {hint}")
    for key, value in overrides.items():
        if isinstance(value, (dict, list)):
            raise ConfigError(
                f"--config {key}=...: nested values arrive as texts; write them into a YAML file "
                "and give it with --configfile"
            )


def one_of(names: Iterable[str]) -> str:
    """Regular expression of any of `names` and nothing else; of none, one that never matches."""
    return "|".join(map(re.escape, names)) or "(?!)"


def gpus() -> int:
    """Number of GPUs this machine shows, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in {"", "-1"}])
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) if shutil.which("nvidia-smi") else 0


@dataclass(frozen=True)
class Flow:
    """A study as the rules see it."""

    study: Study
    files: tuple[str, ...] = ()

    kind = "volumes"
    report_command = "report"
    aggregators = ("none",)

    @property
    def arms(self) -> list[str]:
        return list(self.study.arms)

    @cached_property
    def root(self) -> str:
        return f"{self.study.results}/{self.study.study}"

    @cached_property
    def gpu(self) -> int:
        """GPUs of one training job: one where there is any."""
        return min(1, gpus())

    @property
    def threads(self) -> int:
        return self.study.dataset.plan.threads or 1

    def targets(self) -> list[str]:
        return [f"{self.root}/report.html", f"{self.root}/comparison.csv"]

    def made(self) -> list[str]:
        """What the report reads of every training of the study."""
        measured = [*protocol.runs(self.study), *protocol.bound_runs(self.study)]
        files = [f"{row.folder}/{name}" for row in measured for name in ("metrics.csv", SUMMARY)]
        files += [f"{start.folder}/{SUMMARY}" for start in protocol.pretrainings(self.study)]
        files += [f"{row.folder}/tuned.yaml" for row in protocol.trials(self.study)]
        files += [f"{joint.folder}/metrics.csv" for joint in protocol.ensembles(self.study)]
        return [f"{self.root}/{file}" for file in files]

    def row_of(self, wildcards: Any) -> protocol.Row:
        """The row of the protocol a job of finetune, its bound or tune carries out."""
        replicate = getattr(wildcards, "replicate", None)
        labelled = getattr(wildcards, "labelled", None)
        if replicate is None:
            return protocol.trial(self.study, wildcards.arm)
        if labelled is None:
            return protocol.bound_run(self.study, int(replicate))
        return protocol.run(self.study, wildcards.arm, int(labelled), int(replicate))

    def encoder_of(self, wildcards: Any) -> list[str]:
        """The file of weights a run starts from, none from scratch."""
        start = self.row_of(wildcards).origin
        if start is None:
            return []
        return [start.file or f"{self.root}/{start.folder}/encoder.pt"]

    def tuned_of(self, wildcards: Any) -> list[str]:
        """The file with the learning rate of a run, where the study chooses it."""
        tuned = self.row_of(wildcards).tuned
        return [f"{self.root}/{tuned}"] if tuned else []

    def cost_of(self, wildcards: Any) -> list[str]:
        """The summary of the pretraining whose seconds a run matches."""
        matched = self.row_of(wildcards).matched
        return [f"{self.root}/{matched.pretraining.folder}/{SUMMARY}"] if matched else []

    def pace_of(self, wildcards: Any) -> list[str]:
        """The summary of the run from scratch that says how long a step takes."""
        matched = self.row_of(wildcards).matched
        return [f"{self.root}/{matched.pace}/{SUMMARY}"] if matched else []

    def teacher_of(self, wildcards: Any) -> str:
        """The model that labels the pool for a run that trains itself."""
        return f"{self.root}/{self.row_of(wildcards).teacher}/model.pt"

    def members_of(self, wildcards: Any) -> list[str]:
        """The models of all replicates of an arm."""
        joint = protocol.ensemble(self.study, wildcards.arm, int(wildcards.labelled))
        return [f"{self.root}/{folder}/model.pt" for folder in joint.members]

    def arms_of(self, *, selftrain: bool) -> str:
        """Regular expression of the arms a rule makes; of none, one that never matches."""
        found = [n for n, arm in self.study.arms.items() if bool(arm.selftrain) == selftrain]
        return one_of(found)

    def phantom_of(self, wildcards: Any) -> list[str]:
        """The generated dataset, where the study has one."""
        return [f"{self.root}/phantom/phantom.json"] if self.study.dataset.phantom else []

    def folder(self, wildcards: Any, output: Any) -> str:
        """Folder of a rule's outputs."""
        return str(Path(output[0]).parent)

    # Each rule's section, as text for its command line. Functions of the wildcards, because
    # Snakemake would expand braces such as {subject} in a plain text.

    def dataset(self, wildcards: Any) -> str:
        return _text(self.study.dataset)

    def sources(self, wildcards: Any) -> str:
        """The dataset without what only the plan reads."""
        return _text(self.study.dataset, without={"plan"})

    def pretrain_on(self, wildcards: Any) -> list[str]:
        """The datasets whose images are only pretrained on, as options of ingest."""
        texts = [_text(other, without={"plan"}) for other in self.study.pretrain_on]
        return [word for text in texts for word in ("--pretrain-on", text)]

    def fingerprint(self, wildcards: Any) -> str:
        """Hash of names, sizes and times of the source files: changed data are ingested again.

        Empty for a generated dataset, whose files are the output of a rule.
        """
        datasets = [self.study.dataset, *self.study.pretrain_on]
        places = {
            str(Path(dataset.root) / source.path)
            for dataset in datasets
            if not dataset.phantom
            for source in dataset.sources
        }
        if not places:
            return ""
        found = []
        for place in sorted(places):
            files = [place] if Path(place).is_file() else _files_below(place)
            for file in files:
                status = os.stat(file)
                found.append([file, status.st_size, status.st_mtime_ns])
        return sha256_of(found)

    def phantom(self, wildcards: Any) -> str:
        return _text(self.study.dataset.phantom)

    def split(self, wildcards: Any) -> str:
        return _text(self.study.split)

    def network(self, wildcards: Any) -> str:
        return _text(self.study.network)

    # A job is made again when a param has changed, but for one that is a function of the outputs:
    # that follows from what is compared already. So the settings of a training, which such a
    # function gives, may hold keys that cannot change what it writes, and another param of the
    # rule, `decides`, holds those that can.

    def pretrain(self, wildcards: Any, output: Any = None) -> str:
        return _text(self.study.arms[wildcards.arm].pretrain, without={"seeds"})

    def pretrain_decides(self, wildcards: Any) -> str:
        return _text(self.study.arms[wildcards.arm].pretrain, without={"seeds", *UNDECIDING})

    def finetune(self, wildcards: Any, output: Any = None) -> str:
        """Settings of a fine-tuning; without the learning rate where a file will say it."""
        row = self.row_of(wildcards)
        return _text(row.settings, without=_elsewhere(row))

    def finetune_decides(self, wildcards: Any) -> str:
        row = self.row_of(wildcards)
        return _text(row.settings, without={*_elsewhere(row), *UNDECIDING})

    def selftrain(self, wildcards: Any) -> str:
        return _text(self.study.arms[wildcards.arm].selftrain)

    def tune(self, wildcards: Any) -> str:
        return _text(self.study.tune, without={"steps"})

    def predict(self, wildcards: Any) -> str:
        return _text(self.study.predict, without={"ensemble"})

    def evaluate(self, wildcards: Any) -> str:
        return _text(self.study.evaluate)

    def report(self, wildcards: Any) -> str:
        return _text(self.study)

    def write_resolved(self) -> None:
        """Write the study with every default, and what the user typed, beside its results."""
        write_yaml(f"{self.root}/config.resolved.yaml", self.study.model_dump(mode="json"))
        write_text(f"{self.root}/command.txt", _typed() + "\n")
        protocol.write_table(f"{self.root}/protocol.csv", self.study)
        print(f"{projection.sentence(self.study)}; `medcl estimate` says how long that takes")


def flow(
    config: Mapping[str, Any],
    files: Sequence[Any],
    overrides: Mapping[str, Any],
    base: str | Path,
) -> Flow | SlideFlow:
    """Check the command line and the configuration; ConfigError names every problem."""
    check_command_line(sys.argv, overrides, Path(base))
    names = tuple(os.path.relpath(str(file)) for file in files)
    try:
        file = " + ".join(names) or "config"
        if kind_of(config) == "slides":
            return SlideFlow(load_slide_study(config, file=file), min(1, gpus()), _typed())
        return Flow(load_study(config, file=file), names)
    except ConfigError as error:
        # Snakemake shows a traceback for anything but its own errors.
        from snakemake.exceptions import WorkflowError

        raise WorkflowError(f"the configuration has problems:\n{error}") from None


def _typed() -> str:
    """What the user typed."""
    return " ".join([Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])])


def _elsewhere(row: protocol.Row) -> set[str]:
    """Settings of a run that a file says, or that it tries itself."""
    return {"learning_rate"} if row.tuned or row.stage == "tune" else set()


def _files_below(folder: str) -> list[str]:
    return sorted(os.path.join(here, name) for here, _, names in os.walk(folder) for name in names)


def _text(section: BaseModel | None, without: set[str] | None = None) -> str:
    if section is None:
        return "{}"
    return json.dumps(section.model_dump(mode="json", exclude=without or set()), sort_keys=True)
