"""A slide study on a few small slides, stage by stage in one process, as its rules would."""

import argparse
import csv
import importlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from medcl.config import load_slide_study
from medcl.slides.examine import write_png
from medcl.slides.phantom import BROKEN, write_svs
from medcl.study.slides_flow import SlideFlow

SIDE, EDGE = 512, 64  # pixels of a slide, and of the glass around its tissue


def stage(name: str, *arguments: object) -> None:
    """Run one stage as the command line would."""
    module = importlib.import_module(f"medcl.stages.{name}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.run(parser.parse_args([str(word) for word in arguments]))


def draw(folder: Path, classes: Sequence[str], count: int, broken: Sequence[str] = ()) -> Path:
    """Slides s0, s1, ... of patients p0, p1, ..., their classes in turn; one, `bad`, that cannot be
    read, and the phantom's `broken` ones.

    A slide of class k > 0 has stripes of k times four pixels in a square, which for the last class
    is its truth.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        kind = number % len(classes)
        image = np.full((SIDE, SIDE, 3), 245, np.uint8)
        tissue = image[EDGE:-EDGE, EDGE:-EDGE]
        tissue[:] = (200, 120, 180)
        coarse = rng.integers(0, 50, (len(tissue) // 16, len(tissue) // 16, 1), dtype=np.uint8)
        tissue -= coarse.repeat(16, 0).repeat(16, 1)
        truth = ""
        if kind:
            image[128 : 256 : 4 * kind, 128:256] = (90, 60, 120)
        if kind == len(classes) - 1:
            truth = f"t{number}.png"
            there = np.zeros((SIDE // 8, SIDE // 8), np.uint8)
            there[16:32, 16:32] = 1
            write_png(folder / truth, there)
        write_svs(folder / f"s{number}.svs", image, 20, 0.5)
        rows.append([f"s{number}", f"s{number}.svs", f"p{number}", classes[kind], truth])
    (folder / "bad.svs").write_bytes(b"no slide")
    rows.append(["bad", "bad.svs", "p99", classes[0], ""])
    for code in broken:
        made = BROKEN[code](folder, code, rng)
        rows.append([made.slide, made.path, made.patient, classes[0], ""])
    with open(folder / "slides.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "path", "patient", "label", "truth"])
        writer.writerows(rows)
    return folder


class Stages:
    """The stages of one study, with the sections and paths its rules would give them."""

    def __init__(self, root: Path, study: Mapping[str, Any]) -> None:
        given = {**study, "study": root.name, "results": str(root.parent)}
        self.root, self.study = root, load_slide_study(given)
        self.flow = SlideFlow(self.study)
        self.tables = ["--folds", root / "split/folds.csv", "--tiles", root / "tile/tiles.json"]
        self.examined = [*self.tables, "--examined", root / "ingest/slides"]

    def begin(self) -> None:
        """Examine, deal to folds and tile."""
        root, flow, nothing = self.root, self.flow, SimpleNamespace()
        flow.write_resolved()
        stage("slides_ingest", "--settings", flow.dataset(nothing), "--out", root / "ingest")
        slides = ["--slides", root / "ingest/slides.csv"]
        stage(
            "slides_split", "--settings", flow.split(nothing), "--classes", *flow.classes, *slides,
            "--findings", root / "ingest/ingest.json", "--out", root / "split",
        )  # fmt: skip
        stage("tile", "--settings", flow.tiles(nothing), *slides, "--out", root / "tile")

    def encode(self, encoder: str, fold: int, seed: int) -> None:
        """Train (or draw) an encoder and embed all tiles."""
        place = f"{encoder}/f{fold}/s{seed}"
        asked = SimpleNamespace(encoder=encoder)
        stage(
            "slides_pretrain", "--settings", self.flow.encoder(asked),
            "--network", self.flow.network(asked), "--fold", fold, "--seed", seed,
            "--out", self.root / "pretrain" / place, "--work", self.root / "state" / place,
            *self.examined,
        )  # fmt: skip
        made = self.root / "pretrain" / place / "encoder.pt"
        stage("embed", "--encoder", made, "--out", self.root / "embed" / place, *self.tables)

    def aggregate(self, encoder: str, aggregator: str, fold: int, replicate: int) -> Path:
        asked = SimpleNamespace(
            encoder=encoder, aggregator=aggregator, fold=fold, replicate=replicate
        )
        place = f"mil/{encoder}/{aggregator}/f{fold}/r{replicate}"
        stage(
            "mil", "--settings", self.flow.mil(asked), "--aggregator", self.flow.aggregator(asked),
            "--classes", *self.flow.classes, "--embedded", self.flow.embedded(asked),
            *self.tables[:2], "--fold", fold, "--seed", replicate, "--out", self.root / place,
            "--work", self.root / "state" / place,
        )  # fmt: skip
        return self.root / place

    def finish(self) -> None:
        """All encoders and aggregators, to the report."""
        study, flow = self.study, self.flow
        for name, one in study.encoders.items():
            for fold, seed in product(range(flow.folds if one.by_fold else 1), range(one.seeds)):
                self.encode(name, fold, seed)
        for pair in product(study.encoders, study.aggregators):
            runs = [
                self.aggregate(*pair, fold, seed)
                for fold, seed in product(range(flow.folds), range(study.seeds))
            ]
            stage(
                "slides_evaluate", "--runs", *runs, "--classes", *flow.classes,
                "--truth", study.dataset.truth, *self.examined,
                "--out", self.root / "evaluate" / "/".join(pair),
            )  # fmt: skip
        asked = f"{study.asked}/{study.aggregator}"
        for fold in range(flow.folds):
            stage(
                "heatmap", "--scores", self.root / "mil" / asked / f"f{fold}/r0/scores.h5",
                "--out", self.root / "heatmap" / asked / f"f{fold}", *self.examined,
            )  # fmt: skip
        resolved = self.root / "config.resolved.yaml"
        stage("slides_report", "--study", resolved, "--out", self.root)
