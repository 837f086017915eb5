"""The further files of slides that lie in several: levels of a DICOM series, parts of a VMS."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from pathlib import Path

HAMAMATSU = {".vms", ".vmu"}  # texts that name the files of the slide
PREAMBLE = 128  # bytes before the mark of a DICOM file


def siblings(path: Path) -> list[Path]:
    """The files beside `path` that belong to its slide, by name; of MRXS those of its folder.

    A DICOM file is known by its content, whatever it is called.
    """
    if path.suffix.lower() == ".mrxs":
        folder = path.with_suffix("")
        return (
            sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
        )
    if path.suffix.lower() in HAMAMATSU:
        text = path.read_text(encoding="utf-8", errors="replace")
        beside = sorted(file for file in path.parent.iterdir() if file.is_file() and file != path)
        return [file for file in beside if file.name in text]
    if not _is_dicom(path):
        return []
    series = _series(path.parent, path.parent.stat().st_mtime_ns)
    own = next((files for files in series.values() if path in files), [])
    return [file for file in own if file != path]


@lru_cache(maxsize=4)
def _series(folder: Path, _changed: int) -> dict[str, list[Path]]:
    """The DICOM files of a folder by series; a folder is looked through once, until it changes."""
    import pydicom  # which the planning of a study need not load
    from pydicom.errors import InvalidDicomError

    found: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.iterdir()):
        if file.is_file() and _is_dicom(file):
            try:
                head = pydicom.dcmread(
                    file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]
                )
            except (InvalidDicomError, OSError, ValueError):
                continue
            found[str(head.get("SeriesInstanceUID", file))].append(file)
    return dict(found)


def _is_dicom(file: Path) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"
    except OSError:  # told when it is opened as a slide
        return False
