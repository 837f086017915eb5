import subprocess
import sys
from pathlib import Path

from medcl.training import devices

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
