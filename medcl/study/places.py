"""Where the files of a study lie, whichever folder its report is made in.

Paths in its tables are relative to the folder the study was run in, which is above its results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from medcl.data.cases import Case
from medcl.data.channels import file_of
from medcl.errors import MedclError
from medcl.study.results import Results


class NotThere(MedclError):
    """A file that is in none of the folders it may be relative to."""


def located(results: Results, path: str) -> str:
    """`path`, from here or from where the study's results or its configuration lie."""
    file, number = file_of(path)
    for place in _places(results, Path(file)):
        if place.exists():
            return str(place) + (path.removeprefix(file) if number is not None else "")
    raise NotThere(f"{path}: no such file; run the report in the folder the study was run in")


def located_image(results: Results, case: Case) -> Case:
    """The case with the paths of its image and its channels as they are from here."""
    return replace(
        case,
        image=located(results, case.image),
        channel_images=tuple(located(results, path) for path in case.channel_images),
    )


def _places(results: Results, file: Path) -> Iterator[Path]:
    """Where a file may be; links are followed too, to where the study really lies."""
    yield file
    if file.is_absolute():
        return
    own = Path(results.study.results) / results.study.study
    for folder in (results.folder, results.config.parent if results.config else None):
        for found in dict.fromkeys([folder.absolute(), folder.resolve()] if folder else []):
            if file.is_relative_to(own):
                yield found / file.relative_to(own)
            if found.parts[-len(own.parts) :] == own.parts:
                yield found.parents[len(own.parts) - 1] / file
