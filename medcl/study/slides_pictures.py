"""The pictures of a slide study: differences with their intervals, and heat maps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medcl.files import read_json
from medcl.study import figures
from medcl.study.drawing import WIDE
from medcl.study.markup import Html, figure, join, panels, paragraph, section, ticked
from medcl.study.names import Names
from medcl.study.slides_results import Pair, SlideResults

ENLARGED = "width:100%;image-rendering:pixelated"  # a small slide has few pixels in its thumbnail


def forest(compared: Sequence[Pair]) -> Html:
    """The differences of the AUROC with their intervals, where there are several."""
    rows = []
    encoders = list(dict.fromkeys(pair.first.encoder for pair in compared))
    for pair in compared:
        found = pair.differences["auroc"]
        if found.mean is not None:
            said, shared = sides(pair)
            # An aggregator that is compared has the colour behind those of the encoders.
            by = encoders.index(pair.first.encoder) if pair.by == "encoder" else len(encoders)
            point = figures.Point(0, found.mean, *(found.interval or ()))
            rows.append(figures.Row(f"{said}, {shared}", by + 1, point, pair.by))
    if len(rows) < 2:
        return Html("")
    drawn = figures.forest(rows, "differences", title="AUROC", quantity="difference")
    wide = replace(drawn, size=(WIDE[0], drawn.size[1]))  # the names of two models stand beside it
    return figure(Html(wide.svg()), "Differences of the AUROC with their 95 % intervals.")


def sides(pair: Pair) -> list[object]:
    """What is compared, and what both have in common."""
    first, second = pair.first, pair.second
    if pair.by == "encoder":
        said = [f"{first.encoder} − {second.encoder}", first.aggregator]
    else:
        said = [f"{first.aggregator} − {second.aggregator}", first.encoder]
    return [said[0] + (" (primary)" if pair.primary else ""), said[1]]


def heatmaps(results: SlideResults, names: Names) -> Html:
    """Heat maps of the primary model, positive slides first."""
    study = results.study
    folder = results.root / "heatmap" / study.asked / study.aggregator
    if results.dealt is None or not folder.is_dir():
        return Html("")
    label = {one.slide: one.label for one in results.dealt.slides}
    made = {file.parent: read_json(file) for file in sorted(folder.glob("f*/heatmap.json"))}
    drawn = [place / name for place, listed in made.items() for name in listed["slides"]]
    lost = sum(len(listed["lost"]) for listed in made.values())
    order = study.dataset.classes
    drawn.sort(key=lambda path: (-order.index(label[path.name]), path.name))
    items = [
        figure(
            join([picture(path / "heatmap.png", ENLARGED), picture(path / "tiles.png")]),
            f"{names.case(path.name)}, {label[path.name]}, as a test slide of fold "
            f"{path.parent.name[1:]}",
        )
        for path in drawn[: study.report.heatmaps]
    ]
    text = (
        f"Test slides as {study.asked}, {study.aggregator} (seed 0) saw them: each tile in the "
        "colour of its percentile within the slide, and the tiles with the highest scores. A score "
        f"is how much a tile speaks for {study.dataset.classes[-1]}; of an aggregator with one "
        "attention for all classes, how much the tile counts. "
        f"{len(drawn)} slides are drawn in `heatmap/`, with GeoJSON for QuPath"
        f"{f'; {lost} could not be read again' if lost else ''}."
    )
    return section("Heat maps", paragraph(ticked(text)), panels(items), anchor="heatmaps")


def picture(file: Path, style: str = "max-width:100%") -> Html:
    data = base64.b64encode(file.read_bytes()).decode()
    return Html(f'<img alt="" style="{style}" src="data:image/png;base64,{data}">')
