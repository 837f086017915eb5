"""Every DICOM case of the acceptance folder: equal to its reference, or refused by code."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medcl.config import Dicom, Source
from medcl.data.entries import Entry
from medcl.data.sources import list_entries
from medcl.data.volume import LPS_TO_RAS, Volume, VolumeError, read_volume, reorient

D2N = "dicom2nifti_"
PROSTATE = "prostatex0000_mixed"
MISSING = (
    "prostatex_missing_slice_dicom_ProstateX-0000_07-07-2011_"
    "8.000000-ep2ddifftraDYNDISTCALCBVAL-83202"
)
DIFFUSION = f"{PROSTATE}/dcm2niix_ref/ProstateX-0000_6_ep2d_diff_tra_DYNDIST.nii.gz"


ITK = -2  # the files read by SimpleITK instead of a stored reference


def truth(name: str) -> str:
    return f"dicom2nifti/{name}_ground_truth.nii.gz"


# case -> (reference, its volume, -1 for its grid alone) or the code of the refusal
EXPECTED: dict[str, tuple[str, int] | str] = {
    "ct_j2k_totalseg_dicom": ("ct_j2k_totalseg/dicom", ITK),
    "ct_philips_tilt_6slices_dicom": "gantry_tilt",
    **{f"dcm_qa_ts_In_series{k}": (f"dcm_qa_ts/Ref/{k}.nii", 0) for k in range(1, 10)},
    "dcmqi_23x38x3_image": ("dcmqi_23x38x3/image", ITK),
    "dcmqi_23x38x3_multiframe": ("dcmqi_23x38x3/image", ITK),
    "dcmqi_23x38x3_seg": "not_an_image",
    f"{D2N}failing_gantrytilting_001": "gantry_tilt",
    f"{D2N}failing_notavolume_001": "several_volumes",
    f"{D2N}failing_slicecount_001": "too_few_slices",
    f"{D2N}failing_sliceincrement_001": "missing_slices",
    f"{D2N}failing_sliceorientation_001": "mixed_orientation",
    f"{D2N}ge_anatomical_001": (truth("ge/anatomical/001"), 0),
    f"{D2N}ge_anatomical_001_single_slice": "single_slice",
    f"{D2N}ge_fmri_001_t1": (truth("ge/fmri/001"), 0),
    f"{D2N}ge_fmri_001_t2": (truth("ge/fmri/001"), 1),
    f"{D2N}generic_anatomical_001": (truth("generic/anatomical/001"), 0),
    f"{D2N}generic_anatomical_001_implicit": ("dicom2nifti/generic/anatomical/001_implicit", ITK),
    f"{D2N}generic_anatomical_002_non_isotropic": (
        truth("generic/anatomical/002_non_isotropic"),
        0,
    ),
    **{
        f"{D2N}generic_{name}_001": (truth(f"generic/{name}/001"), 0)
        for name in ("compressed", "compressed_j2k", "compressed_jpeg", "compressed_jpegls",
                     "compressed_rle")
    },
    f"{D2N}generic_rgb_001": "colour",
    f"{D2N}hitachi_anatomical_001": (truth("hitachi/anatomical/001"), 0),
    f"{D2N}hyperfine_anatomical_001": (truth("hyperfine/anatomical/001"), 0),
    f"{D2N}philips_enhanced_anatomical_001": (truth("philips_enhanced/anatomical/001"), 0),
    "highdicom_other": "not_an_image",
    "highdicom_s1": "single_slice",
    "highdicom_s1001": "no_geometry",
    f"{PROSTATE}_dicom_flat_s4": (f"{PROSTATE}/wsl4mis_ref/Prostatex_0000.nii.gz", 0),
    f"{PROSTATE}_dicom_flat_s6_b50": (DIFFUSION, 0),
    f"{PROSTATE}_dicom_flat_s6_b400": (DIFFUSION, 1),
    f"{PROSTATE}_dicom_flat_s6_b800": (DIFFUSION, 2),
    f"{PROSTATE}_dicom_flat_s7": (
        f"{PROSTATE}/dcm2niix_ref/ProstateX-0000_7_ep2d_diff_tra_DYNDIST_ADC.nii.gz",
        0,
    ),
    f"{PROSTATE}_dicom_flat_s9": (
        f"{PROSTATE}/dcm2niix_ref/ProstateX-0000_9_tfl_3d_PD_ref_tra_1.5x1.5_t3.nii.gz",
        0,
    ),
    MISSING: "missing_slices",
    "pydicom_data_other": "not_an_image",
    "pydicom_data_s1": "single_slice",
    "pydicom_data_s2": "single_slice",
    "pydicom_data_s3": "too_few_slices",
    "pydicom_data_s301": "no_geometry",
    "seg_23x38x3_image": ("seg_23x38x3/image", ITK),
    "seg_23x38x3_mask": "not_an_image",
}  # fmt: skip


def entries_of(folder: Path, **options) -> dict[str, Entry]:
    source = Source(layout="dicom", path=".")
    return {e.case: e for e in list_entries([source], str(folder), Dicom(**options))}


def judged(entry: Entry) -> Volume | str:
    """The volume, or the code of the finding that speaks against it."""
    if entry.series is None:
        (code,) = {finding.code for finding in entry.findings}
        return code
    try:
        return entry.series.decode()
    except VolumeError as error:
        return error.code


def difference(volume: Volume, reference: Volume) -> tuple[float, float]:
    """Largest relative difference of a voxel, and of an affine entry in mm."""
    volume, reference = reorient(volume), reorient(reference)
    assert volume.shape == reference.shape
    mm = float(np.abs(volume.affine - reference.affine).max())
    a, b = volume.array.astype(np.float64), reference.array.astype(np.float64)
    return float((np.abs(a - b) / np.maximum(np.abs(b), 1.0)).max()), mm


def reference_of(path: Path, index: int) -> Volume:
    if index != ITK:
        volume = read_volume(path)
        return Volume(volume.array[index][None], volume.affine)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).transpose()[None], LPS_TO_RAS @ affine)


def test_every_case_is_equal_to_its_reference_or_refused_by_code(data):
    root = data / "dicom_acceptance"
    entries = {
        name: entry
        for name, entry in entries_of(root).items()
        if "not_used" not in {finding.code for finding in entry.findings}
    }
    wrong = []
    for name, expected in EXPECTED.items():
        result = judged(entries[name]) if name in entries else "absent"
        if isinstance(result, str) or isinstance(expected, str):
            good = result == expected
            told = f"refused: {result}" if isinstance(result, str) else "accepted"
        else:
            reference, index = expected
            relative, mm = difference(result, reference_of(root / reference, index))
            good = relative <= 1e-5 and mm < 0.05
            told = f"equal: {relative:.1e} relative, {mm:.1e} mm"
        print(f"{name:76s} {told}{'' if good else '   WRONG'}")
        if not good:
            wrong.append((name, told, expected))
    assert not wrong
    assert set(entries) == set(EXPECTED)


def test_a_real_tilt_is_sheared_as_by_another_converter(data):
    root = data / "dicom_acceptance" / "ct_philips_tilt_6slices"
    entry = entries_of(root / "dicom", gantry_tilt="shear")["dicom"]
    assert [finding.code for finding in entry.series.findings] == ["tilt_sheared"]
    ours = reorient(entry.series.decode())
    theirs = reorient(read_volume(root / "dcm2niix_ref" / "dicom_201_Tilt_1.nii.gz"))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    apart = np.abs(ours.array - theirs.array)[0]
    rows = (apart > 0.5001).any(axis=0).sum(axis=0)  # theirs rounds to whole numbers
    assert rows.tolist() == [0, 2, 2, 2, 2, 2]  # theirs leaves out the row that lies half outside


def test_a_real_gap_is_filled_from_its_neighbours_and_marked(data):
    root = data / "dicom_acceptance" / "prostatex_missing_slice"
    (entry,) = (e for e in entries_of(root, allow_missing_slices=True).values() if e.series)
    assert [finding.code for finding in entry.series.findings] == ["slices_interpolated"]
    assert entry.series.provenance()["slices"].index(None) == 13
    ours = reorient(entry.series.decode()).array[0]
    (file,) = (f for f in (root / "dcm2niix_ref").iterdir() if "Eq" not in f.name)
    theirs = reorient(read_volume(file)).array[0]
    np.testing.assert_array_equal(np.delete(ours, 13, axis=2), theirs)
    np.testing.assert_allclose(ours[:, :, 13], (theirs[:, :, 12] + theirs[:, :, 13]) / 2)


def test_two_slices_are_a_volume_where_the_configuration_says_so(data):
    root = data / "dicom_acceptance" / "dicom2nifti" / "failing" / "slicecount"
    entry = entries_of(root, fewest_slices=2)["001"]
    assert [finding.code for finding in entry.series.findings] == ["two_slices"]
    relative, mm = difference(entry.series.decode(), read_volume(root / "001_ground_truth.nii.gz"))
    assert relative == 0
    assert mm < 0.05
