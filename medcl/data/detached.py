"""Where NRRD and MetaImage have their voxels: behind the header or in other files, and if whole.

MetaImage names them behind `ElementDataFile`, NRRD behind `data file`: one file, a list of files,
or a pattern that is numbered. Both formats allow that under any of their suffixes.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from medcl.files import CHUNK

META = (".mha", ".mhd")
NRRD = (".nrrd", ".nhdr")
LONGEST = 1 << 16  # bytes of a line; what is longer is no header
MOST_FILES = 100_000
META_BYTES = {
    f"{sign}{kind}": size
    for kind, size in (("CHAR", 1), ("SHORT", 2), ("INT", 4), ("LONG", 4), ("LONG_LONG", 8))
    for sign in ("", "U")
} | {"FLOAT": 4, "DOUBLE": 8}
TRUE = ("T", "t", "1")
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


class CutError(Exception):
    """A file that holds less than a header promises: `needed` bytes of voxels, `there` are."""

    def __init__(self, file: Path, needed: int, there: int) -> None:
        super().__init__(file, needed, there)
        self.file, self.needed, self.there = file, needed, there


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


def check_whole(path: Path) -> None:
    """Raise CutError for a MetaImage of which a file is too short, ValueError for half a header.

    The library that reads it names another reason. Of NRRD it names this one.
    """
    if path.suffix.lower() not in META:
        return
    with open(path, "rb") as file:
        fields = _fields_of_meta(file)[1]
        start = file.tell()
    if "ElementDataFile" not in fields:
        raise ValueError("its header does not say where the voxels are (ElementDataFile)")
    found = detached(path)
    files = found.files if found else (path,)
    try:
        needed = _bytes_of_meta(fields, len(files))
        begin = int(fields.get("HeaderSize", 0))  # -1: they are the last bytes
    except ValueError:
        return  # numbers as no program writes them: for the library to judge
    start = max(begin, 0) if begin or found else start
    for name in files if needed else ():
        there = max(name.stat().st_size - start, 0)
        if there < needed:
            raise CutError(name, needed, there)


def _bytes_of_meta(fields: Mapping[str, str], files: int) -> int:
    """Bytes of voxels in each of the files, 0 where the header does not tell."""
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    if fields.get("CompressedData", "")[:1] in TRUE:
        return int(fields.get("CompressedDataSize", 0)) if files == 1 else 0
    if fields.get("BinaryData", "True")[:1] not in TRUE or kind not in META_BYTES:
        return 0
    values = math.prod(map(int, fields.get("DimSize", "0").split()))
    values *= int(fields.get("ElementNumberOfChannels", 1))
    return values * META_BYTES[kind] // max(files, 1)


def feed(path: Path, digest: Digest) -> None:
    """Give `digest` the bytes of the file, or the header's and those of all files it names."""
    found = detached(path)
    digest.update(found.header if found else b"")
    for file in found.files if found else (path,):
        with open(file, "rb") as stream:
            while data := stream.read(CHUNK):
                digest.update(data)


def check_inflates(path: Path, size: int) -> None:
    """Raise ValueError or zlib.error where compressed voxels are not `size` bytes or damaged.

    The libraries that read them look at no checksum, or go on with whatever memory holds.
    """
    with open(path, "rb") as file:
        if not _is_compressed(file, meta=path.suffix.lower() in META):
            return
        found, total = detached(path), 0
        for name in found.files if found else ():
            with open(name, "rb") as part:
                total += _inflated(part)
        if found is None:
            total = _inflated(file)
    if total < size:
        raise ValueError(f"its compressed voxels are {total} bytes, {size} are needed")


def _is_compressed(file: BinaryIO, *, meta: bool) -> bool:
    """Whether a stream of zlib follows the header, to whose end this reads."""
    compressed = False
    for line in _lines(file):
        key, value = _field(line)
        if not meta and not line.strip():
            break
        if key == "CompressedData" and meta:
            compressed = value[:1] in TRUE
        elif key.lower() == "encoding" and not meta:
            compressed = value.lower() in ("gz", "gzip")
        elif key == "ElementDataFile" and meta:
            break
        elif key.lower() == "line skip" and value != "0":
            return False  # something of unknown length stands before the stream
    return compressed


def _inflated(file: BinaryIO) -> int:
    """How many bytes the rest of a file becomes; raises zlib.error and ValueError for damage."""
    stream, total = zlib.decompressobj(wbits=47), 0  # either header, of zlib or gzip
    while not stream.eof and (data := file.read(LONGEST)):
        total += len(stream.decompress(data))
    if not stream.eof:
        raise ValueError("its compressed voxels end early")
    return total


def leaves_axis_open(path: Path) -> bool:
    """Whether a NRRD header gives directions, but not for three axes."""
    with open(path, "rb") as file:
        fields = dict(_field(line) for line in takewhile(bytes.strip, _lines(file)))
    return fields.get("space directions", "(((").count("(") < 3


def _field(line: bytes) -> tuple[str, str]:
    """Key and value of a line of either format."""
    key, *values = (part.strip() for part in re.split("[=:]", os.fsdecode(line), maxsplit=1))
    return key, "".join(values)


def _of_meta(file: BinaryIO) -> tuple[bytes, list[str]] | None:
    """The header and the names; `ElementDataFile` is its last line, a list follows it.

    There must be a file for each slice: what is missing would be read as whatever memory holds.
    """
    header, fields = _fields_of_meta(file)
    value = fields.get("ElementDataFile", "LOCAL")
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


def _fields_of_meta(file: BinaryIO) -> tuple[bytes, dict[str, str]]:
    """The header without its last line, and all it says; reads to its end."""
    header: bytes = b""
    fields: dict[str, str] = {}
    for line in _lines(file):
        key, value = _field(line)
        fields[key] = value
        if key == "ElementDataFile":
            break
        header += line
    return header, fields


def _of_nrrd(file: BinaryIO) -> tuple[bytes, list[str]] | None:
    """The header and the names; a blank line ends it, or the file does."""
    header, names = b"", None
    for line in _lines(file):
        if not line.strip():
            break
        key, value = _field(line)
        if key.lower() not in ("data file", "datafile"):
            header += line
        elif re.fullmatch(r"LIST(\s+\d+)?", value):
            return header, _rest(file)
        elif match := re.fullmatch(r"(\S*%\d*d\S*(?:\s+-?\d+){3})(?:\s+\d+)?", value):
            names = _numbered(match[1])
        else:
            names = [value]
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
