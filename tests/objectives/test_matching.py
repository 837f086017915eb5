"""Tables of matches: what the objectives do with them, and a run that is killed and resumed."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives.small import network

from medcl.config import Training
from medcl.data.store import Store, write_case, write_manifest
from medcl.errors import TrainingFailed
from medcl.objectives import build, matching
from medcl.objectives.matching import Matching, _starts
from medcl.training.devices import Place
from medcl.training.fit import fit
from medcl.training.pretext import PretextItems
from medcl.training.run import seeded
from medcl.views import matchers
from medcl.views.matchers import Matches

SIDE, SHIFT = 24, 4  # voxels; the second body's tissue lies this much further along the first axis
SETTINGS = Training(batch=2, learning_rate=1e-3, save_every_s=1e-6)
OPTIONS = {
    "dense": {"points": 8, "positives": "soft"},
    "alice": {"prototypes": 8, "hidden": 8, "width": 6, "heads": 2},
}


@pytest.fixture
def store(tmp_path):
    """Three subjects whose voxels say where they are; the second's is shifted."""
    entries = []
    for name, shift in (("a", 0), ("b", SHIFT), ("c", 1)):
        axes = [np.arange(SIDE, dtype=np.float32) for _ in range(3)]
        axes[0] = axes[0] - shift
        image = np.stack(np.meshgrid(*axes, indexing="ij")) / SIDE
        entries.append(write_case(tmp_path / "store", name, name, image, fill=[-9.0] * 3))
    return Store(write_manifest(tmp_path / "store", entries))


def described(images, voxels):
    """An embedding of the coordinates that the image holds there: unique, and of the tissue."""
    at = voxels[0].round().long()
    values = images[0][:, at[:, 0], at[:, 1], at[:, 2]].T
    return torch.cat([torch.sin(values), torch.cos(values)], -1)[None]


@pytest.mark.parametrize("size", [(24, 24, 24), (10, 8, 24)])
def test_the_nearest_embedding_finds_the_shifted_place_in_windows_of_any_size(store, size):
    table = Matching("nearest", 5)
    volumes = list(store)
    table.begin(8, volumes)
    plain = table.refresh(volumes, 0, size, described)
    places = np.random.default_rng(0).uniform(0.3, 0.6, (50, 3))
    np.testing.assert_array_equal(plain.own("b", places), places)
    found = table.refresh(volumes, 5, size, described)
    shift = np.array([SHIFT / SIDE, 0, 0])
    np.testing.assert_allclose(found.own("b", places), places + shift, atol=1.5 / SIDE)
    np.testing.assert_allclose(found.common("b", places + shift), places, atol=1.5 / SIDE)
    same = table.refresh(volumes, 7, size, lambda *_: pytest.fail("it was not due"))
    np.testing.assert_array_equal(same.shifts, found.shifts)


def test_the_table_is_part_of_the_state_and_plain_position_has_none(store):
    table = Matching("nearest", 5)
    table.begin(8, list(store))
    table.refresh(list(store), 5, (24, 24, 24), described)
    again = Matching("nearest", 5)
    again.begin(8, list(store))
    again.load_state_dict(table.state_dict())
    found = again.refresh(list(store), 6, (24, 24, 24), described)
    assert found.shifts.any()
    plain = Matching("position", 5)
    plain.begin(8, list(store))
    assert not plain.state_dict()
    assert plain.every is None
    registered = Matching("affine", 5)
    registered.begin(8, list(store))
    assert registered.every is None


@pytest.mark.parametrize(("steps", "every"), [(40, 10), (3, 1), (300, 75), (9000, 500)])
def test_without_a_number_a_search_comes_every_quarter_of_the_steps(store, steps, every):
    objective = build(
        {"name": "dense", "points": 8, "matcher": "nearest"},
        channels(),
        crop=(8, 8, 8),
        spacing=(1, 1, 1),
    )
    objective.begin(steps, list(store))
    assert objective.refresh_every == every < steps
    assert objective.remarks() == [f"matcher nearest: by plain position up to step {every}"]


def test_a_search_that_would_never_come_is_refused_with_one_that_would(store):
    options = {"name": "alice", "matcher": "nearest", "refresh_every": 8, **OPTIONS["alice"]}
    objective = build(options, channels(), crop=(8, 8, 8), spacing=(1, 1, 1))
    with pytest.raises(TrainingFailed, match=r"refresh_every: 8, .* 8 steps.*\(then 2\)"):
        objective.begin(8, list(store))
    objective.begin(9, list(store))
    assert objective.refresh_every == 8


def test_registrations_that_are_not_believed_are_counted_and_said(store, monkeypatch, capsys):
    """Of two bodies registered to the third, one is not believed and stays as it is."""
    real = matchers._registered
    monkeypatch.setattr(
        matchers, "_registered", lambda one, two: None if two.case == "c" else real(one, two)
    )
    table, volumes = Matching("affine"), list(store)
    table.begin(8, volumes)
    table.refresh(volumes, 0, (8, 8, 8), described)
    assert matchers.reference_of(volumes).case == "a"
    (said,) = table.remarks()
    assert said.startswith("matcher affine: 1 of 2 pool cases were registered")
    assert capsys.readouterr().out.strip() == said
    resumed = Matching("affine")
    resumed.begin(8, volumes)
    resumed.load_state_dict(table.state_dict())
    assert resumed.remarks() == [said]


def shifted(cases, shift):
    """Matches that say that every case but the first lies `shift` further along the first axis."""
    table = np.zeros((len(cases), 2, 2, 2, 2, 3))
    table[1:, 0, ..., 0], table[1:, 1, ..., 0] = shift, -shift
    return Matches({case: row for row, case in enumerate(cases)}, table)


def test_windows_and_soft_places_of_dense_follow_the_matches(store):
    objective = build({"name": "dense", "points": 8}, channels(), crop=(8, 8, 8), spacing=(1, 1, 1))
    still = replace(objective.views, place=(0.5, 0.5, 0.5), matches=shifted(store.cases, 0.25))
    items = [
        still.crop((store[case],), np.random.default_rng(0)) for case in ("a", "b")
    ]  # the same draws
    moved = items[1]["centres"] - items[0]["centres"]
    assert torch.equal(moved, torch.tensor([[6.0, 0, 0]] * 2))
    torch.testing.assert_close(items[0]["places"], items[1]["places"])


def test_alice_crops_where_the_centre_of_the_first_crop_matches(store):
    objective = build(
        {"name": "alice", **OPTIONS["alice"]}, channels(), crop=(8, 8, 8), spacing=(1, 1, 1)
    )
    views = replace(objective.views, matches=shifted(store.cases, SHIFT / SIDE))
    checked = 0
    for seed in range(6):
        one, two = views.crop((store["a"], store["b"]), np.random.default_rng(seed))["crops"]
        if float(one[0].max()) < (SIDE - SHIFT - 1) / SIDE:  # its match lies in the volume
            torch.testing.assert_close(one, two, rtol=0, atol=1e-3)
            checked += 1
    assert checked > 2


def channels():
    torch.manual_seed(0)
    return type(network())(3, [(1, 1, 1), (2, 2, 2)], 2, width=4)


class Killed(PretextItems):
    """Ask the run to stop after some batches."""

    def augment(self, batch, rng):
        KILL["left"] -= 1
        if KILL["left"] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().augment(batch, rng)


KILL = {"left": -1}


def train(store, work, name, matcher, kill=-1):
    KILL["left"] = kill
    options = {"name": name, "matcher": matcher, "refresh_every": 3, **OPTIONS[name]}
    with seeded(0):
        objective = build(options, channels(), crop=(8, 8, 8), spacing=(1.0, 1.0, 1.0))
    objective.begin(7, list(store))
    items = Killed(store, store.cases, objective.views)
    place = Place(torch.device("cpu"))
    fitted = fit(objective, items, SETTINGS, steps=7, seed=1, place=place, work=work, what="test")
    return objective, [row["loss"] for row in fitted.progress.rows]


@pytest.mark.parametrize(
    ("name", "matcher", "kill"),
    [
        ("dense", "nearest", 3),
        ("dense", "nearest", 5),
        ("dense", "affine", 2),
        ("alice", "nearest", 4),
    ],
)  # killed where the table is due, and where it is not
def test_a_resumed_run_with_a_table_ends_where_an_uninterrupted_one_does(
    store, tmp_path, monkeypatch, name, matcher, kill
):
    monkeypatch.setattr(matching, "FINE", 12)
    real = Matching._nearest  # an untrained network would find nothing that moves a window
    monkeypatch.setattr(Matching, "_nearest", lambda *args: real(*args[:3], described))
    whole, losses = train(store, tmp_path / "whole", name, matcher)
    with pytest.raises(SystemExit):
        train(store, tmp_path / "killed", name, matcher, kill)
    resumed, again = train(store, tmp_path / "killed", name, matcher)
    assert losses == again
    _, plain = train(store, tmp_path / "plain", name, "position")
    assert losses[-1] != plain[-1]
    assert whole.matching.shifts.any()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert np.array_equal(whole.views.matches.shifts, resumed.views.matches.shifts)


def test_windows_cover_the_body_and_stay_in_the_volume():
    for length, low, high, side in ((30, 5, 25, 8), (30, 5, 25, 40), (30, 0, 30, 10), (9, 2, 4, 8)):
        starts = _starts(length, low, high, side)
        covered = {voxel for start in starts for voxel in range(start, start + side)}
        assert set(range(low, high)) <= covered
        if side <= length:
            assert min(starts) >= 0
            assert max(starts) + side <= length
    assert len(_starts(30, 0, 30, 10)) == 3
