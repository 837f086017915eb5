import numpy as np
import pytest
import torch
from slides.small_bags import stored

from medcl.errors import MedclError
from medcl.slides.mil.bags import Bags, balanced_weights
from medcl.training.sampler import Items, common_rng, loader


def bags(lengths=(3, 9, 5, 4, 6), labels=(0, 1, 0, 0, 0), **options):
    """Feature 0 of an instance is its number among all instances, feature 1 that of its bag."""
    first, arrays = 0, {}
    for number, length in enumerate(lengths):
        rows = np.stack([np.arange(first, first + length), np.full(length, number)], 1)
        arrays[str(number)] = rows
        first += length
    return Bags(list(arrays), list(labels), stored(arrays), **options)


def batches(items, steps=4, batch=4, first=0):
    return list(loader(items, seed=5, first=first, steps=steps, batch=batch))


def test_bags_are_training_items_and_drawn_alike_after_a_resume():
    items = bags(cap=4)
    assert isinstance(items, Items)
    whole_run, rest = batches(items), batches(items, first=2)
    for one, other in zip(whole_run[2:], rest, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(whole_run[0]["instance"], whole_run[1]["instance"])


def test_a_bag_is_cut_at_the_cap_without_drawing_an_instance_twice():
    drawn = set()
    for batch in batches(bags(cap=4), steps=40):
        for features, mask, instance in zip(
            batch["features"], batch["mask"], batch["instance"], strict=True
        ):
            numbers = instance[mask].tolist()
            assert len(set(numbers)) == len(numbers) == min(4, len(numbers))
            assert features[mask, 0].tolist() == numbers
            assert (instance[~mask] == -1).all()
            drawn.update(numbers)
    assert drawn == set(range(27))  # every instance has its turn


def test_a_bag_with_no_more_instances_than_the_cap_comes_whole():
    for batch in batches(bags(cap=100), steps=10):
        lengths = torch.tensor([3, 9, 5, 4, 6])
        of_bag = batch["features"][:, 0, 1].long()
        assert torch.equal(batch["mask"].sum(1), lengths[of_bag])


def test_the_bags_of_a_step_differ_and_all_come():
    seen = [batch["features"][:, 0, 1].tolist() for batch in batches(bags(), steps=40)]
    assert all(len(set(step)) == 4 for step in seen)
    assert {bag for step in seen for bag in step} == {0, 1, 2, 3, 4}


def test_a_balanced_batch_holds_every_class_equally_often():
    for batch in batches(bags(balanced=True), steps=10):
        assert batch["label"].tolist().count(1) == 2
        negative = batch["features"][batch["label"] == 0, 0, 1].tolist()
        assert len(set(negative)) == 2  # another bag of the class as long as there is one
    odd = [batch["label"].sum().item() for batch in batches(bags(balanced=True), 40, batch=3)]
    assert set(odd) == {1, 2}


def test_a_batch_is_cut_to_its_longest_bag():
    items = bags()
    batch = next(iter(batches(items, steps=1)))
    assert batch["features"].shape[1] == 9  # one length for the loader, whatever was drawn
    short = items.augment(batch, torch.Generator())
    assert short["features"].shape[1] == int(batch["mask"].sum(1).max())
    assert short["mask"].shape == short["instance"].shape == short["features"].shape[:2]
    assert torch.equal(short["label"], batch["label"])


def test_a_place_of_a_step_is_the_same_for_all_that_ask():
    items = bags()
    again = [items.for_step(common_rng(1, 2), 3).number for _ in range(2)]
    assert again[0] == again[1]


def test_bags_that_cannot_be_trained_on_are_named():
    with pytest.raises(MedclError, match="bags without an instance: 1"):
        bags(lengths=(3, 0), labels=(0, 1))
    with pytest.raises(MedclError, match="2 bags, but 1 labels"):
        bags(lengths=(3, 2), labels=(0,))
    with pytest.raises(MedclError, match="no bag to train on"):
        bags(lengths=(), labels=())


def test_weights_of_classes_make_them_count_alike():
    labels = [0, 0, 0, 1]
    weights = balanced_weights(labels, 2)
    assert weights == pytest.approx([2 / 3, 2.0])
    assert sum(weights[label] for label in labels) == pytest.approx(len(labels))
    with pytest.raises(MedclError, match="no bag of class 2"):
        balanced_weights(labels, 3)
