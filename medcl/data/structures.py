"""Which structure of an annotation is which class, and how structures share one label map.

A structure (a contoured region, a segment, a mask file) belongs to a class when its name is one
of the names the dataset gives for that class; letter case does not matter and `*` stands for
anything. Where structures of two classes overlap, the class that stands later in `classes` wins:
write an organ before what lies in it. Structures of one class are united.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Integer, UInt8

from medcl.config import Dataset
from medcl.data.checks import Finding
from medcl.data.volume import VolumeError

NEAR = 0.85  # likeness of two names, punctuation aside, from which a misspelling is suspected
MOST_CLASSES = 255


@dataclass(frozen=True)
class Naming:
    """What the dataset says of names. `classes` None: every structure is a class of its own."""

    classes: Mapping[str, int] | None = None
    structures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ignored: Sequence[str] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> Naming:
        return cls(dict(dataset.classes), dataset.structures, dataset.ignored_structures)

    def names_of(self, label: str) -> Sequence[str]:
        """The names of a class; a class without any is looked for under its own name."""
        return self.structures.get(label) or [label]

    def knows(self, name: str) -> bool:
        """Whether a structure of this name is wanted, or known not to be."""
        return self.classes is None or any(_matches(name, text) for text in self._texts())

    def resembles(self, name: str) -> bool:
        """Whether it may be another spelling of a structure that is known."""
        return any(_is_near(name, text) for text in self._texts())

    def _texts(self) -> list[str]:
        wanted = [name for label in self.classes or () for name in self.names_of(label)]
        return [*wanted, *self.ignored]


def assign(
    names: Sequence[str], naming: Naming, where: str
) -> tuple[list[str | None], list[Finding]]:
    """The class of each structure, None for those not asked for, and what is wrong or worth a look.

    Raises VolumeError where no structure has a class, or one has two.
    """
    if naming.classes is None:
        return list(names), []
    found = [_class_of(name, naming, where) for name in names]
    if not any(found):
        raise VolumeError(
            "no_structure",
            f"{where}: none of its structures ({_list(names)}) belongs to a class "
            f"({', '.join(naming.classes)}){_suggestion(names, naming)}",
            "write its names under `structures`, or exclude the case",
        )
    unused = [name for name, label in zip(names, found, strict=True) if label is None]
    findings = []
    for label in naming.classes:
        if label not in found:
            findings.append(_absent(label, unused, naming, where))
    if unused:
        findings.append(
            Finding("structures_not_used", "info", f"{where}: of no class: {_list(unused)}")
        )
    return found, findings


def _class_of(name: str, naming: Naming, where: str) -> str | None:
    assert naming.classes is not None
    if any(_matches(name, pattern) for pattern in naming.ignored):
        return None
    exact = [
        label
        for label in naming.classes
        if any(_fold(name) == _fold(pattern) for pattern in naming.names_of(label))
    ]
    labels = exact or [
        label
        for label in naming.classes
        if any(_matches(name, pattern) for pattern in naming.names_of(label))
    ]
    if len(labels) > 1:
        raise VolumeError(
            "structure_ambiguous",
            f"{where}: structure '{name}' belongs to {' and '.join(labels)}",
            "make the patterns under `structures` narrower",
        )
    return labels[0] if labels else None


def _absent(label: str, unused: Sequence[str], naming: Naming, where: str) -> Finding:
    """An absent class is background, unless its structure is there under another spelling."""
    left = [name for name in unused if not any(_matches(name, p) for p in naming.ignored)]
    for pattern in naming.names_of(label):
        if near := [name for name in left if _is_near(name, pattern)]:
            return Finding(
                "structure_near_miss",
                "error",
                f"{where}: no structure '{pattern}' for class {label}, but '{near[0]}'",
                f"add '{near[0]}' to `structures.{label}`, or to `ignored_structures`",
            )
    return Finding(
        "structure_missing",
        "warning",
        f"{where}: no structure for class {label}; it has {_list(unused) or 'no others'}",
        "check that this patient has none, or write its name under `structures`",
    )


def _suggestion(names: Sequence[str], naming: Naming) -> str:
    assert naming.classes is not None
    for label in naming.classes:
        for pattern in naming.names_of(label):
            plain = {_plain(name): name for name in names}
            near = difflib.get_close_matches(_plain(pattern), list(plain), 1, cutoff=0.5)
            near = near or [name for name in plain if _plain(pattern) in name]
            if near:
                return f"; did you mean structures: {{{label}: ['{plain[near[0]]}']}}?"
    return ""


def _fold(name: str) -> str:
    return " ".join(name.split()).casefold()


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _words(name: str) -> list[str]:
    return sorted(re.findall(r"[^\W_]+", name.casefold()))


def _matches(name: str, pattern: str) -> bool:
    regex = ".*".join(re.escape(part) for part in _fold(pattern).split("*"))
    return re.fullmatch(regex, _fold(name)) is not None


def _is_near(name: str, pattern: str) -> bool:
    """Alike but for spelling or the order of words; names that differ in a number (L1, L2) are
    different things.
    """
    a, b = _plain(name), _plain(pattern)
    if _words(name) == _words(pattern):
        return True
    if re.findall(r"\d+", a) != re.findall(r"\d+", b):
        return False
    return difflib.SequenceMatcher(None, a, b).ratio() >= NEAR


def _list(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


class Canvas:
    """A label map in the making: structures in any order, the later class on top."""

    def __init__(self, shape: tuple[int, int, int], naming: Naming, names: Sequence[str]) -> None:
        """`names`: the structures there are, classes themselves where the dataset names none."""
        classes = naming.classes
        if classes is None:
            classes = {name: value for value, name in enumerate(dict.fromkeys(names), 1)}
        if len(classes) > MOST_CLASSES:
            raise VolumeError(
                "too_many_structures",
                f"{len(classes)} structures, a label map holds {MOST_CLASSES}",
                "name those of interest in the dataset's `classes`",
            )
        self.classes = dict(classes)
        self.voxels: dict[str, int] = {}
        self.overlap = 0
        self._rank = {label: rank for rank, label in enumerate(self.classes, 1)}
        self._ranks = np.zeros(shape, np.uint8)

    def paint(self, label: str, voxels: tuple[Integer[np.ndarray, " n"], ...]) -> int:
        """Give voxels (indices along the three axes) to a class; return how many lie outside."""
        inside = np.ones(len(voxels[0]), bool)
        for index, length in zip(voxels, self._ranks.shape, strict=True):
            inside &= (index >= 0) & (index < length)
        kept = tuple(index[inside] for index in voxels)
        before, rank = self._ranks[kept], self._rank[label]
        self.overlap += int(np.count_nonzero((before > 0) & (before != rank)))
        self._ranks[kept] = np.maximum(before, rank)
        self.voxels[label] = self.voxels.get(label, 0) + len(kept[0])
        return int(np.count_nonzero(~inside))

    def label_map(self) -> UInt8[np.ndarray, "X Y Z"]:
        """The values of the classes."""
        return np.array([0, *self.classes.values()], np.uint8)[self._ranks]

    def findings(self, where: str, outside: int) -> list[Finding]:
        """What painting has shown; raises VolumeError where nothing lies on the image."""
        painted = sum(self.voxels.values())
        if outside and not painted:
            raise VolumeError(
                "annotation_outside",
                f"{where}: all of it ({outside} voxels) lies outside the image",
                "check that it belongs to this image",
            )
        findings = []
        if outside:
            told = f"{where}: {outside} of {painted + outside} voxels lie outside the image"
            findings.append(
                Finding("annotation_outside", "warning", told, "check that it belongs to it")
            )
        if self.overlap:
            told = f"{where}: classes overlap in {self.overlap} voxels; the later of "
            told += f"{', '.join(self.classes)} is kept"
            findings.append(Finding("structures_overlap", "info", told))
        return findings
