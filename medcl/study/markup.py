"""The few pieces of HTML a report is made of; every text is escaped unless it is Html already."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


class Html(str):
    """Text that is HTML already."""


def escape(text: object) -> Html:
    """Escaped text; `95 %` and `p = 0.02` stay on one line."""
    if isinstance(text, Html):
        return text
    safe = re.sub(r"(\d) %", "\\1\u00a0%", html.escape(str(text)))
    return Html(re.sub(r"\bp (=|&lt;|&gt;) (?=\d)", "p\u00a0\\1\u00a0", safe))


def ticked(text: str) -> Html:
    """Escaped text in which `words in backticks` become code."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))


def join(parts: Iterable[object], between: str = "\n") -> Html:
    return Html(between.join(escape(part) for part in parts if part))


def tag(name: str, *content: object, **attributes: str) -> Html:
    """An element; a trailing underscore of an attribute (`class_`) is taken off."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{given}>{''.join(escape(part) for part in content)}</{name}>")


def paragraph(text: object, **attributes: str) -> Html:
    return tag("p", text, **attributes)


def section(title: str, *content: object, anchor: str | None = None) -> Html:
    """A section with a heading; nothing at all without content."""
    parts = [part for part in content if part]
    if not parts:
        return Html("")
    inside = join([tag("h2", title), *parts])
    return tag("section", inside, **({"id": anchor} if anchor else {}))


def subsection(title: str, *content: object) -> Html:
    parts = [part for part in content if part]
    return join([tag("h3", title), *parts]) if parts else Html("")


def bullets(items: Iterable[object]) -> Html:
    listed = [tag("li", item) for item in items]
    return tag("ul", *listed) if listed else Html("")


def table(
    caption: object,
    head: Sequence[object],
    rows: Sequence[Sequence[object]],
    columns: str,
    *,
    rules: Sequence[int] = (),
) -> Html:
    """A table below its caption; `columns` has a letter for each: t for text, w for long text,
    n for numbers.

    A line is drawn above the rows in `rules`. Without rows there is no table.
    """
    if not rows:
        return Html("")
    kinds = [{"t": "text", "w": "text wide", "n": "number"}[letter] for letter in columns]
    heads = [tag("th", cell, class_=k, scope="col") for cell, k in zip(head, kinds, strict=True)]
    body = []
    for number, row in enumerate(rows):
        cells = [tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)]
        body.append(tag("tr", *cells, **({"class_": "rule"} if number in rules else {})))
    inside = join([tag("thead", tag("tr", *heads)), tag("tbody", join(body))])
    scroll = tag("div", tag("table", inside), class_="scroll", tabindex="0")
    return tag("figure", join([tag("figcaption", caption), scroll]), class_="table")


def figure(content: object, caption: object, *, kind: str = "") -> Html:
    """A picture with its caption below, if it has any."""
    inside = [content, tag("figcaption", caption) if caption else ""]
    return tag("figure", join(inside), **({"class_": kind} if kind else {}))


def panels(items: Iterable[object], kind: str = "panels") -> Html:
    """Pictures side by side, as many as fit."""
    return tag("div", join(items), class_=kind)
