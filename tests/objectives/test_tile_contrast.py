"""Contrast of tiles beside a slow loop, its queue, and its level of chance."""

import math

import pytest
import torch
from torch import nn

from medcl.errors import MedclError
from medcl.objectives.tile_contrast import TileContrast, build_tile_objective


class Flat(nn.Module):
    """The first four values of a tile."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :4]


def objective(**options: object) -> TileContrast:
    made = TileContrast(Flat(), 4, projection=4, **options)
    made.head = nn.Identity()
    return made


def batch(count: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    views = torch.rand(count, 2, 3, 4, 4, generator=rng)
    return {"views": views, "tile": torch.arange(count)}


def slow(rows: torch.Tensor, tiles: list[int], temperature: float) -> float:
    """NT-Xent, one row and one key at a time."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    n, total = len(rows) // 2, 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        positive = math.exp(float(unit[i] @ unit[partner]) / temperature)
        others = sum(
            math.exp(float(unit[i] @ unit[j]) / temperature)
            for j in range(2 * n)
            if tiles[j % n] != tiles[i % n]
        )
        total -= math.log(positive / (positive + others))
    return total / (2 * n)


@pytest.mark.parametrize("tiles", [[0, 1, 2, 3], [5, 5, 2, 3]])
def test_the_loss_is_that_of_a_slow_loop_also_with_a_tile_drawn_twice(tiles: list[int]) -> None:
    given = batch() | {"tile": torch.tensor(tiles)}
    loss, _ = objective(temperature=0.3)(given)
    vectors = given["views"].flatten(2)[..., :4].transpose(0, 1).flatten(0, 1)
    assert loss.item() == pytest.approx(slow(vectors, tiles, 0.3), abs=1e-5)


def test_equal_embeddings_have_the_loss_of_chance() -> None:
    given = batch() | {"views": torch.ones(4, 2, 3, 4, 4)}
    loss, terms = objective()(given)
    assert loss.item() == pytest.approx(math.log(7), abs=1e-5)
    assert float(terms["chance"]) == pytest.approx(math.log(7), abs=1e-5)


def test_a_queue_adds_the_views_of_earlier_steps_as_negatives() -> None:
    made = objective(queue=16)
    before, terms = made(batch())
    assert float(terms["chance"]) == pytest.approx(math.log(7), abs=1e-5)
    _, terms = made(batch() | {"tile": torch.arange(4) + 10})
    assert float(terms["chance"]) == pytest.approx(math.log(15), abs=1e-5)
    again, _ = made(batch())  # its own tiles in the queue are no negatives, those of 10.. are
    assert again > before


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(MedclError, match="temprature"):
        build_tile_objective({"name": "tile_contrast", "temprature": 1.0}, Flat(), 4)
