import numpy as np
import pytest
import torch
from scipy import ndimage

from medcl.views.augment import Augment
from medcl.views.coordinates import interpolate, voxels_of, within


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4), (5, 4, 1)])
def test_interpolation_is_linear_as_scipys_and_repeats_the_border(shape):
    features = torch.rand(2, 3, *shape, generator=seeded())
    places = torch.rand(2, 7, len(shape), generator=seeded(1)) * 7 - 1
    found = interpolate(features, places)
    for b in range(2):
        for c in range(3):
            expected = ndimage.map_coordinates(
                features[b, c].numpy(), places[b].numpy().T, order=1, mode="nearest"
            )
            np.testing.assert_allclose(found[b, :, c].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_half_precision_features_are_read_at_exact_places():
    ramp = torch.arange(64.0).view(1, 1, 64, 1, 1).expand(-1, -1, -1, 2, 2)
    places = torch.tensor([[[50.3, 0.5, 0.5]]])
    found = interpolate(ramp.to(torch.bfloat16), places)
    assert float(found) == pytest.approx(50.3, abs=0.05)


def test_gradients_reach_the_neighbours_of_a_place_alone():
    features = torch.zeros(1, 1, 4, 4, 4, requires_grad=True)
    interpolate(features, torch.tensor([[[1.25, 2.0, 0.5]]])).sum().backward()
    assert torch.equal(features.grad[0, 0].nonzero()[:, 0].unique(), torch.tensor([1, 2]))
    assert float(features.grad[0, 0, 1, 2, 0]) == pytest.approx(0.375)
    assert float(features.grad.sum()) == pytest.approx(1)


def test_a_point_is_found_where_the_matrix_brought_it():
    spacing, shape = (1.0, 2.0, 0.5), (9, 7, 12)
    draw = Augment(rotate=(1.0, 30.0), flip=(0.5, 0.5, 0.5), shift=(1.0, 2.0)).draw(
        4, spacing, seeded(2)
    )
    views = torch.rand(4, 5, 3, generator=seeded(3)) * 8  # mm from the centre of the view
    centres = torch.rand(4, 3, generator=seeded(4)) * 100
    crops = views @ draw.matrix[:, :3, :3].mT + draw.matrix[:, None, :3, 3]
    middle = (torch.tensor(shape) - 1) / 2
    found = voxels_of(centres[:, None] + crops, centres, spacing, shape, draw.matrix)
    torch.testing.assert_close(found, views / torch.tensor(spacing) + middle, rtol=1e-4, atol=1e-3)
    unmoved = voxels_of(centres[:, None] + crops, centres, spacing, shape)
    torch.testing.assert_close(
        unmoved, crops / torch.tensor(spacing) + middle, rtol=1e-4, atol=1e-3
    )


def test_only_places_between_voxel_centres_are_within():
    places = torch.tensor([[0.0, 0, 0], [2, 3, 0], [2.1, 0, 0], [0, -0.1, 0], [0, 0, 0.1]])
    assert within(places, (3, 4, 1)).tolist() == [True, True, False, False, False]
