"""The smallest files of vendors' formats that hold a picture, written from what OpenSlide asks for.

Each function writes the levels (finest first) it is given and returns the path to open. None of it
comes from a scanner: what scanners add besides (labels, overlaps, several areas) is not in it.
"""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

MRXS_SIDE = 128
JPEG = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 95}}
JPEG |= {"metadata": None, "software": False}


def jpeg(image: np.ndarray) -> bytes:
    """One JPEG; quality 95 without subsampling, so that flat areas keep their colour."""
    with io.BytesIO() as opened:
        Image.fromarray(image).save(opened, "JPEG", quality=95, subsampling=0)
        return opened.getvalue()


def png(image: np.ndarray) -> bytes:
    with io.BytesIO() as opened:
        Image.fromarray(image).save(opened, "PNG")
        return opened.getvalue()


def pieces(image: np.ndarray, side: int) -> list[np.ndarray]:
    """Squares of the image row by row; sides that are no multiple are filled up with white."""
    high, wide = (-(-length // side) * side for length in image.shape[:2])
    filled = np.full((high, wide, 3), 255, np.uint8)
    filled[: image.shape[0], : image.shape[1]] = image
    return [
        filled[y : y + side, x : x + side]
        for y in range(0, high, side)
        for x in range(0, wide, side)
    ]


def dicom(folder: Path, levels: list[np.ndarray], microns: float, side: int = 64) -> Path:
    """A series of VL Whole Slide Microscopy images, one file a level, uncompressed and tiled."""
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    for number, level in enumerate(levels):
        height, width = level.shape[:2]
        tiles = pieces(level, side)
        measures, shared = Dataset(), Dataset()
        spacing = microns / 1000 * levels[0].shape[1] / width
        measures.PixelSpacing = [spacing, spacing]
        shared.PixelMeasuresSequence = [measures]
        one = Dataset()
        one.SOPClassUID = VLWholeSlideMicroscopyImageStorage
        one.SOPInstanceUID = generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID = study, series
        one.FrameOfReferenceUID, one.Modality = frame, "SM"
        origin = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        one.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"] if number else origin
        one.SamplesPerPixel, one.PhotometricInterpretation = 3, "RGB"
        one.PlanarConfiguration, one.PixelRepresentation = 0, 0
        one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
        one.Rows = one.Columns = side
        one.NumberOfFrames = len(tiles)
        one.TotalPixelMatrixRows, one.TotalPixelMatrixColumns = height, width
        one.TotalPixelMatrixFocalPlanes = one.NumberOfOpticalPaths = 1
        one.DimensionOrganizationType = "TILED_FULL"
        one.SharedFunctionalGroupsSequence = [shared]
        one.PixelData = b"".join(tile.tobytes() for tile in tiles)
        one["PixelData"].VR = "OB"
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.save_as(folder / f"level{number}.dcm", enforce_file_format=True)
    return folder / "level0.dcm"


def ndpi(path: Path, levels: list[np.ndarray], microns: float) -> Path:
    """A Hamamatsu file: one JPEG a page; offsets of pages have 8 bytes, and so has no other TIFF.

    Behind the entries of a page stand the upper halves of their values.
    """
    out = bytearray(b"II*\0" + bytes(8))
    place = 4  # of the offset of the next page
    for number, level in enumerate(levels):
        data = jpeg(level)
        start = len(out)
        out += data
        make, resolution = len(out), len(out) + 10
        out += b"Hamamatsu\0" + struct.pack("<II", round(1e7 / (microns * 2**number)), 1000)
        height, width = level.shape[:2]
        lens = struct.unpack("<I", struct.pack("<f", 20.0 / 2**number))[0]
        entries = [
            (256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, 7), (262, 3, 1, 6),
            (271, 2, 10, make), (273, 4, 1, start), (277, 3, 1, 3), (278, 4, 1, height),
            (279, 4, 1, len(data)), (282, 5, 1, resolution), (283, 5, 1, resolution),
            (296, 3, 1, 3), (65420, 4, 1, 1), (65421, 11, 1, lens), (65424, 9, 1, 0),
        ]  # fmt: skip
        out += bytes(len(out) % 2)
        out[place : place + 8] = struct.pack("<Q", len(out))
        out += struct.pack("<H", len(entries))
        for entry in entries:
            out += struct.pack("<HHII", *entry)
        place = len(out)
        out += bytes(8 + 4 * len(entries))
    path.write_bytes(out)
    return path


SCN = "http://www.leica-microsystems.com/scn/2010/10/01"


def scn(
    path: Path, levels: list[np.ndarray], microns: float, overview: tuple[np.ndarray, ...] = ()
) -> Path:
    """A Leica file: BigTIFF whose first description names the pages. Its lengths are nanometres.

    The picture is a piece in the middle of a glass of twice its sides; `overview` is the levels of
    a picture of the whole glass.
    """
    height, width = levels[0].shape[:2]
    across, down = round(width * microns * 1000), round(height * microns * 1000)
    glass = f'sizeX="{2 * across}" sizeY="{2 * down}"'
    piece = f'sizeX="{across}" sizeY="{down}" offsetX="{across // 2}" offsetY="{down // 2}"'
    images = _scn_image(levels, 0, piece)
    if overview:
        images = _scn_image(overview, len(levels), f'{glass} offsetX="0" offsetY="0"') + images
    text = f'<scn xmlns="{SCN}"><collection {glass}>{images}</collection></scn>'
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, level in enumerate([*levels, *overview]):
            pixels = 1e4 / microns * level.shape[1] / width
            file.write(
                level, description=None if number else text, tile=(128, 128),
                resolution=(pixels, pixels), resolutionunit=3, **JPEG,
            )  # fmt: skip
    return path


def _scn_image(levels: Sequence[np.ndarray], first: int, place: str) -> str:
    dimensions = "".join(
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{i}" ifd="{first + i}"/>'
        for i, level in enumerate(levels)
    )
    return (
        f'<image><pixels sizeX="{levels[0].shape[1]}" sizeY="{levels[0].shape[0]}">{dimensions}'
        f"</pixels><view {place}/><scanSettings><objectiveSettings><objective>20</objective>"
        "</objectiveSettings><illuminationSettings><illuminationSource>brightfield"
        "</illuminationSource></illuminationSettings></scanSettings></image>"
    )


def bif(path: Path, levels: list[np.ndarray], microns: float, side: int = 128) -> Path:
    """A Ventana file of one area: the joints of its tiles, without overlap, stand in XML.

    The sides of the finest level are multiples of `side`. Tiles are counted from the lowest row
    upwards, to the right in one row and to the left in the next.
    """
    columns, rows = levels[0].shape[1] // side, levels[0].shape[0] // side

    def number(row: int, column: int) -> int:
        return row * columns + (columns - 1 - column if row % 2 else column) + 1

    joints = [
        (number(row, column), number(row, column + 1), "RIGHT")
        for row in range(rows)
        for column in range(columns - 1)
    ]
    joints += [
        (number(row, column), number(row + 1, column), "UP")
        for row in range(rows - 1)
        for column in range(columns)
    ]
    joint = "".join(
        f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{way}" Tile1="{a}" '
        f'Tile2="{b}" OverlapX="0" OverlapY="0"/>'
        for a, b, way in joints
    )
    scan = f'<iScan Magnification="20" ScanRes="{microns:g}"/>'
    encoded = (
        f'<EncodeInfo Ver="2"><SlideInfo>{scan}</SlideInfo><SlideStitchInfo>'
        f'<ImageInfo AOIScanned="1" AOIIndex="0" Width="{side}" Height="{side}" NumRows="{rows}" '
        f'NumCols="{columns}" Pos-X="0" Pos-Y="0">{joint}</ImageInfo></SlideStitchInfo>'
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )

    def xmp(text: str) -> list[tuple]:
        return [(700, 1, len(text), text.encode(), False)]

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(
            levels[-1], rowsperstrip=len(levels[-1]), description="Label_Image",
            extratags=xmp(f"<Metadata>{scan}</Metadata>"), **JPEG,
        )  # fmt: skip
        for at, level in enumerate(levels):
            said = f"level={at} mag={20 / 2**at:g} quality=95"
            tags = [] if at else xmp(encoded)
            file.write(level, tile=(side, side), description=said, extratags=tags, **JPEG)
    return path


def mrxs(path: Path, levels: list[np.ndarray], microns: float) -> Path:
    """A 3DHISTECH slide: Slidedat.ini, an index and one file of PNG tiles in a folder beside it.

    The sides of the finest level are multiples of 128 times the power of two of the last level.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    height, width = levels[0].shape[:2]
    across, down = width // MRXS_SIDE, height // MRXS_SIDE
    slide = "a" * 32
    count = len(levels)
    lines = [
        "[GENERAL]", "SLIDE_VERSION = 01.02", f"SLIDE_ID = {slide}",
        f"IMAGENUMBER_X = {across}", f"IMAGENUMBER_Y = {down}", "OBJECTIVE_MAGNIFICATION = 20",
        "CameraImageDivisionsPerSide = 1",
        "[HIERARCHICAL]", "HIER_COUNT = 1", "NONHIER_COUNT = 0", "INDEXFILE = Index.dat",
        "HIER_0_NAME = Slide zoom level", f"HIER_0_COUNT = {count}",
        *(f"HIER_0_VAL_{i}_SECTION = LEVEL_{i}" for i in range(count)),
        "[DATAFILE]", "FILE_COUNT = 1", "FILE_0 = Data0000.dat",
    ]  # fmt: skip
    for number in range(count):
        lines += [
            f"[LEVEL_{number}]", "OVERLAP_X = 0", "OVERLAP_Y = 0",
            f"MICROMETER_PER_PIXEL_X = {microns * 2**number}",
            f"MICROMETER_PER_PIXEL_Y = {microns * 2**number}",
            "IMAGE_FORMAT = PNG", "IMAGE_FILL_COLOR_BGR = 16777215",
            f"DIGITIZER_WIDTH = {MRXS_SIDE}", f"DIGITIZER_HEIGHT = {MRXS_SIDE}",
            f"IMAGE_CONCAT_FACTOR = {int(number > 0)}",
        ]  # fmt: skip
    (folder / "Slidedat.ini").write_text("\n".join(lines) + "\n")
    data, records = bytearray(), []
    for number, level in enumerate(levels):
        step = 2**number
        places = [y * across + x for y in range(0, down, step) for x in range(0, across, step)]
        found = []
        for where, tile in zip(places, pieces(level, MRXS_SIDE), strict=True):
            packed = png(tile)
            found.append((where, len(data), len(packed), 0))
            data += packed
        records.append(found)
    (folder / "Data0000.dat").write_bytes(data)
    index = bytearray(b"01.02" + slide.encode())
    root = len(index)
    index += bytes(8)
    table = len(index)
    index += bytes(4 * count)
    struct.pack_into("<ii", index, root, table, table)
    for number, found in enumerate(records):
        struct.pack_into("<i", index, table + 4 * number, len(index))
        page = len(index) + 8
        index += struct.pack("<ii", 0, page) + struct.pack("<ii", len(found), 0)
        for entry in found:
            index += struct.pack("<iiii", *entry)
    (folder / "Index.dat").write_bytes(index)
    path.write_bytes(jpeg(np.zeros((8, 8, 3), np.uint8)))
    return path
