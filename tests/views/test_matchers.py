import numpy as np
import pytest
from scipy.special import expit

from medcl.data.store import Store, write_case, write_manifest
from medcl.views.matchers import (
    NODES,
    POSITION,
    Matches,
    affine_shifts,
    centred_box,
    nearest_shifts,
    nodes,
    reference_of,
)

SHAPE = (40, 48, 36)


def torso(places):
    """Intensity at places of a body: an ellipsoid with three organs; 0..1 along each axis."""

    def blob(centre, size, value):
        distance = (((places - np.array(centre)) / np.array(size)) ** 2).sum(-1)
        return value * expit(12 * (1 - distance))

    return (
        blob((0.5, 0.5, 0.5), (0.38, 0.33, 0.4), 1.0)
        + blob((0.35, 0.45, 0.6), (0.13, 0.12, 0.15), 1.5)
        + blob((0.66, 0.55, 0.4), (0.09, 0.15, 0.1), -0.7)
        + blob((0.5, 0.35, 0.3), (0.08, 0.06, 0.12), 2.0)
    )


def volumes(folder, moved=lambda places: places):
    """A body, and another in which each place of the first is found at `moved` of it."""
    grid = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in SHAPE), indexing="ij"), -1)
    start = np.array(moved(np.zeros(3)))
    linear = np.stack([moved(row) - start for row in np.eye(3)], 1)
    back = np.linalg.solve(linear, (grid - start).reshape(-1, 3).T).T.reshape(grid.shape)
    entries = [
        write_case(folder, name, name, torso(places)[None].astype(np.float32))
        for name, places in (("a", grid), ("b", back))
    ]
    store = Store(write_manifest(folder, entries))
    return store["a"], store["b"]


def turned(places):
    """Shifted by up to 4 voxels, a fifth larger along one axis, and turned by 6 degrees."""
    angle = np.deg2rad(6)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    linear = turn @ np.diag([1.2, 0.95, 1.0])
    return (places - 0.5) @ linear.T + 0.5 + np.array([0.06, -0.08, 0.05])


def inner(count=200):
    return np.random.default_rng(0).uniform(0.3, 0.7, (count, 3))


def test_registration_brings_the_places_of_a_moved_body_within_a_voxel(tmp_path):
    first, second = volumes(tmp_path, turned)
    matches = Matches(
        {"a": 0, "b": 1}, np.stack([affine_shifts(first, v) for v in (first, second)])
    )
    places = inner()
    before = np.abs((turned(places) - places) * SHAPE).max(0)
    after = np.abs((matches.own("b", places) - turned(places)) * SHAPE).max(0)
    assert (before > 3).any()
    assert (after < 1).all()
    np.testing.assert_allclose(matches.common("b", matches.own("b", places)), places, atol=0.01)
    np.testing.assert_array_equal(matches.own("a", places), places)


def test_registration_is_the_same_every_time(tmp_path):
    first, second = volumes(tmp_path, turned)
    assert np.array_equal(affine_shifts(first, second), affine_shifts(first, second))


def test_a_body_that_cannot_be_registered_matches_by_position(tmp_path):
    flat = np.ones((1, *SHAPE), np.float32)
    store = Store(write_manifest(tmp_path, [write_case(tmp_path, n, n, flat) for n in "ab"]))
    assert not affine_shifts(store["a"], store["b"]).any()


def test_plain_position_leaves_places_as_they_are():
    places = inner(3)
    assert POSITION.own("anything", places) is places
    assert POSITION.common("anything", places) is places


def test_shifts_are_interpolated_between_the_nodes_and_kept_beyond_them():
    linear = nodes(3).reshape(3, 3, 3, 3) * np.array([0.1, 0.2, -0.3])
    matches = Matches({"c": 0}, np.stack([linear, -linear])[None])
    places = np.array([[0.25, 0.5, 0.9], [1.5, -1.0, 0.5]])
    expected = places + np.clip(places, 0, 1) * [0.1, 0.2, -0.3]
    np.testing.assert_allclose(matches.own("c", places), expected)
    np.testing.assert_allclose(matches.own("c", places[0]), expected[0])
    np.testing.assert_allclose(matches.common("c", places), 2 * places - expected)


def waves(places):
    """An embedding no two places share, of length 1."""
    angles = places * np.array([1.4, 1.1, 1.2])
    parts = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    return parts / np.linalg.norm(parts, axis=-1, keepdims=True)


def test_the_nearest_embedding_is_found_where_it_is_unique():
    """Every place of the first body lies 0.1 further along one axis in the second."""
    shift = np.array([0.1, 0.0, -0.05])
    at, fine = nodes(NODES["nearest"]), nodes(24)
    shown = (np.ones(len(at), bool), np.ones(len(fine), bool))
    found = nearest_shifts((at, fine), (waves(at), waves(fine - shift)), shown)
    matches = Matches({"c": 0}, np.stack([found, -found])[None])
    places = inner()
    np.testing.assert_allclose(matches.own("c", places), places + shift, atol=0.5 / 23 + 1e-6)


def test_air_matches_nothing_and_follows_its_neighbours():
    at, fine = nodes(NODES["nearest"]), nodes(24)
    air = at[:, 0] < 0.5
    embedded = waves(at)
    embedded[air] = waves(np.array([[0.9, 0.9, 0.9]]))
    everything = np.ones(len(fine), bool)
    found = nearest_shifts((at, fine), (embedded, waves(fine)), (~air, everything))
    assert np.abs(found).max() < 0.05
    wrong = nearest_shifts((at, fine), (embedded, waves(fine)), (np.ones_like(air), everything))
    assert np.abs(wrong).max() > 0.2
    nothing = nearest_shifts((at, fine), (embedded, waves(fine)), (~air, ~everything))
    assert not nothing.any()


def test_the_reference_has_the_most_usual_body(tmp_path):
    sides = {"a": 10, "b": 30, "c": 14, "d": 15, "e": 8}
    entries = [
        write_case(tmp_path, n, n, np.zeros((1, s, s, 12), np.float32)) for n, s in sides.items()
    ]
    store = Store(write_manifest(tmp_path, entries))
    assert reference_of(list(store)).case == "c"


@pytest.mark.parametrize(
    ("place", "corner"), [((0.5, 0.5, 0.5), (8, 4, 6)), ((0, 1, 1), (0, 8, 12))]
)
def test_a_box_is_centred_on_its_place_and_stays_in_the_volume(tmp_path, place, corner):
    body = ((4, 4, 0), (20, 12, 20))
    entry = write_case(tmp_path, "c", "c", np.zeros((1, 24, 20, 20), np.float32), body=body)
    volume = Store(write_manifest(tmp_path, [entry]))["c"]
    low, high = centred_box(volume, (8, 8, 8), place)
    assert low == corner
    assert tuple(np.subtract(high, low)) == (8, 8, 8)
