"""What the mean colour of slides alone tells of their patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from medcl.slides.patients import without_class
from medcl.slides.table import Dealt, labels_of
from medcl.study.slides_metrics import Predicted, measure


def colour_auroc(
    dealt: Dealt, tiles: dict[str, dict[str, Any]], classes: Sequence[str]
) -> float | None:
    """AUROC of patients by logistic regression on the mean tile colour of their slides.

    In the folds of the study, trained on the training slides of each; None where undefined.
    """
    there = [s for s in dealt.slides if s.label and tiles.get(s.slide, {}).get("status") == "ok"]
    label_of = labels_of(dealt.slides, classes)
    lost = without_class(label_of, there)
    there = [one for one in there if one.patient not in lost]
    if not there:
        return None
    colours = np.array([tiles[one.slide]["colour"] for one in there])
    labels = np.array([classes.index(one.label) for one in there])
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
