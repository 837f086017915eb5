"""The plan follows from the pool's images by rules that can be worked out by hand."""

import numpy as np
import pytest

from medcl.config import Dataset, Dicom
from medcl.data.plan import Plan, read_plan
from medcl.data.planning import Measured, make_plan, measure
from medcl.data.volume import Volume
from medcl.errors import MedclError
from medcl.files import write_yaml


def dataset(modality: str = "MR", **plan) -> Dataset:
    return Dataset.model_validate(
        {
            "name": "d",
            "sources": [{"layout": "files"}],
            "modality": modality,
            "classes": {"tumour": 2, "organ": 1},
            "plan": plan,
        }
    )


def image(spacing=(1.0, 1.0, 1.0), body_mm=(36.0, 50.0, 37.0), values=(0.0, 100.0), channels=1):
    sample = np.tile(np.linspace(*values, 1001, dtype=np.float32), (channels, 1))
    return Measured("c", (40, 60, 40), spacing, body_mm, sample)


def plan_of(*images: Measured, modality: str = "MR", **keys) -> Plan:
    return make_plan(images, dataset(modality, **keys), cases=len(images))


def test_spacing_is_the_median_of_each_axis():
    images = [image((x, 1.0, 2 * x)) for x in (0.8, 0.9, 1.3)]
    assert plan_of(*images).spacing == (0.9, 1.0, 1.8)


def test_the_thick_axis_of_anisotropic_data_takes_the_tenth_percentile():
    images = [image((1.0, 1.0, z)) for z in np.linspace(3, 7, 11)]
    assert plan_of(*images).spacing == (1.0, 1.0, 3.4)
    # but is never made finer than the other axes
    images = [image((1.0, 1.0, z)) for z in (0.5, 0.5, 0.5, 4, 4, 4, 4, 4)]
    assert plan_of(*images).spacing == (1.0, 1.0, 1.0)


def test_crop_and_strides_follow_from_the_median_body_and_the_spacing():
    plan = plan_of(image(), image(body_mm=(10.0, 10.0, 10.0)), image())
    assert plan.crop == (32, 48, 32)
    assert plan.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert plan.given == ()


def test_a_given_spacing_wins_and_the_rest_follows_from_it():
    plan = plan_of(image(), spacing=[2.0, 2.0, 6.0])
    assert plan.spacing == (2.0, 2.0, 6.0)
    # The body needs 18 x 25 x 7 voxels.
    assert plan.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1))
    assert plan.crop == (20, 28, 7)
    assert plan.given == ("spacing",)


def test_given_keys_win_and_are_marked():
    plan = plan_of(
        image(),
        crop=[16, 16, 8],
        strides=[[1, 1, 1], [4, 4, 2]],
        threads=2,
        intensity={"rule": "zscore"},
    )
    assert plan.crop == (16, 16, 8)
    assert plan.strides == ((1, 1, 1), (4, 4, 2))
    assert plan.threads == 2
    assert plan.intensity.rule == "zscore"
    assert plan.given == ("crop", "intensity", "strides", "threads")


def test_a_given_crop_that_given_strides_do_not_divide_is_refused():
    with pytest.raises(MedclError, match=r"nearest valid crop is \[16, 20, 8\]"):
        plan_of(image(), crop=[17, 19, 8], strides=[[1, 1, 1], [4, 4, 2]])


@pytest.mark.parametrize(
    ("modality", "expected"),
    [("MR", (1.0, 99.0)), ("US", (1.0, 99.0)), ("other", (1.0, 99.0)), ("PET", (0.0, 99.9))],
)
def test_modalities_without_units_are_scaled_by_percentiles_of_each_volume(modality, expected):
    intensity = plan_of(image(), modality=modality).intensity
    assert (intensity.rule, intensity.low, intensity.high) == ("percentiles", *expected)


def test_ct_gets_a_window_from_the_pools_body_voxels_within_its_range():
    intensity = plan_of(image(values=(-400, 600)), modality="CT").intensity
    assert (intensity.rule, intensity.low, intensity.high) == ("window", -395.0, 595.0)
    intensity = plan_of(image(values=(-3000, 30000)), modality="CT").intensity
    assert (intensity.low, intensity.high) == (-1024.0, 3071.0)


def test_what_a_given_rule_leaves_open_is_filled():
    intensity = plan_of(
        image(), modality="CT", intensity={"rule": "window", "low": -1000}
    ).intensity
    assert (intensity.low, intensity.high) == (-1000.0, 100.0)
    intensity = plan_of(image(), intensity={"rule": "percentiles"}).intensity
    assert (intensity.low, intensity.high) == (1.0, 99.0)
    with pytest.raises(MedclError, match=r"low 500.0 is not below high 99.0"):
        plan_of(image(), intensity={"rule": "percentiles", "low": 500})


def test_how_series_became_volumes_is_kept_for_new_scans():
    rules = {"suv": True, "several_volumes": "refuse", "keep_identifiers": True}
    given = dataset("PET").model_copy(update={"dicom": Dicom.model_validate(rules)})
    plan = make_plan([image()], given, cases=1)
    assert plan.dicom == Dicom(suv=True, several_volumes="refuse")
    assert Plan.from_dict(plan.to_dict()) == plan
    assert plan.preparation_sha256() == plan_of(image(), modality="PET").preparation_sha256()


def test_a_plan_in_2d_lays_its_slices_across_the_largest_spacing():
    cardiac = image((1.4, 1.4, 10.0), body_mm=(300.0, 250.0, 90.0))
    plan = plan_of(cardiac, dims=2)
    assert plan.across == 2
    assert plan.given == ("dims",)
    # The body needs 215 x 179 pixels; halved four times, with the whole budget for one slice.
    assert plan.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1))
    assert plan.crop == (224, 192, 1)
    assert Plan.from_dict(plan.to_dict()) == plan
    assert plan.to_dict()["dims"] == 2
    assert plan.spacing_of((1.1, 1.2, 5.0)) == (1.4, 1.4, 5.0)
    sagittal = image((8.0, 1.0, 1.0), body_mm=(80.0, 100.0, 100.0))
    assert plan_of(sagittal, dims=2).across == 0
    assert plan_of(sagittal, dims=2).crop[0] == 1
    assert plan_of(image(), dims=2).across == 2


def test_a_plan_in_3d_stays_as_it_was_and_resamples_every_axis():
    plan = plan_of(image(), dims=3)
    assert plan.across is None
    assert plan.to_dict()["dims"] == 3
    assert plan.spacing_of((5.0, 6.0, 7.0)) == (1.0, 1.0, 1.0)
    assert plan.preparation_sha256() == plan_of(image()).preparation_sha256()
    assert plan.preparation_sha256() != plan_of(image(), dims=2).preparation_sha256()


def test_given_keys_that_leave_the_slice_are_refused_with_what_fits():
    with pytest.raises(MedclError, match=r"axis 2 has the largest spacing, so give \[16, 16, 1\]"):
        plan_of(image(), dims=2, crop=[16, 16, 8])
    with pytest.raises(MedclError, match=r"\[2, 2, 2\] goes down across the slices.*\[2, 2, 1\]"):
        plan_of(image(), dims=2, strides=[[1, 1, 1], [2, 2, 2]])
    plan = plan_of(image(), dims=2, crop=[16, 8, 1], strides=[[1, 1, 1], [2, 2, 1]])
    assert plan.crop == (16, 8, 1)


def test_images_that_differ_in_channels_are_refused():
    with pytest.raises(MedclError, match="1 channels: 2 cases, such as c; 2 channels: 1 cases"):
        plan_of(image(), image(), image(channels=2))


def test_the_fingerprint_states_what_was_measured():
    fingerprint = plan_of(image((1, 1, 4.0)), image((1, 1, 2.0)), image((1, 1, 4.0))).fingerprint
    assert fingerprint["cases"] == fingerprint["images_read"] == 3
    assert fingerprint["spacing_median"] == [1.0, 1.0, 4.0]
    assert fingerprint["spacing_range"] == [[1.0, 1.0, 2.0], [1.0, 1.0, 4.0]]
    assert fingerprint["anisotropy"] == 4.0
    assert fingerprint["body_mm_median"] == [36.0, 50.0, 37.0]
    assert fingerprint["intensity_percentiles"] == [[0.5, 1, 5, 25, 50, 75, 95, 99, 99.5]]


def test_a_plan_read_back_is_the_plan_written_and_classes_go_by_value(tmp_path):
    plan = plan_of(image())
    write_yaml(tmp_path / "plan.yaml", plan.to_dict())
    assert read_plan(tmp_path / "plan.yaml") == plan
    assert list(plan.classes.items()) == [("organ", 1), ("tumour", 2)]
    assert plan.values == (0, 1, 2)
    shuffled = plan.to_dict() | {"classes": {"tumour": 2, "organ": 1}}
    assert Plan.from_dict(shuffled).values == (0, 1, 2)


def test_a_missing_plan_or_another_format_says_what_to_do(tmp_path):
    with pytest.raises(MedclError, match="run plan first"):
        read_plan(tmp_path / "plan.yaml")
    with pytest.raises(MedclError, match=r"format 99.*run plan again"):
        Plan.from_dict(plan_of(image()).to_dict() | {"format": 99})


def test_only_what_decides_prepared_volumes_is_in_their_hash():
    hashes = {
        plan_of(image(), **keys).preparation_sha256()
        for keys in ({}, {"crop": [8, 8, 8]}, {"threads": 2})
    }
    assert len(hashes) == 1
    assert plan_of(image(), spacing=[2, 2, 2]).preparation_sha256() not in hashes


def test_images_are_measured_along_their_ras_axes():
    array = np.zeros((1, 20, 40, 50), np.float32)  # slices, rows, columns: axes S, P, L
    array[:, 4:16, 10:30, 5:40] = 100
    affine = np.array([[0, 0, -2.0, 0], [0, -3.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    found = measure("c", Volume(array, affine), "MR")
    assert found.shape == (50, 40, 20)
    assert found.spacing == (2.0, 3.0, 5.0)
    for mm, expected in zip(found.body_mm, (70, 60, 60), strict=True):
        assert abs(mm - expected) <= 20  # smoothing may add a voxel or two at each end
    assert found.sample.shape[1] <= 10_001
