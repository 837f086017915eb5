"""Drawing: logs made short, and slices of cases with their outlines."""

import io
import itertools
import re

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread

from medcl.data.volume import Volume
from medcl.study import figures, overlays
from medcl.study.drawing import render, shade
from medcl.study.figures import Point, Row
from medcl.study.report_overlays import worst_and_best


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


def axes_of(drawing):
    """The axes a figure is drawn on."""
    axes = Figure().add_subplot()
    drawing.draw(axes)
    return axes


def test_a_forest_has_a_line_per_class_and_arm_with_its_interval():
    rows = [
        Row("liver, voco", 1, Point(1, 2.0, 1.0, 3.0), "liver"),
        Row("liver, mae", 2, Point(1, -1.0, -4.0, 2.0), "liver"),
        Row("spleen, voco", 1, Point(1, 5.0), "spleen"),  # too few replicates for an interval
    ]
    axes = axes_of(figures.forest(rows, "x", title="1 labelled", quantity="Dice"))
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.label for row in rows]
    assert list(axes.get_yticks()) == [0.0, 1.0, 2.5]  # classes stand apart
    bars = [line for group in axes.collections for line in group.get_segments()]
    ends = [(bar[0][0], bar[1][0]) for bar in bars if len(bar) and np.isfinite(bar).all()]
    assert ends == [(1.0, 3.0), (-4.0, 2.0)]


def test_costs_stand_at_their_seconds_with_the_label_count_beside_them():
    curves = {
        "scratch": [Point(1, 50.0, seconds=60.0), Point(4, 60.0, seconds=90.0)],
        "voco": [Point(1, 55.0, seconds=660.0), Point(4, 61.0)],  # a pretraining that failed
    }
    numbers = {"scratch": 0, "voco": 1}
    axes = axes_of(figures.costs(curves, "x", quantity="Dice (points)", numbers=numbers))
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {"scratch": [[60.0, 50.0], [90.0, 60.0]], "voco": [[660.0, 55.0]]}
    assert [text.get_text() for text in axes.texts] == ["1", "4", "1"]


def test_the_bound_is_a_line_in_the_colour_of_its_arm():
    curves = {"scratch": [Point(1, 50.0), Point(2, 55.0)], "voco": [Point(1, 52.0), Point(2, 56.0)]}
    axes = axes_of(
        figures.learning_curves(
            curves,
            "x",
            {1: 2, 2: 2},
            quantity="Dice",
            bounds={"voco": 80.0},
            numbers={"scratch": 0, "voco": 1},
        )
    )
    (line,) = [line for line in axes.lines if line.get_label() == "voco, all labels"]
    assert list(line.get_ydata()) == [80.0, 80.0]
    assert line.get_color() == figures.colour(1)


def test_a_png_has_a_white_ground_and_no_time_or_program_in_it():
    curves = {"voco": [Point(1, 2.0, 1.0, 3.0), Point(4, 3.0, 2.0, 4.0)]}
    drawing = figures.gains(curves, "x", quantity="Dice (points)", numbers={"voco": 1})
    data = render(drawing, "png")
    assert imread(io.BytesIO(data))[0, 0].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert b"Software" not in data
    assert data == drawing.png()


def test_the_png_of_an_overlay_shows_both_outlines():
    reference = np.zeros((20, 20, 1), np.uint8)
    reference[5:10, 5:10] = 1
    predicted = np.roll(reference, 6, axis=0)
    volumes = [volume_of(reference.astype(np.float32)), volume_of(reference)]
    found = overlays.cut(*volumes, [volume_of(predicted)])
    pixels = imread(io.BytesIO(overlays.overlay_png(found, 0)))[..., :3]

    def share(colour):
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return (np.abs(pixels - wanted).max(axis=-1) < 0.02).mean()

    assert 0.001 < share(overlays.REFERENCE) < 0.1
    assert 0.001 < share(overlays.PREDICTION) < 0.1


def test_round_times_reach_beyond_the_costs_on_both_sides():
    assert figures.time_ticks([42.0, 254.0]) == [30.0, 60.0, 120.0, 300.0]
    labels = [figures.time_label(t) for t in (30.0, 60.0, 300.0, 7200.0, 36000.0)]
    assert labels == ["30 s", "1 min", "5 min", "2 h", "10 h"]
    many = figures.time_ticks([1.0, 400_000.0])
    assert len(many) <= 8
    assert many[0] <= 1.0
    assert many[-1] >= 400_000.0


def test_an_arm_keeps_its_colour_where_another_one_is_missing():
    curves = {"mae": [Point(1, 2.0, 1.0, 3.0)]}
    axes = axes_of(figures.gains(curves, "x", quantity="Dice", numbers={"voco": 1, "mae": 2}))
    assert axes.containers[0].lines[0].get_color() == figures.colour(2)


def test_the_seeds_of_an_arm_are_shades_of_its_colour_and_no_other_arms():
    shades = [shade(1, place, 3) for place in range(3)]
    assert shades[0] == figures.colour(1)
    assert len(set(shades)) == 3
    assert not set(shades[1:]) & {figures.colour(number) for number in range(7)}


def test_arms_of_one_label_count_stand_nearer_than_the_next_label_count():
    for counts in ([1, 2, 4], [1, 2, 32], [4, 5]):
        for arms in (2, 8):
            wide = figures._apart(counts, arms) * (arms - 1)
            assert wide <= 0.5 * min(np.log2(b / a) for a, b in itertools.pairwise(counts))
