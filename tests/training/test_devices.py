import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from medcl.training import devices
from medcl.training.devices import channels_last

HOLD = """
import sys, time
from medcl.training.devices import claim

print(claim(2, sys.argv[1]), flush=True)
time.sleep(60)
"""


def test_two_processes_never_share_a_gpu(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline().strip() == "0"
        assert devices.claim(2, tmp_path) == 1
    finally:
        while devices._claims:
            devices._claims.pop().close()
        other.kill()
        other.wait()
        other.stdout.close()


def test_memory_of_freed_tensors_is_not_cleared_again() -> None:
    code = (
        "import resource, torch; from medcl.training.devices import keep_freed_memory\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def churn():\n"
        "    first = faults()\n"
        "    for _ in range(20): torch.ones(2**22)\n"
        "    return faults() - first\n"
        "before = churn(); keep_freed_memory(); churn(); print(before, churn())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 10


def test_channels_come_last_and_values_stay() -> None:
    layers = nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(4, 2, 3), nn.Flatten(), nn.Linear(2, 3))
    image = torch.randn(1, 2, 5, 5, 5)
    expected = layers(image)
    assert channels_last(layers) is layers
    assert layers[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(layers(image), expected)
