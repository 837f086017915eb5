"""A slide study as the rules see it: paths, targets and each rule's section.

Each rule is given only its own section, so that another encoder, aggregator or seed re-runs nothing
that stands already.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medcl.config import UNDECIDING, SlideStudy
from medcl.errors import MedclError
from medcl.files import sha256_of, write_text, write_yaml
from medcl.slides.table import files_of, read_slides


@dataclass(frozen=True)
class SlideFlow:
    """gpu: GPUs of one training job. command: what the user typed."""

    study: SlideStudy
    gpu: int = 0
    command: str = ""

    kind = "slides"
    report_command = "slides-report"

    @cached_property
    def root(self) -> str:
        return f"{self.study.results}/{self.study.study}"

    @property
    def arms(self) -> list[str]:
        return list(self.study.encoders)

    @property
    def aggregators(self) -> list[str]:
        return list(self.study.aggregators)

    @property
    def classes(self) -> list[str]:
        return list(self.study.dataset.classes)

    def targets(self) -> list[str]:
        return [f"{self.root}/report.html", f"{self.root}/comparison.csv"]

    def made(self) -> list[str]:
        """What the report reads."""
        pairs = [(e, a) for e in self.study.encoders for a in self.study.aggregators]
        files = [f"evaluate/{e}/{a}/{name}" for e, a in pairs for name in EVALUATED]
        if self.study.report.heatmaps:
            asked, folds = (self.study.asked, self.study.aggregator), range(self.folds)
            files += [f"heatmap/{'/'.join(asked)}/f{fold}/heatmap.json" for fold in folds]
        return [f"{self.root}/{file}" for file in files]

    @property
    def folds(self) -> int:
        return self.study.folds.count

    def runs(self, wildcards: Any) -> list[str]:
        """Summaries of all trainings of an aggregator on an encoder."""
        here = f"{self.root}/mil/{wildcards.encoder}/{wildcards.aggregator}"
        return [
            f"{here}/f{fold}/r{seed}/summary.json"
            for fold in range(self.folds)
            for seed in range(self.study.seeds)
        ]

    def folders(self, wildcards: Any, input: Any) -> list[str]:
        """Folders of these trainings."""
        return [str(Path(file).parent) for file in input.runs]

    def embedded(self, wildcards: Any) -> str:
        """Features an aggregator reads: an encoder's seeds are used in turn."""
        encoder = self.study.encoders[wildcards.encoder]
        fold = wildcards.fold if encoder.by_fold else 0
        seed = int(wildcards.replicate) % encoder.seeds
        return f"{self.root}/embed/{wildcards.encoder}/f{fold}/s{seed}/embed.json"

    def phantom_of(self, wildcards: Any) -> list[str]:
        return [f"{self.root}/phantom/phantom.json"] if self.study.dataset.phantom else []

    def folder(self, wildcards: Any, output: Any) -> str:
        return str(Path(output[0]).parent)

    # Each rule's section, as text for its command line.

    def phantom(self, wildcards: Any) -> str:
        return _text(self.study.dataset.phantom)

    def fingerprint(self, wildcards: Any) -> str:
        """Hash of names, sizes and times of the table and of what it names; empty for a drawn set.

        A table that cannot be read counts alone: what is wrong with it is said by the rule.
        """
        dataset = self.study.dataset
        if dataset.phantom:
            return ""
        table = Path(dataset.root) / dataset.table
        files = {table}
        with suppress(MedclError, OSError):
            files |= files_of(read_slides(table, dataset.root))
        return sha256_of([_state(file) for file in sorted(files)])

    def split(self, wildcards: Any) -> str:
        return _text(self.study.folds)

    def tiles(self, wildcards: Any) -> str:
        return _text(self.study.dataset.tiles)

    def network(self, wildcards: Any) -> str:
        return _text(self.study.encoder)

    # As in a study of volumes: a function of the outputs makes no job again, `decides` does.

    def dataset(self, wildcards: Any, output: Any = None) -> str:
        """The dataset without what only later rules read; `truth` is compared with the pictures,
        but another one makes no slide be examined again.
        """
        return _text(self.study.dataset, without={"tiles"})

    def dataset_decides(self, wildcards: Any) -> str:
        return _text(self.study.dataset, without={"tiles", "truth"})

    def encoder(self, wildcards: Any, output: Any = None) -> str:
        return _text(self.study.encoders[wildcards.encoder], without={"seeds"})

    def encoder_decides(self, wildcards: Any) -> str:
        encoder = self.study.encoders[wildcards.encoder]
        if encoder.pretrain is None:
            return self.encoder(wildcards)
        shown = encoder.model_dump(mode="json", exclude={"seeds": True, "pretrain": UNDECIDING})
        return json.dumps(shown, sort_keys=True)

    def aggregator(self, wildcards: Any) -> str:
        return _text(self.study.aggregators[wildcards.aggregator])

    def mil(self, wildcards: Any, output: Any = None) -> str:
        return _text(self.study.mil)

    def mil_decides(self, wildcards: Any) -> str:
        return _text(self.study.mil, without=UNDECIDING)

    def report(self, wildcards: Any) -> str:
        return _text(self.study)

    def write_resolved(self) -> None:
        """Write the study with every default, and what the user typed, beside its results."""
        write_yaml(f"{self.root}/config.resolved.yaml", self.study.model_dump(mode="json"))
        write_text(f"{self.root}/command.txt", self.command + "\n")
        runs = len(self.arms) * len(self.aggregators) * self.folds * self.study.seeds
        print(f"{runs} trainings of aggregators: {len(self.arms)} encoders, {self.folds} folds")


EVALUATED = ("patients.csv", "metrics.json")


def _state(file: Path) -> list[Any]:
    """Name, size and time of a file; the name alone where it cannot be seen."""
    try:
        status = os.stat(file)
    except OSError:
        return [str(file)]
    return [str(file), status.st_size, status.st_mtime_ns]


def _text(section: BaseModel | None, without: set[str] | None = None) -> str:
    if section is None:
        return "{}"
    return json.dumps(section.model_dump(mode="json", exclude=without or set()), sort_keys=True)
