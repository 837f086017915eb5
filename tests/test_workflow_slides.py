"""The workflow of slides: what a dry run plans."""

import os
from pathlib import Path

from micro import ROOT, snakemake

from medcl.config import load_slide_study
from medcl.files import read_yaml
from medcl.study.slides_flow import SlideFlow

FILE = "config/studies/slides.yaml"


def test_a_dry_run_of_the_slide_study_plans_every_stage_and_fold() -> None:
    done = snakemake("-n", "--forceall", "--configfile", str(ROOT / FILE))
    jobs = dict(
        line.split()
        for line in done.stdout.partition("Job stats:")[2].splitlines()
        if len(line.split()) == 2 and line.split()[1].isdigit()
    )
    study = load_slide_study(read_yaml(ROOT / FILE))
    models = len(study.encoders) * len(study.aggregators)
    assert int(jobs["mil"]) == models * study.folds.count * study.seeds
    weights = sum(  # random ones serve all folds
        one.seeds * (study.folds.count if one.pretrain else 1) for one in study.encoders.values()
    )
    assert int(jobs["embed"]) == weights
    assert int(jobs["slides_evaluate"]) == models
    assert int(jobs["heatmap"]) == study.folds.count
    for rule in ("slides_phantom", "slides_ingest", "slides_split", "tile", "slides_report"):
        assert jobs[rule] == "1", rule


def test_other_masks_are_tiled_anew_though_the_table_is_the_same(tmp_path: Path) -> None:
    """As after a run that ended between ingest and tile."""
    made = tmp_path / "results/slides"
    names = ["phantom/phantom.json", "ingest/slides.csv", "tile/tiles.json", "ingest/ingest.json"]
    for second, name in enumerate(names, start=10**9):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("{}")
        os.utime(made / name, (second, second))
    done = snakemake(
        "-n", "--rerun-triggers", "mtime", "--configfile", str(ROOT / FILE), "--",
        "results/slides/tile/tiles.json", cwd=tmp_path,
    )  # fmt: skip
    assert "rule tile:" in done.stdout


def test_rules_get_their_own_section_alone() -> None:
    flow = SlideFlow(load_slide_study(read_yaml(ROOT / FILE)))
    assert "tiles" not in flow.dataset(None)
    assert "seeds" not in flow.mil(None)


def test_the_seconds_between_checkpoints_decide_nothing() -> None:
    content = read_yaml(ROOT / FILE)
    seldom = content | {"mil": (content.get("mil") or {}) | {"save_every_s": 99.0}}
    name = next(n for n, given in content["encoders"].items() if (given or {}).get("pretrain"))
    pretrain = content["encoders"][name]["pretrain"] | {"save_every_s": 99.0}
    seldom["encoders"] = content["encoders"] | {name: {"pretrain": pretrain}}
    wildcards = type("Wildcards", (), {"encoder": name})
    one, two = (SlideFlow(load_slide_study(given)) for given in (content, seldom))
    assert '"save_every_s": 99.0' in two.encoder(wildcards, "encoder.pt")
    assert '"save_every_s": 99.0' in two.mil(wildcards, "model.pt")
    assert one.encoder_decides(wildcards) == two.encoder_decides(wildcards)
    assert one.mil_decides(wildcards) == two.mil_decides(wildcards)
