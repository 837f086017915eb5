"""A training killed without a warning, at whatever step, ends as one that was left alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import test_training_stages as small
import test_tune
import torch

from medcl.files import read_json, write_json
from medcl.stages import pretrain, selftrain
from medcl.training import checkpoint, fit
from medcl.training.state import Run

study = small.study
LOST = 3  # steps between two states: what came after the last one is trained again


class Killed(BaseException):
    """As SIGKILL leaves it: nothing is saved, and nobody catches it."""


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Kill at the step of this number, counted over all trainings of a run; 0: never."""
    monkeypatch.setattr(Run, "due", lambda run, seconds: run.step % LOST == 0)
    backward = fit._backward

    def at(step: int) -> None:
        made = []

        def killed(*arguments: object):
            made.append(1)
            if len(made) == step:
                raise Killed
            return backward(*arguments)

        monkeypatch.setattr(fit, "_backward", killed)

    return at


def assert_same(first: Path, second: Path) -> None:
    one, two = (checkpoint.load(folder / "model.pt")["weights"] for folder in (first, second))
    for kind in ("last", "selected"):
        for name, tensor in one[kind].items():
            assert torch.equal(tensor, two[kind][name]), (kind, name)
    logs = [small.rows_of(folder / "log.csv") for folder in (first, second)]
    for one, two in zip(*logs, strict=True):
        timed = {"seconds", "items_per_second"}
        assert {k: v for k, v in one.items() if k not in timed} == {
            k: v for k, v in two.items() if k not in timed
        }


@pytest.mark.parametrize("step", [2, 6, 9], ids=lambda step: f"step{step}")
@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "sawtooth", "encoder_frozen": 0.5, "encoder_rate": 0.3},
        {"core_tuning": 0.5, "mixup": 0.4},
    ],
    ids=["sawtooth", "core-tuning"],
)
def test_a_fine_tuning_killed_at_any_step(
    study: Path, tmp_path: Path, kill: Callable[[int], None], settings: dict, step: int
) -> None:
    small.call(pretrain, study, tmp_path / "mae", objective={"name": "mae"}, steps=1)
    encoder = ["--encoder", str(tmp_path / "mae/encoder.pt")]
    settings = {"steps": 10, "validate_every": 4} | settings
    small.tune(study, tmp_path / "whole", *encoder, **settings)
    kill(step)
    with pytest.raises(Killed):
        small.tune(study, tmp_path / "killed", *encoder, **settings)
    kill(0)
    small.tune(study, tmp_path / "killed", *encoder, **settings)
    assert_same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("step", [2, 11], ids=["first rate", "second rate"])
def test_a_choice_of_the_learning_rate_killed_at_any_step(
    study: Path, tmp_path: Path, kill: Callable[[int], None], step: int
) -> None:
    rates, settings = [1e-3, 1e-2], {"steps": 7, "validate_every": 3}
    whole = test_tune.choose(study, tmp_path / "whole", rates, **settings)
    kill(step)
    with pytest.raises(Killed):
        test_tune.choose(study, tmp_path / "killed", rates, **settings)
    kill(0)
    again = test_tune.choose(study, tmp_path / "killed", rates, **settings)
    for chosen in (whole, again):
        for trial in chosen["tried"]:
            assert trial.pop("seconds")
            assert trial.pop("cpu_seconds")
    assert whole == again


@pytest.fixture(scope="module")
def base(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can label the pool."""
    folder = tmp_path_factory.mktemp("base")
    small.tune(study, folder, steps=30, learning_rate=0.01)
    return folder / "model.pt"


@pytest.mark.parametrize("step", [4, 9], ids=["further member", "second round"])
def test_a_self_training_killed_at_any_step(
    study: Path, tmp_path: Path, base: Path, kill: Callable[[int], None], step: int
) -> None:
    settings = {"confidence": 0.4, "rounds": 2, "members": 2, "steps": 4}
    small.teach(study, tmp_path / "whole", base, **settings)
    kill(step)
    with pytest.raises(Killed):
        small.teach(study, tmp_path / "killed", base, **settings)
    kill(0)
    small.teach(study, tmp_path / "killed", base, **settings)
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_the_seconds_of_a_self_training_are_those_of_all_its_work(
    study: Path, tmp_path: Path, base: Path, kill: Callable[[int], None]
) -> None:
    settings = {"confidence": 0.4, "members": 2, "steps": 4}
    kill(8)  # in the training on both kinds of labels, whose state is that of step 3
    with pytest.raises(Killed):
        small.teach(study, tmp_path, base, **settings)
    (member,) = tmp_path.rglob("round0-member1/state.pt")
    (training,) = tmp_path.rglob("round0-training/state.pt")
    for file, more in ((member, 1000), (training, 2000)):
        state = {key: value for key, value in checkpoint.load(file).items() if key != "format"}
        checkpoint.save(file, state | {"seconds": state["seconds"] + more})
    for file in tmp_path.rglob("round0/*.json"):
        write_json(file, read_json(file) | {"seconds": 10000.0})
    kill(0)
    summary = small.teach(study, tmp_path, base, **settings)
    assert summary["rounds"] == [{"cases": 2, "of": 3}]
    assert 33000 < summary["seconds"] < 33100


def test_a_case_that_was_labelled_before_the_kill_is_not_labelled_again(
    study: Path, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label, calls = selftrain.pseudo_label, []

    def counted(networks: object, volume: object, *more: object):
        calls.append(volume.case)  # type: ignore[attr-defined]
        if len(calls) == 3:
            raise Killed
        return label(networks, volume, *more)

    monkeypatch.setattr(selftrain, "pseudo_label", counted)
    with pytest.raises(Killed):
        small.teach(study, tmp_path, base, confidence=0.4)
    small.teach(study, tmp_path, base, confidence=0.4)
    assert len(set(calls)) == 3
    assert calls[3:] == [calls[2]]
