"""Who is pool, validation and test, and the seeded orders the labelled subsets are taken from.

A subject counts as labelled if any of its cases has a label. Test and validation subjects are
drawn from the labelled ones; everybody else is pool: labelled candidates and unlabelled subjects.
Order r ranks the candidates, so the first n of it are the n-label subset of replicate r, and the
subset of n lies inside that of n + 1. Nothing here depends on label counts, arms or voxels.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medcl.config import Split
from medcl.data.cases import Case
from medcl.errors import MedclError
from medcl.files import replacing

ROLES = ("pool", "validation", "test")
ORDERS = 32
ORDER_COLUMNS = [f"order_{r:02d}" for r in range(ORDERS)]
COLUMNS = ["case", "subject", "role", *ORDER_COLUMNS]


@dataclass(frozen=True)
class Row:
    """One case; `ranks` are those of its subject in the orders of its role, or empty."""

    case: str
    subject: str
    role: str
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Splits:
    """The table `splits.csv`; `file` names it in messages."""

    rows: tuple[Row, ...]
    file: str = "splits.csv"

    @cached_property
    def subject_of(self) -> dict[str, str]:
        """Case -> subject."""
        return {row.case: row.subject for row in self.rows}

    def cases(self, role: str) -> list[str]:
        """Cases of a role, in the order of the table."""
        self._check(role)
        return [row.case for row in self.rows if row.role == role]

    def subjects(self, role: str) -> list[str]:
        """Subjects of a role, each once, in the order of the table."""
        self._check(role)
        return list(dict.fromkeys(row.subject for row in self.rows if row.role == role))

    def cases_of(self, subjects: Iterable[str]) -> list[str]:
        """All cases of `subjects`, subject by subject."""
        cases: dict[str, list[str]] = {}
        for row in self.rows:
            cases.setdefault(row.subject, []).append(row.case)
        return [case for subject in subjects for case in cases[subject]]

    def candidates(self, replicate: int) -> list[str]:
        """Pool subjects with a label, in order `replicate`."""
        return self._ordered("pool", replicate)

    def subset(self, n: int, replicate: int) -> list[str]:
        """The n labelled subjects of a replicate.

        Raises MedclError for more than there are candidates, and for an order that is not there.
        """
        candidates = self.candidates(replicate)
        if not 1 <= n <= len(candidates):
            raise MedclError(
                f"{self.file}: {n} labelled subjects were asked for and there are "
                f"{len(candidates)} candidates; choose `labelled` between 1 and {len(candidates)}, "
                "hold out fewer (`split.test`, `split.validation`) or label more subjects"
            )
        return candidates[:n]

    def validation(self, n: int, replicate: int) -> list[str]:
        """Validation subjects of a run with n labels: the first max(2, n), or all if fewer."""
        return self._ordered("validation", replicate)[: max(2, n)]

    def _ordered(self, role: str, replicate: int) -> list[str]:
        if not 0 <= replicate < ORDERS:
            raise MedclError(
                f"{self.file}: no order {replicate}; replicates go from 0 to {ORDERS - 1}"
            )
        ranks = {r.subject: r.ranks[replicate] for r in self.rows if r.role == role and r.ranks}
        return sorted(ranks, key=ranks.__getitem__)

    def _check(self, role: str) -> None:
        if role not in ROLES:
            raise ValueError(f"no role {role!r}; one of {', '.join(ROLES)}")


# ----------------------------------------------------------------------------------- drawing


def assign(cases: Sequence[Case], split: Split) -> Splits:
    """Give each subject its role and its ranks; independent of the order of `cases`.

    A subject named for both test and validation is held out as test; the audit then stops the
    run. Raises MedclError for names that are unknown or unlabelled, and where no test subject or
    no labelled candidate would be left.
    """
    if split.seed < 0:
        raise MedclError(f"split.seed: must be 0 or more, got {split.seed}")
    subject_of = {case.case: case.subject for case in cases}
    labelled = sorted({case.subject for case in cases if case.label is not None})
    named_test = _named("test", split.test, subject_of, labelled)
    named_validation = _named("validation", split.validation, subject_of, labelled)
    free = [s for s in labelled if s not in named_test and s not in named_validation]
    drawn = _shuffled(free, split.seed, "role")

    test_count = len(named_test) or int(split.test)  # type: ignore[arg-type]
    validation_count = len(named_validation) or int(split.validation)  # type: ignore[arg-type]
    _check_counts(len(labelled), test_count, validation_count)
    # Test is drawn first, so that another number of validation subjects leaves it as it is.
    test = named_test or drawn[:test_count]
    rest = [s for s in drawn if s not in test]
    validation = named_validation or rest[:validation_count]
    held_out = {*test, *validation}

    role = dict.fromkeys(subject_of.values(), "pool")
    role |= dict.fromkeys(validation, "validation") | dict.fromkeys(test, "test")
    ranks = _ranks([s for s in labelled if s not in held_out], split.seed, "candidates")
    ranks |= _ranks([s for s in validation if s not in test], split.seed, "validation")
    rows = [Row(c, s, role[s], ranks.get(s, ())) for c, s in sorted(subject_of.items())]
    return Splits(tuple(rows))


def _shuffled(subjects: Iterable[str], seed: int, stream: str, order: int = 0) -> list[str]:
    """Subjects in a random order in which each has its own fixed place.

    The place is a hash of seed, stream, order and name, so that a subject who joins, leaves or
    loses a label changes the order of no other two.
    """

    def place(subject: str) -> bytes:
        return hashlib.sha256(f"{seed}/{stream}/{order}/{subject}".encode()).digest()

    return sorted(subjects, key=place)


def _ranks(subjects: Sequence[str], seed: int, stream: str) -> dict[str, tuple[int, ...]]:
    """Rank of each subject in each order."""
    ranks: dict[str, list[int]] = {subject: [] for subject in subjects}
    for order in range(ORDERS):
        for rank, subject in enumerate(_shuffled(subjects, seed, stream, order)):
            ranks[subject].append(rank)
    return {subject: tuple(places) for subject, places in ranks.items()}


def _check_counts(labelled: int, test: int, validation: int) -> None:
    left = max(0, labelled - test - validation)
    if left == 0:
        raise MedclError(
            f"split: {labelled} labelled subjects less {test} for test and {validation} for "
            f"validation leave {left} labelled candidates, at least 1 is needed; lower "
            "`split.test` or `split.validation`, or label more subjects"
        )


def _named(
    key: str,
    value: int | list[str],
    subject_of: dict[str, str],
    labelled: Sequence[str],
) -> list[str]:
    """The subjects the user names for a role, each once; empty where a number is given."""
    if not isinstance(value, list):
        return []
    if not value:
        raise MedclError(f"split.{key}: the list is empty; name subjects, or give a number")
    known = set(subject_of.values())
    for name in value:
        if name in known and name in labelled:
            continue
        if name in known:
            raise MedclError(
                f"split.{key}: subject '{name}' has no label; name labelled subjects only"
            )
        if name in subject_of:
            raise MedclError(
                f"split.{key}: '{name}' is a case; name its subject, '{subject_of[name]}'"
            )
        near = difflib.get_close_matches(name, sorted(known), 1)
        hint = f"; did you mean '{near[0]}'?" if near else "; see the column subject of cases.csv"
        raise MedclError(f"split.{key}: no subject '{name}'{hint}")
    return list(dict.fromkeys(value))


# ------------------------------------------------------------------------------- the table


def write_splits(path: str | Path, splits: Splits) -> None:
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in splits.rows:
            writer.writerow([row.case, row.subject, row.role, *(row.ranks or [""] * ORDERS)])


def read_splits(path: str | Path) -> Splits:
    """Read `splits.csv`. Raises MedclError for a missing file, column, role or rank."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            absent = [c for c in COLUMNS if c not in (table.fieldnames or [])]
            lines = list(table)
    except FileNotFoundError:
        raise MedclError(f"{path}: no such file; run `medcl split` first") from None
    if absent:
        raise MedclError(f"{path}: no column '{absent[0]}'; write the table with `medcl split`")
    rows = []
    for number, line in enumerate(lines, start=2):
        ranks = [line[column] for column in ORDER_COLUMNS]
        if line["role"] not in ROLES or not (all(ranks) or not any(ranks)):
            raise MedclError(
                f"{path}: line {number}: role '{line['role']}' or its ranks are not valid; write "
                "the table with `medcl split`"
            )
        row_ranks = tuple(int(rank) for rank in ranks if rank)
        rows.append(Row(line["case"], line["subject"], line["role"], row_ranks))
    return Splits(tuple(rows), str(path))
