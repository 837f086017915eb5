import shutil
from pathlib import Path

import numpy as np
import pytest
from make_dicom import OBLIQUE, a_slice, frames_of, save, series_of
from pydicom.dataset import Dataset

from medcl.config import Dicom
from medcl.data.dicom import read_series
from medcl.data.dicom_decoder import Decoder
from medcl.data.volume import Volume, VolumeError, grid_distance, read_volume, reorient


def refusal(folder: Path) -> VolumeError:
    with pytest.raises(VolumeError) as error:
        read_series(folder).decode()
    assert str(folder) in error.value.message
    assert error.value.remedy
    return error.value


def test_a_series_is_sorted_and_placed_by_its_positions(tmp_path):
    volume = read_series(save(tmp_path / "s", series_of())).decode()
    assert volume.shape == (3, 2, 5)
    np.testing.assert_allclose(volume.spacing, (0.5, 2.0, 3.0))
    for x, y, z in [(0, 0, 0), (2, 1, 4), (1, 0, 3)]:
        assert volume.array[0, x, y, z] == -1000 + 10 * z + 3 * y + x
        lps = np.array([10, 20, 30.0]) + x * 0.5 * np.array(OBLIQUE[:3])
        lps += y * 2.0 * np.array(OBLIQUE[3:]) + z * 3.0 * np.cross(OBLIQUE[:3], OBLIQUE[3:])
        np.testing.assert_allclose((volume.affine @ (x, y, z, 1))[:3], lps * (-1, -1, 1), atol=1e-9)


def test_each_slice_is_rescaled_by_its_own_slope_and_intercept(tmp_path):
    slices = series_of(3)
    for k, ds in enumerate(slices):
        ds.RescaleSlope, ds.RescaleIntercept = 0.25 * (k + 1), k
    array = read_series(save(tmp_path / "s", slices)).decode().array
    for k in range(3):
        expected = (np.arange(6).reshape(2, 3) + 10 * k) * 0.25 * (k + 1) + k
        np.testing.assert_allclose(array[0, :, :, k].T, expected)


@pytest.mark.parametrize(("intercept", "dtype"), [(-1000, np.int16), (32750, np.float32)])
def test_values_that_do_not_fit_in_16_bits_stay_exact(tmp_path, intercept, dtype):
    slices = series_of(3)
    for ds in slices:
        ds.RescaleIntercept = intercept
    array = read_series(save(tmp_path / "s", slices)).decode().array
    assert array.dtype == dtype
    assert (array.min(), array.max()) == (intercept, intercept + 25)


def pet_of(**changes) -> list[Dataset]:
    """60 kg, 300 MBq of a nuclide of 6000 s given 6000 s before the scan."""
    slices = series_of(3)
    for ds in slices:
        ds.Modality, ds.Units, ds.DecayCorrection = "PT", "BQML", "START"
        ds.CorrectedImage, ds.PatientWeight = ["ATTN", "DECY"], 60
        ds.SeriesDate = ds.AcquisitionDate = "20200102"
        ds.SeriesTime, ds.AcquisitionTime = "004000", "004500.5"
        ds.RescaleSlope, ds.RescaleIntercept = 1000, 0
        source = Dataset()
        source.RadionuclideTotalDose, source.RadionuclideHalfLife = 3e8, 6000
        source.RadiopharmaceuticalStartTime = "230000.00"  # the evening before
        ds.RadiopharmaceuticalInformationSequence = [source]
        for name, value in changes.items():
            setattr(ds, name, value)
    return slices


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 60_000 / 1.5e8),
        ({"DecayCorrection": "ADMIN"}, 60_000 / 3e8),
        ({"Units": "GML"}, 1.0),
    ],
)
def test_pet_becomes_uptake_by_body_weight_where_asked(tmp_path, changes, factor):
    folder = save(tmp_path / "s", pet_of(**changes))
    stored, uptake = read_series(folder), read_series(folder, Dicom(suv=True))
    assert (stored.provenance()["unit"], uptake.provenance()["unit"]) == ("stored", "SUV")
    assert stored.decode().array.max() == 25_000
    assert uptake.decode().array.max() == pytest.approx(25_000 * factor)


@pytest.mark.parametrize(
    "changes",
    [
        {"Units": "CNTS"},
        {"PatientWeight": 0},
        {"DecayCorrection": "NONE"},
        {"CorrectedImage": ["DECY"]},
        {"SeriesTime": "004501"},
        {"RadiopharmaceuticalInformationSequence": []},
    ],
)
def test_pet_whose_header_does_not_give_the_uptake_is_refused(tmp_path, changes):
    series = read_series(save(tmp_path / "s", pet_of(**changes)), Dicom(suv=True))
    with pytest.raises(VolumeError) as error:
        series.decode()
    assert error.value.code == "no_suv"


def test_a_modality_table_is_applied(tmp_path):
    slices = series_of(3)
    for k, ds in enumerate(slices):
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [30, 0, 16], "US"
        table.add_new("LUTData", "US", [100 * value + k for value in range(30)])
        ds.ModalityLUTSequence = [table]
        del ds.RescaleSlope, ds.RescaleIntercept
    array = read_series(save(tmp_path / "s", slices)).decode().array
    assert array[0, 2, 1, 2] == 100 * 25 + 2


def test_fractions_stored_as_floats_are_kept(tmp_path):
    slices = series_of(3)
    for k, ds in enumerate(slices):
        ds.FloatPixelData = (np.arange(6, dtype="<f4") + k + 0.5).tobytes()
        ds.BitsAllocated = 32
        del ds.PixelData, ds.RescaleSlope, ds.RescaleIntercept
    array = read_series(save(tmp_path / "s", slices)).decode().array
    np.testing.assert_allclose(array[0, :, :, 1].T, [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]])


def test_the_subject_is_kept_and_other_identifiers_are_not(tmp_path):
    series = read_series(save(tmp_path / "s", series_of()))
    assert (series.subject, series.modality) == ("p7", "CT")
    assert series.provenance()["slices"] == ["03.dcm", "10.dcm", "06.dcm", "02.dcm", "09.dcm"]
    assert "p7" not in str(series.provenance())
    assert "Somebody" not in str(series.provenance())


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    slices = series_of(6)
    del slices[3:5]
    error = refusal(save(tmp_path / "s", slices))
    assert error.code == "missing_slices"
    assert "2 of 6 slices" in error.message
    assert "06.dcm and 02.dcm" in error.message


def test_missing_slices_are_filled_where_the_configuration_allows(tmp_path):
    slices = series_of(6)
    whole = read_series(save(tmp_path / "whole", slices)).decode()
    del slices[2:4]
    series = read_series(save(tmp_path / "s", slices), Dicom(allow_missing_slices=True))
    volume = series.decode()
    assert [(f.code, f.severity) for f in series.findings] == [("slices_interpolated", "warning")]
    assert series.provenance()["slices"][1:5] == ["10.dcm", None, None, "06.dcm"]
    assert series.provenance()["mended"] == ["slices_interpolated"]
    np.testing.assert_allclose(volume.array, whole.array, atol=1e-3)  # values grow linearly
    np.testing.assert_allclose(volume.affine, whole.affine, atol=1e-9)


def test_more_gaps_than_slices_are_not_filled(tmp_path):
    slices = series_of(12)
    folder = save(tmp_path / "s", [slices[k] for k in (0, 1, 2, 11)])
    with pytest.raises(VolumeError, match="too many to fill"):
        read_series(folder, Dicom(allow_missing_slices=True))


def test_uneven_distances_are_refused(tmp_path):
    slices = series_of(5)
    slices[2].ImagePositionPatient = np.add(slices[2].ImagePositionPatient, (-0.6, 0.8, 0)).tolist()
    assert refusal(save(tmp_path / "s", slices)).code == "uneven_spacing"


def test_uneven_distances_are_evened_out_where_the_configuration_allows(tmp_path):
    along = np.array([0, 3, 6, 9, 12, 16.5, 21, 25.5])  # the table moved faster halfway
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    slices = [
        a_slice((normal * mm).tolist(), np.full((2, 3), round(10 * mm)), RescaleIntercept=0)
        for mm in along
    ]
    series = read_series(save(tmp_path / "s", slices), Dicom(allow_missing_slices=True))
    assert [f.code for f in series.findings] == ["slices_interpolated"]
    volume = series.decode()
    count = volume.shape[2]
    assert volume.spacing[2] == pytest.approx(25.5 / (count - 1))
    expected = np.linspace(0, 255, count)
    np.testing.assert_allclose(volume.array[0, 1, 1], expected, atol=1e-3)


def test_positions_that_jump_back_and_forth_are_never_mended(tmp_path):
    slices = series_of(5)
    near = np.add(slices[2].ImagePositionPatient, np.multiply((-0.6, 0.8, 0), 0.05))
    slices[3].ImagePositionPatient = near.tolist()
    folder = save(tmp_path / "s", slices)
    with pytest.raises(VolumeError, match="too uneven"):
        read_series(folder, Dicom(allow_missing_slices=True))


def test_positions_rounded_to_a_hundredth_are_accepted(tmp_path):
    slices = series_of(9, step=0.7)
    for ds in slices:
        ds.ImagePositionPatient = np.round(np.array(ds.ImagePositionPatient, float), 2).tolist()
    volume = read_series(save(tmp_path / "s", slices)).decode()
    assert volume.spacing[2] == pytest.approx(0.7, abs=0.002)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "mixed_orientation"),
        ({"PixelSpacing": [2.0, 0.6]}, "mixed_geometry"),
        ({"SeriesInstanceUID": "1.2.4"}, "several_series"),
        ({"ImagePositionPatient": None}, "no_geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no_geometry"),
        ({"PixelSpacing": [0, 0]}, "no_geometry"),
        ({"PixelData": None}, "no_pixel_data"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"NumberOfFrames": 2}, "no_geometry"),
    ],
)
def test_one_odd_slice_refuses_the_series_by_name(tmp_path, changes, code):
    slices = series_of()
    slices[1] = a_slice(
        **{
            "position": list(slices[1].ImagePositionPatient),
            "pixels": np.zeros((2, 3)),
            **changes,
        }
    )
    error = refusal(save(tmp_path / "s", slices))
    assert error.code == code


@pytest.mark.parametrize(
    ("keyword", "value"), [("Modality", "MR"), ("PhotometricInterpretation", "MONOCHROME1")]
)
def test_slices_of_several_kinds_are_no_volume(tmp_path, keyword, value):
    slices = series_of(5)
    setattr(slices[3], keyword, value)
    error = refusal(save(tmp_path / "s", slices))
    assert error.code == "mixed_kind"
    assert f"{keyword} differs from slice to slice" in error.message
    assert f"1 slices of '{value}'" in error.message


def test_slices_of_another_size_are_mixed_geometry(tmp_path):
    slices = series_of()
    slices[1] = a_slice(list(slices[1].ImagePositionPatient), np.zeros((3, 2)))
    assert refusal(save(tmp_path / "s", slices)).code == "mixed_geometry"


def test_a_slice_beside_the_others_is_mixed_geometry(tmp_path):
    slices = series_of()
    beside = np.add(slices[2].ImagePositionPatient, np.multiply(OBLIQUE[:3], 4))
    slices[2].ImagePositionPatient = beside.tolist()
    error = refusal(save(tmp_path / "s", slices))
    assert (error.code, "4 mm beside" in error.message) == ("mixed_geometry", True)


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path):
    slices = series_of()
    for k, ds in enumerate(slices):  # 3 mm along the normal, 0.8 mm along the columns
        ds.ImagePositionPatient = np.add(ds.ImagePositionPatient, (0, 0, 0.8 * k)).tolist()
    error = refusal(save(tmp_path / "s", slices))
    assert (error.code, "14.9 degrees" in error.message) == ("gantry_tilt", True)


def test_a_tilted_stack_is_sheared_onto_right_angles_by_config(tmp_path):
    """A ramp in space, constant along x: the sheared volume shows the same ramp."""
    slices = []
    for k in range(4):  # 3 mm along z, 1.5 mm along y; pixels of 2 mm
        y = -10 + 1.5 * k + 2.0 * np.arange(8)
        picture = np.repeat(100 * (y[:, None] + 10), 5, axis=1)
        slices.append(
            a_slice(
                [0, -10 + 1.5 * k, 3.0 * k],
                picture,
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                PixelSpacing=[2, 2],
                RescaleIntercept=0,
            )
        )
    folder = save(tmp_path / "s", slices)
    assert refusal(folder).code == "gantry_tilt"
    series = read_series(folder, Dicom(gantry_tilt="shear"))
    assert [f.code for f in series.findings] == ["tilt_sheared"]
    volume = series.decode()
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([-2, -2, 3]), atol=1e-9)
    inside = 0
    for j in range(volume.shape[1]):
        for k in range(4):
            y = -(volume.affine @ (0, j, k, 1))[1]
            if -10 + 1.5 * k <= y <= -10 + 1.5 * k + 14:
                assert volume.array[0, 2, j, k] == pytest.approx(100 * (y + 10), abs=0.01)
                inside += 1
    assert inside == 8 + 7 + 7 + 7


def test_two_time_points_are_several_volumes(tmp_path):
    later = series_of(4)
    for ds in later:
        ds.PixelData = ds.PixelData[::-1]
    error = refusal(save(tmp_path / "s", series_of(4) + later))
    assert error.code == "several_volumes"
    assert "8 slices at 4 positions" in error.message


def test_slices_stored_twice_are_used_once(tmp_path):
    slices = series_of(4)
    folder = save(tmp_path / "s", slices)
    slices[1].save_as(folder / "copy.dcm", enforce_file_format=True)
    slices[2].SOPInstanceUID = "1.2.3.4"  # the same picture under another identifier
    slices[2].save_as(folder / "new.dcm", enforce_file_format=True)
    series = read_series(folder)
    assert len(series.stack.planes) == 4
    assert {f.code for f in series.findings} == {"duplicate_slices"}


def test_one_identifier_on_two_pictures_is_refused(tmp_path):
    slices = series_of(4)
    folder = save(tmp_path / "s", slices)
    slices[1].PixelData = slices[0].PixelData
    slices[1].save_as(folder / "other.dcm", enforce_file_format=True)
    assert refusal(folder).code == "duplicate_slices"


def test_a_slice_that_differs_from_another_at_its_place_is_refused(tmp_path):
    odd = series_of(4)[2]
    odd.PixelData = odd.PixelData[::-1]
    assert refusal(save(tmp_path / "s", [*series_of(4), odd])).code == "several_volumes"


@pytest.mark.parametrize(("count", "code"), [(1, "single_slice"), (2, "too_few_slices")])
def test_too_few_slices_make_no_volume(tmp_path, count, code):
    assert refusal(save(tmp_path / "s", series_of(count))).code == code


def test_other_objects_beside_the_slices_are_skipped_and_named(tmp_path):
    folder = save(tmp_path / "s", series_of())
    report = a_slice([0, 0, 0], np.zeros((2, 3)), Modality="SR", PixelData=None)
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("nothing")
    series = read_series(folder)
    assert len(series.stack.planes) == 5
    assert [f.code for f in series.findings] == ["not_an_image"] * 2
    assert [f.severity for f in series.findings] == ["info"] * 2


def test_a_folder_without_images_is_not_an_image(tmp_path):
    plan = a_slice([0, 0, 0], np.zeros((2, 3)), Modality="RTSTRUCT", PixelData=None)
    assert refusal(save(tmp_path / "s", [plan])).code == "not_an_image"


@pytest.mark.parametrize("kept", [0, 100, 140, 500, -4])
def test_a_truncated_slice_refuses_the_series(tmp_path, kept):
    folder = save(tmp_path / "s", series_of())
    path = folder / "09.dcm"  # the last slice: no gap would tell that it is missing
    path.write_bytes(path.read_bytes()[:kept])
    error = refusal(folder)
    assert error.code in ("unreadable", "no_pixel_data")
    assert "09.dcm" in error.message


def test_an_enhanced_object_equals_the_single_slices(tmp_path):
    slices = series_of()
    slices[3].RescaleSlope = 2.5
    single = read_series(save(tmp_path / "s", slices)).decode()
    shuffled = [slices[k] for k in (3, 0, 4, 1, 2)]
    multi = read_series(save(tmp_path / "m", [frames_of(shuffled)])).decode()
    np.testing.assert_array_equal(multi.array, single.array)
    np.testing.assert_allclose(multi.affine, single.affine)


def assert_same(volume: Volume, reference: Volume, *, mm: float) -> None:
    """Equal values (rtol 1e-5) and affines within `mm` on the same axes."""
    volume, reference = reorient(volume), reorient(reference)
    np.testing.assert_allclose(volume.array, reference.array, rtol=1e-5, atol=1e-4)
    assert np.abs(volume.affine - reference.affine).max() < mm
    assert grid_distance(volume, reference) < 0.01


@pytest.mark.parametrize("patient", ["STS_002", "STS_003"])
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_conversion_equals_a_third_partys(data, patient, modality):
    series = read_series(data / "sts_ibsi" / "dicom" / patient / modality / "image")
    reference = data / "sts_ibsi" / "nifti" / patient / f"{modality}_image.nii.gz"
    assert_same(series.decode(), read_volume(reference), mm=0.05)
    assert series.modality == modality.split("_")[0]
    assert series.subject == patient


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("dicom2nifti/failing/gantrytilting/001", "gantry_tilt"),
        ("dicom2nifti/failing/notavolume/001", "several_volumes"),
        ("dicom2nifti/failing/slicecount/001", "too_few_slices"),
        ("dicom2nifti/failing/sliceincrement/001", "missing_slices"),
        ("dicom2nifti/failing/sliceorientation/001", "mixed_orientation"),
        ("dicom2nifti/ge/fmri/001", "several_volumes"),
        ("dicom2nifti/ge/anatomical/001_single_slice", "single_slice"),
        ("dicom2nifti/generic/rgb/001", "colour"),
        ("ct_philips_tilt_6slices/dicom", "gantry_tilt"),
        ("dcm_qa_ts/In", "several_volumes"),
        ("dcmqi_23x38x3/seg", "not_an_image"),
        ("highdicom", "several_series"),
        ("prostatex0000_mixed/dicom_flat", "several_series"),
        ("pydicom_data", "several_series"),
    ],
)
def test_series_that_are_no_volume_are_refused_by_name(data, folder, code):
    assert refusal(data / "dicom_acceptance" / folder).code == code


def test_the_gap_of_a_real_series_is_named(data):
    top = data / "dicom_acceptance" / "prostatex_missing_slice" / "dicom"
    (folder,) = {path.parent for path in top.rglob("*.dcm")}
    error = refusal(folder)
    assert error.code == "missing_slices"
    assert "1 of 19 slices are missing" in error.message
    assert "1-07.dcm and 1-05.dcm" in error.message


def test_a_picture_that_crashes_its_decoder_is_unreadable_and_the_next_is_decoded(tmp_path, data):
    source = data / "dicom_acceptance" / "dicom2nifti" / "generic" / "compressed_jpeg" / "001"
    folder = shutil.copytree(source, tmp_path / "s")
    path = folder / "IM-0001-0001-0001.dcm"
    content = bytearray(path.read_bytes())
    content[content.find(b"\xff\xd8\xff") + 6] = 24  # ends the process it is decoded in
    path.write_bytes(content)
    error = refusal(folder)
    assert (error.code, "crash" in error.message) == ("unreadable", True)
    assert read_series(source).decode().shape == (256, 256, 4)


def test_a_picture_that_takes_too_long_ends_with_an_error(data):
    folder = data / "dicom_acceptance" / "dicom2nifti" / "generic" / "compressed_jpeg" / "001"
    path = sorted(folder.iterdir())[0]
    ours = Decoder()
    with pytest.raises(ValueError, match="takes longer than 0 s"):
        ours.decode(str(path), "", seconds=0)
    assert ours.decode(str(path), "").shape == (256, 256)
    ours.close()


def test_a_damaged_compressed_slice_is_unreadable(tmp_path, data):
    source = data / "dicom_acceptance" / "dicom2nifti" / "generic" / "compressed_jpegls" / "001"
    folder = shutil.copytree(source, tmp_path / "s")
    path = sorted(folder.iterdir())[1]
    content = bytearray(path.read_bytes())
    content[-3000:-2000] = b"\xff\x9e" * 500
    path.write_bytes(content)
    error = refusal(folder)
    assert (error.code, path.name in error.message) == ("unreadable", True)
