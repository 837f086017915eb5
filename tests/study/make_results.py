"""Make the results folder of a study that never ran, in the formats the stages write.

For the tests of the report, and for looking at one: `python tests/study/make_results.py FOLDER`,
then `medcl report --study FOLDER/config.resolved.yaml --out FOLDER`.
"""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from medcl.config import Study
from medcl.data.cases import Case, write_cases
from medcl.data.splits import ORDERS, Row, Splits, write_splits
from medcl.files import write_json, write_text, write_yaml

SHAPE, SPACING = (44, 40, 14), (1.0, 1.0, 3.0)
CLASSES = {"liver": 1, "kidney": 2, "spleen": 3}


@dataclass(frozen=True)
class Fake:
    """What the study looks like. `effects` are Dice differences to scratch, by arm."""

    effects: dict[str, float] = field(default_factory=lambda: {"voco": 0.06, "order": -0.03})
    seeds: dict[str, int] = field(default_factory=lambda: {"voco": 3})
    labelled: tuple[int, ...] = (1, 2, 4)
    replicates: int = 5
    tests: int = 8
    pool: int = 10
    unlabelled: int = 5
    scratch: bool = True
    failed: tuple[tuple[str, int, int], ...] = ()
    failed_pretraining: tuple[str, ...] = ()
    collapsed: tuple[tuple[str, int, int, str], ...] = ()
    absent: tuple[tuple[str, str], ...] = ()  # (case, class) that the reference does not have
    inventive: tuple[str, ...] = ()  # arms that find those classes all the same
    unknown_subjects: bool = False
    identifiers: str = "hashed"
    volumes: bool = True
    controls: tuple[str, ...] = ()  # pretrained arms that others are compared with
    long: bool = False  # scratch-long, which matches the cost of the first pretraining
    bound: int = 0  # trainings from scratch on all labels
    primary: dict = field(default_factory=dict)
    waived: tuple[dict, ...] = ()

    @property
    def arms(self) -> list[str]:
        longer = ["scratch-long"] if self.long else []
        return (["scratch"] if self.scratch else []) + longer + list(self.effects)


def make(folder: Path, fake: Fake | None = None) -> Path:
    """Write the study below `folder`; return its resolved configuration."""
    fake = fake or Fake()
    rng = np.random.default_rng(7)
    splits = _tables(folder, fake)
    _plan(folder)
    for arm in fake.effects:
        for seed in range(fake.seeds.get(arm, 1)):
            _pretraining(folder / "pretrain" / arm / f"s{seed}", arm, fake, rng)
    if fake.volumes:
        for number, case in enumerate(splits.cases("test")):
            _volume(folder / "data" / case, number)
    ease = {case: rng.normal(0, 0.06) for case in splits.cases("test")}
    for labelled in fake.labelled:
        for replicate in range(fake.replicates):
            luck = rng.normal(0, 0.03)
            for arm in fake.arms:
                place = folder / "finetune" / arm / f"n{labelled}" / f"r{replicate}"
                key = (arm, labelled, replicate)
                base = 0.35 + 0.13 * math.log2(labelled + 1) + fake.effects.get(arm, 0.0) + luck
                _run(place, folder, fake, key, splits, {c: base + e for c, e in ease.items()}, rng)
    for replicate in range(fake.bound):
        place = folder / "bound/scratch" / f"r{replicate}"
        key = ("scratch", fake.pool, replicate)
        _run(place, folder, fake, key, splits, {c: 0.8 + e for c, e in ease.items()}, rng)
    return _config(folder, fake)


def _config(folder: Path, fake: Fake) -> Path:
    pretrain = {
        arm: {
            "pretrain": {
                "objective": {"name": "tests/study/pretexts.py:Position"},
                "steps": 2000,
                "seeds": fake.seeds.get(arm, 1),
            },
            "control": arm in fake.controls,
        }
        for arm in fake.effects
    }
    longer = {"scratch-long": {"cost_of": next(iter(fake.effects))}} if fake.long else {}
    study = Study.model_validate(
        {
            "study": folder.name,
            "results": str(folder.parent),
            "dataset": {
                "name": "torso",
                "root": str(folder / "data"),
                "sources": [{"layout": "files", "path": "."}],
                "modality": "CT",
                "classes": CLASSES,
                "subjects": "unknown" if fake.unknown_subjects else "known",
            },
            "arms": ({"scratch": {}} if fake.scratch else {}) | longer | pretrain,
            "bound": {"arm": "scratch", "replicates": fake.bound} if fake.bound else None,
            "primary": fake.primary,
            "labelled": list(fake.labelled),
            "replicates": fake.replicates,
            "finetune": {"steps": {1: 300, 4: 600}},
            "report": {"identifiers": fake.identifiers, "overlays": 2},
        }
    )
    file = folder / "config.resolved.yaml"
    write_yaml(file, study.model_dump(mode="json"))
    return file


def _tables(folder: Path, fake: Fake) -> Splits:
    roles = ["test"] * fake.tests + ["validation"] * 4 + ["pool"] * (fake.pool + fake.unlabelled)
    rng = np.random.default_rng(1)
    orders = {
        role: [rng.permutation(n) for _ in range(ORDERS)]
        for role, n in (("pool", fake.pool), ("validation", 4))
    }
    cases, rows, seen = [], [], {"pool": 0, "validation": 0, "test": 0}
    for number, role in enumerate(roles):
        name, rank = f"patient-{number:03d}", seen[role]
        seen[role] += 1
        labelled = role != "pool" or rank < fake.pool
        ranked = role in orders and labelled
        ranks = tuple(int(order[rank]) for order in orders[role]) if ranked else ()
        for visit in ("a", "b") if number == 0 else ("a",):
            place = folder / "data" / f"{name}{visit}"
            cases.append(_case(f"{name}{visit}", name, visit, place, labelled))
            rows.append(Row(f"{name}{visit}", name, role, ranks))
    write_cases(folder / "ingest/cases.csv", cases)
    splits = Splits(tuple(rows))
    write_splits(folder / "split/splits.csv", splits)
    write_json(folder / "ingest/ingest.json", _ingest(cases))
    twice = [case.case for case in cases[-2:]]
    audit = {
        "format": 1,
        "overlaps": [],
        "duplicates": [{"kind": "voxels", "cases": twice, "subjects": twice, "roles": ["pool"]}],
        "near_duplicates": [],
        "warnings": [],
        "same_names": [{"subjects": _called_alike(splits), "roles": ["test", "pool"]}],
        "unknown_subjects": fake.unknown_subjects,
        "waived": list(fake.waived),
        "stopped": False,
        "reason": None,
    }
    write_json(folder / "split/audit.json", audit)
    return splits


def _called_alike(splits: Splits) -> list[str]:
    """A test subject, and one of another dataset with the same name."""
    name = splits.subjects("test")[0]
    return [name, f"elsewhere/{name}"]


def _case(name: str, subject: str, visit: str, place: Path, labelled: bool) -> Case:
    label = f"{place}.label.nii.gz" if labelled else None
    return Case(
        name, subject, visit, f"{place}.nii.gz", label, "CT", 1, SHAPE, SPACING, "RAS",
        *(f"{name}{kind}" for kind in ("image", "voxels", "label")), str(place),
    )  # fmt: skip


def _ingest(cases: list[Case]) -> dict:
    def outcome(name: str, status: str, *findings: tuple[str, str, str, str]) -> dict:
        keys = ("code", "severity", "message", "remedy")
        found = [dict(zip(keys, finding, strict=True)) for finding in findings]
        return {"case": name, "subject": name, "status": status, "findings": found, "source": "x"}

    gap = (
        "missing_slices",
        "error",
        "raw/patient-901/series3: 2 of 118 slices are missing between z = 44.0 and 50.0 mm",
        "add the series to `exclude`, supply the slices, or set `allow_missing_slices`",
    )
    fraction = ("non_integer_label", "error", "12 voxels are not whole", "supply class values")
    alone = ("label_without_image", "error", "a label map and no image", "supply the image")
    thick = ("anisotropic", "info", "spacing 1 x 1 x 3 mm", "nothing to do")
    listed = [outcome(c.case, "accepted", *([thick] if c is cases[0] else [])) for c in cases]
    listed += [
        outcome("patient-901a", "quarantined", gap),
        outcome("patient-902a", "quarantined", gap),
        outcome("patient-903a", "quarantined", fraction),
        outcome("patient-904a", "skipped", alone),
    ]
    counts = {"accepted": len(cases), "quarantined": 3, "skipped": 1}
    return {"cases": listed, "counts": counts, "format": 1}


def _plan(folder: Path) -> None:
    plan = {
        "format": 1, "dims": 3, "modality": "CT", "classes": CLASSES, "orientation": "RAS",
        "spacing": [1.0, 1.0, 3.0], "crop": [32, 32, 12],
        "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]], "channels": 1,
        "intensity": {"rule": "window", "low": -160.0, "high": 240.0}, "threads": 1,
        "fingerprint": {"cases": 15, "shape_median": list(SHAPE), "spacing_median": list(SPACING)},
        "given": ["crop"],
    }  # fmt: skip
    write_yaml(folder / "plan/plan.yaml", plan)


def _pretraining(place: Path, arm: str, fake: Fake, rng: np.random.Generator) -> None:
    if arm in fake.failed_pretraining:
        reason = "loss is nan at step 812: positions nan, regularisation 0.031"
        write_json(place / "summary.json", {"status": "failed", "reason": reason, "arm": arm})
        return
    steps = np.arange(1, 2001, 20)
    stuck = fake.effects[arm] < 0
    loss = 1.39 - (0.0 if stuck else 0.9) * (1 - np.exp(-steps / 500)) + rng.normal(0, 0.04, 100)
    columns = {"step": steps, "loss": loss, "spread": 0.6 + 0 * loss, "chance": 1.386 + 0 * loss}
    write_text(place / "log.csv", _csv(list(columns), zip(*columns.values(), strict=True)))
    diagnosis = ["the loss stayed at chance: nothing has been learnt"] if stuck else []
    write_json(
        place / "summary.json",
        {
            "status": "ok", "reason": None, "arm": arm, "seconds": 1834.2, "device": "cpu",
            "peak_memory_mb": 1310.5, "steps": 2000, "seed": 0, "parameters": 1_402_113,
            "diagnosis": diagnosis, "final": {"loss": float(loss[-1]), "spread": 0.61},
            "chance": 1.386, "resumed": [],
        },
    )  # fmt: skip


def _run(place, folder, fake, key, splits, dice, rng) -> None:
    arm, labelled, replicate = key
    lost = key in fake.failed or arm in fake.failed_pretraining
    reason = "out of memory: lower `batch`" if key in fake.failed else None
    if arm in fake.failed_pretraining:
        reason = f"pretrain/{arm}/s0/encoder.pt: its pretraining failed"
    transfer = None
    if arm in fake.effects:
        left = [{"name": "head.weight", "why": "another number of channels"}]
        taken = [f"levels.{i}.weight" for i in range(12)]
        transfer = {"taken": taken, "not_taken": left, "share": 0.614}
    summary = {
        "status": "failed" if lost else "ok", "reason": reason, "arm": arm,
        "seconds": round(60 + 5 * rng.random() + 40 * labelled, 1), "device": "cpu",
        "peak_memory_mb": 902.0, "steps": 300, "seed": 3, "labelled": labelled,
        "replicate": replicate, "subset": splits.subset(labelled, replicate),
        "validation": splits.validation(labelled, replicate), "selected_step": 200,
        "encoder": None, "transfer": transfer, "parameters": 1_402_931, "resumed": [],
    }  # fmt: skip
    write_json(place / "summary.json", summary)
    outcome = {"status": summary["status"], "reason": reason, "weights": ["last", "selected"]}
    outcome["failed"] = {}
    cases = [] if lost else [_predicted(place, folder, fake, c, arm) for c in dice]
    write_json(place / "predictions/predictions.json", {**outcome, "cases": cases})
    header = ["case", "subject", "weights", "class", "metric", "value", "note"]
    rows = [] if lost else list(_metrics(fake, key, splits, dice, rng))
    write_text(place / "metrics.csv", _csv(header, rows))


def _metrics(fake, key, splits, dice, rng):
    for case, mean in dice.items():
        for number, name in enumerate(CLASSES):
            value = float(np.clip(mean - 0.08 * number + rng.normal(0, 0.05), 0, 1))
            gone = (*key, name) in fake.collapsed
            value = 0.0 if gone else value
            for weights, more in (("last", 0.0), ("selected", 0.004)):
                score = 0.0 if gone else min(1.0, value + more)
                far = "" if gone else round(30 * (1 - score), 3)
                is_there = (case, name) not in fake.absent
                found_mm3 = 0.0 if gone else 1100.0
                if not is_there:
                    found_mm3 = 300.0 if key[0] in fake.inventive else 0.0
                for metric, found in (
                    ("dice", round(score, 5)),
                    ("iou", round(score / (2 - score), 5)),
                    ("hd95_mm", far),
                    ("nsd", round(0.9 * score, 5)),
                    ("assd_mm", "" if gone else round(8 * (1 - score), 3)),
                    ("reference_mm3", 1200.0 if is_there else 0.0),
                    ("predicted_mm3", found_mm3),
                ):
                    note = "prediction empty" if found == "" else ""
                    if not is_there and not metric.endswith("_mm3"):
                        found, note = "", "reference empty" if found_mm3 else "both empty"
                    subject = splits.subject_of[case]
                    yield [case, subject, weights, name, metric, found, note]


def _predicted(place: Path, folder: Path, fake: Fake, case: str, arm: str) -> dict:
    file = place / "predictions/last" / f"{case}.nii.gz"
    shift = {"scratch": 4}.get(arm, 1)
    highest = max(fake.labelled)
    if fake.volumes and place.parts[-2:] == (f"n{highest}", "r0"):
        label = nib.load(folder / "data" / f"{case}.label.nii.gz")
        moved = np.roll(np.asarray(label.dataobj), shift, axis=0)
        file.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(moved, label.affine).to_filename(file)
    return {
        "case": case, "subject": case, "last": str(file), "selected": str(file), "seconds": 1.5
    }  # fmt: skip


def _volume(place: Path, number: int) -> None:
    """A body with three organs, and their label map."""
    rng = np.random.default_rng(number)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    label = np.zeros(SHAPE, np.uint8)
    image = np.where((x / 0.95) ** 2 + (y / 0.8) ** 2 < 1, -20.0, -900.0)
    for value, (cx, cy, r) in enumerate([(0.4, 0.1, 0.38), (-0.1, -0.3, 0.18), (-0.55, 0.2, 0.22)]):
        cx, cy = cx + rng.normal(0, 0.03), cy + rng.normal(0, 0.03)
        organ = ((x - cx) / r) ** 2 + ((y - cy) / (1.3 * r)) ** 2 + (z / 0.8) ** 2 < 1
        label[organ], image[organ] = value + 1, 60.0 + 40 * value
    image += rng.normal(0, 25, SHAPE)
    affine = np.diag([*SPACING, 1.0])
    place.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(image.astype(np.int16), affine).to_filename(f"{place}.nii.gz")
    nib.Nifti1Image(label, affine).to_filename(f"{place}.label.nii.gz")


def _csv(header: list[str], rows) -> str:
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    lost = (("scratch", 1, 0, "spleen"), ("scratch", 1, 2, "spleen"))
    effects = {"voco": 0.06, "mae": 0.02, "order": -0.03}
    seeds = {"voco": 3, "mae": 2}
    shown = Fake(effects, seeds, failed=(("voco", 2, 3),), collapsed=lost, controls=("mae",))
    print(make(Path(sys.argv[1]), replace(shown, long=True, bound=2)))
