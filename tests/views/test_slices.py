import numpy as np
import pytest

from medcl.views.slices import draw_slices, partition_slices, slab, slabs


@pytest.mark.parametrize("count", range(1, 30))
@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 7])
def test_every_slice_belongs_to_the_partition_of_its_position(count, partitions):
    ranges = partition_slices(count, partitions)
    assert len(ranges) == partitions
    assert all(len(part) > 0 and part[-1] < count for part in ranges)
    if count >= partitions:
        owner = {s: k for k, part in enumerate(ranges) for s in part}
        assert owner == {s: partitions * s // count for s in range(count)}


def test_all_slices_are_drawn():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_slices(11, 4, rng) for _ in range(300)])
    assert set(drawn.flatten()) == set(range(11))
    assert (np.diff(drawn, axis=1) > 0).all()


def test_a_slab_begins_at_its_slice_and_lies_at_its_share_of_the_body():
    shape, body = (30, 20, 40), ((10, 0, 8), (30, 20, 28))
    assert slab(shape, body, (10, 10, 4), 2, 10, (0.0, 1.0, 0.5)) == ((10, 10, 18), (20, 20, 22))
    assert slab(shape, body, (10, 10, 4), 2, 10, (1.0, 0.5, 0.0)) == ((20, 5, 18), (30, 15, 22))


def test_a_slab_leaves_the_volume_only_where_it_is_larger():
    shape, body = (6, 20, 40), ((0, 0, 0), (6, 20, 40))
    last = slabs(body, (10, 20, 8), 2) - 1
    assert slab(shape, body, (10, 20, 8), 2, 0, (0.0, 0.0, 0.0)) == ((0, 0, 0), (10, 20, 8))
    assert slab(shape, body, (10, 20, 8), 2, last, (1.0, 0.0, 0.0)) == ((-4, 0, 32), (6, 20, 40))
    assert slabs(body, (10, 20, 8), 0) == 1
    assert slab(shape, body, (10, 20, 8), 0, 0, (0.0, 0.0, 0.0))[0] == (-2, 0, 0)
