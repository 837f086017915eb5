"""Bags of digits: do ABMIL and INS find the bags, and the instances, that hold a 9?

Of scikit-learn's 8 x 8 digits 1000 images make 200 training bags and the other 797 make 200 test
bags. A bag holds 10 images, a positive one 2 nines among them, a negative one none. Areas under the
ROC curve of bags and of the instances of the positive test bags, mean of the seeds; about 20 s a
seed on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from medcl.config import Training
from medcl.slides.mil import Aggregator, build
from medcl.slides.mil.bags import Bags
from medcl.training.devices import Place
from medcl.training.fit import fit
from medcl.training.run import seeded
from medcl.training.seeds import seed_of

BAGS, LENGTH, POSITIVES, TRAINING_IMAGES = 200, 10, 2, 1000
METHODS: dict[str, dict[str, Any]] = {
    "abmil": {"steps": 600, "options": {"name": "abmil", "width": 64, "attention": 64}},
    "ins": {
        "steps": 1600,
        "options": {
            "name": "ins",
            "width": 128,
            "projection": 64,
            "attention": 64,
            "queue": 1024,
            "momentum": 0.99,
            "warm_steps": 1000,
        },
    },
}


class Arrays:
    """Features given as one array (N, D) of each bag."""

    def __init__(self, bags: Mapping[str, np.ndarray]) -> None:
        self.bags = bags

    def count(self, bag: str) -> int:
        return len(self.bags[bag])

    def read(self, bag: str, rows: np.ndarray | None = None) -> np.ndarray:
        return self.bags[bag] if rows is None else self.bags[bag][rows]


def whole(bags: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, N, D) and mask (B, N) of whole bags, filled up to the longest."""
    features = [torch.from_numpy(np.ascontiguousarray(bag)) for bag in bags]
    lengths = torch.tensor([len(bag) for bag in bags])
    padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def train(
    options: Mapping[str, Any],
    bags: list[np.ndarray],
    labels: list[int],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    weight_decay: float = 1e-2,
) -> Aggregator:
    """Train an aggregator on bags (N, D) of two or more classes."""
    with seeded(seed_of(seed, 1)):
        model = build(options, features=bags[0].shape[1], classes=max(labels) + 1)
    names = [str(number) for number in range(len(bags))]
    arrays = Arrays(dict(zip(names, bags, strict=True)))
    items = Bags(names, labels, arrays, balanced=model.balanced)
    settings = Training(
        batch=max(batch, model.least_batch),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        precision="float32",
        save_every_s=1e9,
    )
    model.begin(steps, items.instances)
    with tempfile.TemporaryDirectory() as work, redirect_stdout(sys.stderr):
        place = Place(torch.device("cpu"))
        what = str(options["name"])
        fit(model, items, settings, steps=steps, seed=seed, place=place, work=work, what=what)
    return model


def digit_bags(seed: int) -> tuple[list[np.ndarray], list[int], list[np.ndarray]]:
    """Bags, their labels and which instances are nines; training bags first, then test bags."""
    rng = np.random.default_rng(seed)
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    order = rng.permutation(len(digits))
    bags, labels, nines = [], [], []
    for part in (order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]):
        positive, negative = part[digits[part] == 9], part[digits[part] != 9]
        for number in range(BAGS):
            label = number % 2
            count = POSITIVES * label
            chosen = np.concatenate(
                [
                    rng.choice(positive, count, replace=False),
                    rng.choice(negative, LENGTH - count, replace=False),
                ]
            )
            rng.shuffle(chosen)
            bags.append(images[chosen])
            labels.append(label)
            nines.append(digits[chosen] == 9)
    return bags, labels, nines


def scores(method: str, seed: int) -> dict[str, float]:
    """Areas under the ROC curve of one seed, and the seconds of its training."""
    bags, labels, nines = digit_bags(seed)
    recipe, started = METHODS[method], time.perf_counter()
    model = train(
        recipe["options"],
        bags[:BAGS],
        labels[:BAGS],
        steps=recipe["steps"],
        batch=8,
        learning_rate=1e-3,
        seed=seed,
    )
    seconds = time.perf_counter() - started
    features, mask = whole(bags[BAGS:])
    found = model.predict(features, mask)
    instances = found.attention if found.instances is None else found.instances[..., 1]
    held = np.array(labels[BAGS:]) == 1
    truth = np.array(nines[BAGS:])[held]
    return {
        "bag_auc": float(roc_auc_score(labels[BAGS:], found.probabilities[:, 1].numpy())),
        "instance_auc": float(roc_auc_score(truth.ravel(), instances.numpy()[held].ravel())),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    results = {}
    for method in args.methods:
        rows = [scores(method, seed) for seed in range(args.seeds)]
        means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        results[method] = {"mean": means, "seeds": rows}
        if not args.json:
            print(f"{method}: " + ", ".join(f"{key} {value:.3f}" for key, value in means.items()))
    if args.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
