"""Time and memory of one training step of gated ABMIL (1024-512-256) on one large bag.

The largest resident memory is that of this process, the libraries it has loaded included.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import torch

from medcl.slides.mil.abmil import ABMIL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ABMIL(args.features, 2, gated=True, width=512, attention=256)
    optimiser = torch.optim.AdamW(model.parameters())
    batch = {
        "features": torch.empty(1, args.tiles, args.features).uniform_(-1, 1),
        "mask": torch.ones(1, args.tiles, dtype=torch.bool),
        "label": torch.tensor([1]),
    }
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    loss, _ = model(batch)
    loss.backward()
    optimiser.step()
    result = {
        "tiles": args.tiles,
        "features_bytes": batch["features"].nbytes,
        "bytes_before_the_step": loaded,
        "largest_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": round(time.perf_counter() - started, 2),
    }
    print(json.dumps(result, indent=1) if args.json else result)


if __name__ == "__main__":
    main()
