import torch

from medcl.contrast.queue import Queue
from medcl.contrast.similarity import contrast


def keys(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None].expand(-1, 2)


def test_the_oldest_keys_are_replaced_first():
    queue = Queue(3, 2)
    queue.push(keys(1, 2), torch.tensor([1, 2]))
    queue.push(keys(3, 4), torch.tensor([3, 4]))
    assert queue.keys[:, 0].tolist() == [4, 2, 3]
    assert queue.ids.tolist() == [4, 2, 3]
    queue.push(keys(5, 6, 7, 8), torch.tensor([5, 6, 7, 8]))
    assert sorted(queue.ids.tolist()) == [6, 7, 8]


def test_an_empty_queue_and_keys_of_the_own_subject_are_no_negatives():
    queue = Queue(4, 3)
    rows = torch.randn(2, 3, requires_grad=True)
    subjects = torch.tensor([7, 8])

    def loss():
        joined = torch.cat([rows, queue.keys])
        ids = torch.cat([subjects, queue.ids])
        places = torch.arange(2)
        return contrast(rows, joined, places, temperature=0.1, ids=subjects, key_ids=ids).sum()

    alone = loss()
    queue.push(torch.randn(1, 3), torch.tensor([7]))
    with_one = loss()
    expected = contrast(
        rows[1:],
        torch.cat([rows, queue.keys[:1]]),
        torch.tensor([1]),
        temperature=0.1,
        ids=subjects[1:],
        key_ids=torch.tensor([7, 8, 7]),
    )
    first = contrast(
        rows[:1], rows, torch.tensor([0]), temperature=0.1, ids=subjects[:1], key_ids=subjects
    )
    torch.testing.assert_close(with_one, expected.sum() + first.sum())
    assert float(with_one.detach()) > float(alone.detach())
    queue.push(torch.randn(4, 3), torch.arange(4))  # does not spoil the graph of a loss
    with_one.backward()
    assert rows.grad is not None


def test_a_queue_is_saved_and_never_trained():
    queue = Queue(3, 2)
    assert set(queue.state_dict()) == {"keys", "ids", "place"}
    assert not list(queue.parameters())
