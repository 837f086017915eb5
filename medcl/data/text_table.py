"""Tables other people wrote: rows of text, whatever separates their values."""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcl.errors import MedclError

SEPARATORS = ",;\t"
SPREADSHEET = b"PK"  # how a zipped office file begins


@dataclass(frozen=True)
class TextTable:
    """`rows` are (line in the file, values); spaces around names and values are left out."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def column(self, name: str) -> str | None:
        """The name of a column as the table writes it: the same, or in other letter case."""
        if name in self.header:
            return name
        alike = [text for text in self.header if text.casefold() == name.casefold()]
        return alike[0] if len(alike) == 1 else None

    def values(self, row: Sequence[str]) -> dict[str, str]:
        """Name -> value; a row that ends early has empty values."""
        filled = [*row, *[""] * (len(self.header) - len(row))]
        return {name: value for name, value in zip(self.header, filled, strict=False) if name}


def read_text_table(path: Path) -> TextTable:
    """Read a table separated by commas, semicolons or tabs, in UTF-8 (or UTF-16 that says so).

    Rows without any value are left out. Raises MedclError where the file is no such table.
    """
    if path.is_dir():
        raise MedclError(f"{path}: is a folder; name the table itself")
    text = _text(path)
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=_separator(text), skipinitialspace=True, strict=True)
    found = []
    try:
        for row in reader:
            if any(value.strip() for value in row):
                found.append((reader.line_num, [value.strip() for value in row]))
    except csv.Error as error:
        raise MedclError(
            f"{path}:{reader.line_num}: {error}; check the quotation marks there"
        ) from None
    if not found:
        raise MedclError(f"{path}: is empty; its first line must name the columns")
    (_, names), *rows = found
    return TextTable(path, names, rows)


def _separator(text: str) -> str:
    """The one that occurs most in the first line with anything in it, quoted names aside."""
    lines = re.sub(r'"[^"]*"', "quoted", text).split("\n")
    header = next((line for line in lines if line.strip(f"{SEPARATORS} \r")), "")
    return max(SEPARATORS, key=header.count)


def _text(path: Path) -> str:
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    if data.startswith(SPREADSHEET):
        raise MedclError(f"{path}: is a spreadsheet; export it as CSV (UTF-8)")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MedclError(
            f"{path}:{line}: byte {data[error.start]:#04x} is no {error.encoding.upper()}; save "
            "the table as CSV in UTF-8"
        ) from None
