"""The DICOM series a converted volume was made of, found again for what refers to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.config import Dicom
from medcl.data.cases import Case
from medcl.data.dicom import Series, as_series
from medcl.data.dicom_stack import Stack
from medcl.data.series import read_files, volumes_of
from medcl.data.volume import Volume, VolumeError, blank, same_grid
from medcl.files import read_json

# Whatever ingest was told to mend or keep: the volume is known, and only its planes are wanted.
LENIENT = Dicom(allow_missing_slices=True, gantry_tilt="shear", fewest_slices=2, localisers="keep")


def series_folders(findings: Mapping[str, Any]) -> dict[str, str]:
    """Case -> folder of its series, of the content of ingest.json."""
    return {row["case"]: row["series"] for row in findings["cases"] if "series" in row}


def series_of(case: Case, volume: Volume, folder: str) -> Series:
    """The series of a converted case, by the list of slices beside its volume.

    Raises VolumeError where files are gone or make another volume.
    """
    listed = Path(case.image).with_suffix(".json")
    if not listed.is_file():
        raise _lost(case, f"{listed} is missing")
    names = dict.fromkeys(n.partition("#")[0] for n in read_json(listed)["slices"] if n)
    paths = [Path(folder, name) for name in names]
    if gone := [path for path in paths if not path.is_file()]:
        raise _lost(case, f"{len(gone)} of {len(paths)} slices are gone, such as {gone[0]}")
    for found in volumes_of(folder, read_files(paths).images, LENIENT):
        if isinstance(found.result, Stack) and same_grid(_grid(found.result), volume):
            return as_series(Path(folder), found, (), LENIENT)
    raise _lost(case, f"the slices in {folder} make another volume now")


def _grid(stack: Stack) -> Volume:
    rows, columns = stack.planes[0].size
    return blank((1, columns, rows, len(stack.places or stack.planes)), stack.affine)


def _lost(case: Case, why: str) -> VolumeError:
    return VolumeError("series_lost", f"{case.case}: {why}", "run `medcl ingest` again")
