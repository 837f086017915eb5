"""What a slide study has measured: every model by metric, and pairs of them by patient and seed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medcl.config import SlideStudy, load_slide_study
from medcl.files import read_json, read_yaml
from medcl.slides.table import Dealt, read_folds
from medcl.study.slides_colour import colour_auroc
from medcl.study.slides_metrics import METRICS, Predicted, contributions
from medcl.study.statistics import Estimate, estimate, holm

PRIMARY = "auroc"  # the metric of the primary comparison
FINISHED = "no seed finished in every fold{}"


@dataclass(frozen=True)
class Model:
    """One aggregator on one encoder. seeds: those whose runs of all folds are there. patients:
    those that all of these predicted.
    """

    encoder: str
    aggregator: str
    seeds: dict[int, Predicted] = field(default_factory=dict)
    patients: tuple[str, ...] = ()
    runs: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.encoder}, {self.aggregator}"

    @cached_property
    def tables(self) -> dict[str, Float[np.ndarray, "R P"]]:
        """By metric: what each patient contributes, by seed; nan where it is undefined."""
        found = self.seeds.values()
        return {name: np.stack([contributions(name, one) for one in found]) for name in METRICS}

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """By metric, over seeds and patients."""
        if not self.seeds:
            lost = Estimate(None, 0, 0, 0, reason=FINISHED.format(""))
            return dict.fromkeys(METRICS, lost)
        found = {name: estimate(table, self.patients) for name, table in self.tables.items()}
        return {name: _within(one, 0.0, 1.0) for name, one in found.items()}

    def of(
        self, seeds: Sequence[int], patients: Sequence[str]
    ) -> dict[str, Float[np.ndarray, "R P"]]:
        """`tables` of some of the seeds, and of some of the patients as if there were no others."""
        if list(seeds) == list(self.seeds) and tuple(patients) == self.patients:
            return self.tables
        rows = np.array([list(self.patients).index(patient) for patient in patients])
        found = {seed: self.seeds[seed].rows(rows) for seed in seeds}
        return replace(self, seeds=found, patients=tuple(patients)).tables

    def total(self, key: str) -> int:
        return sum(run.get(key, 0) for run in self.runs)


@dataclass(frozen=True)
class Pair:
    """A model less another one, by metric; `primary` is the comparison the study is made for.

    means: of both by metric, on the patients and seeds compared. apart: patients that only one of
    them predicted, who are not compared. adjusted: p by metric after Holm's correction over the
    `family` of comparisons it belongs to: the AUROC of the primary one alone, or all others of the
    study in this metric.
    """

    first: Model
    second: Model
    by: str
    primary: bool
    differences: dict[str, Estimate]
    means: dict[str, tuple[float | None, float | None]]
    apart: int = 0
    adjusted: dict[str, float | None] = field(default_factory=dict)
    family: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SlideResults:
    """Everything below results/<study>. unreadable: why slides that were examined and found good
    have features of no encoder. unread_by: the same of slides that others have, by encoder.
    """

    study: SlideStudy
    root: Path
    ingest: dict[str, Any]
    audit: dict[str, Any]
    tiles: dict[str, Any]
    dealt: Dealt | None
    models: list[Model]
    colour: float | None
    pretrainings: dict[str, dict[str, Any]]
    unreadable: dict[str, str]
    unread_by: dict[str, dict[str, str]]

    def lost(self) -> dict[str, list[str]]:
        """Patients whose slides of their class are all lost: the models that miss them."""
        found = {patient: ["all"] for patient in self.audit.get("lost", {})}
        for model in self.models:
            for run in model.runs:
                for patient in run.get("lost", []):
                    by = found.setdefault(patient, [])
                    by += [] if model.name in by else [model.name]
        return dict(sorted(found.items()))

    def model(self, encoder: str, aggregator: str) -> Model:
        return next(m for m in self.models if (m.encoder, m.aggregator) == (encoder, aggregator))


def read_slide_results(study_file: str | Path, root: str | Path) -> SlideResults:
    """Read what there is; what is missing is empty."""
    study, root = load_slide_study(read_yaml(study_file), file=str(study_file)), Path(root)
    tiles = _json(root / "tile" / "tiles.json")
    folds = root / "split" / "folds.csv"
    dealt = read_folds(folds) if folds.exists() else None
    models = [
        _model(root / "evaluate" / e / a, e, a, study)
        for e in study.encoders
        for a in study.aggregators
    ]
    found = {place: _json(root / "pretrain" / place / "summary.json") for place in places(study)}
    everywhere, by_some = _unreadable(root, places(study))
    colour = None
    if dealt is not None and tiles:
        colour = colour_auroc(dealt, tiles["slides"], study.dataset.classes)
    return SlideResults(
        study,
        root,
        _json(root / "ingest" / "ingest.json"),
        _json(root / "split" / "audit.json"),
        tiles,
        dealt,
        models,
        colour,
        {place: summary for place, summary in found.items() if summary},
        everywhere,
        by_some,
    )


def places(study: SlideStudy) -> list[str]:
    """Folders of the encoders of a study: other ones are left of earlier configurations."""
    return [
        f"{name}/f{fold}/s{seed}"
        for name, one in study.encoders.items()
        for fold in range(study.folds.count if one.by_fold else 1)
        for seed in range(min(one.seeds, study.seeds))
    ]


def _unreadable(
    root: Path, places: Sequence[str]
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Slides without features: why, of those that no encoder has, and by encoder of the others."""
    made = {place: _json(root / "embed" / place / "embed.json") for place in places}
    made = {place: listed for place, listed in made.items() if listed.get("slides")}
    why: dict[str, dict[str, str]] = {}
    for place, listed in made.items():
        for name, one in listed["slides"].items():
            if one["status"] != "ok":
                why.setdefault(name, {})[place] = one["reason"]
    everywhere = {name: next(iter(by.values())) for name, by in why.items() if len(by) == len(made)}
    return everywhere, {name: by for name, by in why.items() if name not in everywhere}


def pairs(results: SlideResults) -> list[Pair]:
    """The primary comparison; then encoders with the control on every aggregator, and the first
    aggregator's rivals.
    """
    study, found = results.study, []
    if study.control is not None:
        for aggregator in study.aggregators:
            second = results.model(study.control, aggregator)
            for encoder in study.encoders:
                if encoder != study.control:
                    primary = (encoder, aggregator) == (study.asked, study.aggregator)
                    first = results.model(encoder, aggregator)
                    found.append(_pair(first, second, "encoder", primary))
    second = results.model(study.asked, study.aggregator)
    for aggregator in study.aggregators:
        if aggregator != study.aggregator:
            first = results.model(study.asked, aggregator)
            found.append(_pair(first, second, "aggregator", False))
    found.sort(key=lambda pair: not pair.primary)
    for name in METRICS:
        alone = [pair.primary and name == PRIMARY for pair in found]
        for kind in (True, False):
            family = [place for place, own in enumerate(alone) if own is kind]
            corrected = holm([found[place].differences[name].p for place in family])
            for place, p in zip(family, corrected, strict=True):
                found[place].adjusted[name] = p
                found[place].family[name] = len(family)
    return found


def _pair(first: Model, second: Model, by: str, primary: bool) -> Pair:
    """Two models on the seeds that finished in both and the patients that both predicted."""
    both = [seed for seed in first.seeds if seed in second.seeds]
    patients = [patient for patient in first.patients if patient in second.patients]
    if not both or not patients:
        reason = "no patient was predicted by both" if both else FINISHED.format(" of both")
        lost = Estimate(None, 0, 0, 0, reason=reason)
        means = {
            name: (first.estimates[name].mean, second.estimates[name].mean) for name in METRICS
        }
        return Pair(first, second, by, primary, dict.fromkeys(METRICS, lost), means)
    one, other = (model.of(both, patients) for model in (first, second))
    return Pair(
        first,
        second,
        by,
        primary,
        {name: _within(estimate(one[name] - other[name], patients), -1.0, 1.0) for name in METRICS},
        {
            name: (estimate(one[name], patients).mean, estimate(other[name], patients).mean)
            for name in METRICS
        },
        len(set(first.patients) ^ set(second.patients)),
    )


def _within(found: Estimate, lowest: float, highest: float) -> Estimate:
    """Limits that the metric can take."""
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(lowest, found.low), high=min(highest, found.high))


def _model(folder: Path, encoder: str, aggregator: str, study: SlideStudy) -> Model:
    if not (folder / "metrics.json").exists():
        return Model(encoder, aggregator)
    runs = read_json(folder / "metrics.json")["runs"]
    with open(folder / "patients.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = study.dataset.classes
    by_seed: dict[int, dict[str, dict[str, str]]] = {}
    for seed in range(study.seeds):
        done = [run for run in runs if run["seed"] == seed and run["status"] == "ok"]
        if len(done) == study.folds.count:
            by_seed[seed] = {row["patient"]: row for row in rows if int(row["seed"]) == seed}
    patients = sorted(set.intersection(*map(set, by_seed.values()))) if by_seed else []
    seeds = {}
    for seed, found in by_seed.items() if patients else ():
        own = [found[patient] for patient in patients]
        seeds[seed] = Predicted(
            np.array([classes.index(row["label"]) for row in own]),
            np.array([[float(row[f"p_{name}"]) for name in classes] for row in own]),
            np.array([classes.index(row["decision"]) for row in own]),
            np.array([int(row["fold"]) for row in own]),
        )
    return Model(encoder, aggregator, seeds, tuple(patients), tuple(runs))


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}
