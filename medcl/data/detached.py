"""Headers whose voxels lie in other files: which files those are.

MetaImage names them behind `ElementDataFile`, NRRD behind `data file`: one file, a list of files,
or a pattern that is numbered. Both formats allow that under any of their suffixes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from medcl.files import CHUNK

META = (".mha", ".mhd")
NRRD = (".nrrd", ".nhdr")
LONGEST = 1 << 16  # bytes of a line; what is longer is no header
MOST_FILES = 100_000
NUMBERED = re.compile(r"[^%]*%\d*d[^%]*")  # nothing else may be formatted


@runtime_checkable
class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None: ...


class MissingVoxelsError(Exception):
    """A header names a file that is not there."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.file = file


@dataclass(frozen=True)
class Detached:
    """`header` is without the names of `files`, which hold the voxels, in their order."""

    header: bytes
    files: tuple[Path, ...]


def detached(path: Path) -> Detached | None:
    """The files of the voxels, whether they are there or not; None where `path` holds them itself.

    Raises OSError where the header cannot be read, ValueError where it numbers files in a way that
    cannot be: the library that reads voxels is ended by it.
    """
    suffix = path.suffix.lower()
    if suffix not in (*META, *NRRD):
        return None
    with open(path, "rb") as file:
        found = _of_meta(file) if suffix in META else _of_nrrd(file)
    if found is None:
        return None
    header, names = found
    return Detached(header, tuple(path.parent / name for name in names))


def check_present(path: Path) -> None:
    """Raise MissingVoxelsError for the first file that is not there, and what `detached` raises."""
    found = detached(path)
    for file in found.files if found else ():
        if not file.is_file():
            raise MissingVoxelsError(file)


def feed(path: Path, digest: Digest) -> None:
    """Give `digest` the bytes of the file, or the header's and those of all files it names."""
    found = detached(path)
    digest.update(found.header if found else b"")
    for file in found.files if found else (path,):
        with open(file, "rb") as stream:
            while data := stream.read(CHUNK):
                digest.update(data)


def _of_meta(file: BinaryIO) -> tuple[bytes, list[str]] | None:
    """The header and the names; `ElementDataFile` is its last line, a list follows it.

    There must be a file for each slice: what is missing would be read as whatever memory holds.
    """
    header, fields = b"", {}
    for line in _lines(file):
        key, *values = (part.strip() for part in re.split("[=:]", os.fsdecode(line), maxsplit=1))
        fields[key] = value = "".join(values)
        if key != "ElementDataFile":
            header += line
            continue
        if value.upper() == "LOCAL":
            return None
        sizes = [int(size) for size in fields.get("DimSize", "").split()]
        inner = len(sizes) - 1
        if value.startswith("LIST"):
            names, words = _rest(file), value.split()
            inner = int(words[1]) if len(words) > 1 else inner
        elif "%" in value:
            names = _numbered(value, sizes[-1] if sizes else 0)
        else:
            return header, [value]
        needed = math.prod(sizes[inner:])
        if len(names) != needed or inner >= len(sizes):
            raise ValueError(f"ElementDataFile names {len(names)} files for {needed} slices")
        return header, names
    return None


def _of_nrrd(file: BinaryIO) -> tuple[bytes, list[str]] | None:
    """The header and the names; a blank line ends it, or the file does."""
    header, names = b"", None
    for line in _lines(file):
        if not line.strip():
            break
        key, _, value = os.fsdecode(line).partition(":")
        if key.strip().lower() not in ("data file", "datafile"):
            header += line
        elif re.fullmatch(r"LIST(\s+\d+)?", value.strip()):
            return header, _rest(file)
        elif match := re.fullmatch(r"\s*(\S*%\d*d\S*(?:\s+-?\d+){3})(?:\s+\d+)?\s*", value):
            names = _numbered(match[1])
        else:
            names = [value.strip()]
    return None if names is None else (header, names)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LONGEST):
        if len(line) == LONGEST:
            return
        yield line


def _rest(file: BinaryIO) -> list[str]:
    return [name for line in _lines(file) if (name := os.fsdecode(line).strip())]


def _numbered(text: str, slices: int | None = None) -> list[str]:
    """The names of `s%03d.raw 1 20 1`: from, to and step.

    MetaImage, where `slices` are known, counts upwards only, and may leave the numbers out.
    """
    pattern, *words = text.split()
    try:
        numbers = [int(word) for word in words]
        first = numbers[0] if numbers else 1
        last, step = numbers[1:] if len(numbers) > 1 else (first + (slices or 0) - 1, 1)
        count = (last - first) // step + 1
    except (ValueError, ZeroDivisionError):
        count = 0
    backwards = slices is not None and count > 0 and step < 0
    if backwards or not NUMBERED.fullmatch(pattern) or not 0 < count <= MOST_FILES:
        raise ValueError(f"'{text}' numbers no files; it must be such as 's%03d.raw 1 20 1'")
    return [pattern % number for number in range(first, first + count * step, step)]
