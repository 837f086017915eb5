"""Time the header pass of ingest over thousands of NIfTI cases, and the memory it takes.

Tiny compressed images with label maps, each with a header of its own, are written to a temporary
folder. For each number of cases a process of its own lists them and judges their headers as
`medcl ingest --check-only headers` does, twice: what counts is the second run, from the page
cache. Told are seconds from its start to its end, those of all processors (what is left of them on
a busy machine), and the largest resident memory of the process and of those it starts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

FEW = 1000  # cases to compare the memory of
SHAPE = (6, 5, 4)


def write_cases(root: Path, cases: int) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(cases):
        affine = np.diag([*rng.uniform(0.5, 3.0, 3).round(3), 1.0])
        values = rng.normal(100, 20, SHAPE).astype(np.float32)
        for folder, array in (("images", values), ("labels", (values > 110).astype(np.uint8))):
            data = gzip.compress(nib.Nifti1Image(array, affine).to_bytes(), 1, mtime=0)
            (root / folder / f"case_{number:06d}.nii.gz").write_bytes(data)


def measure(root: Path, out: Path, threads: int) -> dict[str, float]:
    """Seconds and MB of one process that judges every header below `root`."""
    command = [sys.executable, __file__, "--run", str(root), str(out), str(threads)]
    started = time.perf_counter()
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), **json.loads(said.splitlines()[-1])}


def run(root: str, out: str, threads: str) -> None:
    """The measured process."""
    from medcl.cli import main

    started = time.perf_counter()
    arguments = ["--source", root, "--out", out, "--threads", threads]
    if code := main(["ingest", "--check-only", "headers", *arguments]):
        sys.exit(code)
    seconds = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    told = {
        "stage_seconds": round(seconds, 2),
        "cpu_seconds": round(sum(part.ru_utime + part.ru_stime for part in used), 2),
        "accepted": json.loads(Path(out, "ingest.json").read_text())["counts"]["accepted"],
        "peak_mb": round(used[0].ru_maxrss / 1024, 1),
        "peak_mb_child": round(used[1].ru_maxrss / 1024, 1),
    }
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--threads", type=int, default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(*args.run)
        return
    result: dict[str, object] = {"threads": args.threads}
    for cases in sorted({min(FEW, args.cases), args.cases}):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "data")
            write_cases(root, cases)
            measure(root, Path(folder, "out"), args.threads)
            result[str(cases)] = measure(root, Path(folder, "out"), args.threads)
    result["load"] = [round(value, 2) for value in os.getloadavg()]
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for name, values in result.items():
            print(f"{name:8s} {values}")


if __name__ == "__main__":
    main()
