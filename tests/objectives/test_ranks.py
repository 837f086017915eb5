"""Two processes have the loss and the gradients of one that sees the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

RANKS = """
import sys, numpy as np, torch
from pathlib import Path
from torch import distributed
sys.path.insert(0, sys.argv[1])
from objectives.small import network, stored
from medcl.objectives import build

folder, name, options = sys.argv[2:5]
distributed.init_process_group("gloo")
torch.set_num_threads(1)
rank, world = distributed.get_rank(), distributed.get_world_size()
own = Path(folder) / f"{world}-{rank}"
own.mkdir()
volume = stored(own)
torch.manual_seed(0)
found = {}
for number, given in enumerate(eval(options)):
    objective = build(given, network(), crop=(8, 8, 8), spacing=(1.0, 1.0, 1.0)).double()
    items = [objective.views.crop((volume,), np.random.default_rng(i)) for i in range(4)]
    batch = {k: torch.stack([item[k] for item in items]) for k in items[0]}
    if "subject" in batch:
        batch["subject"] = torch.arange(4)
    batch = objective.views.augment(batch, torch.Generator().manual_seed(0))
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    loss, terms = objective({k: v[rank::world] for k, v in batch.items()})
    loss.backward()
    found[f"{number} loss"] = loss.detach()
    found |= {f"{number} {k}": torch.as_tensor(v).double() for k, v in terms.items()}
    for key, p in objective.named_parameters():  # as fit does
        if p.requires_grad and p.grad is not None:
            distributed.all_reduce(p.grad)
            found[f"{number} grad {key}"] = p.grad / world
if rank == 0:
    torch.save(found, folder + f"/{world}.pt")
"""

OPTIONS = {
    "dense": [
        {"name": "dense", "points": 12},
        {"name": "dense", "points": 12, "positives": "soft", "sigma": [0.5, 0.5, 0.5]},
    ],
    "voco": [{"name": "voco", "variant": v, "width": 8} for v in ("v0", "v1", "v2", "nnssl")],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_have_the_loss_and_gradients_of_one(name, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    for processes in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc-per-node", str(processes), str(script)]
        arguments = [str(Path(__file__).parents[1]), str(tmp_path), name, repr(OPTIONS[name])]
        subprocess.run([sys.executable, *launch, *arguments], check=True, capture_output=True)
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    assert one.keys() == two.keys()
    assert any(" grad " in key and bool((value != 0).any()) for key, value in one.items())
    for key, value in one.items():
        # Diagnostics are computed in float32.
        rtol, atol = (1e-7, 1e-10) if " grad " in key or " loss" in key else (1e-3, 1e-4)
        torch.testing.assert_close(
            two[key], value, rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
        )
