"""Parts of a network that learn at their own pace."""

import math
import os
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medcl.config import Finetune, Training
from medcl.contrast.gather import GatheredNorm
from medcl.stages.finetune import rates_of
from medcl.training.devices import Place
from medcl.training.fit import Fitted, fit
from medcl.training.rates import Rates
from medcl.training.run import seeded

SETTINGS = Training(batch=4, learning_rate=0.05, save_every_s=1e-6)


class Two(nn.Module):
    """An encoder with a batch norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Linear(3, 3), GatheredNorm(3))
        self.head = nn.Linear(3, 1)

    def forward(self, batch: dict[str, Tensor]):
        return (self.head(self.down(batch["x"])) - 1).square().mean(), {}


class Draws:
    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at, self.step = kill_at, 0

    def item(self, rng: np.random.Generator) -> dict[str, Tensor]:
        return {"x": torch.from_numpy(rng.normal(size=3).astype(np.float32))}

    def augment(self, batch: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        self.step += 1
        if self.step == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch


def train(work: Path, rates: Rates | None, draws: Draws | None = None) -> tuple[Two, Fitted]:
    with seeded(0):
        model = Two()
    place = Place(torch.device("cpu"))
    items = draws or Draws()
    fitted = fit(
        model, items, SETTINGS, steps=8, seed=1, place=place, work=work, what="t", rates=rates
    )
    return model, fitted


def moved(model: nn.Module, part: str) -> bool:
    with seeded(0):
        before = Two().state_dict()
    after = model.state_dict()
    return any(not torch.equal(before[k], after[k]) for k in before if k.startswith(part))


def test_a_frozen_encoder_keeps_weights_and_statistics_and_the_rest_learns(tmp_path: Path) -> None:
    model, _ = train(tmp_path, Rates(8, 1, encoder=("down.",), encoder_rate=0.0))
    assert not moved(model, "down.")
    assert moved(model, "head.")


def test_sawtooth_warms_up_twice_and_frees_the_encoder_in_between() -> None:
    rates = Rates(10, 2, encoder=("down.",), alone=4)
    assert [rates.share("down.0", step) for step in (0, 3, 4, 9)] == [0, 0, 1, 1]
    base = [rates.base(step) for step in range(10)]
    assert base[:4] == [0.5, 1, 1, 1]
    assert base[4] == pytest.approx(0.5)
    assert base[5] == 1
    assert all(later < sooner for sooner, later in pairwise(base[5:]))
    assert 0 < base[-1] < 0.2


def test_a_run_resumed_in_either_tooth_ends_exactly_where_an_uninterrupted_one_does(
    tmp_path: Path,
) -> None:
    rates = Rates(8, 1, encoder=("down.",), encoder_rate=0.3, alone=4)
    whole, _ = train(tmp_path / "whole", rates)
    assert moved(whole, "down.")
    for at in (2, 6):
        with pytest.raises(SystemExit):
            train(tmp_path / str(at), rates, Draws(kill_at=at))
        resumed, _ = train(tmp_path / str(at), rates)
        for key, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key])


def test_without_parts_the_pace_is_the_plain_one(tmp_path: Path) -> None:
    rates = rates_of(Finetune(warmup=0.1), 10)
    assert [rates.base(step) for step in (0, 9)] == [
        1,
        pytest.approx((1 + math.cos(0.9 * math.pi)) / 2),
    ]
    assert rates.groups(["network.down.0", "network.head.weight"]) == [
        ["network.down.0", "network.head.weight"]
    ]
    model, _ = train(tmp_path / "a", None)
    other, _ = train(tmp_path / "b", Rates(8, round(0.1 * 8)))
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_the_keys_of_a_study_make_the_pace() -> None:
    rates = rates_of(Finetune(mode="sawtooth", encoder_frozen=0.2, encoder_rate=0.5), 100)
    assert rates.alone == 20
    assert rates.warmup == 8
    assert rates.share("network.down.0.0.0.weight", 50) == 0.5
    assert rates.share("network.up.0.weight", 0) == 1
