"""The words of a report, and the names it shows or hides."""

import hashlib

from medcl.config import Options, Pretrain, Study, load_study
from medcl.networks.transfer import Transfer
from medcl.study import methods, prose
from medcl.study.markup import Html, escape, table, tag, ticked
from medcl.study.names import Names
from medcl.study.results import Run

DATASET = {
    "name": "d",
    "modality": "MR",
    "classes": {"a": 1},
    "sources": [{"layout": "files", "path": "x"}],
}


def study(**given: object) -> Study:
    return load_study({"study": "s", "dataset": DATASET, "labelled": [1]} | given)


def test_texts_are_escaped_and_html_is_not():
    assert tag("p", "a < b & c", class_="x") == '<p class="x">a &lt; b &amp; c</p>'
    assert tag("p", Html("<b>x</b>")) == "<p><b>x</b></p>"
    assert ticked("set `a<b` now") == "set <code>a&lt;b</code> now"
    assert escape("95 % (p < 0.001)") == "95\u00a0% (p\u00a0&lt;\u00a00.001)"
    assert table("empty", ["a"], [], "t") == ""


def test_lists_counts_and_times_read_as_words():
    assert prose.listed(["a", "b", "c"]) == "a, b and c"
    assert prose.listed([]) == ""
    assert prose.plural(1, "case") == "1 case"
    assert prose.plural(2, "case") == "2 cases"
    assert prose.ranges([0, 1, 2]) == "0 to 2"
    assert prose.ranges([2, 0]) == "0 and 2"
    assert [prose.duration(s) for s in (42, 750, 12000, None)] == ["42 s", "12 min", "3.3 h", "–"]
    assert [prose.duration(s) for s in (0.42, 2.0, 9.4)] == ["0.4 s", "2 s", "9.4 s"]


def test_the_plan_is_readable_and_says_what_was_given():
    plan = {
        "spacing": [1.0, 1.0, 3.0],
        "intensity": {"rule": "zscore", "low": None, "high": None},
        "given": ["spacing"],
    }
    assert prose.plan_words(plan) == [
        ("spacing", "1 × 1 × 3 mm", "given"),
        ("intensities", "mean 0 and standard deviation 1 within the body", "derived"),
    ]


def test_the_plan_tells_the_intensities_of_every_channel():
    window = {"rule": "window", "low": 0.0, "high": 2000.0}
    percentiles = {"rule": "percentiles", "low": 1.0, "high": 99.0}
    inputs = [{"name": "T2", "intensity": percentiles}, {"name": "ADC", "intensity": window}]
    plan = {"intensity": percentiles, "inputs": inputs, "given": ["channel_intensity.ADC"]}
    assert prose.plan_words(plan) == [
        ("intensities of T2", "percentiles 1 to 99 of the body to 0..1", "derived"),
        ("intensities of ADC", "window 0 to 2000 to 0..1", "given"),
    ]


def test_the_audit_names_duplicates_by_their_shown_names():
    audit = {
        "overlaps": [],
        "duplicates": [{"kind": "voxels", "cases": ["a", "b"], "roles": ["pool"]}],
        "unknown_subjects": True,
    }
    said = " ".join(prose.audit_words(audit, str.upper, str))
    assert "twice within the pool: A and B" in said
    assert "No image is stored in two roles" in said
    assert "Subjects are unknown" in said


def test_the_audit_tells_of_near_duplicates_or_that_there_are_none():
    near = {"cases": ["a", "b"], "roles": ["pool", "test"], "similarity": 0.971}
    said = " ".join(prose.audit_words({"near_duplicates": [near]}, str.upper, str))
    assert "Nearly the same image stands under different subjects (pool and test): A and B" in said
    assert "correlation 0.97" in said
    turned = " ".join(prose.audit_words({"near_duplicates": [near | {"mirrored": True}]}, str, str))
    assert "correlation 0.97, mirrored from left to right." in turned
    none = "No two subjects have nearly the same image"
    assert none in " ".join(prose.audit_words({"near_duplicates": []}, str.upper, str))
    assert none not in " ".join(prose.audit_words({"near_duplicates": None}, str.upper, str))


def test_the_audit_names_subjects_of_two_datasets_that_are_called_alike():
    same = {"subjects": ["p7", "other/p7"], "roles": ["test", "pool"]}
    (said,) = [
        text
        for text in prose.audit_words({"same_names": [same]}, str, str.upper)
        if "one name" in text
    ]
    assert "The test subject P7 and OTHER/P7, who is pretrained on in another dataset" in said
    assert not any("one name" in text for text in prose.audit_words({"overlaps": []}, str, str))


def test_transfer_is_put_in_words():
    not_taken = {"a": "too large", "b": "too large"}
    found = Transfer(taken=["x"], not_taken=not_taken, share=0.5).to_dict()
    assert prose.transfer_words([found]) == (
        "50 % of the pretrained parameters (1 tensor) taken; 2 tensors not: too large"
    )
    assert prose.transfer_words([]) == "no run took weights over"


def test_options_are_named_with_their_values():
    options = Options.model_validate({"name": "voco", "grid": [2, 2, 1], "width": 64})
    assert methods.described(options) == "voco with grid [2, 2, 1], width 64"
    assert methods.described(Options(name="unet")) == "unet"


def test_missing_runs_are_grouped():
    runs = [Run("voco", 1, r, "failed", "x") for r in (0, 1, 2)] + [Run("a", 2, 1, "failed", "x")]
    assert (
        prose.missing_words(runs, 3)
        == "voco with 1 labelled, all 3 replicates; a with 2 labelled, replicate 1"
    )
    assert prose.missing_words(runs[1:3], 5) == "voco with 1 labelled, replicates 1 and 2"


def test_hashed_names_are_stable_and_never_shared():
    many = [f"p{number}" for number in range(2000)]
    names = Names(many, [], hashed=True, salt="torso")
    assert len(set(names.cases.values())) == 2000
    digest = hashlib.sha256(b'["torso","case","p1"]').hexdigest()
    assert Names(["p1"], [], hashed=True, salt="torso").case("p1") == f"case-{digest[:4]}"
    assert Names(["p1"], [], hashed=True, salt="other").case("p1") != f"case-{digest[:4]}"
    assert names.case("never seen") == "a case"


def test_names_and_paths_in_a_message_are_hidden_but_numbers_and_units_stay():
    names = Names(["anna"], ["12"], hashed=True)
    subject, case = names.subject("12"), names.case("anna")
    assert names.scrub("case 'anna' of subject 12: 12 of 118 slices, 0.5 mm/voxel") == (
        f"case '{case}' of subject {subject}: 12 of 118 slices, 0.5 mm/voxel"
    )
    assert (
        names.scrub("/data/in/x.nii.gz and raw/p7/s3 and p7.nii.gz")
        == "[file] and [file] and [file]"
    )
    assert names.scrub("annals of banana") == "annals of banana"
    assert Names(["anna"], [], hashed=False).scrub("anna: raw/p7/s3") == "anna: raw/p7/s3"


def test_pretraining_that_read_labels_is_not_said_to_have_seen_none():
    assert "without any label" in methods.pretraining_saw([])
    said = methods.pretraining_saw(["lesions", "other"])
    assert "without any label" not in said
    assert "lesions and other read the voxel labels" in said


def test_every_phase_of_a_pretraining_is_described():
    first = {"objective": "global_contrast", "steps": 3, "learning_rate": 0.01}
    phases = [{"objective": {"name": "local_contrast", "blocks": 2}, "steps": 5}]
    said = methods.describe_pretraining(Pretrain.model_validate({**first, "then": phases}))
    assert "objective global_contrast, 3 steps" in said
    assert "then objective local_contrast with blocks 2 on the same network, 5 steps" in said
    assert said.count("peak learning rate 0.01") == 2


def test_a_study_of_probes_alone_is_not_said_to_train_networks():
    arms = {"scratch": {}, "dense": {"pretrain": {"objective": "dense", "steps": 2}}}
    probed = methods._tuning(study(arms=arms, finetune={"mode": "knn"}))
    assert probed.startswith("Probes (unet, no weight of which is trained) were made with 1")
    assert "AdamW" not in probed
    assert "last step" not in probed
    arms["dense"]["finetune"] = {"mode": "linear"}
    assert "Training (of all but dense) took" in methods._tuning(study(arms=arms))


def test_tuned_learning_rates_are_said_to_differ():
    arms = {"scratch": {}, "dense": {"pretrain": {"objective": "dense", "steps": 2}}}
    tune = {"learning_rates": [1e-3, 2e-3], "labelled": 1}
    assert "tuned learning rates and in nothing else" in methods._tuning(
        study(arms=arms, tune=tune)
    )
    assert "start from and in nothing else" in methods._tuning(study(arms=arms))


def test_an_arm_that_trains_itself_is_said_to_stand_beside_its_teacher():
    arms = {
        "scratch": {},
        "dense": {"pretrain": {"objective": "dense", "steps": 2}},
        "more": {"selftrain": {"of": "dense"}},
    }
    said = methods._further(study(arms=arms))
    assert said == " An arm that trains itself is also set beside its teacher: more beside dense."


def test_lost_classes_are_told_class_by_class_with_arms_that_are_alike_together():
    gone = [("a", 1, "spleen", [0]), ("b", 1, "spleen", [2]), ("b", 2, "lesion", [1]),
            ("a", 2, "lesion", [0, 1]), ("c", 4, "lesion", [0])]  # fmt: skip
    assert prose.lost_words(gone) == (
        "spleen (a and b with 1 labelled) and lesion (b and a with 2 labelled; c with 4)"
    )


def test_probes_are_said_to_have_read_labels():
    settings = {"objective": "mae", "steps": 3}
    assert "probe" not in methods.describe_pretraining(Pretrain.model_validate(settings))
    probed = Pretrain.model_validate(settings | {"probe_every": 2, "probe": "knn"})
    said = methods.describe_pretraining(probed)
    assert said.endswith(
        "1 seed, knn probes of labelled pool subjects every 2 steps for the log alone"
    )
