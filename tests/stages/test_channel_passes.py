"""Both passes of ingest over two channels: each file is read once, each channel judged alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_objects import write_series
from stages.test_two_channels import ADC_GRID, T2_GRID, raw, settings, values
from test_ingest import codes, put, records, run

from medcl.data.cases import read_cases
from medcl.data.thumbnails import read_thumbnails

PET_CT = {"modality": "CT", "plan": {}, "channels": {"CT": "CT", "PET": "PET"}}


def whole(root: Path, cases: int = 2) -> Path:
    """The Decathlon's folder: T2 and ADC in one file, and no labels."""
    names = [f"i/p{number}.nii.gz" for number in range(cases)]
    for number, name in enumerate(names):
        put(root / name, np.stack([values(number), values(20 + number)], axis=3), T2_GRID)
    images = [{"image": name, "label": None} for name in names]
    content = {"modality": {"0": "T2", "1": "ADC"}, "training": images}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_a_later_run_reads_no_channel_again_but_the_case_of_a_changed_one(tmp_path, decoded):
    root = raw(tmp_path / "raw", 2)
    run("--settings", settings(root), "--out", tmp_path / "out")
    assert decoded == {
        name: 1
        for case in ("p_00", "p_01")
        for name in (f"{case}_0000.nii.gz", f"{case}_0001.nii.gz", f"{case}.nii.gz")
    }
    before = tables(tmp_path / "out")
    first = read_cases(tmp_path / "out/cases.csv")
    decoded.clear()
    run("--settings", settings(root), "--out", tmp_path / "out")
    assert decoded == {}
    assert tables(tmp_path / "out") == before
    put(root / "imagesTr/p_01_0000.nii.gz", values(77, (7, 9, 6)), ADC_GRID)
    run("--settings", settings(root), "--out", tmp_path / "out")
    assert sorted(decoded) == ["p_01.nii.gz", "p_01_0000.nii.gz", "p_01_0001.nii.gz"]
    second = read_cases(tmp_path / "out/cases.csv")
    assert second[0] == first[0]
    assert second[1].image_sha256 != first[1].image_sha256
    assert second[1].voxel_sha256 != first[1].voxel_sha256


def test_a_file_that_holds_both_channels_is_decoded_once(tmp_path, decoded):
    sources = [{"layout": "msd"}]
    text = settings(whole(tmp_path), channels=["ADC", "T2"], sources=sources, plan={})
    run("--settings", text, "--out", tmp_path / "out")
    assert decoded == {"p0.nii.gz": 1, "p1.nii.gz": 1}
    cases = read_cases(tmp_path / "out/cases.csv")
    assert [Path(path).name for path in cases[0].channel_images] == [
        "p0.nii.gz[1]", "p0.nii.gz[0]",
    ]  # fmt: skip


def test_each_dataset_keeps_its_own_results(tmp_path, decoded, capsys):
    text, more = settings(raw(tmp_path / "raw", 2)), settings(raw(tmp_path / "o", 1, 5), name="o")
    words = ("--settings", text, "--pretrain-on", more, "--out", tmp_path / "out")
    run(*words)
    state = tmp_path / "out/state"
    assert sorted(path.name for path in state.iterdir()) == ["voxels.jsonl", "voxels.o.jsonl"]
    before = tables(tmp_path / "out")
    decoded.clear()
    run(*words)
    assert decoded == {}
    assert tables(tmp_path / "out") == before
    told = capsys.readouterr().out
    assert "voxels: 2 cases are unchanged" in told
    assert "voxels: 1 cases are unchanged" in told
    assert list(read_thumbnails(tmp_path / "out/thumbnails.npy")) == ["p_00", "p_01", "o.p_05"]


def test_the_headers_of_every_channel_are_judged_and_no_voxel_is_read(tmp_path, decoded):
    root = raw(tmp_path / "raw")
    put(root / "imagesTr/p_01_0000.nii.gz", values(1), np.diag([30.0, 1, 1, 1]))
    put(root / "imagesTr/p_02_0000.nii.gz", np.stack([values(1)] * 2, axis=3), ADC_GRID)
    aside = ADC_GRID.copy()
    aside[0, 3] = 8
    put(root / "imagesTr/p_03_0000.nii.gz", values(1, (7, 9, 6)), aside)
    words = ("--settings", settings(root), "--out", tmp_path / "out", "--check-only", "headers")
    run(*words)
    record = records(tmp_path / "out")
    assert decoded == {}
    assert codes(record["p_00"]) == []
    assert codes(record["p_01"]) == ["implausible_spacing"]
    assert codes(record["p_02"]) == ["not_3d"]
    assert "p_02_0000.nii.gz: 2 values per voxel" in record["p_02"]["findings"][0]["message"]
    assert codes(record["p_03"]) == ["channel_outside"]
    shown = {name: [f for f in record[name]["findings"] if "shows" in f["message"]] for name in
             ("p_00", "p_03")}  # fmt: skip
    run("--settings", settings(root), "--out", tmp_path / "whole")
    for name, told in shown.items():  # the voxels tell no other share
        assert len(told) == 1
        assert told[0] in records(tmp_path / "whole")[name]["findings"]


def test_a_volume_that_its_file_does_not_hold_is_told_by_the_header(tmp_path, decoded):
    root = whole(tmp_path)
    put(root / "i/p1.nii.gz", values(0), T2_GRID)
    sources = [{"layout": "msd"}]
    text = settings(root, channels=["ADC"], sources=sources, plan={})
    run("--settings", text, "--out", tmp_path / "out")
    assert codes(records(tmp_path / "out")["p1"]) == ["missing_channel"]
    assert decoded == {"p0.nii.gz": 1}


@pytest.mark.parametrize("together", [True, False])
def test_each_channel_is_judged_by_its_own_values_and_modality(tmp_path, together):
    ct, pet = values(0) - 150, values(1)
    arrays = {"good": (ct, pet), "below": (ct, pet - 150), "flat": (ct, pet * 0 + 7)}
    for name, (first, second) in arrays.items():
        if together:
            put(tmp_path / f"in/{name}.nii.gz", np.stack([first, second], axis=3), T2_GRID)
        else:
            put(tmp_path / f"in/{name}/CT.nii.gz", first, T2_GRID)
            put(tmp_path / f"in/{name}/PET.nii.gz", second, T2_GRID)
    source = {"layout": "folders", "path": "in", "images": "{subject}/{channel}.nii.gz"}
    source = {"layout": "files", "path": "in"} if together else source
    text = settings(tmp_path, **PET_CT, sources=[source])
    run("--settings", text, "--out", tmp_path / "out")
    record = records(tmp_path / "out")
    assert codes(record["good"], "warning") == codes(record["good"]) == []
    assert codes(record["below"], "warning") == ["implausible_intensities"]
    named = "below.nii.gz[1]" if together else "below/PET.nii.gz"
    assert f"{named}: values" in record["below"]["findings"][1]["message"]
    assert codes(record["flat"]) == ["constant"]
    assert [case.modality for case in read_cases(tmp_path / "out/cases.csv")] == ["CT"] * 2


def test_a_converted_channel_that_was_removed_is_made_again(tmp_path, decoded):
    for number, kind in enumerate(("CT", "PT")):
        write_series(tmp_path / "dicom" / kind, uid=f"1.{number}", seed=number, Modality=kind)
    sources = [{"layout": "dicom", "images": {"PET": "PT", "CT": "ct"}}]
    text = settings(tmp_path / "dicom", **PET_CT, sources=sources)
    run("--settings", text, "--out", tmp_path / "out")
    assert decoded == {"CT": 1, "PT": 1}
    before = tables(tmp_path / "out")
    decoded.clear()
    run("--settings", text, "--out", tmp_path / "out")
    assert decoded == {}
    (tmp_path / "out/volumes/CT.PET.nii").unlink()
    run("--settings", text, "--out", tmp_path / "out")
    assert decoded == {"PT": 1, "CT.CT.nii": 1}
    assert tables(tmp_path / "out") == before


def test_check_only_converts_no_channel_and_a_later_run_does(tmp_path):
    for number, kind in enumerate(("CT", "PT")):
        write_series(tmp_path / "dicom" / kind, uid=f"1.{number}", seed=number, Modality=kind)
    sources = [{"layout": "dicom", "images": {"PET": "PT", "CT": "ct"}}]
    text = settings(tmp_path / "dicom", **PET_CT, sources=sources)
    run("--settings", text, "--out", tmp_path / "out", "--check-only")
    assert not (tmp_path / "out/volumes").exists()
    assert not (tmp_path / "out/cases.csv").exists()
    run("--settings", text, "--out", tmp_path / "out")
    (case,) = read_cases(tmp_path / "out/cases.csv")
    assert all(Path(file).is_file() for file in case.channel_images)
    assert (case.shape, case.channels) == ((8, 6, 4), 2)
