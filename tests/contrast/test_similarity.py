import math

import pytest
import torch

from medcl.contrast.similarity import accuracy, contrast, mean_over, nt_xent


def rows(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cosine(a, b):
    products = sum(x * y for x, y in zip(a, b, strict=True))
    return products / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))


def slow(q, k, targets, ids, key_ids, temperature):
    """The loss of each row, one pair at a time."""
    losses = []
    for i, a in enumerate(q.tolist()):
        if targets.is_floating_point():
            weights = targets[i].tolist()
        else:
            weights = [float(j == targets[i]) for j in range(len(k))]
        if ids[i] < 0 or not any(weights):
            losses.append(0.0)
            continue
        logits = [cosine(a, b) / temperature for b in k.tolist()]
        allowed = [
            j for j in range(len(k)) if key_ids[j] >= 0 and (weights[j] > 0 or ids[i] != key_ids[j])
        ]
        largest = max(logits[j] for j in allowed)
        total = largest + math.log(sum(math.exp(logits[j] - largest) for j in allowed))
        losses.append(total - sum(w * s for w, s in zip(weights, logits, strict=True)))
    return torch.tensor(losses, dtype=torch.float64)


PLACES = torch.tensor([3, -1, 0, 2, 5])
IDS = torch.tensor([0, 1, 2, -1, 1])
KEY_IDS = torch.tensor([2, 0, 1, 0, -1, 1])


def weights():
    drawn = rows(5, 6, seed=2).relu() * (KEY_IDS >= 0)
    drawn[1] = 0
    drawn[0, 1] = 0.5  # of the row's own id
    return drawn / drawn.sum(1, keepdim=True).clamp_min(1e-9)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("targets", [PLACES, weights()], ids=["positives", "weights"])
def test_loss_and_gradients_equal_a_slow_loop(targets, kept, monkeypatch):
    monkeypatch.setattr("medcl.contrast.similarity.BLOCK", 2 * 6 * 8)  # two rows at a time
    q, k = rows(5, 4).requires_grad_(), rows(6, 4, seed=1).requires_grad_()
    who = {"ids": IDS, "key_ids": KEY_IDS}
    losses = contrast(q, k, targets, temperature=0.3, kept=kept, **who)
    torch.testing.assert_close(losses, slow(q, k, targets, IDS, KEY_IDS, 0.3), rtol=1e-10, atol=0)
    assert losses[1] == losses[3] == 0
    weight = rows(5, seed=3)
    (losses * weight).sum().backward()
    for x in (q, k):
        for place in ((0, 0), (2, 1), (3, 2)):
            with torch.no_grad():
                values = []
                for step in (1e-6, -2e-6):
                    x[place] += step
                    values.append((slow(q, k, targets, IDS, KEY_IDS, 0.3) * weight).sum())
                x[place] += 1e-6
            change = float(values[0] - values[1]) / 2e-6
            assert float(x.grad[place]) == pytest.approx(change, rel=1e-5, abs=1e-8)


def test_another_view_of_the_same_case_is_no_negative():
    first, second = rows(4, 3), rows(4, 3, seed=1)
    cases = torch.tensor([0, 1, 0, 2])
    loss = nt_xent(first, second, temperature=0.2, cases=cases)
    both, ids = torch.cat([first, second]), cases.repeat(2)
    places = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    assert float(loss) == pytest.approx(float(slow(both, both, places, ids, ids, 0.2).mean()))
    assert float(loss) < float(nt_xent(first, second, temperature=0.2))


@pytest.mark.parametrize("temperature", [1e-2, 1e-3])
def test_small_temperatures_stay_finite_in_float32(temperature):
    """exp(1 / t) is not a float32 below t = 0.0113."""
    first, second = rows(8, 16, dtype=torch.float32), rows(8, 16, seed=1, dtype=torch.float32)
    first.requires_grad_()
    loss = nt_xent(first, second, temperature=temperature)
    loss.backward()
    exact = nt_xent(first.detach().double(), second.double(), temperature=temperature)
    assert float(loss.detach()) == pytest.approx(float(exact), rel=2e-5)
    assert first.grad.isfinite().all()


def test_half_precision_and_autocast_are_compared_in_float32():
    first, second = rows(8, 16, dtype=torch.bfloat16), rows(8, 16, seed=1, dtype=torch.bfloat16)
    exact = nt_xent(first.float(), second.float(), temperature=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        cast = nt_xent(first, second, temperature=0.01)
        places = {"ids": torch.arange(8), "key_ids": torch.arange(8), "temperature": 0.01}
        soft = contrast(first, second, torch.eye(8), **places)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, exact)
    hard = contrast(first.float(), second.float(), torch.arange(8), **places)
    torch.testing.assert_close(soft, hard, rtol=1e-5, atol=1e-5)


def test_the_similarities_are_kept_where_they_are_few_only(monkeypatch):
    """What the graph holds on to is their size, or that of the rows."""

    def held():
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
            nt_xent(rows(64, 4).requires_grad_(), rows(64, 4, seed=1), temperature=0.1)
        return max(x.numel() for x in saved)

    assert held() == 128 * 128
    monkeypatch.setattr("medcl.contrast.similarity.KEPT_LARGEST", 128 * 128 * 8 - 1)
    assert held() == 128 * 4


def test_no_row_with_a_target_is_a_loss_of_zero_with_a_gradient_of_zero():
    q = rows(3, 4).requires_grad_()
    ids = torch.arange(3)
    losses = contrast(q, q, torch.full((3,), -1), temperature=0.1, ids=ids, key_ids=ids)
    mean_over(losses, torch.zeros(3, dtype=torch.bool)).backward()
    assert (losses == 0).all()
    assert (q.grad == 0).all()
    alone = nt_xent(rows(1, 4), rows(1, 4, seed=1), temperature=0.1)
    assert float(alone) == pytest.approx(0, abs=1e-12)


def test_accuracy_counts_ties_by_their_number_and_only_rows_that_are_there(monkeypatch):
    monkeypatch.setattr("medcl.contrast.similarity.BLOCK", 1)
    keys = torch.eye(3)
    queries = torch.tensor([[2.0, 1, 0], [1, 1, 0], [0, 0, 2], [1, 0, 0]])
    positives, ids = torch.tensor([0, 1, 0, -1]), torch.tensor([5, 6, 7, 8])
    share = accuracy(queries, keys, positives, ids=ids, key_ids=torch.tensor([0, 1, 2]))
    assert float(share) == pytest.approx((1 + 1 / 2 + 0) / 3)
    # Now the key that beat the third row's positive is of its own case: two are equally far away.
    share = accuracy(queries, keys, positives, ids=ids, key_ids=torch.tensor([0, 1, 7]))
    assert float(share) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)


def test_the_accuracy_of_collapsed_embeddings_is_that_of_guessing():
    collapsed = torch.ones(64, 16) + 1e-5 * rows(64, 16).float()
    ids = torch.arange(64)
    share = accuracy(collapsed, collapsed, ids.roll(1), ids=ids, key_ids=ids)
    assert float(share) == pytest.approx(1 / 63)
