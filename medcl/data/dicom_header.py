"""The few elements of a DICOM header that place a picture, read without decoding anything else.

Files in the two common encodings are walked element by element here, several times faster than
by a full reader; whatever is unusual (big endian, deflated, functional groups, other alphabets,
no preamble, anything that does not fit) is left to pydicom.
"""

from __future__ import annotations

import io
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
from pydicom.errors import InvalidDicomError

# What the readers and decoders raise for damaged files: they have no common ancestor below these.
DAMAGE = (
    OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError,
    NotImplementedError, RecursionError, OverflowError, MemoryError, struct.error, UserWarning,
    InvalidDicomError,
)  # fmt: skip
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
UNUSUAL = {"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"}
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF
# Objects about images, and microscopy, which is no volume of a patient.
NOT_IMAGES = {
    *("SEG", "SR", "PR", "KO", "REG", "FID", "RWV", "RTSTRUCT", "RTPLAN", "RTRECORD", "RTDOSE"),
    *("RTIMAGE", "SM", "ANN", "M3D", "DOC", "ECG", "AU", "PLAN", "TEXTUREMAP"),
}
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Keyword -> (tag, kind): s text, n numbers in text, u a 16-bit number, d 64-bit, x private number.
WANTED = {
    "ImageType": (0x00080008, "s"),
    "SOPClassUID": (0x00080016, "s"),
    "SOPInstanceUID": (0x00080018, "s"),
    "ContentTime": (0x00080033, "s"),
    "Modality": (0x00080060, "s"),
    "SeriesDescription": (0x0008103E, "s"),
    "PatientID": (0x00100020, "s"),
    "EchoTime": (0x00180081, "n"),
    "InversionTime": (0x00180082, "n"),
    "EchoNumbers": (0x00180086, "n"),
    "TriggerTime": (0x00181060, "n"),
    "FlipAngle": (0x00181314, "n"),
    "DiffusionBValue": (0x00189087, "d"),
    "_b_siemens": (0x0019100C, "x"),
    "StudyInstanceUID": (0x0020000D, "s"),
    "SeriesInstanceUID": (0x0020000E, "s"),
    "SeriesNumber": (0x00200011, "n"),
    "AcquisitionNumber": (0x00200012, "n"),
    "InstanceNumber": (0x00200013, "n"),
    "ImagePositionPatient": (0x00200032, "n"),
    "ImageOrientationPatient": (0x00200037, "n"),
    "TemporalPositionIdentifier": (0x00200100, "n"),
    "SamplesPerPixel": (0x00280002, "u"),
    "PhotometricInterpretation": (0x00280004, "s"),
    "NumberOfFrames": (0x00280008, "n"),
    "Rows": (0x00280010, "u"),
    "Columns": (0x00280011, "u"),
    "PixelSpacing": (0x00280030, "n"),
    "BitsAllocated": (0x00280100, "u"),
    "BitsStored": (0x00280101, "u"),
    "HighBit": (0x00280102, "u"),
    "PixelRepresentation": (0x00280103, "u"),
    "RescaleIntercept": (0x00281052, "n"),
    "RescaleSlope": (0x00281053, "n"),
    "_b_ge": (0x00431039, "x"),
    "FrameReferenceTime": (0x00541300, "n"),
    "_b_philips": (0x20011003, "x"),
}
BY_TAG = {tag: (keyword, kind) for keyword, (tag, kind) in WANTED.items()}
B_VALUES = ("_b_siemens", "_b_ge", "_b_philips")
# Where these stand the whole header matters: tables of values, functional groups.
FOR_PYDICOM = {0x00283000, 0x52009229, 0x52009230}
PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}


class NotDicomError(Exception):
    """The file is something else. `damaged`: it may have been DICOM; `marked`: it says so."""

    def __init__(
        self, reason: str, *, damaged: bool, marked: bool = False, code: str = "unreadable"
    ) -> None:
        super().__init__(reason)
        self.damaged, self.marked, self.code = damaged, marked, code


class _Unusual(Exception):
    """Left to pydicom."""


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
    dataset: Dataset | None = None  # of unusual files only; left behind when planes are made

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
                return _walk(path, data, size)
            except (struct.error, IndexError):
                if size <= len(data):
                    raise
                return _walk(path, data + file.read(), size)  # a header longer than most
        except (_Unusual, struct.error, IndexError, ValueError):
            pass
    return _by_pydicom(path)


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom warns of every odd value; only a file that ends early matters here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("error", message="End of file reached", category=UserWarning)
        yield


def reason(error: BaseException) -> str:
    lines = str(error).replace(" in file <no filename>", "").splitlines()
    return lines[0].rstrip(":") if lines and lines[0] else repr(error)


def _walk(path: str, data: bytes, size: int) -> Header:
    if data[128:132] != b"DICM":
        raise _Unusual
    at, syntax = _meta(data)
    if syntax in UNUSUAL:
        raise _Unusual
    explicit = syntax != IMPLICIT
    raw: dict[str, Any] = {}
    short, long = struct.Struct("<HH2sH").unpack_from, struct.Struct("<HHL").unpack_from
    while at < size:
        if explicit:
            group, element, vr, length = short(data, at)
            at += 8
            if vr in LONG:
                (length,) = struct.unpack_from("<L", data, at)
                at += 4
        else:
            group, element, length = long(data, at)
            vr = b""
            at += 8
        tag = group << 16 | element
        if tag in PIXEL_TAGS:
            return _image(path, syntax, raw, tag, at, length, size)
        if tag in FOR_PYDICOM or tag > 0x7FE00010 or (explicit and not vr.isalpha()):
            raise _Unusual
        if length == UNDEFINED:
            at = _after_sequence(data, at, explicit=explicit)
        elif at + length > size:
            raise _Unusual  # it ends early: pydicom says where
        else:
            if tag in BY_TAG:
                keyword, kind = BY_TAG[tag]
                raw[keyword] = _value(data[at : at + length], kind, length)
            at += length
    raise _Unusual


def _meta(data: bytes) -> tuple[int, str]:
    """Where the data set starts, and its transfer syntax."""
    at, syntax = 132, ""
    while data[at : at + 2] == b"\x02\x00":
        _, element, vr, length = struct.unpack_from("<HH2sH", data, at)
        at += 8
        if vr in LONG:
            (length,) = struct.unpack_from("<L", data, at)
            at += 4
        if element == 0x10:
            syntax = data[at : at + length].decode("ascii", "replace").strip("\0 ")
        at += length
    if not syntax:
        raise _Unusual
    return at, syntax


def _after_sequence(data: bytes, at: int, *, explicit: bool, depth: int = 0) -> int:
    """Where a sequence of undefined length ends."""
    if depth > 20:
        raise _Unusual
    while True:
        tag, length = struct.unpack_from("<LL", data, at)
        at += 8
        if tag == 0xE0DDFFFE:  # end of the sequence, as bytes lie in the file
            return at
        if tag != 0xE000FFFE:
            raise _Unusual
        at = at + length if length != UNDEFINED else _after_item(data, at, explicit, depth)


def _after_item(data: bytes, at: int, explicit: bool, depth: int) -> int:
    while True:
        group, element, length = struct.unpack_from("<HHL", data, at)
        at += 8
        if (group, element) == (0xFFFE, 0xE00D):
            return at
        if explicit:
            vr = data[at - 4 : at - 2]
            if not vr.isalpha():
                raise _Unusual
            if vr in LONG:
                (length,) = struct.unpack_from("<L", data, at)
                at += 4
            else:
                length >>= 16
        if length == UNDEFINED:
            at = _after_sequence(data, at, explicit=explicit, depth=depth + 1)
        else:
            at += length


def _value(data: bytes, kind: str, length: int) -> Any:
    if len(data) < length:
        raise IndexError  # beyond what was read of the file
    if kind == "u":
        return struct.unpack(f"<{length // 2}H", data)
    if kind == "d":
        return struct.unpack(f"<{length // 8}d", data)
    if kind == "x":
        return _private_number(data)
    if not data.isascii():
        raise _Unusual
    text = data.decode("ascii").strip("\0 ")
    if kind == "s":
        return text
    return tuple(float(part) for part in text.split("\\")) if text else ()


def _private_number(data: bytes) -> tuple[float, ...]:
    """A number whose type its owner knows: text, or 4 or 8 bytes."""
    try:
        return (float(data.decode("ascii").strip("\0 ").split("\\")[0]),)
    except ValueError:
        formats = {4: "<f", 8: "<d"}
        return struct.unpack(formats[len(data)], data) if len(data) in formats else ()


def _image(
    path: str, syntax: str, raw: dict[str, Any], tag: int, at: int, length: int, size: int
) -> Header:
    kind = _kind(raw, "")
    if kind:
        return Header(path, syntax, raw, kind=kind)
    if length == UNDEFINED:
        return Header(path, syntax, raw)
    if at + length > size:
        raise NotDicomError(f"it ends {at + length - size} bytes early", damaged=True, marked=True)
    native = syntax in (EXPLICIT, IMPLICIT) and tag == 0x7FE00010
    return Header(path, syntax, raw, at if native else None, length)


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
            raise NotDicomError(
                "it ends before it says what it is", damaged=True, marked=part_10
            )
    if kind:
        return Header(path, syntax, values, kind=kind)
    table = bool(dataset.get("ModalityLUTSequence"))
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
            yield keyword, _private_number(data.replace(b", ", b"\\"))
        elif kind == "s":
            parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
            yield keyword, "\\".join("" if p is None else str(p) for p in parts).strip()
        elif value is None or value == "":
            yield keyword, ()
        else:
            parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
            yield keyword, tuple(float(part) for part in parts)
