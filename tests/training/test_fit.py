"""The loop on a model of a dozen weights: resume, stopping, refusing, parts and ranks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medcl.config import Training
from medcl.errors import MedclError, TrainingFailed
from medcl.training import checkpoint
from medcl.training.devices import Place
from medcl.training.fit import cached_backward, fit, refuse_inexact
from medcl.training.run import seeded
from medcl.training.schedule import warmup_cosine

CPU = Place(torch.device("cpu"))
SETTINGS = Training(batch=4, learning_rate=0.05, save_every_s=1e-6)


class Line(nn.Module):
    """Fits y = a x; `embed` and `compare` let it be computed in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def embed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": self.linear(batch["x"])}

    def compare(self, embedded: dict[str, Tensor], batch: dict[str, Tensor]):
        y = embedded["y"]
        loss = ((y - batch["x"][:, :2]) ** 2).mean() + (y @ y.T).mean()  # compares across the batch
        return loss, {"first": y[0, 0].detach()}

    def forward(self, batch: dict[str, Tensor]):
        return self.compare(self.embed(batch), batch)


class Draws:
    """Random items; stops or breaks the run at a step if asked to."""

    def __init__(self, kill_at: int | None = None, nan_at: int | None = None) -> None:
        self.kill_at, self.nan_at, self.step = kill_at, nan_at, 0

    def item(self, rng: np.random.Generator) -> dict[str, Tensor]:
        return {"x": torch.from_numpy(rng.normal(size=3).astype(np.float32))}

    def augment(self, batch: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        self.step += 1
        if self.step == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        noise = torch.randn(batch["x"].shape, generator=rng)
        scale = float("nan") if self.step == self.nan_at else 0.1
        return {"x": batch["x"] + scale * noise}


def train(work: Path, draws: Draws, steps: int = 12, settings: Training = SETTINGS, **more):
    with seeded(0):
        model = Line()
    fitted = fit(
        model, draws, settings, steps=steps, seed=5, place=CPU, work=work, what="test", **more
    )
    return model, fitted


def test_a_resumed_run_ends_exactly_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole, fitted = train(tmp_path / "a", Draws())
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "b", Draws(kill_at=5))
    assert stopped.value.code == 143
    resumed, again = train(tmp_path / "b", Draws())
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])
    losses = [[row["loss"] for row in f.progress.rows] for f in (fitted, again)]
    assert losses[0] == losses[1]
    assert [row["step"] for row in again.progress.rows] == list(range(1, 13))
    assert again.resumed == []


def test_another_number_of_threads_is_marked(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path, Draws(kill_at=3))
    state = checkpoint.load(tmp_path / "state.pt")
    state["environment"]["threads"] = 64
    checkpoint.save(tmp_path / "state.pt", {k: v for k, v in state.items() if k != "format"})
    _, fitted = train(tmp_path, Draws())
    assert "resumed at step 3 with threads" in fitted.resumed[0]


def test_waiting_costs_seconds_but_none_of_a_core_and_a_resumed_run_counts_on(
    tmp_path: Path,
) -> None:
    class Waiting(Draws):
        def augment(self, batch: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
            time.sleep(0.05)
            return super().augment(batch, rng)

    _, waited = train(tmp_path / "a", Waiting())
    assert waited.seconds - waited.cpu_seconds >= 0.5
    with pytest.raises(SystemExit):
        train(tmp_path / "b", Draws(kill_at=5))
    before = checkpoint.load(tmp_path / "b/state.pt")["cpu_seconds"]
    assert before > 0
    _, fitted = train(tmp_path / "b", Draws())
    assert fitted.cpu_seconds > before


def test_a_loss_that_is_not_finite_names_step_and_term(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"loss is nan at step 3: first nan"):
        train(tmp_path, Draws(nan_at=3))


def test_the_best_validated_weights_are_kept_beside_the_last(tmp_path: Path) -> None:
    scores = iter([0.2, 0.9, 0.4])
    model, fitted = train(tmp_path, Draws(), validate=lambda: next(scores), validate_every=4)
    assert fitted.selected_step == 8
    assert not torch.equal(fitted.selected["linear.weight"], model.linear.weight)
    rows = fitted.progress.rows
    validated = {r["step"]: r["validation_dice"] for r in rows if "validation_dice" in r}
    assert validated == {4: 0.2, 8: 0.9, 12: 0.4}


def test_gradients_in_parts_equal_those_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    model, batch = Line().double(), {"x": torch.randn(7, 3, dtype=torch.float64)}
    loss, _ = model(batch)
    loss.backward()
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    in_parts, _ = cached_backward(model, batch, 3)
    assert in_parts == pytest.approx(loss.item(), rel=1e-12)
    for parameter, expected in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-14)


def test_batch_norm_is_refused_in_parts() -> None:
    model = Line()
    model.norm = nn.BatchNorm1d(2)
    refuse_inexact(model, 1)
    with pytest.raises(MedclError, match="norm is a BatchNorm1d"):
        refuse_inexact(model, 2)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout3d, nn.AlphaDropout])
def test_dropout_of_any_kind_is_refused_with_parts_unless_it_drops_nothing(kind) -> None:
    model = Line()
    model.drop = kind(0.0)
    refuse_inexact(model, 2)
    model.drop = kind(0.5)
    with pytest.raises(MedclError, match=f"drop is a {kind.__name__}"):
        refuse_inexact(model, 2)


def test_the_schedule_rises_and_falls() -> None:
    factors = [warmup_cosine(step, 100, 10) for step in range(101)]
    assert factors[5] == 0.5
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)


RANKS = """
import sys, torch
sys.path.insert(0, {here!r})
from test_fit import Draws, Line, SETTINGS
from medcl.training.devices import place
from medcl.training.fit import fit
from medcl.training.run import seeded

class PerItem(Line):
    def compare(self, embedded, batch):
        y = embedded["y"]
        return ((y - batch["x"][:, :2]) ** 2).mean(), {{}}

class Still(Draws):
    def augment(self, batch, rng):
        return batch

here = place(1)
with seeded(0):
    model = PerItem()
fit(model, Still(), SETTINGS, steps=4, seed=5, place=here, work={work!r}, what="ranks")
if here.leads:
    torch.save(model.state_dict(), {out!r})
"""


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    weights = []
    for number in (1, 2):
        out = str(tmp_path / f"{number}.pt")
        script = tmp_path / f"ranks{number}.py"
        here = str(Path(__file__).parent)
        script.write_text(RANKS.format(here=here, work=str(tmp_path / f"w{number}"), out=out))
        launch = [] if number == 1 else ["-m", "torch.distributed.run", "--standalone"]
        launch += [] if number == 1 else ["--nproc-per-node", "2"]
        subprocess.run([sys.executable, *launch, str(script)], check=True, capture_output=True)
        weights.append(torch.load(out, weights_only=True))
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-6, atol=1e-7)
