"""What every objective logs, so that a collapse and a run at chance are seen."""

import math

import pytest
import torch
from objectives.small import OPTIONS, batch_of, cohort, network

from medcl.objectives import OBJECTIVES, build
from medcl.training.diagnosis import diagnose

COLLAPSE = {"spread", "uniformity", "effective_rank"}
PAIRS = {"alignment", "positive_cosine", "negative_cosine"}
WITHOUT_PAIRS = {"mae"}
WITHOUT_CHANCE = {"sepclr"}  # its text says why
RECTIFIED = {"voco", "lesion_patches"}  # logits that may die
CASES = [(name, given) for name in OBJECTIVES for given in OPTIONS[name]]


def made(name, given, folder):
    torch.manual_seed(0)
    options = {"name": name, **given}
    objective = build(options, network(), crop=(8, 8, 8), spacing=(1.0, 1.0, 1.0))
    return objective, batch_of(objective, cohort(folder))


@pytest.mark.parametrize(("name", "given"), CASES, ids=[name for name, _ in CASES])
def test_every_objective_logs_what_shows_a_collapse_and_its_chance_level(name, given, tmp_path):
    objective, batch = made(name, given, tmp_path)
    _, terms = objective(batch)
    expected = set(COLLAPSE)
    expected |= set() if name in WITHOUT_PAIRS else PAIRS
    expected |= set() if name in WITHOUT_CHANCE else {"chance"}
    expected |= {"zero_logits"} if name in RECTIFIED else set()
    assert expected <= set(terms)
    assert ("chance" in terms) == (name not in WITHOUT_CHANCE)
    assert set(objective.compared_with_chance) <= {"loss", *terms}
    for value in terms.values():
        number = torch.as_tensor(value)
        assert number.ndim == 0
        assert not number.requires_grad
        assert math.isfinite(float(number))


@pytest.mark.parametrize(("name", "given"), CASES, ids=[name for name, _ in CASES])
def test_equal_embeddings_are_seen_to_have_collapsed(name, given, tmp_path):
    objective, batch = made(name, given, tmp_path)
    with torch.no_grad():
        embeddings = objective.embed(batch)
        equal = {k: torch.ones_like(v) for k, v in embeddings.items()}
        _, spread = objective.compare(embeddings, batch)
        _, terms = objective.compare(equal, batch)
    starts_collapsed = given.get("variant") == "nnssl"  # VoCo's text says why
    assert starts_collapsed or float(spread["spread"]) > 0.05
    assert float(terms["spread"]) < 1e-3
    numbers = {key: float(value) for key, value in terms.items()}
    assert "collapsed" in " ".join(diagnose([{"loss": 1.0, **numbers}] * 3, ["loss"]))
    assert float(terms["uniformity"]) == pytest.approx(0, abs=1e-3)
    if name not in WITHOUT_PAIRS:
        assert float(terms["positive_cosine"]) == pytest.approx(1, abs=1e-3)
        assert float(terms["alignment"]) == pytest.approx(0, abs=2e-3)
        if name != "voco":  # nearly every crop of 2 cells along each axis touches all cells
            assert float(terms["negative_cosine"]) == pytest.approx(1, abs=1e-3)
        assert starts_collapsed or float(spread["negative_cosine"]) < 0.999
