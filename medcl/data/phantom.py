"""A small data set of drawn torsos, with what real collections bring along.

A table (`phantom.csv`) names NIfTI files in every orientation and DICOM series, with label maps,
cohorts and second visits; `archive/` holds unlabelled DICOM series that no table names. Voxel
sizes, tilts of the scan and intensity scales (1 to 10000) differ from scan to scan; some subjects
have no label, and some cases are broken on purpose. `phantom.json` says what was written and what
has to be found. Everything drawn depends on (seed, subject) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float64
from numpy.random import Generator

from medcl.config import PhantomKeys
from medcl.data import drawn_set
from medcl.data.phantom_series import write_series
from medcl.data.phantom_torso import CLASSES, Torso, draw_torso, paint, small_rotation
from medcl.data.volume import Volume, reorient, write_nifti
from medcl.errors import MedclError
from medcl.files import replacing, write_json

TABLE = "phantom.csv"
COLUMNS = ("subject", "visit", "image", "label", "cohort")
FOLDERS = ("images", "labels", "series", "archive")
FEWEST = 6  # from then on every kind of subject is there
FIELD_OF_VIEW_MM = (166.0, 128.0, 132.0)
ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(axes, flips, strict=True))
    for axes in permutations(("RL", "AP", "SI"))
    for flips in product((0, 1), repeat=3)
]
# Axial, coronal and sagittal series: along the rows, along the columns, from slice to slice.
SERIES_ORIENTATIONS = ("LPS", "LIP", "PIR")


@dataclass(frozen=True)
class Scan:
    """One case; paths are relative to the folder. `code` is the finding it has to end with."""

    case: str
    subject: str
    visit: str
    image: str
    label: str
    cohort: str
    orientation: str
    in_table: bool = True
    code: str | None = None


def write_phantom(
    folder: str | Path, keys: PhantomKeys, say: Callable[[str], None] = lambda line: None
) -> list[Scan]:
    """Write images, label maps, table and phantom.json; what an earlier run left is removed.

    Raises MedclError for fewer than FEWEST subjects, and for a folder with files that no phantom
    run wrote.
    """
    if keys.subjects < FEWEST:
        raise MedclError(
            f"phantom.subjects: {keys.subjects} are too few to show every kind of case; give "
            f"{FEWEST} or more"
        )
    folder = Path(folder)
    drawn_set.begin(folder / TABLE, COLUMNS, FOLDERS)
    scans = []
    for index in range(keys.subjects):
        scans += _subject(folder, keys.seed, index)
        say(f"{scans[-1].subject}: {index + 1} of {keys.subjects} subjects")
    if keys.broken:
        for number, (code, make) in enumerate(BROKEN.items()):
            scans.append(make(folder, code, drawn_set.generator(keys.seed, keys.subjects + number)))
        say(f"{len(BROKEN)} broken cases")
    listed = [scan for scan in scans if scan.in_table]
    drawn_set.write_table(folder / TABLE, COLUMNS, listed)
    write_json(folder / "phantom.json", _listing(keys, scans))
    return scans


def acquire(torso: Torso, rng: Generator) -> tuple[Volume, Volume]:
    """Scan a torso: image (float32) and label map (uint8) on a grid drawn for this scan, near RAS.

    The image has a bias field, Rician noise and a scale of its own.
    """
    affine, shape = _grid(rng)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
    points = voxels @ affine[:3, :3].T + affine[:3, 3]
    signal, label = paint(torso, points.astype(np.float32))
    slope = rng.normal(0, 0.22, 3) / (np.array(FIELD_OF_VIEW_MM) / 2)
    bow = rng.normal(0, 0.15) / 80**2
    signal = signal * np.exp(points @ slope + bow * (points**2).sum(axis=1))
    noise = rng.normal(0, rng.uniform(0.02, 0.05), (2, len(signal)))
    signal = np.hypot(signal + noise[0], noise[1]) * 10 ** rng.uniform(0, 4)
    # The patient lies somewhere in the scanner; only the scanner's coordinates know it.
    affine[:3, 3] += rng.uniform(-40, 40, 3)
    image = signal.reshape(1, *shape).astype(np.float32)
    return Volume(image, affine), Volume(label.reshape(1, *shape), affine)


def _grid(rng: Generator) -> tuple[Float64[np.ndarray, "4 4"], tuple[int, int, int]]:
    """Affine (body centre at 0) and shape of a scan; a third of the scans are tilted a little."""
    in_plane, slices = rng.uniform(2.8, 4.0), rng.uniform(3.4, 5.6)
    spacing = np.array([in_plane, in_plane, slices]).round(2)
    x, y, z = np.ceil(np.array(FIELD_OF_VIEW_MM) / spacing).astype(int)
    rotation = small_rotation(rng, 5.0)
    if rng.random() > 1 / 3:
        rotation = np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    middle = (np.array([x, y, z]) - 1) / 2
    affine[:3, 3] = rng.uniform(-4, 4, 3) - affine[:3, :3] @ middle
    return affine, (int(x), int(y), int(z))


# ------------------------------------------------------------------------------ valid subjects


def _subject(folder: Path, seed: int, index: int) -> list[Scan]:
    """Subject `index`; its index decides what kind it is, so that every kind is there.

    Every second pair has lesions, every sixth subject has no label (every other of these is a
    series in the archive), another sixth are DICOM series, and subjects 0 and 3 have two visits.
    """
    rng = drawn_set.generator(seed, index)
    lesions = index % 4 < 2
    torso = draw_torso(rng, lesions=lesions)
    labelled, archived, series = index % 6 != 5, index % 12 == 5, index % 6 == 2
    visits = 2 if index in (0, 3) else 1
    scans = []
    for visit in range(1, visits + 1):
        scan = Scan(
            case=f"p{index + 1:02d}" + (f"_{visit}" if visits > 1 else ""),
            subject=f"p{index + 1:02d}",
            visit=str(visit) if visits > 1 else "",
            image="",
            label="",
            cohort="lesions" if lesions else "healthy",
            orientation=ORIENTATIONS[int(rng.integers(len(ORIENTATIONS)))],
            in_table=not archived,
        )
        if series or archived:
            scan = replace(scan, orientation=SERIES_ORIENTATIONS[index // 6 % 3])
        # Subject 3's second visit has no label: a labelled subject with an unlabelled case.
        has_label = labelled and not (index == 3 and visit == 2)
        whole = index % 3 == 1  # stored as whole numbers, as most scanners do
        scans.append(_write(folder, scan, torso, rng, series or archived, has_label, whole))
    return scans


def _write(
    folder: Path,
    scan: Scan,
    torso: Torso,
    rng: Generator,
    series: bool,
    labelled: bool,
    whole: bool = False,
) -> Scan:
    """Write one scan in its orientation; return it with its paths."""
    image, label = (reorient(v, scan.orientation) for v in acquire(torso, rng))
    if series:
        scan = replace(scan, image=f"{'series' if scan.in_table else 'archive'}/{scan.case}")
        write_series(folder / scan.image, image, scan.subject, rng)
    else:
        scan = replace(scan, image=f"images/{scan.case}.nii")
        if whole:
            image = replace(image, array=_whole(image.array))
        write_nifti(folder / scan.image, image)
    if labelled:
        scan = replace(scan, label=f"labels/{scan.case}.nii.gz")
        write_nifti(folder / scan.label, label)
    return scan


def _whole(array: np.ndarray) -> np.ndarray:
    return np.round(array * (4000 / array.max())).astype(np.int16)


# ------------------------------------------------------------------------------- broken cases


def _broken(folder: Path, code: str, rng: Generator, series: bool = False) -> Scan:
    """A valid labelled case named after what will be broken."""
    subject = f"broken-{code.replace('_', '-')}"
    orientation = "LPS" if series else "RAS"
    scan = Scan(subject, subject, "", "", "", "healthy", orientation, code=code)
    return _write(folder, scan, draw_torso(rng, lesions=False), rng, series, labelled=True)


def _change(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the array of a NIfTI file by `change` of it; the result may be no valid volume."""
    image = nib.Nifti1Image.from_filename(path)
    array = change(np.asanyarray(image.dataobj).copy())
    with replacing(path) as partial:
        nib.Nifti1Image(array, image.affine).to_filename(partial)


def _not_finite(folder: Path, code: str, rng: Generator) -> Scan:
    def holes(array: np.ndarray) -> np.ndarray:
        array[10:14, 10:14, 10:14] = np.nan
        return array

    scan = _broken(folder, code, rng)
    _change(folder / scan.image, holes)
    return scan


def _shape_differs(folder: Path, code: str, rng: Generator) -> Scan:
    scan = _broken(folder, code, rng)
    _change(folder / scan.label, lambda array: array[:-3])
    return scan


def _undeclared_values(folder: Path, code: str, rng: Generator) -> Scan:
    scan = _broken(folder, code, rng)
    _change(folder / scan.label, lambda array: np.where(array == 2, 9, array).astype(np.uint8))
    return scan


def _unreadable(folder: Path, code: str, rng: Generator) -> Scan:
    scan = _broken(folder, code, rng)
    path = folder / scan.image
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return scan


def _missing_slices(folder: Path, code: str, rng: Generator) -> Scan:
    """Two slices of the middle are removed, wherever in the folder they lie."""
    import pydicom

    scan = _broken(folder, code, rng, series=True)
    files = list((folder / scan.image).iterdir())
    files.sort(key=lambda file: int(pydicom.dcmread(file, stop_before_pixels=True).InstanceNumber))
    for file in files[9:11]:
        file.unlink()
    return scan


def _label_without_image(folder: Path, code: str, rng: Generator) -> Scan:
    scan = _broken(folder, code, rng)
    (folder / scan.image).unlink()
    return replace(scan, image="")


def _not_3d(folder: Path, code: str, rng: Generator) -> Scan:
    scan = _broken(folder, code, rng)
    _change(folder / scan.image, lambda array: array[:, :, array.shape[2] // 2])
    return scan


BROKEN: dict[str, Callable[[Path, str, Generator], Scan]] = {
    "not_finite": _not_finite,
    "shape_differs": _shape_differs,
    "undeclared_label_values": _undeclared_values,
    "unreadable": _unreadable,
    "missing_slices": _missing_slices,
    "label_without_image": _label_without_image,
    "not_3d": _not_3d,
}


# ---------------------------------------------------------------------------- table and listing


def _listing(keys: PhantomKeys, scans: list[Scan]) -> dict[str, Any]:
    return {
        "format": 1,
        "settings": keys.model_dump(),
        "classes": CLASSES,
        "table": TABLE,
        "cases": [asdict(scan) for scan in scans],
    }
