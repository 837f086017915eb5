"""The layout csv: one row of a table, one case."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medcl.config import Source
from medcl.data.cases import COLUMNS
from medcl.data.channel_lists import Channels, joined
from medcl.data.checks import Finding
from medcl.data.entries import Entry, case_name, file_below, guessed_subject, lonely_label
from medcl.data.text_table import TextTable, read_text_table
from medcl.errors import MedclError

MODALITIES = ("CT", "MR", "PET", "US", "other")
TABLE_COLUMNS = ("case", "subject", "visit", "image", "label", "modality")
TABLES = (".csv", ".tsv")
NOTHING = ("n/a", "na", "nan", "none", "null")  # how programs write a value that is missing


def csv_table(source: Source, path: Path, where: str, channels: Channels) -> Iterator[Entry]:
    """One row, one case; paths in the table are relative to it. Other columns are kept."""
    table = read_text_table(path)
    columns = _columns(source, table, where, channels.names)
    if not table.rows:
        raise MedclError(f"{path}: has no rows below the names of its columns")
    for line, row in table.rows:
        yield _case(table, line, row, columns, source, channels)


def _case(
    table: TextTable,
    line: int,
    row: Sequence[str],
    columns: Mapping[str, str],
    source: Source,
    channels: Channels,
) -> Entry:
    here, found = f"{table.path}:{line}", table.values(row)
    values = {ours: _given(found[theirs]) for ours, theirs in columns.items()}
    files = {
        key: str(file_below(table.path.parent, values[key])) if values.get(key) else None
        for key in ("image", "label", *channels.names)
    }
    image, label = files.pop("image"), files.pop("label")
    if "image" not in columns:
        image = next((file for file in files.values() if file), None)
    subject, visit = values.get("subject") or None, values.get("visit", "")
    stem = "_".join(filter(None, (subject, visit))) or Path(image or label or "row").name
    extra = {
        (name if name not in COLUMNS else f"table_{name}"): value
        for name, value in found.items()
        if name not in columns.values()
    }
    name = case_name(values.get("case") or stem)
    entry = Entry(name, image, source.path, label, subject, visit, extra=extra)
    if "image" in columns and channels.names:  # one file holds all channels
        entry = replace(entry, channels=len(channels.names), names=channels.names)
    elif image is not None and channels.names:
        entry = joined(entry, files, channels)
    if image is None:
        missing = Finding("missing_image_file", "error", f"{here}: no image", "fill in the column")
        entry = entry.but(lonely_label(label) if label else missing)
    if len(row) > len(table.header) and any(row[len(table.header) :]):
        told = f"{here}: {len(row)} values for {len(table.header)} columns"
        remedy = "quote values that hold the separator"
        entry = entry.but(Finding("row_too_long", "error", told, remedy))
    if "subject" in columns and subject is None:
        told = f"{here}: no subject; the case counts as a person of its own"
        entry = entry.but(guessed_subject(told, "fill in the column"))
    return _with_modality(entry, values.get("modality", ""), here)


def _with_modality(entry: Entry, text: str, here: str) -> Entry:
    known = {name.casefold(): name for name in MODALITIES}
    if not text or text.casefold() in known:
        return replace(entry, modality=known.get(text.casefold()))
    remedy = f"write one of {', '.join(MODALITIES)}"
    told = f"{here}: modality '{text}'"
    return entry.but(Finding("unknown_modality", "error", told, remedy))


def _given(value: str) -> str:
    return "" if value.casefold() in NOTHING else value


def _columns(
    source: Source, table: TextTable, where: str, channels: Sequence[str]
) -> dict[str, str]:
    """Our column name -> the table's; without a column `image` there is one for each channel."""
    path, shown = table.path, ", ".join(table.header)
    known = (*TABLE_COLUMNS, *channels)
    for ours in source.columns:
        if ours not in known:
            raise MedclError(f"{where}.columns.{ours}: no such column; use {', '.join(known)}")
    asked = {name: name for name in known if table.column(name)} | source.columns
    if channels and "image" not in asked:
        asked = {name: name for name in channels} | asked
    columns = {}
    for ours, text in asked.items():
        theirs = table.column(text.strip())
        if theirs is None:
            near = difflib.get_close_matches(text, table.header, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {shown}"
            raise MedclError(f"{where}.columns.{ours}: {path} has no column '{text}'; {hint}")
        if table.header.count(theirs) > 1:
            raise MedclError(f"{path}: column '{theirs}' stands there twice; rename one")
        columns[ours] = theirs
    if "image" not in columns and not channels:
        raise MedclError(
            f"{path}: no column 'image', only {shown}; rename one, or name it in {where}.columns"
        )
    return columns
