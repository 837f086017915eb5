"""What one file says of itself: its header, read once, and whether it is a picture at all."""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from medcl.data.dicom_walk import (
    EXPLICIT,
    IMPLICIT,
    PIXEL_DATA,
    UNDEFINED,
    WANTED,
    UnusualError,
    Walked,
    private_number,
    walk,
)

# A damaged file makes the readers and decoders raise anything: each of them has its own errors.
DAMAGE = Exception
# Objects about images, and microscopy, which is no volume of a patient.
NOT_IMAGES = {
    *("SEG", "SR", "PR", "KO", "REG", "FID", "RWV", "RTSTRUCT", "RTPLAN", "RTRECORD", "RTDOSE"),
    *("RTIMAGE", "SM", "ANN", "M3D", "DOC", "ECG", "AU", "PLAN", "TEXTUREMAP"),
}
B_VALUES = ("_b_siemens", "_b_ge", "_b_philips")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class NotDicomError(Exception):
    """The file is something else. `damaged`: it may have been DICOM; `marked`: it says so."""

    def __init__(
        self, reason: str, *, damaged: bool, marked: bool = False, code: str = "unreadable"
    ) -> None:
        super().__init__(reason)
        self.damaged, self.marked, self.code = damaged, marked, code


@dataclass(frozen=True, eq=False)
class Header:
    """What one file says of itself. `offset` and `length` of native pixels in it, else None.

    `kind` is empty for an image, else what the file is instead.
    """

    path: str
    syntax: str
    values: dict[str, Any]
    offset: int | None = None
    length: int = 0
    kind: str = ""
    table: bool = False
    dataset: Dataset | None = (
        None  # of multi-frame objects, without pixels; left behind when planes are made
    )

    def text(self, keyword: str) -> str:
        value = self.values.get(keyword, "")
        return value if isinstance(value, str) else "\\".join(f"{v:g}" for v in value)

    def whole(self, keyword: str, default: int = 0) -> int:
        """The first number of an element."""
        value = self.values.get(keyword)
        return int(value[0]) if value and not isinstance(value, str) else default


def read_header(path: str | Path) -> Header:
    """Read the header of one file; raises NotDicomError where there is none to read."""
    path = str(path)
    with open(path, "rb") as file:
        data = file.read(1 << 16)
        size = os.fstat(file.fileno()).st_size
        try:
            try:
                return _image(path, walk(data, size), size)
            except (struct.error, IndexError):
                if size <= len(data):
                    raise
                return _image(
                    path, walk(data + file.read(), size), size
                )  # a header longer than most
        except (UnusualError, struct.error, IndexError, ValueError):
            pass
    return _by_pydicom(path)


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom warns of every odd value; only a file that ends early matters here."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("error", message="End of file reached", category=UserWarning)
        try:
            logger.setLevel(logging.CRITICAL)
            yield
        finally:
            logger.setLevel(level)


def reason(error: BaseException) -> str:
    lines = str(error).replace(" in file <no filename>", "").splitlines()
    return lines[0].rstrip(":") if lines and lines[0] else repr(error)


def _image(path: str, walked: Walked, size: int) -> Header:
    syntax, values, tag, offset, length = walked
    if kind := _kind(values, ""):
        return Header(path, syntax, values, kind=kind)
    if length == UNDEFINED:
        return Header(path, syntax, values)
    if offset + length > size:
        told = f"it ends {offset + length - size} bytes early"
        raise NotDicomError(told, damaged=True, marked=True)
    native = syntax in (EXPLICIT, IMPLICIT) and tag == PIXEL_DATA
    return Header(path, syntax, values, offset if native else None, length)


def _kind(values: dict[str, Any], name: str) -> str:
    """What a file with pixels is if it cannot be a slice, "" if it can."""
    modality = values.get("Modality", "")
    return (name or modality) if modality in NOT_IMAGES else ""


def _by_pydicom(path: str) -> Header:
    data = Path(path).read_bytes()
    if len(data) < 8:
        raise NotDicomError("it is empty", damaged=True)
    part_10 = data[128:132] == b"DICM"
    if not part_10 and not data.startswith((b"\x08\0", b"\x02\0", b"\0\x08")):
        raise NotDicomError("it carries no mark of DICOM", damaged=not _is_text(data[:1024]))
    try:
        with quiet():
            dataset = pydicom.dcmread(io.BytesIO(data), force=not part_10)
            values = dict(_values(dataset))
            syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) or IMPLICIT
            sop = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
            name = str(getattr(sop, "name", sop or ""))
            pixels = any(tag in dataset for tag in PIXELS)
    except DAMAGE as error:
        raise NotDicomError(reason(error), damaged=True, marked=part_10) from None
    kind = _kind(values, name)
    if not pixels and not kind:
        if name.endswith("Image Storage") or "Rows" in dataset:
            raise NotDicomError(
                "an image without pixels", damaged=True, marked=True, code="no_pixel_data"
            )
        kind = name or values.get("Modality", "")
        if not kind:
            raise NotDicomError("it ends before it says what it is", damaged=True, marked=part_10)
    if kind:
        return Header(path, syntax, values, kind=kind)
    table = bool(dataset.get("ModalityLUTSequence"))
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return Header(path, syntax, values, table=table)
    for keyword in PIXELS:  # a tree of such files must not be held in memory
        if keyword in dataset:
            del dataset[keyword]
    return Header(path, syntax, values, table=table, dataset=dataset)


def _is_text(data: bytes) -> bool:
    try:
        return data.decode("utf-8").isprintable() or not any(b < 9 for b in data)
    except UnicodeDecodeError:
        return False


def _values(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    """The wanted elements as the walk gives them."""
    for keyword, (tag, kind) in WANTED.items():
        if tag not in dataset:
            continue
        value = dataset[tag].value
        if kind == "x":
            data = value if isinstance(value, bytes) else str(value).strip("[]").encode()
            yield keyword, private_number(data.replace(b", ", b"\\"))
        elif kind == "s":
            parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
            yield keyword, "\\".join("" if p is None else str(p) for p in parts).strip()
        elif value is None or value == "":
            yield keyword, ()
        else:
            parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
            yield keyword, tuple(float(part) for part in parts)
