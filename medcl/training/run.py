"""What the training stages share: arguments, the work folder, seeds, and what they write."""

from __future__ import annotations

import argparse
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medcl.data.plan import Plan
from medcl.data.store import Store
from medcl.errors import MedclError, TrainingFailed
from medcl.files import sha256_of, sha256_of_file, write_json
from medcl.training import checkpoint
from medcl.training.checkpoint import FORMAT
from medcl.training.devices import Place, peak_memory_mb
from medcl.training.fit import Fitted
from medcl.training.progress import Progress
from medcl.training.state import Diverged


def open_store(manifest: str, plan: Plan) -> Store:
    """Open a store; MedclError if it was prepared by another plan than `plan`."""
    store = Store(manifest)
    if store.plan_sha256 not in ("", plan.preparation_sha256()):
        raise MedclError(
            f"{manifest}: prepared by another plan (spacing, intensity, classes or body differ); "
            "run preprocess with this plan"
        )
    return store


def work_folder(base: str | Path, key: Mapping[str, Any], files: Mapping[str, str | None]) -> Path:
    """Folder of a run's state: another configuration or another input never resumes it.

    `files` are hashed by content. The folders of other keys below `base` are of runs nobody can
    continue any more, and are removed.
    """
    contents = {name: path and sha256_of_file(path) for name, path in files.items()}
    name = sha256_of({"key": key, "files": contents, "format": FORMAT})[:16]
    base = Path(base)
    if base.is_dir():
        for other in base.iterdir():
            ours = re.fullmatch("[0-9a-f]{16}", other.name)
            if ours and other.name != name and any(other.rglob("state.pt")):
                shutil.rmtree(other)
    folder = base / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise weights from `seed` and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def add_arguments(parser: argparse.ArgumentParser, writes: str) -> None:
    """Arguments of every stage that trains; `writes` names its file of weights."""
    parser.add_argument("--network", default="{}", help="the `network` section: YAML or a file")
    parser.add_argument("--store", required=True, help="manifest.json of the store")
    parser.add_argument("--splits", required=True, help="splits.csv")
    parser.add_argument("--plan", required=True, help="plan.yaml")
    parser.add_argument("--out", required=True, help=f"folder of {writes}, log.csv, summary.json")
    parser.add_argument(
        "--work", required=True, help="folder of the state a killed run resumes from"
    )
    parser.add_argument("--devices", type=int, default=1, help="processes with one device each")


@dataclass
class Outputs:
    """What a training writes whatever happens: weights, `log.csv` and `summary.json` in `out`.

    facts: entries of the summary. content: entries of the file of weights, `file`.
    """

    what: str
    out: Path
    file: str
    place: Place
    facts: dict[str, Any] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)

    def finish(self, fitted: Fitted, **content: Any) -> None:
        """Write a run that reached its end."""
        self._write({"status": "ok", "reason": None} | content, fitted.progress, fitted)

    def fail(self, error: TrainingFailed) -> None:
        """Write a diagnosed failure: the study goes on, and the report says why this run is not."""
        print(f"{self.what}: failed: {error}", flush=True)
        progress = error.progress if isinstance(error, Diverged) else Progress(self.what, 0)
        self._write({"status": "failed", "reason": str(error)}, progress, None)

    def _write(self, outcome: dict[str, Any], progress: Progress, fitted: Fitted | None) -> None:
        if not self.place.leads:
            return
        progress.write(self.out / "log.csv")
        checkpoint.save(self.out / self.file, self.content | outcome)
        rows = progress.rows
        ignored = {"step", "learning_rate", "seconds", "items_per_second"}
        final = {k: v for k, v in rows[-1].items() if k not in ignored} if rows else {}
        seconds = fitted.seconds if fitted else rows[-1]["seconds"] if rows else 0.0
        summary = {
            "status": outcome["status"],
            "reason": outcome["reason"],
            "device": self.place.device.type,
            "peak_memory_mb": round(peak_memory_mb(self.place.device), 1),
            "seconds": round(seconds, 3),
            "cpu_seconds": round(fitted.cpu_seconds, 3) if fitted else 0.0,
            "selected_step": fitted.selected_step if fitted else None,
            "resumed": fitted.resumed if fitted else [],
            "final": {k: v if math.isfinite(v) else None for k, v in final.items()},
            **self.facts,
        }
        write_json(self.out / "summary.json", summary)
        print(f"{self.what}: wrote {self.out}/{self.file}, log.csv, summary.json", flush=True)


def on_cpu(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of the tensors of a state on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in state.items()}
