"""What the first stages of a slide study write, so that later ones see every change."""

import argparse
from pathlib import Path

import numpy as np
import pytest
from make_slide_study import SIDE, Stages, draw, stage

from medcl.files import read_json
from medcl.slides.examine import write_png
from medcl.slides.table import read_slides
from medcl.stages.slides_evaluate import Truth
from medcl.study.names import Names
from medcl.study.slides_material import slides as listed
from medcl.study.slides_results import read_slide_results

CLASSES = ["normal", "tumour"]
TILES = {"microns_per_pixel": 1.0, "tile": 32}


def study(folder: Path, **dataset: object) -> Stages:
    """A slide without a tumour and one with it."""
    given = {"name": "two", "classes": CLASSES, "tiles": TILES, "root": str(folder / "raw")}
    return Stages(
        folder,
        {
            "kind": "slides",
            "dataset": given | dataset,
            "encoders": {"random": {}},
            "aggregators": {"mean": "mean"},
        },
    )


def examined(stages: Stages) -> dict:
    """Examine and tile; ingest.json and tiles.json by slide."""
    root, flow = stages.root, stages.flow
    flow.write_resolved()
    stage("slides_ingest", "--settings", flow.dataset(None), "--out", root / "ingest")
    table = root / "ingest/slides.csv"
    stage("tile", "--settings", flow.tiles(None), "--slides", table, "--out", root / "tile")
    found = {item["case"]: item for item in read_json(root / "ingest/ingest.json")["slides"]}
    tiles = read_json(root / "tile/tiles.json")["slides"]
    return {name: {**found[name], "made_from": one["made_from"]} for name, one in tiles.items()}


def test_a_mended_mask_changes_what_tile_and_embed_depend_on(tmp_path: Path) -> None:
    raw = draw(tmp_path / "raw", CLASSES, 2)
    rows = ["slide,path,patient,label,mask", "s0,s0.svs,p0,normal,m.png", "s1,s1.svs,p1,tumour,"]
    (raw / "slides.csv").write_text("\n".join(rows) + "\n")
    mask = np.ones((64, 64), np.uint8)
    mask[:16], mask[-16:] = 0, 0
    write_png(raw / "m.png", mask)
    first = examined(study(tmp_path))
    kept = (tmp_path / "ingest/slides.csv").read_bytes()
    write_png(raw / "m.png", mask.T)  # as much tissue as before
    second = examined(study(tmp_path))
    assert (tmp_path / "ingest/slides.csv").read_bytes() == kept
    assert second["s0"]["tissue_share"] == first["s0"]["tissue_share"]
    for key in ("mask_sha256", "made_from"):
        assert second["s0"][key] != first["s0"][key]
        assert second["s1"][key] == first["s1"][key]


def test_a_mended_truth_changes_what_the_evaluation_depends_on(tmp_path: Path) -> None:
    raw = draw(tmp_path / "raw", CLASSES, 2)
    truth = np.zeros((64, 64), np.uint8)
    truth[16:32, 16:32] = 1
    write_png(raw / "t1.png", truth)
    stages = study(tmp_path)
    first = examined(stages)
    write_png(raw / "t1.png", truth[::-1])  # the same labels, elsewhere
    second = examined(stages)
    assert second["s1"]["truth_labels"] == first["s1"]["truth_labels"] == [0, 1]
    assert second["s1"]["truth_sha256"] != first["s1"]["truth_sha256"]
    assert second["s0"]["truth_sha256"] is None


def test_a_truth_without_its_value_is_told_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = draw(tmp_path / "raw", CLASSES, 2)
    there = np.zeros((64, 64), np.uint8)
    there[16:32, 16:32] = 255
    write_png(raw / "t1.png", there)
    stages = study(tmp_path)
    found = examined(stages)
    assert "s1: truth_absent: the truth holds 0, 255 and nowhere 1" in capsys.readouterr().out
    assert found["s1"]["truth_labels"] == [0, 255]
    assert found["s0"]["truth_labels"] is None
    # The report says it as long as it is so, without another look at the slides.
    for truth, remarked in ((1, True), (255, False)):
        study(tmp_path, truth=truth).flow.write_resolved()
        results = read_slide_results(tmp_path / "config.resolved.yaml", tmp_path)
        page = str(listed(results, Names(found, [], hashed=True)))
        assert ("truth_absent" in page) == remarked


def test_a_truth_that_cannot_be_used_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = draw(tmp_path / "raw", CLASSES, 2)
    found = truth_of(study(tmp_path))
    assert found is not None
    shares, inside = found
    assert inside.any()
    assert shares.max() == 1
    write_png(raw / "t1.png", np.zeros((SIDE // 8, SIDE // 8, 3), np.uint8))
    stages = study(tmp_path)
    item = examined(stages)["s1"]
    assert item["status"] == "ok"
    assert [one["code"] for one in item["findings"]] == ["truth_unreadable"]
    capsys.readouterr()
    assert truth_of(stages) is None
    assert "s1: " in capsys.readouterr().out


def truth_of(stages: Stages) -> tuple[np.ndarray, np.ndarray] | None:
    """What the evaluation makes of the truth of the slide with a tumour."""
    examined(stages)
    args = argparse.Namespace(
        truth=1, classes=CLASSES, tiles=stages.root / "tile/tiles.json",
        examined=stages.root / "ingest/slides",
    )  # fmt: skip
    return Truth(read_slides(stages.root / "ingest/slides.csv"), args).of("s1")
