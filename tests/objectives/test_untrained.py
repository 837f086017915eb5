from pathlib import Path

import numpy as np
import torch
from objectives.small import network, stored

from medcl.objectives import OBJECTIVES
from medcl.options import resolve

FILE = Path(__file__).resolve().parents[2] / "config" / "objectives" / "untrained.py"


def test_the_null_arm_learns_nothing(tmp_path):
    torch.manual_seed(0)
    objective = resolve(OBJECTIVES, f"{FILE}:Untrained", "objective")(network(), crop=(8, 8, 8))
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    optimiser = torch.optim.AdamW(objective.parameters(), lr=1e-9, weight_decay=0.01)
    item = objective.views.crop((stored(tmp_path),), np.random.default_rng(0))
    batch = {key: value[None] for key, value in item.items()}
    loss, terms = objective(objective.views.augment(batch, torch.Generator().manual_seed(0)))
    loss.backward()
    optimiser.step()
    assert float(loss.detach()) == 0
    assert float(terms["absolute"]) > 0
    for name, value in objective.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-8)
