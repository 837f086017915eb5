"""Remove what can be remade from a study's results: the store, and states of training."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from medcl.errors import MedclError

REMADE = {
    "store": "the memory-mapped volumes; growing the study afterwards trains everything again",
    "ingest/state": "results of the checks of voxels; the next ingest reads every image again",
    "state": "states of unfinished runs; they start from their first step again",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", help="folder of one study, e.g. results/phantom")
    parser.add_argument("--yes", action="store_true", help="remove; without it, only say what")


def run(args: argparse.Namespace) -> None:
    root = Path(args.results)
    if not (root / "config.resolved.yaml").is_file():
        raise MedclError(
            f"{root}: no config.resolved.yaml; give the folder results/NAME of a study"
        )
    for name, what in REMADE.items():
        folder = root / name
        if not folder.is_dir():
            continue
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{folder}: {size / 2**20:.1f} MiB, {what}")
        if args.yes:
            shutil.rmtree(folder)
    print("removed" if args.yes else "nothing removed; add --yes to remove")
