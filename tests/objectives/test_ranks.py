"""Two processes have the loss and the gradients of one that sees the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from objectives.small import OPTIONS

from medcl.objectives import OBJECTIVES

RANKS = """
import sys, torch
from pathlib import Path
from torch import distributed
sys.path.insert(0, sys.argv[1])
from objectives.small import batch_of, cohort, network
from medcl.objectives import build
from medcl.objectives.matching import Matching
from medcl.views.coordinates import interpolate

def waves(images, voxels):
    return interpolate(torch.cat([torch.sin(k * images) for k in range(1, 6)], 1), voxels)

folder, options = sys.argv[2:4]
distributed.init_process_group("gloo")
torch.set_num_threads(1)
rank, world = distributed.get_rank(), distributed.get_world_size()
own = Path(folder) / f"{world}-{rank}"
own.mkdir()
store = cohort(own)
torch.manual_seed(0)
found = {}
for number, given in enumerate(eval(options)):
    objective = build(given, network(), crop=(8, 8, 8), spacing=(1.0, 1.0, 1.0)).double()
    batch = batch_of(objective, store)
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    loss, terms = objective({k: v[rank::world] for k, v in batch.items()})
    loss.backward()
    found[f"{number} loss"] = loss.detach()
    found |= {f"{number} {k}": torch.as_tensor(v).double() for k, v in terms.items()}
    found |= {f"{number} {k}": v for k, v in objective.named_buffers() if "centre" in k}
    for key, p in objective.named_parameters():  # as fit does
        if p.requires_grad and p.grad is not None:
            distributed.all_reduce(p.grad)
            found[f"{number} grad {key}"] = p.grad / world
for matcher, step in (("affine", 0), ("nearest", 1)):
    matching, volumes = Matching(matcher, 1), list(store)[:3]
    matching.begin(2, volumes)
    matching.refresh(volumes, step, (8, 8, 8), waves)
    found[f"table {matcher}"] = matching.shifts
if rank == 0:
    torch.save(found, folder + f"/{world}.pt")
distributed.barrier()  # nobody leaves while another still talks to it
distributed.destroy_process_group()
"""

CASES = [(name, given) for name in OBJECTIVES for given in OPTIONS[name]]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What every objective found in one process and in two."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(RANKS)
    options = repr([{"name": name, **given} for name, given in CASES])
    for processes in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc-per-node", str(processes), str(script)]
        arguments = [str(Path(__file__).parents[1]), str(folder), options]
        subprocess.run([sys.executable, *launch, *arguments], check=True, capture_output=True)
    return [torch.load(folder / f"{n}.pt", weights_only=True) for n in (1, 2)]


@pytest.mark.parametrize("number", range(len(CASES)), ids=[name for name, _ in CASES])
def test_two_processes_have_the_loss_and_gradients_of_one(number, found):
    one, two = (
        {key: value for key, value in all_of.items() if key.startswith(f"{number} ")}
        for all_of in found
    )
    assert one.keys() == two.keys()
    assert any(" grad " in key and bool((value != 0).any()) for key, value in one.items())
    for key, value in one.items():
        # Diagnostics are computed in float32.
        exact = any(word in key for word in (" grad ", " loss", "centre"))
        rtol, atol = (1e-7, 1e-10) if exact else (1e-3, 1e-4)
        torch.testing.assert_close(
            two[key], value, rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("matcher", ["affine", "nearest"])
def test_two_processes_share_the_cases_and_have_the_table_of_one(matcher, found):
    one, two = (all_of[f"table {matcher}"] for all_of in found)
    assert one[1:].any()
    torch.testing.assert_close(one, two, rtol=0, atol=0)
