import os
import signal

import pytest
import torch
from slides.small_bags import FEATURES, batch, model, stored
from torch.nn import functional as F

from medcl.config import Training
from medcl.errors import MedclError
from medcl.options import schemas
from medcl.slides.mil import AGGREGATORS, build
from medcl.slides.mil.bags import Bags
from medcl.training.devices import Place
from medcl.training.fit import fit

CHUNKED = [name for name, kind in AGGREGATORS.items() if kind.chunked]
INSTANCE_ORDER_FREE = [name for name in AGGREGATORS if name != "transmil"]
VARIANTS = [
    ("clam", {"branches": "multi"}),
    ("dsmil", {"negative_class": True, "value": True}),
    ("ins", {"attention": None}),
]


def alone(bags, b):
    """One bag of a batch, without what fills it up."""
    there = bags["mask"][b]
    return bags["features"][b : b + 1, there], bags["mask"][b : b + 1, there]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("name", "options"), [(name, {}) for name in AGGREGATORS] + VARIANTS)
def test_what_fills_a_bag_up_counts_for_nothing(name, options, classes):
    aggregator, bags = model(name, classes, **options), batch()
    together = aggregator.predict(bags["features"], bags["mask"])
    torch.testing.assert_close(together.probabilities.sum(1), torch.ones(4))
    assert together.probabilities.shape == (4, classes)
    for b, there in enumerate(bags["mask"]):
        own = aggregator.predict(*alone(bags, b))
        torch.testing.assert_close(own.probabilities[0], together.probabilities[b])
        torch.testing.assert_close(own.attention[0], together.attention[b][there])
        assert not together.attention[b][~there].any()
        if own.instances is not None:
            torch.testing.assert_close(own.instances[0], together.instances[b][there])


@pytest.mark.parametrize("name", AGGREGATORS)
def test_the_attention_of_a_bag_sums_to_one(name):
    aggregator, bags = model(name), batch()
    attention = aggregator.predict(bags["features"], bags["mask"]).attention
    total = attention.sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("name", CHUNKED)
def test_a_bag_in_chunks_gives_what_the_whole_bag_gives(name, chunk):
    aggregator, bags = model(name), batch()
    whole = aggregator.predict(bags["features"], bags["mask"])
    parts = aggregator.predict(bags["features"], bags["mask"], chunk=chunk)
    torch.testing.assert_close(parts.probabilities, whole.probabilities)
    torch.testing.assert_close(parts.attention, whole.attention)
    if whole.instances is not None:
        torch.testing.assert_close(parts.instances, whole.instances)


def test_chunks_never_hold_more_instances_than_asked_for():
    aggregator, bags, seen = model("abmil"), batch(), []
    aggregator.embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    aggregator.predict(bags["features"], bags["mask"], chunk=3)
    assert max(seen) == 3


def test_a_method_that_compares_all_instances_refuses_chunks():
    bags = batch()
    with pytest.raises(MedclError, match="TransMIL compares all instances"):
        model("transmil").predict(bags["features"], bags["mask"], chunk=3)


@pytest.mark.parametrize("name", INSTANCE_ORDER_FREE)
def test_the_order_of_the_instances_does_not_matter(name):
    aggregator, bags = model(name), batch(lengths=(6,), labels=(1,))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    there = aggregator.predict(bags["features"], bags["mask"])
    moved = aggregator.predict(bags["features"][:, order], bags["mask"])
    torch.testing.assert_close(moved.probabilities, there.probabilities)
    torch.testing.assert_close(moved.attention, there.attention[:, order])


@pytest.mark.parametrize("name", AGGREGATORS)
def test_half_precision_is_read_and_a_bag_without_instances_is_refused(name):
    aggregator, bags = model(name), batch()
    bags["features"] = bags["features"].half()
    found = aggregator.predict(bags["features"], bags["mask"])
    wide = aggregator.predict(bags["features"].float(), bags["mask"])
    torch.testing.assert_close(found.probabilities, wide.probabilities)
    bags["mask"][2] = False
    with pytest.raises(MedclError, match="bag 2 of the batch has no instance"):
        aggregator.predict(bags["features"], bags["mask"])


@pytest.mark.parametrize("name", ["abmil", "clam", "dsmil", "max", "mean", "transmil"])
def test_a_class_weight_counts_in_a_batch_of_one_bag_too(name):
    bags = batch(lengths=(6,), labels=(1,))
    plain, _ = model(name, class_weights=[1.0, 1.0, 1.0])(bags)
    heavy, terms = model(name, class_weights=[1.0, 3.0, 1.0])(bags)
    unweighted = 0.3 * terms["instance_loss"] if name == "clam" else 0.0
    torch.testing.assert_close(heavy - unweighted, 3 * (plain - unweighted))


@pytest.mark.parametrize("name", AGGREGATORS)
def test_prediction_draws_nothing_and_leaves_the_mode_as_it_was(name):
    dropout = {} if name == "dsmil" else {"dropout": 0.5}
    dropout = {"view_dropout": 0.5} if name == "ins" else dropout
    aggregator, bags = model(name, **dropout), batch()
    first = aggregator.train().predict(bags["features"], bags["mask"])
    assert aggregator.training
    again = aggregator.predict(bags["features"], bags["mask"])
    torch.testing.assert_close(first.probabilities, again.probabilities, rtol=0, atol=0)


def test_the_mean_of_a_bag_is_the_mean_of_its_instances_logits():
    aggregator, bags = model("mean"), batch()
    found = aggregator.predict(bags["features"], bags["mask"])
    for b, there in enumerate(bags["mask"]):
        h = torch.relu(aggregator.embed[0](bags["features"][b, there]))
        logits = torch.stack([aggregator.classifier(row) for row in h]).mean(0)
        torch.testing.assert_close(found.probabilities[b], logits.softmax(0))


def test_of_the_maximum_each_feature_knows_its_instance():
    aggregator = model("max", width=None)
    features = torch.zeros(1, 3, FEATURES)
    features[0, 1] = torch.tensor([3.0, 0.0, 0.0, 1.0, 1.0])
    features[0, 2] = torch.tensor([2.0, 9.0, -1.0, 0.5, 0.0])
    found = aggregator.predict(features, torch.ones(1, 3, dtype=torch.bool))
    largest = torch.tensor([[3.0, 9.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(found.probabilities, aggregator.classifier(largest).softmax(1))
    torch.testing.assert_close(found.attention, torch.tensor([[0.2, 0.6, 0.2]]))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_in_a_short_bag_clam_tells_no_instance_to_be_of_both_kinds(n):
    aggregator = model("clam", instances=8)
    scores = torch.arange(float(n))[:, None]
    (chosen,) = aggregator.choose(torch.randn(n, 8), scores, 1)
    assert len(chosen.targets) <= n
    assert int(chosen.targets.sum()) == max(1, n // 2)
    rows = aggregator.instance_classifiers[1](torch.randn(n, 8))
    assert rows.shape[1] == chosen.logits.shape[1]
    aggregator.instance_loss([chosen]).backward()


def test_two_classes_of_dsmil_are_one_sigmoid():
    aggregator, bags = model("dsmil", classes=2), batch()
    logits = aggregator.streams(bags["features"], bags["mask"]).bag_logits
    found = aggregator.predict(bags["features"], bags["mask"]).probabilities
    torch.testing.assert_close(found[:, 1], torch.sigmoid(logits[:, 0]))


class Told(torch.nn.Module):
    """A layer that adds nothing and gives its tokens the attention it was told."""

    def __init__(self, row):
        super().__init__()
        self.row = row

    def forward(self, x):
        return torch.zeros_like(x), self.row


def test_a_tile_that_fills_transmils_square_has_the_attention_of_its_copy_too():
    aggregator = model("transmil")
    token, tiles, copy = [0.2], [0.1, 0.3, -0.1], [0.2]
    aggregator.layers[1] = Told(torch.tensor([token + tiles + copy]))
    found = aggregator.predict(torch.ones(1, 3, FEATURES), torch.ones(1, 3) > 0)
    torch.testing.assert_close(found.attention, torch.tensor([[0.5, 0.5, 0.0]]))


def bags_of(classes):
    generator = torch.Generator().manual_seed(1)
    arrays, labels = {}, []
    for number in range(8):
        label = number % classes
        bag = torch.randn(3 + number % 3, FEATURES, generator=generator)
        bag[0, label] += 6 * (label > 0)
        arrays[str(number)] = bag.numpy()
        labels.append(label)
    return list(arrays), labels, stored(arrays)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_the_loop_trains_it_and_a_resumed_run_ends_where_an_uninterrupted_one_does(name, tmp_path):
    names, labels, features = bags_of(3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = Training(batch=6, learning_rate=1e-2, precision="float32", save_every_s=1e9)

    def run(work, stop=None):
        aggregator = model(name)
        items = Bags(names, labels, features, balanced=aggregator.balanced)
        aggregator.begin(6, items.instances)
        if stop is not None:
            step, after = [0], aggregator.after_step

            def interrupt():
                after()
                step[0] += 1
                if step[0] == stop:
                    os.kill(os.getpid(), signal.SIGTERM)

            aggregator.after_step = interrupt
        place = Place(torch.device("cpu"))
        common = {"steps": 6, "seed": 3, "place": place, "work": work, "what": name}
        return aggregator, fit(aggregator, items, settings, **common)

    try:
        straight, fitted = run(tmp_path / "a")
        with pytest.raises(SystemExit):
            run(tmp_path / "b", stop=3)
        resumed, _ = run(tmp_path / "b")
    finally:
        torch.set_num_threads(threads)
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in fitted.progress.rows)
    assert len(fitted.progress.rows) == 6
    for key, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0)
    other = model(name)
    other.load_state_dict(straight.state_dict())
    bags = batch()
    torch.testing.assert_close(
        other.predict(bags["features"], bags["mask"]).probabilities,
        straight.predict(bags["features"], bags["mask"]).probabilities,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "aggregator.name: this key is required; one of abmil"),
        ({"name": "abmill"}, "did you mean 'abmil'"),
        ({"name": "clam", "bag_weight": 1.5}, r"aggregator clam\.bag_weight: .*got 1.5"),
        ({"name": "clam", "branch": "multi"}, r"aggregator clam\.branch"),
        ({"name": "transmil", "width": 30}, "width 30 is no multiple of 8 heads"),
        ({"name": "nowhere.py:Mine"}, "no file nowhere.py"),
    ],
)
def test_a_mistake_in_the_options_of_an_aggregator_is_named(options, message):
    with pytest.raises(MedclError, match=message):
        build(options, features=4, classes=2)


def test_classes_and_their_weights_have_to_fit():
    with pytest.raises(MedclError, match="1 classes"):
        build({"name": "mean"}, features=4, classes=1)
    with pytest.raises(MedclError, match="2 class weights for 3 classes"):
        build({"name": "mean"}, features=4, classes=3, class_weights=[1.0, 2.0])


def test_every_option_of_an_aggregator_is_described_and_closed():
    for entry in schemas(AGGREGATORS).values():
        assert entry["additionalProperties"] is False
        for option in entry["properties"].values():
            assert option["description"]


def test_supervised_contrast_of_bags_falls_to_nothing_and_needs_no_positive():
    aggregator, bags = model("scmil"), batch(labels=(0, 1, 2, 1))
    with pytest.raises(MedclError, match="call `begin` first"):
        aggregator(bags)
    aggregator.begin(4, 0)
    first, terms = aggregator(bags)
    torch.testing.assert_close(first.detach(), terms["contrast"])
    for _ in range(4):
        aggregator.after_step()
    last, terms = aggregator(bags)
    assert terms["beta"] == 0
    torch.testing.assert_close(last.detach(), terms["cross_entropy"])
    lonely, terms = model("scmil"), batch(lengths=(4, 7, 2), labels=(0, 1, 2))
    lonely.begin(4, 0)
    loss, found = lonely(terms)
    assert float(found["contrast"]) == 0
    loss.backward()
    assert not any(p.grad.any() for p in lonely.projector.parameters())
    assert lonely.least_batch == 6


def test_an_aggregator_from_outside_the_tree_is_built_too(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from medcl.slides.mil.mean import Mean\n\n"
        "class Mine(Mean):\n"
        "    def __init__(self, features, classes, class_weights=None, *, width: int = 3):\n"
        "        super().__init__(features, classes, class_weights, width=width)\n\n"
        "class Other:\n    pass\n"
    )
    mine = build({"name": f"{file}:Mine"}, features=4, classes=2)
    assert mine.classifier.weight.shape == (2, 3)
    with pytest.raises(MedclError, match="Other is no"):
        build({"name": f"{file}:Other"}, features=4, classes=2)


def test_a_bags_loss_is_a_cross_entropy_of_its_probabilities():
    aggregator, bags = model("abmil"), batch()
    loss, _ = aggregator(bags)
    found = aggregator.predict(bags["features"], bags["mask"]).probabilities
    torch.testing.assert_close(loss.detach(), F.nll_loss(found.log(), bags["label"]))
