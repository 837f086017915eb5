"""Random volumes written to DICOM come back equal; damaged files end with a name, never a crash."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from hypothesis import given, settings
from hypothesis import strategies as st
from make_dicom import a_slice, frames_of
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from medcl.config import Dicom, Source
from medcl.data.contract import Rules
from medcl.data.dicom import read_series
from medcl.data.header_pass import check_headers
from medcl.data.sources import list_entries
from medcl.data.volume import LPS_TO_RAS
from medcl.data.voxel_pass import check_voxels

SECONDS = 20  # a file that takes longer than this hangs


@st.composite
def volumes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[tuple[float, float]], str, list]:
    """Stored values, the affine in LPS, slope and intercept of each slice, encoding, order."""
    shape = draw(st.tuples(st.integers(3, 7), st.integers(1, 6), st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    stored = rng.integers(-32768, 32768, shape)
    if draw(st.booleans()):
        stored = rng.integers(-500, 500, shape)
    spacing = [draw(st.floats(0.1, 8.0)) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(rng=rng).as_matrix() * np.round(spacing, 4)
    affine[:3, 3] = np.round(rng.uniform(-500, 500, 3), 3)
    per_slice = draw(st.sampled_from(["plain", "one slope", "each its own"]))
    values = [(1.0, 0.0), (0.25, -3.5), (2.0, -1024.0), (0.00125, 0.0)]
    scales = {
        "plain": [(1.0, float(draw(st.sampled_from([0, -1024, 7]))))] * shape[0],
        "one slope": [draw(st.sampled_from(values))] * shape[0],
        "each its own": [values[k % 4] for k in range(shape[0])],
    }[per_slice]
    encoding = draw(st.sampled_from(["explicit", "implicit", "deflated", "frames"]))
    return stored, affine, scales, encoding, draw(st.permutations(range(shape[0])))


def as_slices(stored: np.ndarray, affine: np.ndarray, scales: list) -> list[Dataset]:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = (affine[:3, :2] / lengths[:2]).T.ravel()
    series = generate_uid()
    return [
        a_slice(
            [f"{v:.9f}" for v in affine[:3, 3] + k * affine[:3, 2]],
            pixels,
            ImageOrientationPatient=[f"{v:.12f}"[:16] for v in cosines],
            PixelSpacing=[f"{lengths[1]:.8g}", f"{lengths[0]:.8g}"],
            RescaleSlope=scales[k][0],
            RescaleIntercept=scales[k][1],
            SeriesInstanceUID=series,
        )
        for k, pixels in enumerate(stored)
    ]


def write(folder: Path, slices: list[Dataset], encoding: str, order: list[int]) -> None:
    if encoding == "frames":
        slices = [frames_of([slices[k] for k in order])]
        order = [0]
    for name, k in enumerate(order):
        ds = slices[k]
        if encoding == "implicit":
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        if encoding == "deflated":
            ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        ds.save_as(folder / f"{name:02d}", enforce_file_format=True)


@settings(max_examples=60, deadline=None)
@given(volumes())
def test_a_volume_written_to_dicom_in_any_order_is_read_back_equal(given_volume):
    stored, affine, scales, encoding, order = given_volume
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), as_slices(stored, affine, scales), encoding, order)
        volume = read_series(name).decode()
    expected = np.stack([p * s + i for p, (s, i) in zip(stored, scales, strict=True)])
    np.testing.assert_allclose(volume.array[0].T, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(volume.affine, LPS_TO_RAS @ affine, atol=1e-3)


class Hangs(BaseException):
    """No `except Exception` takes it for a damaged file."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hangs(f"took longer than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def sources_of_damage(data: Path) -> list[Path]:
    """Small series of many encodings, the folder of each."""
    root = data / "dicom_acceptance"
    folders = {path.parent for path in (root / "dicom2nifti").rglob("*.dcm")}
    small = [f for f in folders if sum(p.stat().st_size for p in f.iterdir()) < 1 << 20]
    return sorted([*small, root / "seg_23x38x3" / "image", root / "dcmqi_23x38x3" / "multiframe"])


def test_two_hundred_damaged_files_end_with_a_name(data, tmp_path):
    folders = sources_of_damage(data)
    rng = np.random.default_rng(7)
    ended: dict[str, int] = {}
    for number in range(200):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        files = sorted(p for p in folders[number % len(folders)].iterdir() if p.is_file())
        victim = files[int(rng.integers(len(files)))]
        for path in files:
            content = bytearray(path.read_bytes())
            if path == victim:
                in_header = number % 2 == 0
                low, high = (132, min(3000, len(content))) if in_header else (132, len(content))
                for at in rng.integers(low, high, int(rng.integers(1, 40))):
                    content[at] ^= int(rng.integers(1, 256))
                if number % 10 == 9:
                    del content[int(rng.integers(0, len(content))) :]
            (folder / path.name).write_bytes(content)
        with within(SECONDS):
            for code in outcome(folder):
                ended[code] = ended.get(code, 0) + 1
    print(ended)
    assert "failed" not in ended  # an exception that nobody named
    assert ended["unreadable"] > 20
    assert ended["accepted"] < 150


def outcome(folder: Path) -> list[str]:
    """How each input of a folder ends: accepted, or the codes that speak against it."""
    entries = list_entries([Source(layout="dicom", path=".")], str(folder), Dicom())
    rules = Rules(folder / "volumes")
    outcomes = check_voxels(check_headers(entries, rules), rules)
    codes = []
    for item in outcomes:
        told = [f.code for f in item.findings if f.severity == "error"]
        codes += told or [item.status]
        assert told or item.status != "quarantined"
    return codes


def test_fragments_of_a_compressed_picture_are_joined(tmp_path, data):
    source = data / "dicom_acceptance" / "dicom2nifti" / "generic" / "compressed_j2k" / "001"
    for path in source.iterdir():
        ds = pydicom.dcmread(path)
        (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
        third = len(frame) // 6 * 2
        parts = [frame[:third], frame[third : 2 * third], frame[2 * third :]]
        items = b"".join(b"\xfe\xff\x00\xe0" + len(p).to_bytes(4, "little") + p for p in parts)
        empty = b"\xfe\xff\x00\xe0\0\0\0\0"
        ds.PixelData = empty + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
        ds.save_as(tmp_path / path.name)
    np.testing.assert_array_equal(
        read_series(tmp_path).decode().array, read_series(source).decode().array
    )
