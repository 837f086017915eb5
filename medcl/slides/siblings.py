"""The further files of slides that lie in several: levels of a DICOM series, parts of a VMS."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from pathlib import Path

from medcl.files import is_dicom

HAMAMATSU = {".vms", ".vmu"}  # texts that name the files of the slide


def siblings(path: Path) -> list[Path]:
    """The files beside `path` that belong to its slide, by name; of MRXS those of its folder.

    A DICOM file is known by its content, whatever it is called.
    """
    if path.suffix.lower() == ".mrxs":
        folder = path.with_suffix("")
        there = folder.iterdir() if folder.is_dir() else ()
        return sorted(file for file in there if file.is_file())
    if path.suffix.lower() in HAMAMATSU:
        text = path.read_text(encoding="utf-8", errors="replace")
        beside = sorted(file for file in path.parent.iterdir() if file.is_file() and file != path)
        return [file for file in beside if file.name in text]
    if not is_dicom(path):
        return []
    series = _series(path.parent, path.parent.stat().st_mtime_ns)
    own = next((files for files in series.values() if path in files), [])
    return [file for file in own if file != path]


@lru_cache(maxsize=4)
def _series(folder: Path, _changed: int) -> dict[str, list[Path]]:
    """The DICOM files of a folder by series; a folder is looked through once, until it changes."""
    import pydicom  # which the planning of a study without DICOM need not load

    from medcl.data.dicom_header import DAMAGE, quiet

    found: dict[str, list[Path]] = defaultdict(list)
    for file in filter(is_dicom, sorted(folder.iterdir())):
        try:
            with quiet():
                head = pydicom.dcmread(
                    file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]
                )
        except DAMAGE:  # told where it is opened as a slide
            continue
        found[str(head.get("SeriesInstanceUID", file))].append(file)
    return dict(found)
