"""Everything a study has written below results/<study>, as plain values.

A run that failed or is missing is kept as such: what compares runs decides what it means.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medcl.config import Study, load_study
from medcl.data.cases import Case, read_cases
from medcl.data.splits import Splits, read_splits
from medcl.files import read_json, read_yaml
from medcl.segmentation.metrics import FALSE_FIND
from medcl.study import protocol

Scores = dict[tuple[str, str], dict[tuple[str, str], float]]
Log = dict[str, list[float]]

OK, FAILED, MISSING = "ok", "failed", "missing"


@dataclass(frozen=True)
class Pretraining:
    """One pretraining of an arm; `status` is ok, failed or missing."""

    arm: str
    seed: int
    status: str
    reason: str | None
    summary: dict[str, Any] = field(default_factory=dict)
    log: Log = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Run:
    """One fine-tuning with its predictions and metrics; ok only if all three are there.

    scores: (weights, metric) -> (case, class) -> value, nan where undefined.
    predictions: (weights, case) -> file. left_out: test case -> why it has no prediction.
    bound: it is trained on every labelled candidate; `labelled` is then their number, 0 if unknown.
    """

    arm: str
    labelled: int
    replicate: int
    status: str
    reason: str | None
    summary: dict[str, Any] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    predictions: dict[tuple[str, str], str] = field(default_factory=dict)
    prediction_seconds: float | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    bound: bool = False

    @property
    def name(self) -> str:
        labelled = "all" if self.bound else self.labelled
        return f"{self.arm}, {labelled} labelled, replicate {self.replicate}"


@dataclass(frozen=True)
class Results:
    """A study's settings and outputs; what is not there (yet) is empty or None."""

    folder: Path
    study: Study
    cases: list[Case]
    ingest: dict[str, Any]
    splits: Splits | None
    audit: dict[str, Any]
    plan: dict[str, Any]
    pretrainings: list[Pretraining]
    runs: list[Run]
    benchmarks: dict[str, tuple[float, float]]
    unprepared: dict[str, str] = field(default_factory=dict)  # case -> why it is not in the store
    bound: list[Run] = field(default_factory=list)  # trained on every labelled candidate
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)  # arm -> its tuned.yaml
    config: Path | None = None  # the file `study` was read from

    @property
    def control(self) -> str | None:
        """The arm every other is compared with."""
        return self.study.control

    @cached_property
    def test_cases(self) -> list[str]:
        """Test cases with a label; a second visit without one cannot be measured."""
        labelled = {case.case for case in self.cases if case.label is not None}
        return [c for c in self.splits.cases("test") if c in labelled] if self.splits else []

    @property
    def test_subjects(self) -> list[str]:
        """The subject of each test case."""
        return [self.splits.subject_of[c] for c in self.test_cases] if self.splits else []

    @property
    def unknown_subjects(self) -> bool:
        named = self.audit.get("unknown_subjects") or self.plan.get("unknown_subjects")
        return bool(named) or self.study.dataset.subjects == "unknown"

    def seed_of(self, arm: str, replicate: int) -> int | None:
        """The pretraining a replicate starts from, 0 for given weights; None from scratch."""
        start = protocol.origin(self.study, arm, replicate)
        return start.seed if start else None

    def runs_of(self, arm: str, labelled: int) -> list[Run]:
        """Runs of an arm at a label count, by replicate."""
        return [run for run in self.runs if (run.arm, run.labelled) == (arm, labelled)]


def read_results(study_file: str | Path, folder: str | Path) -> Results:
    """Collect the outputs of the study whose resolved configuration is `study_file`."""
    study, folder = load_study(study_file), Path(folder)
    cases_file, splits_file = folder / "ingest/cases.csv", folder / "split/splits.csv"
    plan_file = folder / "plan/plan.yaml"
    return Results(
        folder=folder,
        study=study,
        cases=read_cases(cases_file) if cases_file.is_file() else [],
        ingest=_json(folder / "ingest/ingest.json"),
        splits=read_splits(splits_file) if splits_file.is_file() else None,
        audit=_json(folder / "split/audit.json"),
        plan=read_yaml(plan_file) if plan_file.is_file() else {},
        pretrainings=list(_pretrainings(study, folder)),
        runs=[_run(folder / row.folder, row) for row in protocol.runs(study)],
        benchmarks=read_benchmarks(folder / "benchmark"),
        unprepared=_json(folder / "store/manifest.json").get("failed", {}),
        bound=[_run(folder / row.folder, row) for row in protocol.bound_runs(study)],
        tuned=_tuned(study, folder),
        config=Path(study_file).resolve(),
    )


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _pretrainings(study: Study, folder: Path) -> Iterator[Pretraining]:
    for start in protocol.pretrainings(study):
        place = folder / str(start.folder)
        summary = _json(place / "summary.json")
        status, reason = _status(summary, "pretraining")
        log = read_log(place / "log.csv")
        yield Pretraining(start.arm, start.seed, status, reason, summary, log)


def _tuned(study: Study, folder: Path) -> dict[str, dict[str, Any]]:
    files = {row.arm: folder / row.folder / "tuned.yaml" for row in protocol.trials(study)}
    return {arm: read_yaml(file) for arm, file in files.items() if file.is_file()}


def _run(place: Path, row: protocol.Row) -> Run:
    summary = _json(place / "summary.json")
    predicted = _json(place / "predictions/predictions.json")
    status, reason = _status(summary, "fine-tuning")
    if status == OK:
        status, reason = _status(predicted, "prediction")
    scores = read_scores(place / "metrics.csv")
    if status == OK and not scores:
        status, reason = MISSING, "the evaluation has not been made"
    files = {
        (weights, item["case"]): item[weights]
        for item in predicted.get("cases", [])
        for weights in ("last", "selected")
        if item.get(weights)
    }
    times = [item["seconds"] for item in predicted.get("cases", []) if "seconds" in item]
    seconds = math.fsum(times) if times else None
    left_out = predicted.get("failed", {})
    labelled = summary.get("labelled", 0) if row.labelled is None else row.labelled
    return Run(
        row.arm,
        labelled,
        row.replicate,
        status,
        reason,
        summary,
        scores,
        files,
        seconds,
        left_out,
        bound=row.labelled is None,
    )


def _status(outcome: dict[str, Any], what: str) -> tuple[str, str | None]:
    if not outcome:
        return MISSING, f"the {what} has not been made"
    if outcome.get("status") == OK:
        return OK, None
    return FAILED, f"{what}: {outcome.get('reason') or 'no reason given'}"


def read_scores(file: Path) -> Scores:
    """Read `metrics.csv`; an empty value is nan, and so is that of a class that is not there.

    Files of earlier versions give a false find a Dice of 0: they are read by the rule of today.
    """
    scores: Scores = {}
    if file.is_file():
        with open(file, encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                table = scores.setdefault((row["weights"], row["metric"]), {})
                absent = row.get("note") == FALSE_FIND
                table[row["case"], row["class"]] = math.nan if absent else _number(row["value"])
    return scores


def read_log(file: Path) -> Log:
    """Read `log.csv` column by column; an empty value is nan."""
    log: Log = {}
    if file.is_file():
        with open(file, encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            log = {name: [] for name in reader.fieldnames or ()}
            for row in reader:
                for name in log:
                    log[name].append(_number(row[name]))
    return log


def read_benchmarks(folder: Path) -> dict[str, tuple[float, float]]:
    """Snakemake's benchmark files: name without .tsv -> (seconds, peak memory in MB)."""
    found = {}
    for file in sorted(folder.glob("*.tsv")):
        with open(file, encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
        if rows:
            found[file.stem] = (_number(rows[-1].get("s")), _number(rows[-1].get("max_rss")))
    return found


def _number(text: str | None) -> float:
    """Empty, NA and - (Snakemake's words for not measured) are nan."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
