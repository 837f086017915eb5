import itertools

import numpy as np
import pytest

from medcl.segmentation.metrics import METRICS, class_metrics

ISOTROPIC = (1.0, 1.0, 1.0)


def scores(prediction, reference, spacing_mm=ISOTROPIC, tolerance_mm=1.0):
    """Values by metric of the one class `organ`."""
    rows = class_metrics(
        prediction, reference, spacing_mm, {"organ": 1}, nsd_tolerance_mm=tolerance_mm
    )
    assert [row.metric for row in rows] == list(METRICS)
    return {row.metric: row.value for row in rows}


def box(shape, start, stop):
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


def slow_faces(mask, spacing):
    """Centre (mm) and area (mm2) of each face between a voxel of the mask and one outside it."""
    faces = []
    for voxel in np.argwhere(mask):
        for axis, step in itertools.product(range(3), (-1, 1)):
            beyond = voxel.copy()
            beyond[axis] += step
            inside_image = all(0 <= b < n for b, n in zip(beyond, mask.shape, strict=True))
            if inside_image and mask[tuple(beyond)]:
                continue
            centre = (voxel + beyond) / 2 * np.array(spacing)
            area = np.prod([s for other, s in enumerate(spacing) if other != axis])
            faces.append((centre, float(area)))
    return faces


def slow_directed(faces, others):
    """(distance, area) of each face, nearest distance first."""
    return sorted(
        (min(float(np.linalg.norm(centre - other)) for other, _ in others), area)
        for centre, area in faces
    )


def slow_scores(prediction, reference, spacing, tolerance):
    voxel = np.prod(spacing)
    p, r = int(prediction.sum()), int(reference.sum())
    both = int(np.logical_and(prediction, reference).sum())
    predicted_faces, reference_faces = (
        slow_faces(prediction, spacing),
        slow_faces(reference, spacing),
    )
    directed = [
        slow_directed(predicted_faces, reference_faces),
        slow_directed(reference_faces, predicted_faces),
    ]
    total = sum(area for pairs in directed for _, area in pairs)
    percentiles = []
    for pairs in directed:
        needed = 0.95 * sum(area for _, area in pairs) - 1e-6
        reached = 0.0
        for distance, area in pairs:
            reached += area
            if reached >= needed:
                percentiles.append(distance)
                break
    return {
        "dice": 2 * both / (p + r),
        "iou": both / (p + r - both),
        "hd95_mm": max(percentiles),
        "nsd": sum(a for pairs in directed for d, a in pairs if d <= tolerance + 1e-6) / total,
        "assd_mm": sum(a * d for pairs in directed for d, a in pairs) / total,
        "reference_mm3": r * voxel,
        "predicted_mm3": p * voxel,
    }


def test_equal_masks_are_perfect():
    mask = box((9, 8, 7), (2, 2, 2), (6, 5, 4))
    assert scores(mask, mask, (1.0, 2.0, 3.0)) == {
        "dice": 1.0,
        "iou": 1.0,
        "hd95_mm": 0.0,
        "nsd": 1.0,
        "assd_mm": 0.0,
        "reference_mm3": 24 * 6.0,
        "predicted_mm3": 24 * 6.0,
    }


def test_two_neighbouring_voxels_have_the_distances_computed_by_hand():
    # Of the six faces of each: the shared one at 0, the far one at 1, four at (1/2, 1/2) aside.
    a, b = box((4, 3, 3), (1, 1, 1), (2, 2, 2)), box((4, 3, 3), (2, 1, 1), (3, 2, 2))
    got = scores(a, b, tolerance_mm=0.75)
    assert got["dice"] == 0
    assert got["iou"] == 0
    assert got["assd_mm"] == pytest.approx((4 * np.sqrt(0.5) + 1) / 6)
    assert got["hd95_mm"] == pytest.approx(1.0)
    assert got["nsd"] == pytest.approx(5 / 6)
    assert scores(a, b, tolerance_mm=0.5)["nsd"] == pytest.approx(1 / 6)
    assert scores(a, b, tolerance_mm=1.0)["nsd"] == pytest.approx(1.0)


def test_faces_weigh_by_their_area():
    # Two voxels of 1 x 1 x 4 mm side by side along x: 4 mm2 faces across x and y, 1 mm2 across z.
    a, b = box((4, 3, 3), (1, 1, 1), (2, 2, 2)), box((4, 3, 3), (2, 1, 1), (3, 2, 2))
    got = scores(a, b, (1.0, 1.0, 4.0), tolerance_mm=0.1)
    across_y, across_z, far = np.sqrt(0.5), 1.0, 1.0
    assert got["nsd"] == pytest.approx(4 / 18)
    assert got["assd_mm"] == pytest.approx((8 * across_y + 2 * across_z + 4 * far) / 18)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_cubes_shifted_by_one_voxel_are_one_spacing_apart(axis):
    spacing = (0.5, 1.0, 2.5)
    start = np.array([4, 4, 4])
    shifted = start + np.eye(3, dtype=int)[axis]
    a, b = box((20, 20, 20), start, start + 10), box((20, 20, 20), shifted, shifted + 10)
    got = scores(a, b, spacing)
    assert got["dice"] == pytest.approx(0.9)
    assert got["iou"] == pytest.approx(9 / 11)
    assert got["hd95_mm"] == pytest.approx(spacing[axis])


@pytest.mark.parametrize("spacing", [0.1, 0.6, 0.7, 1.1])
def test_a_shift_by_exactly_the_tolerance_is_within_it(spacing):
    a, b = box((12, 8, 8), (2, 2, 2), (6, 6, 6)), box((12, 8, 8), (5, 2, 2), (9, 6, 6))
    assert scores(a, b, (spacing,) * 3, tolerance_mm=round(3 * spacing, 6))["nsd"] == 1.0


@pytest.mark.parametrize("spacing", [0.1, 0.3, 0.7, 1.0])
def test_exactly_95_per_cent_of_the_surface_is_enough(spacing):
    reference = box((24, 16, 24), (1, 1, 1), (4, 12, 19))  # 570 faces
    prediction = reference.copy()
    prediction[15:22, 14, 22] = 1  # and 30 faces far away
    assert scores(prediction, reference, (spacing,) * 3)["hd95_mm"] == 0.0


def test_nested_cubes_are_their_margin_apart_and_agree_with_the_slow_loop():
    outer, inner = (
        box((14, 14, 14), (2, 2, 2), (12, 12, 12)),
        box((14, 14, 14), (4, 4, 4), (10, 10, 10)),
    )
    got = scores(inner, outer, tolerance_mm=2.0)
    # Every inner face is exactly 2 mm away; so are the 6 x 6 outer faces opposite each side.
    assert got["nsd"] == pytest.approx((216 + 216) / (216 + 600))
    assert scores(inner, outer, tolerance_mm=1.9)["nsd"] == 0.0  # no face is nearer than 2 mm
    assert got == pytest.approx(slow_scores(inner, outer, ISOTROPIC, 2.0))


@pytest.mark.parametrize("seed", range(6))
def test_random_masks_agree_with_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    spacing = tuple(float(s) for s in rng.uniform(0.4, 4.0, 3))
    prediction, reference = (
        (rng.random((6, 5, 7)) < share).astype(np.uint8) for share in rng.uniform(0.02, 0.6, 2)
    )
    got = scores(prediction, reference, spacing, tolerance_mm=1.5)
    assert got == pytest.approx(slow_scores(prediction, reference, spacing, 1.5))


def test_a_hole_has_a_surface():
    solid = box((9, 9, 9), (1, 1, 1), (8, 8, 8))
    hollow = solid.copy()
    hollow[4, 4, 4] = 0
    assert scores(hollow, solid, tolerance_mm=0.5)["nsd"] == pytest.approx(2 * 294 / (2 * 294 + 6))


def test_spheres_are_the_difference_of_their_radii_apart():
    grid = np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    large, small = ((radius <= r).astype(np.uint8) for r in (17, 12))
    got = scores(small, large, (0.8, 0.8, 0.8))
    assert got["assd_mm"] == pytest.approx(5 * 0.8, rel=0.05)
    assert got["hd95_mm"] == pytest.approx(5 * 0.8, rel=0.1)


def test_a_mask_at_the_edge_of_the_image_counts_as_the_same_mask_in_a_larger_image():
    rng = np.random.default_rng(3)
    a, b = ((rng.random((5, 4, 6)) < 0.5).astype(np.uint8) for _ in range(2))
    assert scores(np.pad(a, 3), np.pad(b, 3)) == pytest.approx(scores(a, b))


def test_exchanging_prediction_and_reference_changes_only_the_volumes():
    rng = np.random.default_rng(4)
    a, b = ((rng.random((6, 6, 6)) < share).astype(np.uint8) for share in (0.2, 0.7))
    one, other = scores(a, b), scores(b, a)
    assert one["reference_mm3"] == other["predicted_mm3"]
    for metric in METRICS[:5]:
        assert one[metric] == pytest.approx(other[metric])


def test_hd95_leaves_out_at_most_a_twentieth_of_the_surface():
    reference = box((30, 30, 30), (2, 2, 2), (12, 12, 12))  # 600 faces
    far_voxel = reference.copy()
    far_voxel[28, 28, 28] = 1  # 6 of 606 faces lie 27 mm away: under 5 per cent
    assert scores(far_voxel, reference)["hd95_mm"] == 0.0
    far_rod = reference.copy()
    far_rod[18:28, 28, 28] = 1  # 42 of 642 faces
    assert scores(far_rod, reference)["hd95_mm"] > 20


EMPTY = np.zeros((5, 5, 5), np.uint8)
VOXEL = box((5, 5, 5), (2, 2, 2), (3, 3, 3))


@pytest.mark.parametrize(
    ("prediction", "reference", "note", "overlap"),
    [
        (EMPTY, EMPTY, "both empty", None),
        (VOXEL, EMPTY, "reference empty", None),
        (EMPTY, VOXEL, "prediction empty", 0.0),
    ],
)
def test_empty_masks_follow_the_stated_rule(prediction, reference, note, overlap):
    rows = class_metrics(prediction, reference, (1.0, 1.0, 2.0), {"organ": 1}, nsd_tolerance_mm=1.0)
    by_metric = {row.metric: row for row in rows}
    assert [by_metric[name].value for name in ("dice", "iou", "nsd")] == [overlap] * 3
    assert by_metric["hd95_mm"].value is by_metric["assd_mm"].value is None
    assert {by_metric[name].note for name in METRICS[:5]} == {note}
    assert by_metric["reference_mm3"].value == 2.0 * reference.sum()
    assert by_metric["predicted_mm3"].value == 2.0 * prediction.sum()
    assert by_metric["predicted_mm3"].note == ""


def test_each_class_is_scored_by_its_own_value():
    reference = np.zeros((6, 6, 6), np.uint8)
    reference[:2], reference[4:] = 3, 7
    prediction = np.where(reference == 7, 7, 0).astype(np.uint8)
    rows = class_metrics(
        prediction, reference, ISOTROPIC, {"left": 3, "right": 7, "none": 9}, nsd_tolerance_mm=1.0
    )
    dice = {row.class_name: row.value for row in rows if row.metric == "dice"}
    assert dice == {"left": 0.0, "right": 1.0, "none": None}
