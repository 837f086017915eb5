import itertools

import numpy as np
import pytest

from medcl.views.crops import box_at, grid_boxes, overlap_fractions, random_box


def boxes(shape, body, size, count=300):
    rng = np.random.default_rng(0)
    return [random_box(shape, body, size, rng) for _ in range(count)]


def test_a_random_box_lies_in_the_body_and_reaches_all_of_it():
    drawn = np.array(boxes((20, 20, 20), ((3, 4, 5), (12, 14, 16)), (4, 5, 6)))
    assert (drawn[:, 1] - drawn[:, 0] == (4, 5, 6)).all()
    assert drawn[:, 0].min(0).tolist() == [3, 4, 5]
    assert drawn[:, 1].max(0).tolist() == [12, 14, 16]


def test_a_body_smaller_than_the_box_is_held_whole_and_the_box_stays_in_the_volume():
    drawn = np.array(boxes((20, 20, 20), ((1, 9, 16), (5, 12, 20)), (8, 8, 8)))
    assert (drawn[:, 0] <= (1, 9, 16)).all()
    assert (drawn[:, 1] >= (5, 12, 20)).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 20
    assert len(set(drawn[:, 0, 1].tolist())) == 6


def test_a_volume_smaller_than_the_box_is_held_whole():
    drawn = np.array(boxes((5, 20, 20), ((1, 0, 0), (4, 20, 20)), (8, 8, 8)))
    assert (drawn[:, 0, 0] <= 0).all()
    assert (drawn[:, 1, 0] >= 5).all()
    assert len(set(drawn[:, 0, 0].tolist())) == 4


def test_cells_tile_their_region_with_the_last_axis_fastest():
    cells = grid_boxes((1, 2, 3), (4, 5, 6), (2, 1, 3))
    assert cells[0] == ((1, 2, 3), (5, 7, 9))
    assert cells[1] == ((1, 2, 9), (5, 7, 15))
    assert cells[3] == ((5, 2, 3), (9, 7, 9))
    counts = np.zeros((12, 10, 24), int)
    for (x0, y0, z0), (x1, y1, z1) in cells:
        counts[x0:x1, y0:y1, z0:z1] += 1
    assert (counts[1:9, 2:7, 3:21] == 1).all()
    assert counts.sum() == 8 * 5 * 18


@pytest.mark.parametrize("grid", [(2, 2, 2), (3, 1, 2), (4, 4, 1)])
def test_overlaps_equal_counted_voxels(grid):
    cell = (3, 4, 5)
    cells = grid_boxes((2, 0, 1), cell, grid)
    rng = np.random.default_rng(1)
    free = [(n - 1) * side + 1 for n, side in zip(grid, cell, strict=True)]
    crops = [
        box_at((2 + int(x), int(y), 1 + int(z)), cell)
        for x, y, z in rng.integers(free, size=(6, 3))
    ]
    found = overlap_fractions(crops, cells)
    for n, k in itertools.product(range(len(crops)), range(len(cells))):
        count = 0
        for voxel in itertools.product(*(range(a, b) for a, b in zip(*crops[n], strict=True))):
            count += all(
                a <= v < b for a, v, b in zip(cells[k][0], voxel, cells[k][1], strict=True)
            )
        assert found[n, k] == pytest.approx(count / 60, abs=1e-15)
    np.testing.assert_allclose(found.sum(1), 1)


def test_a_crop_outside_the_grid_overlaps_nothing():
    cells = grid_boxes((0, 0, 0), (4, 4, 4), (2, 2, 2))
    assert overlap_fractions([box_at((8, 0, 0), (4, 4, 4))], cells).sum() == 0
