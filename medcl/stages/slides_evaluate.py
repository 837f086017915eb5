"""Measure one aggregator on one encoder: patients over all folds and seeds, tiles with a truth."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from medcl.files import read_json, replacing, write_json
from medcl.slides.examine import TissueMask
from medcl.slides.given import TruthError, read_truth
from medcl.slides.patients import without_class
from medcl.slides.table import Dealt, Slide, labels_of, read_folds
from medcl.slides.tiles import read_tiles, tissue_shares
from medcl.study.slides_metrics import auroc, threshold

COLUMNS = ("seed", "fold", "patient", "label", "decision", "threshold")
MOSTLY = 0.5  # share of a tile from which on it counts as one of the truth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", required=True, nargs="+", help="folders written by `mil`")
    parser.add_argument("--classes", required=True, nargs="+", help="classes of the dataset")
    parser.add_argument("--truth", type=int, default=1, help="value of the truth images")
    parser.add_argument("--folds", required=True, help="folds.csv")
    parser.add_argument("--tiles", required=True, help="tiles.json")
    parser.add_argument("--examined", required=True, help="folder with a folder of each slide")
    parser.add_argument("--out", required=True, help="folder of patients.csv and metrics.json")


@dataclass(frozen=True)
class Patient:
    """One patient of a run: role, label and mean probability of each class."""

    patient: str
    role: str
    label: int
    probability: np.ndarray


def run(args: argparse.Namespace) -> None:
    """Write patients.csv, a row per seed and test patient, and metrics.json with the failed runs,
    the test patients that a run lost, and what tiles with a truth say.
    """
    out, rows, runs = Path(args.out), [], []
    dealt = read_folds(args.folds)
    truth = Truth(dealt.slides, args)
    for folder in map(Path, args.runs):
        summary = read_json(folder / "summary.json")
        item = {key: summary[key] for key in ("fold", "seed", "status", "reason", "seconds")}
        if summary["status"] == "ok":
            patients, lost = patients_of(
                folder / "predictions.csv", args.classes, dealt, summary["fold"]
            )
            rows += _rows(patients, summary["seed"], summary["fold"], args.classes)
            item |= {"lost": lost, **truth.compare(folder / "scores.h5")}
        runs.append(item)
    with (
        replacing(out / "patients.csv") as partial,
        open(partial, "w", newline="", encoding="utf-8") as opened,
    ):
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow([*COLUMNS, *(f"p_{name}" for name in args.classes)])
        writer.writerows(rows)
    write_json(out / "metrics.json", {"runs": runs})
    failed = sum(item["status"] != "ok" for item in runs)
    print(f"slides-evaluate: {len(runs)} runs, {failed} of them failed; wrote {out}", flush=True)


def patients_of(
    file: Path, classes: Sequence[str], dealt: Dealt, fold: int
) -> tuple[list[Patient], list[str]]:
    """Slides of a patient joined, and the test patients that are lost.

    The probability is the mean of those of the slides that were predicted; the class that of all
    slides. A patient is lost whose slides of it were none of those predicted.
    """
    with open(file, newline="", encoding="utf-8") as opened:
        joined: dict[tuple[str, str], list[Mapping[str, str]]] = {}
        for row in csv.DictReader(opened):
            joined.setdefault((row["role"], row["patient"]), []).append(row)
    label_of = labels_of(dealt.slides, classes)
    predicted = {row["slide"] for group in joined.values() for row in group}
    lost = without_class(label_of, (one for one in dealt.slides if one.slide in predicted))
    patients = [
        Patient(
            patient,
            role,
            classes.index(label_of[patient]),
            np.mean([[float(row[f"p_{name}"]) for name in classes] for row in group], axis=0),
        )
        for (role, patient), group in joined.items()
        if patient not in lost
    ]
    tested = {one.patient for one in dealt.of("test", fold)}
    return patients, [patient for patient in lost if patient in tested]


def _rows(
    patients: Sequence[Patient], seed: int, fold: int, classes: Sequence[str]
) -> list[list[Any]]:
    """Test patients with a decision: of two classes by the threshold that validation patients
    choose, of more the likeliest, without a threshold.
    """
    limit, chosen_by = 0.5, [one for one in patients if one.role == "validation"]
    if chosen_by:
        positive = np.array([one.label == 1 for one in chosen_by])
        limit = threshold(positive, np.array([one.probability[1] for one in chosen_by]))
    rows = []
    for one in patients:
        if one.role != "test":
            continue
        decision, told = int(one.probability[1] >= limit), f"{limit:.9g}"
        if len(classes) > 2:
            decision, told = int(one.probability.argmax()), ""
        shares = [f"{p:.9g}" for p in one.probability]
        rows.append([seed, fold, one.patient, classes[one.label], classes[decision], told, *shares])
    return rows


class Truth:
    """What lies in the tiles of the slides that have a truth image."""

    def __init__(self, slides: Sequence[Slide], args: argparse.Namespace) -> None:
        self.slides = {one.slide: one for one in slides}
        self.value, self.classes = args.truth, list(args.classes)
        self.tiles, self.examined = Path(args.tiles).parent, Path(args.examined)
        self.known: dict[str, tuple[np.ndarray, np.ndarray] | None] = {}

    def of(self, slide: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Share of the truth in each tile, and whether its centre lies in it; None if there is
        none of it on the slide.
        """
        if slide not in self.known:
            self.known[slide] = self._read(self.slides[slide])
        return self.known[slide]

    def _read(self, slide: Slide) -> tuple[np.ndarray, np.ndarray] | None:
        if slide.label != self.classes[-1] or not slide.truth:
            return None
        width, height = read_json(self.examined / slide.slide / "qc.json")["sizes"][0]
        try:
            there = read_truth(slide.truth, (width, height)) == self.value
        except TruthError as error:
            print(f"  {slide.slide}: {error}", flush=True)
            return None
        if not there.any():
            print(f"  {slide.slide}: {slide.truth} holds no {self.value}", flush=True)
            return None
        scale = (width / there.shape[1], height / there.shape[0])
        tiles = read_tiles(self.tiles / f"{slide.slide}.h5")
        shares = tissue_shares(TissueMask(there, scale), tiles.coords, tiles.grid.side)
        x, y = ((tiles.coords + tiles.grid.side / 2) / scale).astype(int).T
        inside = there[np.minimum(y, len(there) - 1), np.minimum(x, there.shape[1] - 1)]
        return shares, inside

    def compare(self, scores: Path) -> dict[str, Any]:
        """AUROC of the tiles of each positive test slide (mean), and how many of these slides have
        their highest score in the truth: with its centre, and with any part of the tile.
        """
        areas, centres, touching = [], [], []
        with h5py.File(scores, "r") as file:
            for name, values in file.items():
                if (truth := self.of(str(name))) is None:
                    continue
                shares, inside = truth
                peak = int(np.argmax(values[:]))
                centres.append(bool(inside[peak]))
                touching.append(bool(shares[peak] > 0))
                areas.append(auroc(shares >= MOSTLY, values[:]))
        defined = [area for area in areas if not np.isnan(area)]
        return {
            "slides_with_truth": len(centres),
            "instance_auroc": float(np.mean(defined)) if defined else None,
            "peaks_inside": sum(centres),
            "peaks_touching": sum(touching),
        }
