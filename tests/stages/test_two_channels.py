"""Two images per case from the files to the store and to a prediction; datasets used together."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dicom_objects import write_series
from stages.test_plan_and_preprocess import call
from stages.test_predict import PLAN, write_model
from test_ingest import codes, put, records, run
from torch import nn

from medcl import networks
from medcl.cli import main
from medcl.config import ConfigError, load_study
from medcl.data.cases import read_cases
from medcl.data.channels import read_image
from medcl.data.dicom import read_series
from medcl.data.plan import read_plan
from medcl.data.splits import read_splits
from medcl.data.store import Store
from medcl.data.volume import read_volume
from medcl.errors import MedclError
from medcl.files import read_json
from medcl.stages import plan, preprocess, split

T2_GRID = np.diag([1.0, 1.0, 2.0, 1.0])
SHAPE = (12, 10, 8)
ADC_GRID = np.array([[1.5, 0, 0, 2.2], [0, 1.4, 0, -1.3], [0, 0, 2.5, 0.4], [0, 0, 0, 1]])
DATASET = {
    "name": "prostate",
    "modality": "MR",
    "classes": {"gland": 1},
    "channels": ["T2", "ADC"],
    "sources": [{"layout": "nnunet"}],
    "plan": {
        "intensity": {"rule": "percentiles", "low": 1, "high": 99},
        "channel_intensity": {"ADC": {"rule": "window", "low": 110, "high": 180}},
        "crop": [8, 8, 4],
        "strides": [[1, 1, 1], [2, 2, 2]],
    },
}


def values(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(100, 200, shape).astype(np.float32)


def raw(root: Path, cases: int = 4, first: int = 0) -> Path:
    """nnU-Net's folder; ADC is numbered before T2 and lies on another grid."""
    names = {"0": "ADC", "1": "T2"}
    root.mkdir(parents=True, exist_ok=True)
    content = {"channel_names": names, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    for number in range(first, first + cases):
        case = root / f"imagesTr/p_{number:02d}"
        put(case.with_name(f"{case.name}_0001.nii.gz"), values(number), T2_GRID)
        adc = values(50 + number, (7, 9, 6))
        put(case.with_name(f"{case.name}_0000.nii.gz"), adc, ADC_GRID)
        gland = np.zeros(SHAPE, np.uint8)
        gland[3:7, 3:7, 2:5] = 1
        put(root / f"labelsTr/p_{number:02d}.nii.gz", gland, T2_GRID)
    return root


def settings(root: Path, **changes: object) -> str:
    return json.dumps(DATASET | {"root": str(root)} | changes)


def chain(out: Path, text: str, *more: str) -> None:
    """ingest, split, plan and preprocess."""
    run("--settings", text, *more, "--out", out)
    tables = ["--cases", out / "cases.csv"]
    call(split, "--settings", "{test: 1, validation: 1}", *tables, "--out", out)
    tables += ["--splits", out / "splits.csv"]
    call(plan, "--settings", text, *tables, "--out", out)
    tables += ["--plan", out / "plan.yaml", "--work", out / "work"]
    call(preprocess, *tables, "--out", out / "store")


def on_the_t2_grid(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """ADC as another program brings it there, and where it has a value."""
    t2, adc = (
        sitk.ReadImage(str(root / f"imagesTr/{name}_000{n}.nii.gz"), sitk.sitkFloat32)
        for n in (1, 0)
    )
    found = sitk.Resample(adc, t2, sitk.Transform(), sitk.sitkLinear, -1.0)
    array = sitk.GetArrayFromImage(found).transpose(2, 1, 0)
    return array, array != -1


def test_channels_on_two_grids_reach_the_store_as_other_programs_resample_them(tmp_path):
    root = raw(tmp_path / "raw")
    chain(tmp_path / "out", settings(root))
    case = read_cases(tmp_path / "out/cases.csv")[0]
    assert (case.channels, case.channel_names, case.shape) == (2, ("T2", "ADC"), SHAPE)
    assert [Path(f).name for f in case.channel_images] == ["p_00_0001.nii.gz", "p_00_0000.nii.gz"]
    found = read_plan(tmp_path / "out/plan.yaml")
    assert [(c.name, c.intensity.rule) for c in found.inputs] == [
        ("T2", "percentiles"),
        ("ADC", "window"),
    ]
    assert found.spacing == (1.0, 1.0, 2.0)
    store = Store(tmp_path / "out/store/manifest.json")
    assert len(store) == 3
    for volume in store:
        array = volume.read(((0, 0, 0), volume.shape))
        t2 = read_volume(root / f"imagesTr/{volume.case}_0001.nii.gz").array[0]
        low, high = np.percentile(t2, (1, 99))
        np.testing.assert_allclose(array[0], ((t2 - low) / (high - low)).clip(0, 1), atol=1e-3)
        adc, seen = on_the_t2_grid(root, volume.case)
        expected = np.where(seen, ((adc - 110) / 70).clip(0, 1), 0)
        assert 0.5 < seen.mean() < 1
        np.testing.assert_allclose(array[1], expected, atol=1e-3)
        assert volume.read_label(((0, 0, 0), volume.shape)).sum() == 48


def test_what_a_channel_does_not_show_counts_for_no_intensity(tmp_path):
    root = raw(tmp_path / "raw")
    rule = {"rule": "zscore"}
    chain(tmp_path / "out", settings(root, plan=DATASET["plan"] | {"channel_intensity":
          {"ADC": rule}}))  # fmt: skip
    for volume in Store(tmp_path / "out/store/manifest.json"):
        array = volume.read(((0, 0, 0), volume.shape))[1]
        adc, seen = on_the_t2_grid(root, volume.case)
        expected = (adc[seen] - adc[seen].mean()) / adc[seen].std()
        np.testing.assert_allclose(array[seen], expected, atol=4e-3)


def test_a_channel_that_shows_too_little_or_is_missing_stops_its_case_alone(tmp_path):
    root = raw(tmp_path / "raw")
    aside = ADC_GRID.copy()
    aside[0, 3] = 8
    put(root / "imagesTr/p_01_0000.nii.gz", values(1, (7, 9, 6)), aside)
    (root / "imagesTr/p_02_0000.nii.gz").unlink()
    run("--settings", settings(root), "--out", tmp_path / "out")
    record = records(tmp_path / "out")
    assert [case.case for case in read_cases(tmp_path / "out/cases.csv")] == ["p_00", "p_03"]
    assert codes(record["p_01"]) == ["channel_outside"]
    assert codes(record["p_02"]) == ["missing_channel"]
    assert codes(record["p_00"], "warning") == ["channel_partly_outside"]
    _, seen = on_the_t2_grid(root, "p_00")
    told = record["p_00"]["findings"][0]["message"]
    assert f"ADC shows {100 * seen.mean():.1f} % of the voxels of T2" in told


def test_the_reference_decides_the_grid_and_the_labels_lie_on_it(tmp_path):
    root = raw(tmp_path / "raw")
    run("--settings", settings(root), "--out", tmp_path / "t2")
    with pytest.raises(MedclError, match=r"shape_differs \(4\)"):
        run("--settings", settings(root, reference="ADC"), "--out", tmp_path / "adc")
    for file in (root / "labelsTr").iterdir():
        file.unlink()
    run("--settings", settings(root, reference="ADC"), "--out", tmp_path / "adc")
    ours, theirs = (read_cases(tmp_path / name / "cases.csv")[0] for name in ("t2", "adc"))
    assert (ours.shape, theirs.shape) == (SHAPE, (7, 9, 6))
    assert ours.channel_images == theirs.channel_images
    assert ours.image_sha256 != theirs.image_sha256


def test_one_file_with_two_volumes_is_the_same_case_as_two_files(tmp_path):
    for number in range(3):
        t2, adc = values(number), values(9 + number)
        put(tmp_path / f"i/p{number}.nii.gz", np.stack([t2, adc], axis=3), T2_GRID)
        put(tmp_path / f"two/p{number}/T2.nii.gz", t2, T2_GRID)
        put(tmp_path / f"two/p{number}/ADC.nii.gz", adc, T2_GRID)
    images = [{"image": f"i/p{n}.nii.gz", "label": None} for n in range(3)]
    content = {"modality": {"0": "T2", "1": "ADC"}, "training": images}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    two = [{"layout": "folders", "path": "two", "images": "{subject}/{channel}.nii.gz"}]
    cases = {}
    for name, changes in {
        "msd": {"sources": [{"layout": "msd"}], "channels": []},
        "files": {"sources": [{"layout": "files", "path": "i"}]},
        "folders": {"sources": two},
        "turned": {"sources": [{"layout": "msd"}], "channels": ["ADC", "T2"]},
    }.items():
        changes = {"plan": {}} | changes
        run("--settings", settings(tmp_path, **changes), "--out", tmp_path / name)
        cases[name] = read_cases(tmp_path / name / "cases.csv")
    hashes = {name: [case.voxel_sha256 for case in found] for name, found in cases.items()}
    assert hashes["msd"] == hashes["files"] == hashes["folders"] != hashes["turned"]
    assert [case.channel_names for case in cases["msd"]] == [("T2", "ADC")] * 3
    assert cases["turned"][0].channel_images[0].endswith("i/p0.nii.gz[1]")


def test_series_are_converted_and_judged_by_the_modality_of_their_channel(tmp_path):
    for number, kind in enumerate(("CT", "PT")):
        write_series(tmp_path / "dicom" / kind, uid=f"1.{number}", seed=number, Modality=kind)
    keys = {
        "modality": "CT", "plan": {}, "channels": {"CT": "CT", "PET": "PET"},
        "sources": [{"layout": "dicom", "images": {"PET": "PT", "CT": "ct"}}],
    }  # fmt: skip
    run("--settings", settings(tmp_path / "dicom", **keys), "--out", tmp_path / "out")
    (case,) = read_cases(tmp_path / "out/cases.csv")
    made = [tmp_path / f"out/volumes/CT.{name}.nii" for name in ("CT", "PET")]
    assert case.channel_images == tuple(map(str, made))
    assert (case.subject, case.modality) == ("p7", "CT")
    for channel, (file, kind) in zip(read_image(case).array, zip(made, ("CT", "PT"), strict=True),
                                     strict=True):  # fmt: skip
        decoded = read_series(tmp_path / "dicom" / kind).decode().array[0]
        np.testing.assert_array_equal(channel, decoded)
        np.testing.assert_array_equal(read_volume(file).array[0], decoded)
    wrong = settings(tmp_path / "dicom", **keys | {"channels": {"CT": "CT", "PET": "MR"}})
    with pytest.raises(MedclError, match="modality_differs"):
        run("--settings", wrong, "--out", tmp_path / "out")


# -------------------------------------------------------------------------------- new scans


class Second(nn.Module):
    """Marks what is bright in the second channel."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.cat([torch.zeros_like(x[:, :1]), 20 * (x[:, 1:] - self.level)], dim=1)


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """A model of T2 and ADC."""
    monkeypatch.setattr(networks, "build", lambda options, **sizes: Second())
    window = {"rule": "window", "low": 0.0, "high": 200.0}
    channel = {"modality": "MR", "intensity": window, "body_threshold": None}
    changes = {
        "modality": "MR", "channels": 2, "classes": {"gland": 1}, "spacing": [1.0, 1.0, 2.0],
        "intensity": window, "body": {"rule": "otsu", "threshold": None}, "reference": "T2",
        "inputs": [{"name": name, **channel} for name in ("T2", "ADC")],
        "fingerprint": {},
    }  # fmt: skip
    weights = {name: Second().state_dict() for name in ("last", "selected")}
    return write_model(tmp_path / "model.pt", plan=PLAN | changes, weights=weights)


@pytest.mark.parametrize("layout", ["marks", "names", "yaml", "csv", "nnunet"])
def test_scans_of_two_files_are_predicted_on_the_grid_of_the_reference(tmp_path, model, layout):
    folder = tmp_path / "in"
    marks = ("T2", "ADC") if layout == "names" else ("0001", "0000")
    if layout == "marks":
        marks = ("0000", "0001")
    place = "imagesTs/" if layout == "nnunet" else ""
    t2 = put(folder / f"{place}x_{marks[0]}.nii.gz", np.full(SHAPE, 20.0, np.float32) + values(0),
             T2_GRID)  # fmt: skip
    bright = np.full((24, 10, 8), 20, np.float32)
    bright[12:18, 2:6] = 180  # of half a millimetre: voxels 6 to 8 of T2
    adc = put(folder / f"{place}x_{marks[1]}.nii.gz", bright, np.diag([0.5, 1, 2, 1]))
    source = folder
    if layout == "yaml":
        mapping = {"T2": "{subject}_0001.nii.gz", "ADC": "{subject}_0000.nii.gz"}
        source = tmp_path / "scans.yaml"
        source.write_text(settings(folder, sources=[{"layout": "folders", "images": mapping}]))
    elif layout == "csv":
        source = tmp_path / "scans.csv"
        source.write_text(f"case,ADC,T2\nx,{adc},{t2}\n")
    elif layout == "nnunet":
        content = {"channel_names": {"0": "ADC", "1": "T2"}, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(content))
    words = ["--model", str(model), "--input", str(source), "--output", str(tmp_path / "out")]
    assert main(["predict", *words]) == 0
    found = read_volume(tmp_path / "out/x.nii.gz", labels=True).array[0]
    expected = np.zeros(SHAPE, np.uint8)
    expected[6:9, 2:6] = 1
    np.testing.assert_array_equal(found, expected)


def test_a_yaml_of_other_channels_is_refused(tmp_path, model, capsys):
    source = tmp_path / "scans.yaml"
    text = settings(tmp_path, channels=["T2", "DWI"], sources=[{"layout": "files"}], plan={})
    source.write_text(text)
    words = ["--model", str(model), "--input", str(source), "--output", str(tmp_path)]
    assert main(["predict", *words]) == 1
    assert "T2, DWI, the model was trained on T2, ADC" in capsys.readouterr().err


# --------------------------------------------------------------------- datasets used together


def test_another_dataset_joins_the_pool_without_its_labels_and_moves_nothing_else(tmp_path):
    text = settings(raw(tmp_path / "raw", 6))
    chain(tmp_path / "alone", text)
    other = raw(tmp_path / "other", 3, first=2)
    for number in range(2, 5):
        put(other / f"imagesTr/p_0{number}_0001.nii.gz", values(90 + number), T2_GRID * 1.0)
        (other / f"labelsTr/p_0{number}.nii.gz").write_bytes(b"never opened")
    more = settings(other, name="open", labels="required")
    chain(tmp_path / "both", text, "--pretrain-on", more)
    assert (tmp_path / "both/plan.yaml").read_bytes() == (tmp_path / "alone/plan.yaml").read_bytes()
    ours, both = (read_splits(tmp_path / name / "splits.csv").rows for name in ("alone", "both"))
    joined = [row for row in both if row.case.startswith("open.")]
    assert [row for row in both if row not in joined] == list(ours)
    assert [(row.case, row.subject, row.role, row.ranks) for row in joined] == [
        (f"open.p_0{n}", f"open/p_0{n}", "pool", ()) for n in (2, 3, 4)
    ]
    cases = [case for case in read_cases(tmp_path / "both/cases.csv") if case.dataset == "open"]
    assert [case.label for case in cases] == [None] * 3
    stored = Store(tmp_path / "both/store/manifest.json")
    assert all(not stored[case.case].has_label for case in cases)
    record = records(tmp_path / "both")["open.p_02"]
    assert (record["dataset"], record["subject"]) == ("open", "open/p_02")


def test_an_image_that_is_in_both_datasets_stops_the_split(tmp_path):
    text, more = settings(raw(tmp_path / "raw")), settings(raw(tmp_path / "again"), name="again")
    run("--settings", text, "--pretrain-on", more, "--out", tmp_path)
    words = ["--settings", "{test: 1, validation: 1}", "--cases", tmp_path / "cases.csv"]
    with pytest.raises(MedclError, match=r"cases again\.p_0\d, p_0\d hold the same voxels and are"):
        call(split, *words, "--out", tmp_path)
    told = read_json(tmp_path / "audit.stopped.json")["same_names"]
    held_out = sorted(found["subjects"] for found in told)
    assert [found["roles"][1] for found in told] == ["pool"] * 2
    assert all(theirs == f"again/{mine}" for mine, theirs in held_out)


def test_datasets_of_other_channels_are_refused_by_name(tmp_path):
    text = settings(raw(tmp_path / "raw"), channels=[], reference="T2", plan={})
    put(tmp_path / "flat/x.nii", values(3), T2_GRID)
    one = settings(tmp_path / "flat", name="flat", channels=[], plan={},
                   sources=[{"layout": "files"}])  # fmt: skip
    with pytest.raises(MedclError, match=r"'flat' has 1 channel .*'prostate' 2 channels \(ADC, T2"):
        run("--settings", text, "--pretrain-on", one, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "CT"}, r"b\.yaml: modality: 'b' is CT, 'prostate' is MR"),
        (
            {"channels": ["ADC", "T2"]},
            r"b\.yaml: channels: 'b' has ADC \(MR\), T2 \(MR\), 'prostate' has T2",
        ),
        ({"name": "prostate"}, r"b\.yaml: name: two datasets are called 'prostate'"),
        ({"modalty": "MR"}, r"b\.yaml: modalty: no such key; did you mean 'modality'"),
    ],
)
def test_a_study_refuses_datasets_that_do_not_fit(tmp_path, changes, message):
    file = tmp_path / "b.yaml"
    file.write_text(settings(tmp_path, name="b"))
    study = {"study": "s", "dataset": DATASET, "arms": {"scratch": {}}, "labelled": [1]}
    assert load_study(study | {"pretrain_on": [str(file)]}).pretrain_on[0].name == "b"
    file.write_text(settings(tmp_path, **{"name": "b"} | changes))
    with pytest.raises(ConfigError, match=message):
        load_study(study | {"pretrain_on": [str(file)]})
    with pytest.raises(ConfigError, match=r"pretrain_on\.0: .*absent\.yaml: no such file"):
        load_study(study | {"pretrain_on": [str(tmp_path / "absent.yaml")]})
