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
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from medcl.config import SlideStudy, load_slide_study
from medcl.files import read_json, read_yaml
from medcl.slides.table import Dealt, labels_of, read_folds
from medcl.study.slides_metrics import METRICS, Predicted, contributions, measure
from medcl.study.statistics import Estimate, estimate, holm

COLOUR = "mean colour"


@dataclass(frozen=True)
class Model:
    """One aggregator on one encoder. seeds: those whose runs of all folds are there."""

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
            lost = Estimate(None, 0, 0, 0, reason="no seed finished in every fold")
            return dict.fromkeys(METRICS, lost)
        found = {name: estimate(table, self.patients) for name, table in self.tables.items()}
        return {name: _within(one, 0.0, 1.0) for name, one in found.items()}

    def total(self, key: str) -> int:
        return sum(run.get(key, 0) for run in self.runs)


@dataclass(frozen=True)
class Pair:
    """A model less another one, by metric; `primary` is the comparison the study is made for.

    adjusted: p by metric after Holm's correction over the `family` of comparisons it belongs to:
    the primary one alone, or all others of the study.
    """

    first: Model
    second: Model
    by: str
    primary: bool
    differences: dict[str, Estimate]
    adjusted: dict[str, float | None] = field(default_factory=dict)
    family: int = 1


@dataclass(frozen=True)
class SlideResults:
    """Everything below results/<study>. unreadable: why slides that were examined and found good
    have no features of some encoder.
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
    found = sorted((root / "pretrain").rglob("summary.json"))
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
        {str(f.parent.relative_to(root / "pretrain")): read_json(f) for f in found},
        _unreadable(root),
    )


def _unreadable(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted((root / "embed").rglob("embed.json")):
        slides = read_json(file)["slides"]
        found |= {name: one["reason"] for name, one in slides.items() if one["status"] != "ok"}
    return found


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
    asked, others = ([pair for pair in found if pair.primary is kind] for kind in (True, False))
    return _adjusted(asked) + _adjusted(others)


def _adjusted(family: Sequence[Pair]) -> list[Pair]:
    by_metric = {name: holm([pair.differences[name].p for pair in family]) for name in METRICS}
    return [
        replace(
            pair,
            adjusted={name: by_metric[name][place] for name in METRICS},
            family=len(family),
        )
        for place, pair in enumerate(family)
    ]


def _pair(first: Model, second: Model, by: str, primary: bool) -> Pair:
    both = [seed for seed in first.seeds if seed in second.seeds]
    if not both or first.patients != second.patients:
        reason = "no seed finished in every fold of both"
        lost = Estimate(None, 0, 0, 0, reason=reason)
        return Pair(first, second, by, primary, dict.fromkeys(METRICS, lost))
    one, other = ([list(model.seeds).index(seed) for seed in both] for model in (first, second))
    differences = {}
    for name in METRICS:
        table = first.tables[name][one] - second.tables[name][other]
        differences[name] = _within(estimate(table, first.patients), -1.0, 1.0)
    return Pair(first, second, by, primary, differences)


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
    seeds: dict[int, Predicted] = {}
    patients: tuple[str, ...] = ()
    for seed in range(study.seeds):
        done = [run for run in runs if run["seed"] == seed and run["status"] == "ok"]
        own = sorted((r for r in rows if int(r["seed"]) == seed), key=lambda r: r["patient"])
        names = tuple(row["patient"] for row in own)
        if len(done) < study.folds.count or (patients and names != patients):
            continue
        patients = names
        seeds[seed] = Predicted(
            np.array([classes.index(row["label"]) for row in own]),
            np.array([[float(row[f"p_{name}"]) for name in classes] for row in own]),
            np.array([classes.index(row["decision"]) for row in own]),
            np.array([int(row["fold"]) for row in own]),
        )
    return Model(encoder, aggregator, seeds, patients, tuple(runs))


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


# ----------------------------------------------------------------------- what colour alone tells


def colour_auroc(
    dealt: Dealt, tiles: dict[str, dict[str, Any]], classes: Sequence[str]
) -> float | None:
    """AUROC of patients by logistic regression on the mean tile colour of their slides.

    In the folds of the study, trained on the training slides of each; None where undefined.
    """
    there = [s for s in dealt.slides if s.label and tiles.get(s.slide, {}).get("status") == "ok"]
    if not there:
        return None
    colours = np.array([tiles[one.slide]["colour"] for one in there])
    labels = np.array([classes.index(one.label) for one in there])
    label_of = labels_of(there, classes)
    patient, label, probability, folds = [], [], [], []
    for fold in range(dealt.count):
        training = {one.slide for one in dealt.of("training", fold)}
        test = {one.slide for one in dealt.of("test", fold)}
        rows = np.array([one.slide in training for one in there])
        held = np.array([one.slide in test for one in there])
        if len(set(labels[rows])) < len(classes) or not held.any():
            return None
        guessed = logistic(colours[rows], labels[rows], colours[held], len(classes))
        names = [one.patient for one, out in zip(there, held, strict=True) if out]
        for name in dict.fromkeys(names):
            own = np.array([other == name for other in names])
            patient.append(name)
            label.append(classes.index(label_of[name]))
            probability.append(guessed[own].mean(0))
            folds.append(fold)
    shares = np.array(probability)
    found = Predicted(np.array(label), shares, shares.argmax(1), np.array(folds))
    value = measure("auroc", found)
    return None if np.isnan(value) else value


def logistic(
    train: Float[np.ndarray, "n D"],
    label: np.ndarray,
    test: Float[np.ndarray, "m D"],
    classes: int,
) -> Float[np.ndarray, "m C"]:
    """Probabilities by logistic regression of standardised features, penalty |w|^2 / 2."""
    mean, deviation = train.mean(0), np.maximum(train.std(0), 1e-9)
    x, held = (train - mean) / deviation, (test - mean) / deviation
    shape = (x.shape[1] + 1, classes)
    wanted = np.eye(classes)[label]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        logits = x @ weights[:-1] + weights[-1]
        slope = softmax(logits, axis=1) - wanted
        gradient = np.vstack([x.T @ slope + weights[:-1], slope.sum(0)])
        value = -(wanted * log_softmax(logits, axis=1)).sum() + (weights[:-1] ** 2).sum() / 2
        return float(value), gradient.ravel()

    weights = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B").x.reshape(shape)
    guessed: np.ndarray = softmax(held @ weights[:-1] + weights[-1], axis=1)
    return guessed
