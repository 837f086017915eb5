"""The few pieces of HTML a report is made of; every text is escaped unless it is Html already."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Text that is HTML already."""


def escape(text: object) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


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
    *,
    text: int = 1,
    rules: Sequence[int] = (),
) -> Html:
    """A table with its caption above; columns from `text` on are numbers and set right.

    A line is drawn above the rows in `rules`. Without rows there is no table.
    """
    if not rows:
        return Html("")
    kinds = ["text" if column < text else "number" for column in range(len(head))]
    heads = [tag("th", cell, class_=kind, scope="col") for cell, kind in zip(head, kinds, strict=True)]
    body = []
    for number, row in enumerate(rows):
        cells = [tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)]
        body.append(tag("tr", *cells, **({"class_": "rule"} if number in rules else {})))
    inside = [
        tag("caption", caption),
        tag("thead", tag("tr", *heads)),
        tag("tbody", join(body)),
    ]
    return tag("div", tag("table", join(inside)), class_="table", tabindex="0")


def figure(content: object, caption: object, *, kind: str = "") -> Html:
    inside = [content, tag("figcaption", caption)]
    return tag("figure", join(inside), **({"class_": kind} if kind else {}))


def panels(items: Iterable[object], kind: str = "panels") -> Html:
    """Pictures side by side, as many as fit."""
    return tag("div", join(items), class_=kind)
