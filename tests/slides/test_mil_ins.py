import pytest
import torch
from slides.small_bags import batch, model
from torch.nn import functional as F

from medcl.errors import MedclError, TrainingFailed
from medcl.slides.mil.ins_terms import (
    candidates,
    counts_called,
    equal_shares,
    falling,
    follow,
    moved,
    own_key,
    same_class,
    start,
    uncalibrated,
)


def test_an_instance_may_be_negative_or_of_its_bags_class():
    assert candidates(torch.tensor([0, 2, 1]), 3).tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert start(candidates(torch.tensor([0, 2]), 3)).tolist() == [[1, 0, 0], [0.5, 0, 0.5]]


def test_prototypes_follow_the_rows_one_after_the_other():
    torch.manual_seed(0)
    prototypes, queries = F.normalize(torch.randn(3, 4), dim=1), torch.randn(7, 4)
    classes = torch.tensor([0, 2, 0, 0, 2, 2, 0])
    expected = prototypes.clone()
    for query, c in zip(queries, classes, strict=True):
        expected[c] = 0.9 * expected[c] + 0.1 * query
    found = follow(prototypes, queries, classes)
    torch.testing.assert_close(found, F.normalize(expected, dim=1))
    torch.testing.assert_close(found[1], prototypes[1])
    nobody = follow(torch.zeros(2, 4), queries, torch.zeros(7, dtype=torch.long))
    assert not nobody[1].any()  # and no nan


def test_soft_labels_move_to_the_nearest_prototype_that_the_bag_allows():
    labels = torch.tensor([[0.5, 0.0, 0.5], [0.6, 0.0, 0.4]])  # the second is of a negative bag
    scores = torch.tensor([[0.1, 0.8, 0.2], [0.1, 0.2, 0.7]])
    allowed = candidates(torch.tensor([2, 0]), 3)
    found = moved(labels, scores, allowed, 0.9)
    torch.testing.assert_close(found, torch.tensor([[0.45, 0.0, 0.55], [1.0, 0.0, 0.0]]))


def test_classes_weigh_alike_however_many_instances_they_have():
    label = torch.tensor([0, 0, 0, 2])
    shares = equal_shares(label, 4)
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0]))
    assert float(shares.mean()) == pytest.approx(1)


def test_contrast_leaves_out_places_of_the_queue_that_are_empty():
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(9, 4), dim=1)
    classes = torch.tensor([0, 1, 0, 0, 1, 0, 1, 0, 1])
    there = torch.ones(9, dtype=torch.bool)
    there[7:] = False
    found = same_class(rows, classes, there, 3, 0.2)
    expected = same_class(rows[:7], classes[:7], there[:7], 3, 0.2)
    torch.testing.assert_close(found, expected)
    moco = own_key(rows, there, 3, 0.2)
    torch.testing.assert_close(moco, own_key(rows[:7], there[:7], 3, 0.2))
    losses = []
    for i in range(3):
        similar = [float(rows[i] @ rows[j]) / 0.2 for j in (3 + i, 6)]
        losses.append(torch.tensor(similar).logsumexp(0) - similar[0])
    torch.testing.assert_close(moco, torch.stack(losses).mean())


def test_smoothing_falls_in_a_line():
    assert falling(0, 10, 0.95, 0.8) == 0.95
    assert falling(10, 10, 0.95, 0.8) == pytest.approx(0.8)


def test_a_classifier_that_tells_nothing_is_not_asked_for_pseudo_labels():
    assert uncalibrated(in_negative=0.9, in_positive=1.0) == "it tells nothing yet"
    assert uncalibrated(in_negative=0.0, in_positive=0.0) == "it finds no positive instance"
    assert uncalibrated(in_negative=0.02, in_positive=0.2) is None
    assert uncalibrated(in_negative=0.02, in_positive=1.0) is None  # every instance is positive
    counts = counts_called(torch.tensor([1, 0, 1, 1]) > 0, torch.tensor([0, 0, 1, 1]) > 0)
    assert counts.tolist() == [[1, 1], [0, 2]]


def step(aggregator, bags):
    loss, terms = aggregator(bags)
    loss.backward()
    aggregator.after_step()
    return terms


def biased(towards):
    """INS whose classifier calls everything by one class, whatever it sees."""
    aggregator = model("ins", classes=2)
    with torch.no_grad():
        aggregator.classifier.weight.zero_()
        aggregator.classifier.bias.copy_(torch.tensor([0.0, towards]))
    aggregator.begin(10, 100)
    return aggregator


@pytest.mark.parametrize(
    ("towards", "message"),
    [
        (5.0, "calls 100% .* positive and 100% .*: it tells nothing yet; raise `warm_steps`"),
        (-5.0, "calls 0% .*: it finds no positive instance"),
    ],
)
def test_pseudo_labels_do_not_start_from_a_blind_classifier(towards, message):
    aggregator, bags = biased(towards), batch(labels=(0, 1, 0, 1))
    step(aggregator, bags)
    with pytest.raises(TrainingFailed, match=message):
        step(aggregator, bags)


def seeing():
    """INS after its bag labels, whose classifier tells feature 0."""
    torch.manual_seed(0)
    aggregator = model("ins", classes=2, layers=0, view_dropout=0.0)
    with torch.no_grad():
        aggregator.encoder[0].weight.zero_()
        aggregator.encoder[0].weight[0, 0] = aggregator.encoder[0].weight[1, 1] = 1
        aggregator.encoder[0].bias.zero_()
        aggregator.classifier.weight.zero_()
        aggregator.classifier.weight[1, 0] = 5
        aggregator.classifier.bias.zero_()
    aggregator.begin(10, 100)
    bags = batch(lengths=(4, 4, 4, 4), labels=(0, 1, 0, 1))
    bags["features"][..., 0] = -1
    bags["features"][1, 0, 0] = bags["features"][3, 0, 0] = 1
    for _ in range(2):
        assert step(aggregator, bags)["bag_labels"] == 1
    return aggregator, bags


def test_bag_labels_are_taught_first_and_soft_labels_afterwards():
    aggregator, bags = seeing()
    assert (aggregator.labels == -1).all()
    terms = step(aggregator, bags)
    assert terms["bag_labels"] == 0
    assert float(terms["called_positive_in_negative_bags"]) == 0
    assert float(terms["called_positive_in_positive_bags"]) == pytest.approx(0.25)
    known = aggregator.labels[bags["instance"].flatten()].view(4, 4, 2)
    assert (known[bags["label"] == 0] == torch.tensor([1.0, 0.0])).all()
    # The first update: from one half each to 0.95 / 2, and 0.05 to the nearest prototype.
    torch.testing.assert_close(known[1].sort(1).values, torch.tensor([[0.475, 0.525]] * 4))
    assert (aggregator.labels[16:] == -1).all()  # instances that were not drawn


def test_what_a_step_leaves_is_used_by_the_next_and_not_by_itself():
    aggregator, bags = seeing()
    prototypes, keys = aggregator.prototypes.clone(), aggregator.queue.keys.clone()
    teacher = next(aggregator.teacher.parameters()).clone()
    loss, _ = aggregator(bags)
    torch.testing.assert_close(aggregator.prototypes, prototypes, rtol=0, atol=0)
    torch.testing.assert_close(aggregator.queue.keys, keys, rtol=0, atol=0)
    again, _ = aggregator(bags)
    torch.testing.assert_close(again, loss, rtol=0, atol=0)
    with torch.no_grad():
        aggregator.encoder[0].weight += 1
    aggregator.after_step()
    assert not torch.equal(aggregator.prototypes, prototypes)
    assert not torch.equal(aggregator.queue.keys, keys)
    followed = 0.999 * teacher + 0.001 * aggregator.encoder[0].weight.detach()
    torch.testing.assert_close(next(aggregator.teacher.parameters()), followed)


def test_soft_labels_are_saved_and_come_back_with_the_weights():
    aggregator, bags = seeing()
    step(aggregator, bags)
    fresh = model("ins", classes=2, layers=0)
    fresh.load_state_dict(aggregator.state_dict())
    torch.testing.assert_close(fresh.labels, aggregator.labels, rtol=0, atol=0)
    assert int(fresh.step) == 3


def test_a_training_too_short_for_pseudo_labels_is_refused():
    with pytest.raises(MedclError, match="2 steps, of which `warm_steps` 2 teach bag labels"):
        model("ins").begin(2, 10)
    with pytest.raises(MedclError, match="call `begin` first"):
        model("ins")(batch())


@pytest.mark.parametrize(("steps", "warm"), [(2, 1), (300, 150), (3000, 1000)])
def test_bag_labels_are_taught_for_half_of_the_steps_and_no_more_than_a_thousand(steps, warm):
    aggregator = model("ins", warm_steps=None)
    aggregator.begin(steps, 10)
    assert aggregator.warm_steps == warm


def test_no_gradient_reaches_keys_prototypes_or_soft_labels():
    aggregator, bags = seeing()
    loss, _ = aggregator(bags)
    loss.backward()
    assert all(p.grad is None for p in aggregator.teacher.parameters())
    assert all(p.grad is not None for p in aggregator.projector.parameters())
    assert not aggregator.prototypes.requires_grad
