"""What is said of every kind of arm, ready for a methods section."""

from pathlib import Path

import pytest
from make_results import Fake, make

from medcl.config import Study, load_study
from medcl.files import read_yaml, write_yaml
from medcl.segmentation import probe
from medcl.study import arm_words, methods
from medcl.study.results import read_results

DATASET = {
    "name": "heart",
    "modality": "MR",
    "classes": {"lv": 1},
    "sources": [{"layout": "files", "path": "x"}],
}
PRETRAIN = {"objective": "mae", "steps": 3, "seeds": 2}
ARMS = {
    "scratch": {},
    "long": {"cost_of": "dense"},
    "own": {"weights": "mine/encoder.pt"},
    "mae": {"pretrain": PRETRAIN, "control": True},
    "dense": {"pretrain": PRETRAIN},
    "short": {"start": "dense", "finetune": {"steps": 7, "augment": False}, "labelled": [4]},
    "borrowed": {"start": "own"},
    "knn": {"start": "mae", "finetune": {"mode": "knn"}},
    "self": {"selftrain": {"of": "mae", "rounds": 2, "members": 3, "keep": 0.25}},
}


def study(**changed: object) -> Study:
    given = {"study": "s", "dataset": DATASET, "arms": ARMS, "labelled": [1, 4], "replicates": 3}
    return load_study(given | changed)


@pytest.fixture(scope="module")
def said() -> str:
    return " ".join(arm_words.arms(study()))


@pytest.mark.parametrize(
    "words",
    [
        "mae and dense start from encoders of their own pretraining.",
        "scratch, the control, starts from random weights.",
        "what the pretraining of dense took (seconds of the cores on a CPU, else seconds by the "
        "clock) is spent on further steps, at the pace of "
        "scratch",
        "own starts from given weights that no pretraining of this study made; what they were",
        "short starts from the encoders that dense pretrained, without a pretraining of its own.",
        "In its fine-tuning short differs from the others: 7 steps; no augmentation.",
        "short is run with 4 labelled only.",
        "borrowed starts from the given weights of own",
        "knn learns no weights of the network: it is a probe of the frozen feature maps",
        "self trains itself",
        "fine-tuned with the same labels and replicate and 2 further ones with seeds of their own",
        "The 25 % of these cases labelled with the highest mean probability are kept",
        "this is done 2 times, each time labelling with the last network",
    ],
)
def test_every_kind_of_arm_is_told(said: str, words: str) -> None:
    assert words in said


def test_the_numbers_of_the_probes_are_those_of_the_code() -> None:
    said = arm_words.PROBE["knn"]
    assert f"up to {probe.VOXELS} labelled voxels" in said
    assert f"the {probe.NEIGHBOURS} nearest" in said
    assert f"exp(cos / {probe.TEMPERATURE:g})" in said
    assert set(arm_words.PROBE) == set(probe.METHODS)


def test_every_key_of_a_fine_tuning_that_changes_weights_has_words() -> None:
    keys = set(type(study().finetune).model_fields)
    assert keys - set(arm_words.WORDS) == {"save_every_s", "encoder_frozen"}
    for words in arm_words.WORDS.values():
        assert words(study().finetune)


def test_a_sawtooth_says_its_frozen_share_also_where_only_that_differs() -> None:
    arms = {"scratch": {}, "late": {"finetune": {"encoder_frozen": 0.5}}}
    (words,) = arm_words.differences(study(arms=arms, finetune={"mode": "sawtooth"}), "late")
    assert words.startswith("for the first 50 % of the steps the encoder is frozen")


def test_the_methods_tell_the_rates_their_sources_and_the_bound(tmp_path: Path) -> None:
    file = make(tmp_path / "small", Fake(seeds={"voco": 3}, long=True, bound=2, volumes=False))
    changed = read_yaml(file)
    changed["arms"]["self"] = {"selftrain": {"of": "voco"}}
    changed["finetune"] |= {"mode": "sawtooth", "mixup": 0.2, "core_tuning": 0.5}
    rates = {"learning_rates": [0.001, 0.01], "labelled": 2, "steps": 50}
    write_yaml(file, changed | {"tune": rates})
    ahead = {"runner_up": 0.001, "margin": 0.0234, "validation": 4}
    for arm, more in (("scratch", {}), ("voco", ahead)):
        tuned = {"status": "ok", "learning_rate": 0.01} | more
        write_yaml(tmp_path / f"small/tune/{arm}/tuned.yaml", tuned)
    found = methods.protocol(read_results(file, tmp_path / "small"))
    assert list(found) == [
        "Data", "Preprocessing", "Arms", "Pretraining", "Fine-tuning", "Learning rates", "Bound",
        "Prediction and scores", "Statistics",
    ]  # fmt: skip
    rates_said = found["Learning rates"]
    assert (
        "chosen from 0.001 or 0.01 by the mean validation Dice of the last weights (on all 4 "
        "validation subjects) after training for 50 steps"
    ) in rates_said
    assert "for 50 steps on the first 2 of order 31, which no reported replicate uses" in rates_said
    assert "scratch 0.01 and voco 0.01 (2.3 points before 0.001)" in rates_said
    assert "scratch-long (from scratch) and self (from voco)" in rates_said
    assert (
        "scratch was trained on every labelled candidate (10), with 2 seeds, for 600 steps"
        in (found["Bound"])
    )
    assert "resampled to 1 × 1 × 3 mm" in found["Preprocessing"]
    assert "but for what was given: crop" in found["Preprocessing"]
    tuning = found["Fine-tuning"]
    assert "pairs of crops are mixed, shares from Beta(0.2, 0.2)" in tuning
    assert "core-tuning's contrast of the classes is added with weight 0.5" in tuning
    assert "67 % of the crops lay around a voxel of a class" in tuning
    assert "gradient at most 12" in tuning
    assert "but for what is said of them above" in tuning
