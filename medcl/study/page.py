"""What every report has in common: a page that needs no other file, its head and its contents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from medcl.study.markup import Html, escape, join, paragraph, tag

CSS = Path(__file__).with_name("report.css")


def header(
    study: str,
    title: str,
    *,
    facts: Sequence[str] = (),
    warnings: Iterable[object] = (),
    notice: str = "",
) -> Html:
    """Title and what was studied; `warnings` stand above them, `notice` below."""
    return tag(
        "header",
        *(paragraph(text, class_="notice") for text in warnings),
        paragraph(f"medcl · study {study}", class_="kicker"),
        tag("h1", title),
        paragraph(" · ".join(facts), class_="facts") if facts else "",
        paragraph(notice, class_="notice") if notice else "",
    )


def document(title: str, top: Html, sections: Iterable[Html]) -> str:
    """The page: `top`, links to the sections that have an anchor, and the sections."""
    body = [part for part in sections if part]
    head = [
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", escape(title)),
        tag("style", Html(CSS.read_text(encoding="utf-8"))),
    ]
    main = tag("main", join([top, contents(body), *body]))
    whole = join([tag("head", join(head)), tag("body", main)])
    return f"<!doctype html>\n{tag('html', whole, lang='en')}\n"


def contents(sections: Iterable[Html]) -> Html:
    """Links to the sections, by their anchors and headings."""
    starts = (re.match(r'<section id="([^"]+)"><h2>(.*?)</h2>', part) for part in sections)
    links = [tag("a", Html(start[2]), href=f"#{start[1]}") for start in starts if start]
    return tag("nav", join(links, " · "), aria_label="Contents") if len(links) > 1 else Html("")
