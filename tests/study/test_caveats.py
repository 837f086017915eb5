"""What is said before the numbers of an arm that is fine-tuned unlike its control."""

import pytest
from make_results import Fake, make
from report_pages import QUICK, text_of

from medcl.files import read_yaml, write_yaml
from medcl.study import drawing
from medcl.study.caveats import unlike_controls
from medcl.study.report import make_report
from medcl.study.results import read_results


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(drawing, "render", lambda figure, kind: b"<svg></svg>")


def results_of(folder, *, longer=None, **arms):
    """Of a study whose only primary arm, voco, has a fine-tuning of its own."""
    config = make(folder, Fake(**QUICK))
    study = read_yaml(config)
    study["arms"]["voco"]["finetune"] = longer
    study["arms"] |= arms
    write_yaml(config, study | {"primary": {"arms": ["voco"]}})
    return read_results(config, config.parent)


def test_a_primary_arm_that_is_fine_tuned_unlike_its_control_is_told_above_the_table(tmp_path):
    results = results_of(tmp_path / "a", longer={"steps": 5000, "learning_rate": 0.01})
    text = text_of(make_report(results).html)
    words = (
        "voco is fine-tuned with another learning_rate and steps than scratch: its difference is "
        "not of the pretraining alone; add an arm from scratch that has the finetune of voco, and "
        "compare with that."
    )
    assert text.count(words) == 1
    assert text.index("With 1 labelled subject") < text.index(words) < text.index("classes lost")


def test_an_arm_from_scratch_that_is_fine_tuned_alike_is_named(tmp_path):
    longer = {"steps": 5000}
    results = results_of(tmp_path / "a", longer=longer, **{"more-steps": {"finetune": longer}})
    (said,) = unlike_controls(results.study)
    assert said.endswith(
        "compare it with more-steps, which starts from random weights and is fine-tuned alike."
    )


def test_nothing_is_said_of_arms_that_are_fine_tuned_as_their_control(tmp_path):
    assert unlike_controls(results_of(tmp_path / "a").study) == []
    same = results_of(tmp_path / "b", longer={"save_every_s": 3}).study
    assert unlike_controls(same) == []
