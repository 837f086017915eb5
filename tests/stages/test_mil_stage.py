"""What `mil` trains with: weights of the classes, and the state a killed run resumes."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from make_slide_study import stage
from slides.small_bags import OPTIONS, stored, write_features

from medcl.config import Mil
from medcl.config.study import Options
from medcl.slides.table import Dealt, Slide, write_folds
from medcl.stages import mil

CLASSES = ["normal", "tumour"]
SLIDES = [Slide(f"s{n}", f"s{n}.svs", f"p{n}", CLASSES[n == 3]) for n in range(4)]


@pytest.mark.parametrize(
    ("name", "weights"),
    [("abmil", [2 / 3, 2.0]), ("scmil", [1.0, 1.0]), ("ins", [1.0, 1.0])],
)
def test_classes_are_weighted_only_where_batches_do_not_even_them_out(
    name: str, weights: list[float]
) -> None:
    features = stored({one.slide: np.eye(3) for one in SLIDES})
    dealt = Dealt(tuple(SLIDES), {one.slide: 2 for one in SLIDES}, 3)
    options = Options(name=name, **OPTIONS[name])
    model, bags = mil._prepared(
        Mil(), options, features, dealt, 0, Namespace(classes=CLASSES, fold=0)
    )
    assert model.class_weights.tolist() == pytest.approx(weights)
    assert bags.balanced is (name != "abmil")
    unweighted, _ = mil._prepared(
        Mil(class_weights=False), options, features, dealt, 0, Namespace(classes=CLASSES, fold=0)
    )
    assert unweighted.class_weights.tolist() == [1.0, 1.0]


def test_the_seconds_between_checkpoints_leave_a_killed_runs_state_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "features").mkdir()
    files = write_features(tmp_path / "features", {one.slide: np.eye(3) for one in SLIDES})
    listed = {name: {"status": "ok", "made_from": made} for name, (_, made) in files.items()}
    embedded = {"status": "ok", "reason": None, "slides": listed}
    (tmp_path / "embed.json").write_text(json.dumps(embedded))
    write_folds(tmp_path / "folds.csv", SLIDES, {one.patient: 2 for one in SLIDES})
    places = []

    def killed(*given: object, work: Path, **named: object) -> None:
        places.append(work)
        raise KeyboardInterrupt

    monkeypatch.setattr(mil, "fit", killed)
    for settings in ("{}", "{save_every_s: 5}", "{steps: 7}"):
        with pytest.raises(KeyboardInterrupt):
            stage(
                "mil", "--aggregator", "{name: mean}", "--classes", *CLASSES, "--fold", 0,
                "--settings", settings, "--embedded", tmp_path / "embed.json",
                "--folds", tmp_path / "folds.csv", "--out", tmp_path / "mil",
                "--work", tmp_path / "state",
            )  # fmt: skip
    default, seldom, longer = places
    assert seldom == default
    assert longer != default
