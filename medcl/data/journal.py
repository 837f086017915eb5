"""Results of the voxel checks, kept case by case in one file of JSON lines.

A result is used again while its case, the files it was read from (path, size and time of change),
the rules, the version of the checks and the files that were made of it are what they were.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from medcl.data.cases import Case
from medcl.data.channels import file_of
from medcl.data.checks import Finding
from medcl.data.contract import Outcome, Rules
from medcl.data.detached import detached
from medcl.data.entries import Entry
from medcl.files import replacing, sha256_of

VERSION = 2  # of the checks of voxels: raise it when they find something else


def key_of(entry: Entry, rules: Rules) -> str:
    """What a result depends on, but for the files it left."""
    facts: list[Any] = [entry.case, entry.subject, entry.visit, entry.modality, entry.channels]
    facts += [entry.extra, entry.image, entry.label, entry.parts, entry.source, entry.dataset]
    facts += [entry.names, entry.modalities, entry.reference]
    facts += [(file.name, file.path) for file in entry.files]
    stamps = [_stamp(path) for path in _files_of(entry)]
    return sha256_of([VERSION, repr(replace(rules, volumes=None)), facts, stamps])


def size_of(entry: Entry) -> int:
    """Bytes of the files of a case."""
    return sum(stamp[1] for path in _files_of(entry) if (stamp := _stamp(path)))


class Journal:
    """`converted`: a result must have left its converted files, and they are what they were."""

    def __init__(self, path: Path | None, *, converted: bool) -> None:
        self.path, self.converted = path, converted
        self._before = dict(_lines(path)) if path else {}
        self._used: dict[str, dict[str, Any]] = {}
        self._file: IO[str] | None = None

    def __len__(self) -> int:
        return len(self._used)

    def find(self, key: str, entry: Entry) -> Outcome | None:
        """The result of a case, if it still holds."""
        line = self._before.get(key)
        if line is None or (self.converted and not _still_there(line["made"])):
            return None
        self._used[key] = line
        return _outcome(entry, line)

    def begin(self) -> None:
        """Leave in the file what was found, and go on behind it."""
        self._before = {}
        if self.path is None:
            return
        with replacing(self.path) as partial, open(partial, "w", encoding="utf-8") as file:
            file.writelines(json.dumps([k, line]) + "\n" for k, line in self._used.items())
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def add(self, key: str, outcome: Outcome) -> None:
        """Write a result at once: the next kill must not lose it."""
        if self._file is not None:
            self._file.write(json.dumps([key, _line(outcome)]) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is whole; the last line may have been cut off."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                key, value = json.loads(line)
            except ValueError:
                continue
            yield key, value


def _line(outcome: Outcome) -> dict[str, Any]:
    known = outcome.entry.findings
    return {
        "status": outcome.status,
        "findings": [f.to_dict() for f in outcome.findings if f not in known],
        "case": asdict(outcome.case) if outcome.case else None,
        "values": outcome.values,
        "range": outcome.range,
        "thumbnail": outcome.thumbnail,
        "made": _made(outcome),
    }


def _outcome(entry: Entry, line: dict[str, Any]) -> Outcome:
    findings = (*entry.findings, *(Finding(**found) for found in line["findings"]))
    case = line["case"]
    if case:
        lists = {name: tuple(value) for name, value in case.items() if isinstance(value, list)}
        case = Case(**case | lists)
    values = tuple(line["values"])
    extent = tuple(line["range"]) if line["range"] else None
    return Outcome(entry, line["status"], findings, case, values, extent, line["thumbnail"])


def _made(outcome: Outcome) -> list[Any] | None:
    """Stamps of the files written for a case, None where a check wrote none."""
    case, entry = outcome.case, outcome.entry
    if case is None:
        return []
    if case.image_sha256 == "" or (case.label and case.label_sha256 is None):
        return None
    sources = {entry.label, *(file_of(part.path)[0] for part in entry.images)}
    files = [file_of(path)[0] for path in case.channel_images or (case.image,)]
    files += [case.label] if case.label else []
    return [_stamp(path) for path in dict.fromkeys(files) if path not in sources]


def _still_there(made: list[Any] | None) -> bool:
    return made is not None and all(_stamp(path) == [path, *rest] for path, *rest in made)


def _files_of(entry: Entry) -> Iterator[str]:
    files: list[str] = []
    for part in entry.images:
        if part.series:
            yield from dict.fromkeys(plane.header.path for plane in part.series.stack.planes)
        else:
            files.append(file_of(part.path)[0])
    files += [path for _, path in entry.parts] or ([entry.label] if entry.label else [])
    for path in dict.fromkeys(files):
        yield from _with_voxels(path)


def _with_voxels(path: str) -> Iterator[str]:
    yield path
    with suppress(OSError, ValueError):  # what is wrong with a header is told as it is read
        found = detached(Path(path))
        yield from map(str, found.files if found else ())


def _stamp(path: str) -> list[Any] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [path, status.st_size, status.st_mtime_ns]
