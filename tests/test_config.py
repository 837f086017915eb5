from pathlib import Path

import pytest

from medcl.config import (
    ConfigError,
    Finetune,
    kind_of,
    load_section,
    load_slide_study,
    load_study,
)
from medcl.stages.schema import generated

ROOT = Path(__file__).resolve().parent.parent
DATASET = {
    "name": "heart",
    "modality": "MR",
    "classes": {"lv": 1},
    "sources": [{"layout": "files", "path": "x"}],
}


def study(**changed: object) -> dict:
    return {"study": "s", "dataset": DATASET, "arms": {"scratch": {}}, "labelled": [1]} | changed


def test_a_config_with_three_mistakes_shows_all_three(tmp_path: Path) -> None:
    file = tmp_path / "heart.yaml"
    file.write_text(
        "study: s\n"
        "dataset: {name: heart, modality: MRI, classes: {lv: 1}, sources: [{layout: files}]}\n"
        "arms:\n"
        "  scratch: {}\n"
        "  voco: {pretrain: {objective: {name: voco, momentun: 0.9}, steps: 3}}\n"
        "labelled: [1]\n"
        "finetune: {lerning_rate: 0.1}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_study(file)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert "finetune.lerning_rate: no such key; did you mean 'learning_rate'?" in str(error.value)
    assert "dataset.modality: input should be 'CT', 'MR'" in str(error.value)
    assert "arms.voco.pretrain.objective.momentun: no such key; did you mean 'momentum'?" in str(
        error.value
    )


def test_a_mistake_in_the_dataset_file_names_that_file(tmp_path: Path) -> None:
    dataset = tmp_path / "mine.yaml"
    dataset.write_text(
        "name: a\nmodality: MR\nclasses: {lv: 1}\nsources: [{layout: files, pth: x}]\n"
    )
    with pytest.raises(ConfigError) as error:
        load_study(study(dataset=str(dataset)))
    assert str(error.value) == f"{dataset}: sources.0.pth: no such key; did you mean 'path'?"


def test_a_missing_dataset_file_is_said_with_the_key_that_asked_for_it() -> None:
    with pytest.raises(ConfigError, match=r"dataset: config/datasets/phantm.yaml: no such file"):
        load_study(study(dataset="config/datasets/phantm.yaml"))


def test_an_unknown_objective_is_refused_with_the_nearest_name() -> None:
    arms = {"scratch": {}, "a": {"pretrain": {"objective": "vocco", "steps": 1}}}
    with pytest.raises(ConfigError, match=r"arms\.a\.pretrain\.objective\.name: .*'voco'"):
        load_study(study(arms=arms))


def test_several_arms_need_a_control() -> None:
    pretrain = {"pretrain": {"objective": "mae", "steps": 1}}
    with pytest.raises(ConfigError, match="no arm starts from scratch"):
        load_study(study(arms={"a": pretrain, "b": pretrain}))


def test_root_and_study_can_be_given_from_outside() -> None:
    assert load_study(study(root="/data/mine")).dataset.root == "/data/mine"


def test_steps_may_grow_with_the_labels() -> None:
    settings = load_section(Finetune, "steps: {1: 300, 2: 800}")
    assert [settings.steps_for(n) for n in (1, 2, 4)] == [300, 800, 800]


@pytest.mark.parametrize("file", sorted((ROOT / "config" / "datasets").glob("*.yaml")), ids=str)
def test_every_shipped_dataset_is_valid(file: Path) -> None:
    if file.stem.startswith("slides"):
        rest = {"encoders": {"random": {}}, "aggregators": {"mean": "mean"}}
        load_slide_study({"kind": "slides", "study": "s", "dataset": str(file)} | rest)
    else:
        load_study(study(dataset=str(file)))


@pytest.mark.parametrize(
    "file",
    [ROOT / "config" / "config.yaml", *sorted((ROOT / "config" / "studies").glob("*.yaml"))],
    ids=str,
)
def test_every_shipped_study_is_valid(file: Path) -> None:
    load = load_slide_study if kind_of(file) == "slides" else load_study
    load(file)


def test_schemas_and_key_table_are_what_the_models_generate() -> None:
    for file, text in generated(ROOT).items():
        assert file.read_text() == text, f"{file}: run `python -m medcl schema`"
