"""Changes of stained tiles: what they keep, and that drawing and applying are apart."""

import pytest
import torch

from medcl.views.stain import StainDraw, StainJitter, apply, recolour, reshape


def tiles(count: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def still(count: int, **changed: torch.Tensor) -> StainDraw:
    """A draw that changes nothing."""
    same = {
        "size": torch.ones(count),
        "corner": torch.zeros(count, 2),
        "turns": torch.zeros(count, dtype=torch.long),
        "mirrored": torch.zeros(count, dtype=torch.bool),
        "stain": torch.zeros(count, 3),
        "offset": torch.zeros(count),
    }
    return StainDraw(**(same | changed))


def test_a_draw_of_nothing_changes_nothing() -> None:
    x = tiles().clamp_min(0.01)
    assert torch.allclose(apply(x, still(3)), x, atol=1e-5)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turns_are_by_right_angles(turns: int) -> None:
    x = tiles(1)
    turned = reshape(x, still(1, turns=torch.tensor([turns])))
    candidates = [torch.rot90(x, k, (2, 3)) for k in (turns, -turns)]
    assert any(torch.allclose(turned, one, atol=1e-5) for one in candidates)


def test_the_square_that_is_drawn_is_the_one_that_is_shown() -> None:
    x = tiles(1)
    corner = reshape(x, still(1, size=torch.tensor([0.5]), corner=torch.tensor([[0.5, 0.0]])))
    expected = torch.nn.functional.interpolate(x[:, :, :4, 4:], size=8, mode="bilinear")
    assert torch.allclose(corner[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], atol=1e-5)


def test_more_of_a_stain_multiplies_its_optical_density() -> None:
    haematoxylin = torch.nn.functional.normalize(torch.tensor([0.65, 0.70, 0.29]), dim=0)
    x = (-0.5 * haematoxylin).exp().view(1, 3, 1, 1).expand(1, 3, 4, 4)
    more = recolour(x, still(1, stain=torch.tensor([[0.2, 0.0, 0.0]])))
    assert torch.allclose(-more.log(), 0.6 * haematoxylin.view(1, 3, 1, 1), atol=1e-5)


def test_a_batch_changed_at_once_equals_its_tiles_one_by_one() -> None:
    x, jitter = tiles(5), StainJitter()
    draw = jitter.draw(5, torch.Generator().manual_seed(1))
    together = apply(x, draw)
    alone = torch.cat([apply(x[[i]], draw.rows([i])) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert together.min() >= 0
    assert together.max() <= 1
    assert not torch.allclose(together, x, atol=0.05)
