"""A study so small that it passes through every rule in half a minute; its numbers mean nothing."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CLEAN = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}

MICRO = {
    "study": "micro",
    "dataset": "config/datasets/phantom.yaml",
    "split": {"test": 2, "validation": 2},
    "network": {"name": "unet", "width": 2},
    "arms": {
        "scratch": {},
        "mae": {"pretrain": {"objective": "mae", "steps": 20, "batch": 1, "save_every_s": 0.001}},
    },
    "labelled": [1],
    "replicates": 1,
    "finetune": {"steps": 6, "batch": 1, "validate_every": 3},
    "predict": {"overlap": 0.0},
}


def micro_study(folder: Path, **changes: object) -> str:
    """The micro study with some keys changed, as a file in `folder`."""
    file = folder / "micro.yaml"
    file.write_text(yaml.safe_dump(copy.deepcopy(MICRO) | changes))
    return str(file)


def command(*arguments: str) -> list[str]:
    """Snakemake of an environment nobody activated."""
    return [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), *arguments]


def snakemake(*arguments: str, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=CLEAN, capture_output=True, text=True, check=False
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def medcl(*arguments: str, cwd: Path) -> str:
    """Run one stage as a user would; its output."""
    command = [sys.executable, "-m", "medcl", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
