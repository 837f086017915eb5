"""Which slides an encoder of tiles was pretrained on, and whether a study tests on them.

A slide is known by its content, whatever its name: by the hash of its file, or by OpenSlide's of
its picture, which the levels of one DICOM series share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from medcl.files import read_json
from medcl.slides.table import Dealt

Seen = list[dict[str, str | None]]
HASHES = ("sha256", "quickhash")


def hashes_of(examined: str | Path, slides: Iterable[str]) -> Seen:
    """The hashes of slides, from the folder in which `slides-ingest` wrote one folder of each."""
    found = (read_json(Path(examined) / slide / "qc.json") for slide in slides)
    return [{key: one.get(key) for key in HASHES} for one in found]


def of_test_patients(
    seen: Iterable[Mapping[str, str | None]], dealt: Dealt, examined: str | Path
) -> list[str]:
    """Slides of test patients among those `seen`: every patient with a label is tested once."""
    known = {(key, one[key]) for one in seen for key in HASHES if one[key]}
    tested = {one.patient for one in dealt.slides if one.label}
    names = [one.slide for one in dealt.slides if one.patient in tested]
    ours = hashes_of(examined, names)
    return [
        name
        for name, one in zip(names, ours, strict=True)
        if any((key, one[key]) in known for key in HASHES)
    ]
