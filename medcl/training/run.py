"""What the training stages share: the work folder, seeds, and the summary beside the weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcl.files import sha256_of, sha256_of_file, write_json
from medcl.training.checkpoint import FORMAT
from medcl.training.fit import Fitted


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
            if other.name != name and (other / "state.pt").exists():
                shutil.rmtree(other)
    folder = base / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def seed_of(*words: int) -> int:
    """One seed from several numbers, e.g. replicate and label count."""
    return int(np.random.SeedSequence(words).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise weights from `seed` and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def write_summary(
    out: str | Path, fitted: Fitted | None, *, reason: str | None = None, **facts: Any
) -> None:
    """Write `summary.json`; `reason` set means the run failed."""
    rows = fitted.progress.rows if fitted else []
    ignored = {"step", "learning_rate", "seconds", "items_per_second"}
    summary = {
        "status": "failed" if reason else "ok",
        "reason": reason,
        "seconds": round(fitted.seconds, 3) if fitted else 0.0,
        "selected_step": fitted.selected_step if fitted else None,
        "resumed": fitted.resumed if fitted else [],
        "final": {k: v for k, v in rows[-1].items() if k not in ignored} if rows else {},
        **facts,
    }
    write_json(Path(out) / "summary.json", summary)
