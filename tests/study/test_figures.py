"""Drawing: logs made short, and slices of cases with their outlines."""

import re

import numpy as np

from medcl.data.volume import Volume
from medcl.study import figures, overlays
from medcl.study.report_figures import worst_and_best


def test_long_logs_are_drawn_by_block_means_and_gaps_are_left_out():
    x, y, mean = figures.smoothed(range(1, 1001), [1.0] * 500 + [np.nan] * 100 + [3.0] * 400)
    assert len(x) <= 300
    assert y[0] == 1.0
    assert y[-1] == 3.0
    assert mean[len(mean) // 4] == 1.0
    assert [len(part) for part in figures.smoothed([], [])] == [0, 0, 0]


def volume_of(array, spacing=(1.0, 1.0, 1.0)):
    return Volume(np.asarray(array)[None], np.diag([*spacing, 1.0]))


def test_the_slice_with_the_largest_reference_area_is_shown_right_side_left():
    reference = np.zeros((6, 5, 4), np.uint8)
    reference[4, 1, 2] = reference[4, 2, 2] = 1
    reference[1, 1, 0] = 1
    image = np.zeros((6, 5, 4), np.float32)
    image[4, 2, 2] = 7.0
    found = overlays.cut(volume_of(image), volume_of(reference), [volume_of(reference)])
    assert found.plane == "axial"
    assert found.reference.shape == (5, 6)
    # x = 4 of 6 towards the patient's right is column 1 from the left, y = 2 of 5 is row 2
    assert found.image[2, 1] == 7.0
    assert [tuple(index) for index in np.argwhere(found.reference)] == [(2, 1), (3, 1)]


def test_the_slice_lies_across_the_coarsest_axis():
    assert overlays.through_plane((1.0, 3.0, 1.0)) == 1
    assert overlays.through_plane((0.8, 1.0, 1.0)) == 2
    assert overlays.through_plane((1.0, 1.4, 1.0)) == 2


def test_the_slice_is_cropped_to_what_is_outlined():
    reference = np.zeros((100, 100, 2), np.uint8)
    reference[50, 60, 1] = 1
    found = overlays.cut(*[volume_of(reference.astype(np.float32)), volume_of(reference), []])
    assert found.reference.shape == (41, 41)
    assert found.reference[20, 20] == 1


def test_an_outline_runs_around_its_region_in_mm():
    label = np.zeros((4, 4), np.int64)
    label[1:3, 2] = 1
    numbers = np.array(re.findall(r"[\d.]+", overlays.outline(label, (2.0, 1.0))), dtype=float)
    x, y = numbers[0::2], numbers[1::2]
    # voxel column 2 spans 2 to 3 mm, rows 1 and 2 span 2 to 6 mm; the contour lies half way
    assert (x.min(), x.max(), y.min(), y.max()) == (2.0, 3.0, 2.0, 6.0)


def test_worst_and_best_cases_never_overlap():
    values = {"a": 0.5, "b": 0.1, "c": 0.9, "d": float("nan")}
    assert worst_and_best(values, 1) == [("worst", "b"), ("best", "c")]
    assert worst_and_best(values, 2) == [("worst", "b"), ("worst", "a"), ("best", "c")]
