"""The folder of a drawn data set: cleared of what an earlier run left, and named by a table."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator

from medcl.errors import MedclError
from medcl.files import replacing


def begin(table: Path, columns: Sequence[str], folders: Sequence[str]) -> None:
    """Write an empty table; remove the folders beside it that an earlier run filled.

    The table is written first, so its presence tells that such a run was here. MedclError for
    folders without it.
    """
    beside = [table.parent / name for name in folders]
    if table.exists():
        for folder in beside:
            shutil.rmtree(folder, ignore_errors=True)
    elif any(folder.exists() for folder in beside):
        raise MedclError(
            f"{table.parent}: holds data that `medcl phantom` did not write; choose an empty folder"
        )
    write_table(table, columns, [])


def write_table(table: Path, columns: Sequence[str], items: Iterable[object]) -> None:
    """Write a row of attributes for each item."""
    with replacing(table) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([getattr(item, column) for column in columns] for item in items)


def generator(seed: int, number: int) -> Generator:
    """Random numbers that depend on (seed, number) alone."""
    return np.random.default_rng(np.random.SeedSequence([abs(seed), number, int(seed < 0)]))
