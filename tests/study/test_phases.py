"""A pretraining of several phases: each has a loss, a chance level and a picture of its own."""

from pathlib import Path

import numpy as np
import pytest
from make_results import Fake, make
from matplotlib.figure import Figure
from report_pages import QUICK, text_of

from medcl.files import read_json, write_json, write_text
from medcl.study import drawing, figures, report_figures
from medcl.study.phases import losses_of, phases_of
from medcl.study.report import make_report
from medcl.study.results import Pretraining, Results, read_results

NAN = float("nan")
LOG = {
    "step": [1.0, 2.0, 3.0, 4.0],
    "loss": [0.9, 0.8, 8.0, 7.0],
    "inner": [0.5, 0.25, NAN, NAN],
    "outer": [0.25, 0.25, NAN, NAN],
    "chance": [0.06, 0.08, 6.0, 6.2],
    "phase": [NAN, NAN, 2.0, 2.0],
}
FIRST = {"compared_with_chance": ["inner", "outer"], "compared": 0.6, "chance": 0.07}
SECOND = {"compared_with_chance": ["loss"], "compared": 7.5, "chance": 6.1}


def pretraining(**summary: object) -> Pretraining:
    return Pretraining("hybrid", 0, "ok", None, SECOND | summary, LOG)


def test_every_phase_has_its_own_steps_terms_and_chance_level() -> None:
    first, second = phases_of(pretraining(phases=[FIRST, SECOND]))
    assert (first.log["step"], losses_of(first), first.log["chance"]) == (
        [1, 2], [0.75, 0.5], [0.06, 0.08],
    )  # fmt: skip
    assert (second.log["step"], losses_of(second), second.chance) == ([3, 4], [8, 7], 6.1)


def test_an_older_summary_knows_the_terms_of_the_last_phase_alone() -> None:
    first, second = phases_of(pretraining())
    assert (first.terms, first.loss, first.chance) == ([], None, None)
    assert losses_of(first) == [0.9, 0.8]
    assert (second.terms, second.loss, second.chance) == (["loss"], 7.5, 6.1)


def test_a_log_that_says_nothing_of_phases_is_of_one() -> None:
    log = {"step": [1.0, 2.0], "loss": [3.0, 2.0]}
    (only,) = phases_of(Pretraining("mae", 0, "ok", None, {"compared": 2.5}, log))
    assert (only.log, only.loss) == (log, 2.5)
    assert [phase.log for phase in phases_of(Pretraining("mae", 0, "missing", "x"))] == [{}]


def test_a_pretraining_that_failed_in_its_second_phase_shows_both() -> None:
    first, second = phases_of(pretraining(phases=[FIRST]))
    assert (first.loss, second.loss, second.log["step"]) == (0.6, None, [3, 4])


def phased(folder: Path) -> Results:
    """A study whose pretraining of voco has two phases of 50 rows, in all seeds."""
    config = make(folder, Fake(**QUICK))
    for file in folder.glob("pretrain/voco/*/log.csv"):
        head, *rows = file.read_text().splitlines()
        later = [row.rsplit(",", 1)[0] + ",7.5,2" for row in rows[50:]]
        write_text(file, "\n".join([f"{head},phase", *(f"{row}," for row in rows[:50]), *later]))
        summary = read_json(file.with_name("summary.json"))
        both = {"phases": [FIRST | {"compared_with_chance": ["loss"]}, SECOND]}
        write_json(file.with_name("summary.json"), summary | SECOND | both)
    return read_results(config, folder)


def test_each_phase_is_drawn_at_its_own_steps_with_its_own_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}

    def losses(logs, *, chance, title, name, number):
        drawn[name] = (title, {label: steps for label, (steps, _) in logs.items()}, chance)
        return drawing.Drawing(lambda axes: None, (1, 1), name)

    monkeypatch.setattr(figures, "losses", losses)
    monkeypatch.setattr(drawing, "render", lambda figure, kind: b"<svg></svg>")
    results = phased(tmp_path / "a")
    pictures = report_figures.pretraining_losses(results)
    assert list(drawn) == ["pretraining-voco-phase1", "pretraining-voco-phase2"]
    for name, steps, level in (("phase1", (1, 981), 1.386), ("phase2", (1001, 1981), 7.5)):
        title, logs, (at, chance) = drawn[f"pretraining-voco-{name}"]
        assert title == f"voco, phase {name[-1]}"
        assert list(logs) == ["seed 0", "seed 1", "seed 2"]
        assert (at[0], at[-1]) == steps == (logs["seed 1"][0], logs["seed 1"][-1])
        assert chance == pytest.approx([level] * 50)
    assert [picture.caption for picture in pictures] == ["loss; dashed: its chance level"] * 2
    assert "0.6 / 7.5 0.07 / 6.1" in text_of(make_report(results).html)


def test_the_chance_level_is_a_line_along_the_steps_or_none() -> None:
    logs = {"seed 0": ([3.0, 4.0], [8.0, 7.0])}
    for chance, found in ((([3.0, 4.0], [6.0, 6.0]), [6.0, 6.0]), (([], []), None)):
        axes = Figure().add_subplot()
        figures.losses(logs, chance=chance, title="a", name="a", number=1).draw(axes)
        lines = [line for line in axes.lines if line.get_label() == "chance"]
        assert [list(np.asarray(line.get_ydata())) for line in lines] == ([found] if found else [])
        if found:
            assert list(lines[0].get_xdata()) == [3.0, 4.0]
