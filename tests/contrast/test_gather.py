"""Two processes against one: values, gradients, statistics."""

import subprocess
import sys

import torch
from torch import nn

from medcl.contrast.gather import GatheredNorm, gather

RANKS = """
import sys, torch
from torch import distributed, nn
from medcl.contrast.gather import GatheredNorm, gather, gather_all
from medcl.contrast.queue import Queue
from medcl.contrast.similarity import nt_xent

out = sys.argv[1]
distributed.init_process_group("gloo")
rank, world = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
batch = torch.randn(8, 3, 4, dtype=torch.float64)
norm, project = GatheredNorm(3).double(), nn.Linear(3, 5).double()
with torch.no_grad():
    norm.weight.uniform_(0.5, 2)
mine = batch[rank::world]  # as the sampler deals it out

found = {"order": gather(mine[:, 0, 0].contiguous())}
both = project(norm(mine).square().mean(2))
views = gather_all({"a": both, "b": both.roll(1, 1) ** 2})
loss = nt_xent(views["a"], views["b"], temperature=0.1)
loss.backward()
for p in (*norm.parameters(), *project.parameters()):  # as fit does
    distributed.all_reduce(p.grad)
    p.grad /= world
found["loss"] = loss.detach()
found |= {n: p.grad for n, p in nn.ModuleList([norm, project]).named_parameters()}
found |= {"mean": norm.running_mean, "var": norm.running_var}
queue = Queue(5, 3).double()
queue.push(mine[:2, :, 0], torch.arange(8)[rank::world][:2])
found |= {"keys": queue.keys[:2 * world], "ids": queue.ids}
if rank == 0:
    torch.save(found, out)
distributed.barrier()  # nobody leaves while another still talks to it
distributed.destroy_process_group()
"""


def found_by(processes, folder):
    script, out = folder / f"ranks{processes}.py", folder / f"{processes}.pt"
    script.write_text(RANKS)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launch, str(script), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return torch.load(out, weights_only=True)


def test_two_processes_have_the_loss_gradients_and_statistics_of_one(tmp_path):
    one, two = found_by(1, tmp_path), found_by(2, tmp_path)
    torch.manual_seed(0)
    batch = torch.randn(8, 3, 4, dtype=torch.float64)
    assert torch.equal(two["order"], batch[:, 0, 0])
    assert torch.equal(two["keys"], batch[:4, :, 0])
    assert two["ids"].tolist() == [0, 1, 2, 3, -1]
    for name in set(one) - {"keys", "ids"}:
        torch.testing.assert_close(two[name], one[name], rtol=1e-12, atol=1e-14)


def test_one_process_gathers_nothing_and_normalises_as_batch_norm():
    x = torch.randn(4, 3, 2)
    assert gather(x) is x
    torch.testing.assert_close(GatheredNorm(3)(x), nn.BatchNorm1d(3)(x))
    own, theirs = GatheredNorm(3), nn.BatchNorm3d(3)
    own.load_state_dict(theirs.state_dict())
    assert own.state_dict().keys() == theirs.state_dict().keys()
