"""Where a training stands: its step, its rows and its best weights, and where they are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcl.errors import TrainingFailed
from medcl.training import checkpoint
from medcl.training.devices import Place
from medcl.training.progress import Progress

State = dict[str, Any]
STEPS_BETWEEN_CHECKS_ON_GPU = 20  # reading a loss waits for the GPU


class Diverged(TrainingFailed):
    """A run that failed on its way; `progress` holds its log up to there."""

    def __init__(self, message: str, progress: Progress) -> None:
        super().__init__(message)
        self.progress = progress


class Run:
    """Step, rows and best weights of a run, and where they are kept."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        file: Path,
        place: Place,
        what: str,
        steps: int,
    ) -> None:
        self.model, self.optimiser, self.file, self.place = model, optimiser, file, place
        self.what, self.steps = what, steps
        self.step = 0
        self.selected: State | None = None
        self.selected_step: int | None = None
        self.best = -math.inf
        self.marks: list[str] = []
        self.before = self.cpu_before = 0.0
        self.pending: list[tuple[int, Tensor, dict[str, Any], float]] = []
        self.progress = Progress(what, steps)
        self.started = self.saved = self.last_step = time.monotonic()
        self.cpu_started = time.process_time()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def cpu_seconds(self) -> float:
        return self.cpu_before + time.process_time() - self.cpu_started

    def environment(self, threads: int) -> dict[str, Any]:
        return {"threads": threads, "world": self.place.world, "device": self.place.device.type}

    def resume(self, threads: int) -> None:
        """Continue from the saved state, if there is one."""
        if not self.file.exists():
            return
        state = checkpoint.load(self.file)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.before = state["seconds"]
        self.cpu_before = state.get("cpu_seconds", self.before)  # absent from older states
        self.selected, self.selected_step = state["selected"], state["selected_step"]
        self.best, self.marks = state["best"], state["marks"]
        self.progress.close()
        self.progress = Progress(self.what, self.steps, state["rows"])
        now = self.environment(threads)
        for key, value in state["environment"].items():
            if now[key] != value:
                mark = f"resumed at step {self.step} with {key} {now[key]} instead of {value}"
                self.marks.append(mark)
                print(f"{self.what}: {mark}: no longer exactly the uninterrupted run", flush=True)
        print(f"{self.what}: resumed at step {self.step}", flush=True)

    def save(self) -> None:
        self.flush()
        self.saved = time.monotonic()
        if not self.place.leads:
            return
        state = {
            "kind": "state",
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds(),
            "cpu_seconds": self.cpu_seconds(),
            "rows": self.progress.rows,
            "selected": self.selected,
            "selected_step": self.selected_step,
            "best": self.best,
            "marks": self.marks,
            "environment": self.environment(torch.get_num_threads()),
        }
        checkpoint.save(self.file, state)

    def due(self, seconds: float) -> bool:
        return time.monotonic() - self.saved >= seconds

    def note(self, loss: Tensor, terms: dict[str, Any], rate: float, items: int) -> None:
        """Take the numbers of a step; on a GPU they are read some steps later."""
        now = time.monotonic()
        took, self.last_step = now - self.last_step, now
        numbers = {
            "learning_rate": rate,
            "seconds": self.seconds(),
            "items_per_second": items / max(took, 1e-9),
        }
        self.pending.append((self.step, loss, {**terms, **numbers}, took))
        on_cpu = self.place.device.type == "cpu"
        if on_cpu or len(self.pending) >= STEPS_BETWEEN_CHECKS_ON_GPU:
            self.flush()

    def flush(self) -> None:
        for step, loss, terms, _ in self.pending:
            row = {"step": step, "loss": float(loss)}
            row |= {name: float(value) for name, value in terms.items()}
            if not math.isfinite(row["loss"]):
                parts = {k: v for k, v in row.items() if k in terms and k != "seconds"}
                named = ", ".join(f"{k} {v:.4g}" for k, v in parts.items())
                raise Diverged(
                    f"{self.what}: loss is {row['loss']} at step {step}: {named}; "
                    "lower `learning_rate`, or look at the inputs",
                    self.progress,
                )
            self.progress.add(row)
        self.pending.clear()

    def watched(self, watch: Callable[[int], Mapping[str, float]]) -> None:
        """Add what somebody sees who looks on to the row of this step."""
        self.flush()
        started, cpu_started = time.monotonic(), time.process_time()
        self.progress.rows[-1] |= watch(self.step)
        took = time.monotonic() - started
        self.before -= took
        self.cpu_before -= time.process_time() - cpu_started
        self.last_step += took

    def select(self, score: float) -> None:
        self.flush()
        self.progress.rows[-1]["validation_dice"] = score
        if score > self.best:
            self.best, self.selected_step = score, self.step
            weights = self.model.state_dict()
            self.selected = {k: v.detach().cpu().clone() for k, v in weights.items()}
