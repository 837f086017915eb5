"""One table, three ways: in the page, as CSV with plain numbers, and as LaTeX (booktabs)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcl.files import replacing, write_text
from medcl.study import markup
from medcl.study.markup import Html, tag
from medcl.study.prose import NONE
from medcl.study.sentences import points

LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "−": "$-$",
        "×": r"$\times$",
        "–": "--",
        "“": "``",
        "”": "''",
        "\u00a0": "~",
    }
)


@dataclass(frozen=True)
class Number:
    """A number as it was computed, and how it is shown: times `scale`, with its interval.

    `note` is a count that stands in brackets behind it; `text` is shown in place of the number.
    """

    value: float | None
    digits: int = 1
    scale: float = 1.0
    sign: bool = False
    interval: tuple[float, float] | None = None
    note: int | None = None
    text: str | None = None

    def parts(self) -> tuple[str, str]:
        """What is shown, and what is shown smaller behind it."""
        if self.value is None:
            return NONE, ""
        if self.text is not None:
            return self.text, ""
        shown = points(self.value, sign=self.sign, digits=self.digits, scale=self.scale)
        behind = ""
        if self.interval is not None:
            limits = (points(x, digits=self.digits, scale=self.scale) for x in self.interval)
            behind = f"({' to '.join(limits)})"
        return shown, behind or (f"[{self.note}]" if self.note else "")


Cell = str | int | Number


@dataclass(frozen=True)
class Column:
    """A column: its name in the CSV file, its heading, and its kind (t text, w wide, n number).

    With `interval` or `note` the CSV file has `<key>_low` and `<key>_high`, or the column `note`,
    beside it.
    """

    key: str
    title: str
    kind: str
    interval: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows below a caption; a line is drawn above the rows in `rules`. `name` is a file's stem."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    rules: tuple[int, ...] = ()

    def html(self) -> Html:
        """Nothing at all without rows."""
        heads = [column.title for column in self.columns]
        kinds = "".join(column.kind for column in self.columns)
        rows = [[_html(cell) for cell in row] for row in self.rows]
        return markup.table(self.caption, heads, rows, kinds, rules=self.rules)

    def latex(self) -> str:
        """A `table` that needs \\usepackage{booktabs}."""
        kinds = "".join("r" if column.kind == "n" else "l" for column in self.columns)
        lines = ["% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering"]
        lines.append(f"\\caption{{{escaped(self.caption)}}}")
        lines.append(f"\\label{{tab:{self.name}}}")
        lines += [f"\\begin{{tabular}}{{{kinds}}}", r"\toprule"]
        lines.append(_line([column.title for column in self.columns]))
        lines.append(r"\midrule")
        for number, row in enumerate(self.rows):
            lines += [r"\midrule"] if number in self.rules else []
            lines.append(_line([_plain(cell) for cell in row]))
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines) + "\n"

    def header(self) -> list[str]:
        """Names of the CSV file's columns."""
        names = []
        for column in self.columns:
            names.append(column.key)
            names += [f"{column.key}_low", f"{column.key}_high"] if column.interval else []
            names += [column.note] if column.note else []
        return names

    def plain_rows(self) -> list[list[str]]:
        """The CSV file's rows: numbers unscaled, empty where there is none."""
        return [
            [
                text
                for column, cell in zip(self.columns, row, strict=True)
                for text in _csv(column, cell)
            ]
            for row in self.rows
        ]


def write_table(folder: Path, table: Table) -> list[Path]:
    """Write <name>.csv and <name>.tex."""
    files = [folder / f"{table.name}.csv", folder / f"{table.name}.tex"]
    with replacing(files[0]) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.header())
        writer.writerows(table.plain_rows())
    write_text(files[1], table.latex())
    return files


def escaped(text: str) -> str:
    """Text in which nothing is a command of LaTeX."""
    return text.translate(LATEX)


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(escaped(cell) for cell in cells)} \\\\"


def _plain(cell: Cell) -> str:
    if isinstance(cell, Number):
        return " ".join(part for part in cell.parts() if part)
    return str(cell)


def _html(cell: Cell) -> object:
    if not isinstance(cell, Number):
        return str(cell)
    shown, behind = cell.parts()
    return tag("span", f"{shown} ", tag("small", behind), class_="estimate") if behind else shown


def _csv(column: Column, cell: Cell) -> list[str]:
    number = cell if isinstance(cell, Number) else None
    if number is None:
        texts = ["" if cell == NONE else str(cell)]
    else:
        texts = ["" if number.value is None else f"{number.value:.6g}"]
    if column.interval:
        limits = (number.interval if number else None) or (None, None)
        texts += ["" if limit is None else f"{limit:.6g}" for limit in limits]
    if column.note:
        texts.append(str((number.note if number else None) or 0))
    return texts
