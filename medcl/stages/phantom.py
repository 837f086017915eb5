"""Draw the synthetic torso data of the default study: NIfTI, DICOM, labels and broken cases."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from medcl.config import PhantomKeys, load_section


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="`phantom` section: YAML text or file")
    parser.add_argument("--out", required=True, help="folder of the data and phantom.json")


def run(args: argparse.Namespace) -> None:
    """Write the data, their table and phantom.json, which lists what ingest has to find."""
    from medcl.data.phantom import TABLE, write_phantom

    keys = load_section(PhantomKeys, args.settings)
    start, out = time.monotonic(), Path(args.out)
    scans = write_phantom(out, keys, lambda line: print(line, flush=True))
    labelled = sum(bool(scan.label) and scan.code is None for scan in scans)
    broken = sum(scan.code is not None for scan in scans)
    print(
        f"phantom: wrote {len(scans) - broken} cases ({labelled} labelled) and {broken} broken "
        f"ones in {time.monotonic() - start:.1f} s: {out / TABLE}, {out / 'phantom.json'}",
        flush=True,
    )
