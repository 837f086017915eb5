import pytest
import torch
from objectives.small import batch_of, cohort, network

from medcl.errors import MedclError
from medcl.objectives.dense import Dense
from medcl.objectives.global_contrast import GlobalContrast
from medcl.objectives.hybrid import Hybrid
from medcl.objectives.mae import MAE
from medcl.training.fit import cached_backward

CROP = (8, 8, 8)
WEIGHTS = {"mae": 0.5, "dense": 2.0, "global_contrast": 0.25}


def small(**options):
    torch.manual_seed(0)
    return Hybrid(network(), **{"points": 6, "partitions": 2, "crop": CROP, **WEIGHTS, **options})


def alone(objective, kind, name, **options):
    """A part built by itself, with the weights it has in the whole."""
    part = kind(network(), crop=CROP, **options)
    heads = objective.heads[name].state_dict()
    own = {f"network.{key}": value for key, value in objective.network.state_dict().items()}
    part.load_state_dict(own | heads)
    return part


def part_of(batch, name):
    return {k.partition(".")[2]: v for k, v in batch.items() if k.startswith(f"{name}.")}


def gradients(module):
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_the_weighted_sum_of_the_parts_alone(tmp_path):
    objective = small()
    batch = batch_of(objective, cohort(tmp_path), items=2)
    loss, terms = objective(batch)
    loss.backward()
    parts = {
        "mae": alone(objective, MAE, "mae"),
        "dense": alone(objective, Dense, "dense", points=6),
        "global_contrast": alone(objective, GlobalContrast, "global_contrast", partitions=2),
    }
    total, chance, expected = 0.0, 0.0, {}
    for name, part in parts.items():
        own, found = part(part_of(batch, name))
        (WEIGHTS[name] * own).backward()
        total += WEIGHTS[name] * float(own.detach())
        chance += WEIGHTS[name] * float(found["chance"])
        assert float(terms[name]) == pytest.approx(float(own.detach()), rel=1e-5)
        for key, gradient in gradients(part.network).items():
            expected[key] = expected.get(key, 0) + gradient
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
    assert float(terms["chance"]) == pytest.approx(chance, rel=1e-5)
    assert {name.partition(".")[0] for name in expected} == {"down", "up", "merge"}
    for key, gradient in gradients(objective.network).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-3, atol=1e-6)
    assert expected.keys() == gradients(objective.network).keys()


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_part_of_weight_0_reads_computes_and_keeps_nothing(tmp_path, name):
    objective = small(**{name: 0.0})
    batch = batch_of(objective, cohort(tmp_path), items=2)
    assert not part_of(batch, name)
    assert name not in objective.heads
    loss, terms = objective(batch)
    loss.backward()
    assert not any(key.startswith(name) for key in terms)
    # Only the whole U-Net's objectives train the decoder.
    assert any(n.startswith("up.") for n in gradients(objective.network))


def test_global_contrast_alone_trains_the_encoder_alone(tmp_path):
    objective = small(mae=0.0, dense=0.0)
    loss, _ = objective(batch_of(objective, cohort(tmp_path), items=2))
    loss.backward()
    assert objective.trained == ("down.",)
    assert {n.partition(".")[0] for n in gradients(objective.network)} == {"down"}
    with pytest.raises(MedclError, match="all weights are 0"):
        small(mae=0.0, dense=0.0, global_contrast=0.0)


def test_the_network_is_saved_once_and_every_head_too():
    objective = small()
    names = list(objective.state_dict())
    assert sum(name.endswith("down.0.0.0.weight") for name in names) == 1
    tensors = [p.data_ptr() for p in objective.parameters()]
    assert len(tensors) == len(set(tensors)) == len(list(objective.named_parameters()))
    assert {n.split(".")[1] for n in names if n.startswith("heads.")} == set(WEIGHTS)


def test_gradients_in_parts_equal_those_of_the_whole_batch(tmp_path):
    objective = small().double()
    batch = batch_of(objective, cohort(tmp_path), items=3)
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    objective(batch)[0].backward()
    whole = {name: value.clone() for name, value in gradients(objective).items()}
    objective.zero_grad()
    cached_backward(objective, batch, 3)
    for name, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-7, atol=1e-10)


def test_all_items_of_a_step_contrast_points_at_one_place(tmp_path):
    """The part's own rule for a step holds in the whole."""
    batch = batch_of(small(), cohort(tmp_path))
    place = batch["dense.centres"].mean(1) / batch["dense.body"]
    assert float(place.std(0).max()) < 0.1
    assert len(set(batch["dense.subject"].tolist())) == 4
