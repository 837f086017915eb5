r"""How good predictions of patients are, and what each patient contributes to that.

A patient's probability is the mean over the slides. AUROC (ties count half) and AUPRC (mean of the
precision at each positive, ties last) are computed within each fold and averaged with the patients
of the fold as weights, because scores of different models cannot be ranked together; a fold
without both classes is left out. Balanced accuracy and macro-F1 are of all decisions. With more
than two classes AUROC and AUPRC are means over the classes, each against the rest.

For intervals over seeds and patients each patient gets its jackknife value

    v_i = M + J_i - mean(J),   J_i = n M - (n - 1) M_{-i}

where M_{-i} leaves patient i out: values whose mean is M, so that `statistics.estimate` holds for
these metrics as for a mean over patients. For the AUROC this is DeLong's variance but for the small
sample factors. Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 11;
DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated receiver
operating characteristic curves", Biometrics 1988.

Folds share training patients, which no estimate of variance knows of: the intervals say nothing of
what another set of patients would have taught the models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

METRICS = ("auroc", "auprc", "balanced_accuracy", "macro_f1")
NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
}


@dataclass(frozen=True)
class Predicted:
    """Patients as one set of models (one seed) predicted them; each was tested in one fold."""

    label: Int[np.ndarray, " n"]
    probability: Float[np.ndarray, "n C"]
    decision: Int[np.ndarray, " n"]
    fold: Int[np.ndarray, " n"]

    def rows(self, kept: np.ndarray) -> Predicted:
        return Predicted(
            self.label[kept], self.probability[kept], self.decision[kept], self.fold[kept]
        )


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """Chance that a positive scores above a negative; nan without both."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def auprc(positive: np.ndarray, score: np.ndarray) -> float:
    """Average precision, a group of equal scores at a time; nan without both classes."""
    if positive.all() or not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))
    gained = np.diff(hits[ends], prepend=0)
    return float((gained * hits[ends] / (ends + 1)).sum() / positive.sum())


def measure(name: str, found: Predicted) -> float:
    """One of `METRICS`; nan where it is undefined."""
    if name in ("auroc", "auprc"):
        classes = found.probability.shape[1]
        kinds = range(1, 2) if classes == 2 else range(classes)
        return _by_fold({"auroc": auroc, "auprc": auprc}[name], found, kinds)
    recall, f1 = [], []
    for kind in range(found.probability.shape[1]):
        there, said = found.label == kind, found.decision == kind
        both = int((there & said).sum())
        if there.any():
            recall.append(both / int(there.sum()))
        if there.any() or said.any():
            f1.append(2 * both / (int(there.sum()) + int(said.sum())))
    chosen = recall if name == "balanced_accuracy" else f1
    return float(np.mean(chosen)) if chosen else float("nan")


def of_class(kind: int, found: Predicted) -> tuple[float, float]:
    """AUROC of one class against the rest, within folds as above, and the share of its patients
    that were decided to be of it; nan where undefined.
    """
    there = found.label == kind
    recall = float((found.decision[there] == kind).mean()) if there.any() else float("nan")
    return _by_fold(auroc, found, [kind]), recall


def contributions(name: str, found: Predicted) -> Float[np.ndarray, " n"]:
    """The jackknife value of each patient; their mean is the metric."""
    whole, count = measure(name, found), len(found.label)
    rows = np.arange(count)
    without = np.array([measure(name, found.rows(rows != row)) for row in rows])
    without[np.isnan(without)] = whole  # the patient alone made a fold or class what it is
    values = count * whole - (count - 1) * without
    return values - values.mean() + whole


def threshold(positive: np.ndarray, score: np.ndarray) -> float:
    """The probability from which on a patient is positive: the best balanced accuracy.

    Among equally good ones the middle of the widest gap; 0.5 without both classes.
    """
    if positive.all() or not positive.any():
        return 0.5
    levels = np.unique(score)
    edges = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [1.0]])
    gaps = np.diff(np.concatenate([[levels[0]], levels, [levels[-1]]]))
    best = [
        ((score[positive] >= edge).mean() + (score[~positive] < edge).mean()) / 2 for edge in edges
    ]
    ranked = sorted(range(len(edges)), key=lambda i: (round(best[i], 9), gaps[i]))
    return float(edges[ranked[-1]])


def _by_fold(
    metric: Callable[[np.ndarray, np.ndarray], float], found: Predicted, kinds: Sequence[int]
) -> float:
    total, weight = 0.0, 0
    for fold in np.unique(found.fold):
        here = found.fold == fold
        values = [metric(found.label[here] == k, found.probability[here, k]) for k in kinds]
        if not np.isnan(values).any():
            total += float(np.mean(values)) * int(here.sum())
            weight += int(here.sum())
    return total / weight if weight else float("nan")
