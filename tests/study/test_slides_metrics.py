"""Metrics of patients beside scikit-learn's and slow loops, and what a patient contributes."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
)

from medcl.study.slides_metrics import (
    METRICS,
    Predicted,
    auprc,
    auroc,
    contributions,
    measure,
    of_class,
    threshold,
)


def predicted(count: int = 20, classes: int = 2, folds: int = 2, seed: int = 0) -> Predicted:
    rng = np.random.default_rng(seed)
    label = np.arange(count) % classes
    raw = rng.random((count, classes)) + 0.5 * np.eye(classes)[label]
    shares = np.round(raw / raw.sum(1, keepdims=True), 1)  # with ties
    return Predicted(label, shares, shares.argmax(1), np.arange(count) // classes % folds)


def test_areas_with_ties_are_those_of_scikit_learn() -> None:
    found = predicted(40)
    positive, score = found.label == 1, found.probability[:, 1]
    assert auroc(positive, score) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    expected = average_precision_score(positive, score)
    assert auprc(positive, score) == pytest.approx(expected, abs=1e-12)


def test_decisions_of_three_classes_are_measured_as_by_scikit_learn() -> None:
    found = predicted(30, classes=3)
    expected = balanced_accuracy_score(found.label, found.decision)
    assert measure("balanced_accuracy", found) == pytest.approx(expected)
    expected = f1_score(found.label, found.decision, average="macro")
    assert measure("macro_f1", found) == pytest.approx(expected)


def test_areas_are_computed_within_folds_and_weighted_by_patients() -> None:
    found = predicted(30, folds=2).rows(np.arange(30) < 26)
    areas = []
    for fold in (0, 1):
        here = found.fold == fold
        area = roc_auc_score(found.label[here], found.probability[here, 1])
        areas.append((area, here.sum()))
    expected = sum(area * n for area, n in areas) / sum(n for _, n in areas)
    assert measure("auroc", found) == pytest.approx(expected)


def test_three_classes_are_measured_one_against_the_rest_within_folds() -> None:
    found = predicted(45, classes=3).rows(np.arange(45) < 39)
    areas, precisions, counts = [], [], []
    for fold in (0, 1):
        here = found.fold == fold
        rest = [(found.label[here] == kind, found.probability[here, kind]) for kind in range(3)]
        areas.append([roc_auc_score(*one) for one in rest])
        precisions.append([average_precision_score(*one) for one in rest])
        counts.append(here.sum())
    by_class = np.average(areas, axis=0, weights=counts)
    assert measure("auroc", found) == pytest.approx(by_class.mean())
    expected = np.average(precisions, axis=0, weights=counts).mean()
    assert measure("auprc", found) == pytest.approx(expected)
    for kind in range(3):
        recall = (found.decision[found.label == kind] == kind).mean()
        assert of_class(kind, found) == pytest.approx((by_class[kind], recall))


def test_scores_of_another_scale_in_each_fold_change_no_area() -> None:
    found = predicted(24, folds=2)
    shifted = found.probability + 10 * found.fold[:, None]
    other = Predicted(found.label, shifted, found.decision, found.fold)
    assert measure("auroc", other) == measure("auroc", found)


def test_areas_without_a_negative_are_undefined() -> None:
    assert np.isnan(auroc(np.array([True, True]), np.array([0.1, 0.2])))
    assert np.isnan(auprc(np.array([False]), np.array([0.1])))


@pytest.mark.parametrize("metric", METRICS)
def test_the_mean_contribution_is_the_metric(metric: str) -> None:
    found = predicted(24)
    values = contributions(metric, found)
    assert values.shape == (24,)
    assert values.mean() == pytest.approx(measure(metric, found), abs=1e-12)


def test_the_spread_of_contributions_is_delongs() -> None:
    found = predicted(200, folds=1)
    positive, score = found.label == 1, found.probability[:, 1]
    above = score[positive][:, None] > score[~positive]
    placed = above + 0.5 * (score[positive][:, None] == score[~positive])
    delong = placed.mean(1).var(ddof=1) / 100 + placed.mean(0).var(ddof=1) / 100
    jackknife = contributions("auroc", found).var(ddof=1) / 200
    assert jackknife == pytest.approx(delong, rel=0.02)


def test_the_threshold_parts_classes_in_the_middle_of_their_gap() -> None:
    positive = np.array([False, False, True, True])
    assert threshold(positive, np.array([0.1, 0.2, 0.6, 0.9])) == pytest.approx(0.4)
    assert threshold(np.array([True]), np.array([0.9])) == 0.5
