"""Every aggregator on musk1 and elephant: accuracy of bags in five times five-fold validation.

Folds are stratified and the same for every method; features are standardised by the training
folds. Options are one setting for both sets, chosen beforehand and not tuned. The trainings of
repeated folds overlap, so the 95 % interval is that of the corrected resampled t test (Nadeau and
Bengio, "Inference for the Generalization Error", Machine Learning 2003): with J accuracies of
variance s^2, their mean +- t_{J-1} sqrt((1/J + n_test/n_train) s^2).

Each fold is one line of the file --keep; a fold that is there is not trained again. A training that
says it failed is counted and left out of the mean.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digit_bags import train, whole
from scipy import io, stats
from sklearn.model_selection import RepeatedStratifiedKFold

from medcl.errors import TrainingFailed

FOLDS, REPEATS, CONFIDENCE = 5, 5, 0.95
STEPS, BATCH, LEARNING_RATE = 200, 8, 1e-3
SMALL = {"width": 64, "attention": 64}
METHODS: dict[str, dict[str, Any]] = {
    "mean": {"options": {"name": "mean", "width": 64}},
    "max": {"options": {"name": "max", "width": 64}},
    "abmil": {"options": {"name": "abmil", "gated": False, **SMALL}},
    "abmil gated": {"options": {"name": "abmil", **SMALL}},
    "clam sb": {"options": {"name": "clam", **SMALL}},
    "clam mb": {"options": {"name": "clam", "branches": "multi", **SMALL}},
    "dsmil": {"options": {"name": "dsmil"}},
    "transmil": {"options": {"name": "transmil", "width": 64}, "batch": 2},
    "scmil": {"options": {"name": "scmil", "projection": 64, **SMALL}},
    "ins": {
        "options": {
            "name": "ins",
            "projection": 64,
            "queue": 1024,
            "momentum": 0.99,
            "warm_steps": 500,  # of 8 bags: 54 passes of musk1, 25 of elephant
            **SMALL,
        },
        "steps": 800,
    },
}
Bag = np.ndarray


def musk1(folder: Path) -> tuple[list[Bag], list[int]]:
    """Bags of conformations of a molecule; label 1 is a musk."""
    rows = np.loadtxt(folder / "musk1.csv", delimiter=",")
    return grouped(rows[:, 2:], rows[:, 1], rows[:, 0])


def elephant(folder: Path) -> tuple[list[Bag], list[int]]:
    """Bags of regions of a picture; label 1 shows an elephant."""
    folder = folder / "elephant_original"
    of_bag = io.loadmat(folder / "Bag2.mat")["Bag2"][:, 0].astype(int)
    labels = io.loadmat(folder / "BagI.mat")["bagI"][:, 0].astype(int)
    numbers = np.unique(of_bag)
    of_instance = labels[np.searchsorted(numbers, of_bag)]
    return grouped(io.loadmat(folder / "X.mat")["X"], of_bag, of_instance)


def grouped(
    features: np.ndarray, of_bag: np.ndarray, of_instance: np.ndarray
) -> tuple[list[Bag], list[int]]:
    """Instances by bag, and the labels of the bags as 0 and 1."""
    bags, labels = [], []
    for number in np.unique(of_bag):
        inside = of_bag == number
        bags.append(features[inside].astype(np.float32))
        (label,) = np.unique(of_instance[inside])
        labels.append(int(label > 0))
    return bags, labels


def accuracy(
    method: str, bags: list[Bag], labels: list[int], training: Any, test: Any, seed: int
) -> float | None:
    """Accuracy of one fold; None where the training failed."""
    known = np.concatenate([bags[i] for i in training])
    mean, deviation = known.mean(0), known.std(0)
    deviation[deviation == 0] = 1
    standard = [(bag - mean) / deviation for bag in bags]
    recipe = METHODS[method]
    try:
        model = train(
            recipe["options"],
            [standard[i] for i in training],
            [labels[i] for i in training],
            steps=recipe.get("steps", STEPS),
            batch=recipe.get("batch", BATCH),
            learning_rate=LEARNING_RATE,
            seed=seed,
        )
    except TrainingFailed as error:
        print(f"{method}: {error}", flush=True)
        return None
    found = model.predict(*whole([standard[i] for i in test])).probabilities.argmax(1)
    return float((found.numpy() == np.array(labels)[test]).mean())


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and the ends of its corrected interval."""
    mean, variance, count = np.mean(values), np.var(values, ddof=1), len(values)
    error = np.sqrt((1 / count + 1 / (FOLDS - 1)) * variance)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * error
    return float(mean), float(mean - reach), float(mean + reach)


def folds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all folds, those of --keep first."""
    rows = [json.loads(line) for line in args.keep.read_text().splitlines()]
    done = {(row["data"], row["method"], row["fold"]) for row in rows}
    for name, read in (("musk1", musk1), ("elephant", elephant)):
        bags, labels = read(args.data)
        drawn = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=0)
        splits = list(drawn.split(labels, labels))
        for method in args.methods:
            for fold, (training, test) in enumerate(splits):
                if (name, method, fold) in done:
                    continue
                started = time.perf_counter()
                result = accuracy(method, bags, labels, training, test, seed=fold)
                row = {"data": name, "method": method, "fold": fold, "accuracy": result}
                rows.append(row | {"seconds": round(time.perf_counter() - started, 2)})
                with args.keep.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row of each set and method."""
    found = []
    for name, method in dict.fromkeys((row["data"], row["method"]) for row in rows):
        own = [row for row in rows if (row["data"], row["method"]) == (name, method)]
        values = [row["accuracy"] for row in own if row["accuracy"] is not None]
        mean, low, high = interval(values) if len(values) > 1 else (float("nan"),) * 3
        found.append(
            {
                "data": name,
                "method": method,
                "accuracy": round(mean, 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "folds": len(values),
                "failed": len(own) - len(values),
                "seconds": round(sum(row["seconds"] for row in own), 1),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mil_bags"))
    parser.add_argument("--keep", type=Path, default=Path("benchmarks/results/mil_bags.jsonl"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    args.keep.parent.mkdir(parents=True, exist_ok=True)
    args.keep.touch()
    found = summary(folds(args))
    if args.json:
        print(json.dumps({"result": found, "load": os.getloadavg()}, indent=1))
        return
    print("| data | method | accuracy | 95 % interval | folds | failed | seconds |")
    print("|---|---|---|---|---|---|---|")
    for row in found:
        reach = f"{row['low']:.3f} to {row['high']:.3f}"
        shown = [row["data"], row["method"], f"{row['accuracy']:.3f}", reach]
        print(
            "| "
            + " | ".join(map(str, [*shown, row["folds"], row["failed"], row["seconds"]]))
            + " |"
        )


if __name__ == "__main__":
    main()
