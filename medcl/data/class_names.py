"""The classes of a dataset beside the `labels` of a dataset.json that comes with its data.

nnU-Net writes a name and its value, or the values of a region; the Decathlon, and nnU-Net before
its second version, a value and its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.data.checks import Finding
from medcl.data.entries import listed
from medcl.errors import MedclError
from medcl.files import read_json


def compare_classes(file: Path, classes: Mapping[str, int]) -> list[Finding]:
    """What the file calls otherwise, or has besides; nothing where it names no classes.

    Raises MedclError where one name has different values: whose labels would be learnt is not
    known then.
    """
    theirs = _values_by_name(file, read_json(file).get("labels") or {})
    ours = {_fold(name): (name, value) for name, value in classes.items()}
    same = [
        (name, values, *ours[_fold(name)]) for name, values in theirs.items() if _fold(name) in ours
    ]
    if wrong := [_contradiction(file, *pair) for pair in same if pair[1] != [pair[3]]]:
        raise MedclError("\n".join(wrong))
    name_of = {values[0]: name for name, values in theirs.items() if len(values) == 1}
    known = {value for values in theirs.values() for value in values}
    findings = []
    for name, value in classes.items():
        if theirs and value not in known:
            told = f"{file}: has no value {value}, which `classes` calls {name}"
            remedy = f"correct `classes`; it has {_shown(theirs)}"
            findings.append(Finding("class_differs", "warning", told, remedy))
        elif value in name_of and _fold(name_of[value]) != _fold(name):
            told = f"{file}: value {value} is '{name_of[value]}', `classes` calls it {name}"
            remedy = "make sure that both mean the same"
            findings.append(Finding("class_differs", "warning", told, remedy))
    for value in sorted(known - {0, *classes.values()}):
        called = f" ({name_of[value]})" if value in name_of else ""
        told = f"{file}: value {value}{called} is not among `classes`: labels with it are refused"
        remedy = "add it to `classes`, or make label maps without it"
        findings.append(Finding("class_left_out", "warning", told, remedy))
    return findings


def _contradiction(file: Path, name: str, values: list[int], called: str, value: int) -> str:
    shown = listed(values, 20)
    if len(values) > 1:
        return (
            f"classes.{called}: is {value}, but '{name}' in {file} is a region of the values "
            f"{shown}; name the class of each value, regions are not known here"
        )
    return (
        f"classes.{called}: is {value}, but '{name}' in {file} is {shown}; correct the one that is "
        "wrong"
    )


def _values_by_name(file: Path, labels: Any) -> dict[str, list[int]]:
    """Name -> its value, or the values of a region; without the background.

    Raises MedclError where two values have one name, letter case and spaces aside.
    """
    try:
        pairs = dict(labels).items()
        if all(str(key).strip().isdigit() for key, _ in pairs):
            found = [(str(name), [int(value)]) for value, name in pairs]
        else:
            found = [
                (str(name), [int(v) for v in (value if isinstance(value, list) else [value])])
                for name, value in pairs
            ]
    except (TypeError, ValueError):
        raise MedclError(
            f'{file}: `labels` must map names to values, such as {{"tumour": 1}}, or values to '
            f"names; got {labels}"
        ) from None
    first: dict[str, tuple[str, list[int]]] = {}
    for name, values in found:
        other, theirs = first.setdefault(_fold(name), (name, values))
        if theirs != values:
            raise MedclError(
                f"{file}: `labels` calls {listed(theirs, 20)} '{other}' and {listed(values, 20)} "
                f"'{name}': one name for two; give each a name of its own"
            )
    return {name: values for name, values in found if values != [0]}


def _shown(theirs: Mapping[str, list[int]]) -> str:
    return listed((f"{listed(values, 20)} {name}" for name, values in theirs.items()), 8)


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()
