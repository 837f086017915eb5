"""What a training says while it runs: a bar on a terminal, a plain line in a log, and log.csv."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from medcl.files import write_text

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Rows of `log.csv` and the line a person sees; rows of a resumed run are kept."""

    def __init__(self, what: str, steps: int, rows: list[dict[str, float]] | None = None) -> None:
        self.what = what
        self.steps = steps
        self.rows = list(rows or [])
        self.bar = tqdm(
            total=steps, initial=len(self.rows), desc=what, disable=not sys.stderr.isatty()
        )
        self.first_step = len(self.rows)
        self.started = self.last_line = time.monotonic()

    def add(self, row: Mapping[str, float]) -> None:
        """Add the numbers of one step; `step` counts from 1."""
        self.rows.append(dict(row))
        self.bar.update(1)
        now = time.monotonic()
        if not self.bar.disable:
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k != "step"})
        elif now - self.last_line >= SECONDS_BETWEEN_LINES or row["step"] == self.steps:
            self.last_line = now
            print(self.line(now), flush=True)

    def line(self, now: float) -> str:
        row = self.rows[-1]
        done = int(row["step"])
        rate = (done - self.first_step) / max(1e-9, now - self.started)
        left = (self.steps - done) / max(1e-9, rate)
        terms = ", ".join(
            f"{k} {v:.4g}"
            for k, v in row.items()
            if k not in {"step", "seconds", "items_per_second", "learning_rate"}
        )
        return (
            f"{self.what}: step {done}/{self.steps}, {terms}, {rate:.2f} steps/s, {left:.0f} s left"
        )

    def write(self, path: str | Path) -> None:
        """Write the rows as CSV; a term absent from a row is an empty field."""
        columns: dict[str, None] = {}
        for row in self.rows:
            columns.update(dict.fromkeys(row))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns) or ["step", "loss"], lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({k: f"{v:.9g}" for k, v in row.items()})
        write_text(path, text.getvalue())

    def close(self) -> None:
        self.bar.close()
