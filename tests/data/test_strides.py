"""Crops fit the budget and what the body needs; strides fit the crop and the spacing."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcl.data.strides import (
    BOTTLENECK,
    BUDGET,
    check_divisible,
    check_strides,
    dividing_strides,
    fit_crop,
    natural_strides,
    nearest_crop,
    product,
    shrunk,
    thick_axis,
)
from medcl.errors import MedclError

ONE = (1.0, 1.0, 1.0)


def test_a_hippocampus_patch_gives_three_halvings():
    strides = natural_strides((36, 50, 37), ONE)
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert fit_crop((36, 50, 37), ONE, product(strides)) == (32, 48, 32)


def test_a_large_body_gives_a_crop_near_a_cube_in_mm():
    spacing = (1.0, 1.0, 5.0)
    needed = (300, 250, 100)
    strides = natural_strides(shrunk(needed, spacing), spacing)
    crop = fit_crop(needed, spacing, product(strides))
    sides = [n * mm for n, mm in zip(crop, spacing, strict=True)]
    assert max(sides) / min(sides) < 1.5
    assert math.prod(crop) <= BUDGET


def test_the_thick_axis_is_halved_only_when_the_others_are_half_as_long_at_least():
    strides = natural_strides((64, 64, 16), (1.0, 1.0, 5.0))
    # In-plane spacing is 1, 2, 4, 8 mm: 5 < 2 * 4 from the third halving on; then z has 10 mm.
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))


def test_a_small_axis_is_not_halved_below_the_bottleneck():
    assert natural_strides((40, 40, 7), ONE) == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1))
    assert natural_strides((5, 5, 5), ONE) == ((1, 1, 1), (1, 1, 1))


@given(
    needed=st.tuples(*[st.integers(1, 600)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 8)] * 3),
)
@settings(max_examples=200, deadline=None)
def test_every_derived_crop_is_valid(needed, spacing):
    strides = natural_strides(shrunk(needed, spacing), spacing)
    step = product(strides)
    crop = fit_crop(needed, spacing, step)
    assert 2 <= len(strides) <= 5
    assert strides[0] == (1, 1, 1)
    assert math.prod(crop) <= BUDGET
    for length, by, body in zip(crop, step, needed, strict=True):
        assert length % by == 0
        assert length <= math.ceil(body / by) * by
        assert by == 1 or length // by >= BOTTLENECK


def test_given_strides_give_a_crop_they_divide():
    crop = fit_crop((36, 50, 37), ONE, (16, 16, 1))
    assert [n % by for n, by in zip(crop, (16, 16, 1), strict=True)] == [0, 0, 0]


def test_a_given_crop_gives_strides_that_divide_it():
    assert dividing_strides((48, 40, 9), ONE) == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1))


def test_a_crop_that_cannot_be_halved_is_refused_with_the_nearest_valid_one():
    with pytest.raises(MedclError, match=r"\[33, 47, 31\].*nearest valid crop is \[32, 48, 32\]"):
        dividing_strides((33, 47, 31), ONE)


def test_a_crop_its_strides_do_not_divide_is_refused_with_the_nearest_valid_one():
    with pytest.raises(MedclError, match=r"\[30, 48, 33\] is not div.*\[8, 8, 4\].*\[32, 48, 32\]"):
        check_divisible((30, 48, 33), [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1)])
    check_divisible((32, 48, 32), [(1, 1, 1), (2, 2, 2)])
    assert nearest_crop((1, 12, 100), (8, 8, 8)) == (8, 16, 104)


@pytest.mark.parametrize(
    ("strides", "message"), [([(2, 2, 2)], "first level must be"), ([(1, 1, 1)], "no encoder")]
)
def test_strides_start_at_full_resolution_and_have_two_levels(strides, message):
    with pytest.raises(MedclError, match=message):
        check_strides(tuple(strides))


def test_slices_are_counted_along_the_thickest_voxels_and_upwards_otherwise():
    assert thick_axis((3.0, 1.0, 1.0)) == 0
    assert thick_axis((1.0, 1.0, 1.0)) == 2
    assert thick_axis((1.0, 2.0, 2.0)) == 2
