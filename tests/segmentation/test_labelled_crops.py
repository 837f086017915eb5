"""Where labelled crops come from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medcl.data.store import Store, write_case, write_manifest
from medcl.errors import TrainingFailed
from medcl.segmentation.crops import LabelledCrops
from medcl.views.augment import Augment

STRENGTHS = ["rotate", "scale", "bias", "gamma", "gain", "offset", "blur", "coarse", "noise"]


def crops(root: Path, foreground: float, crop: tuple[int, int, int] = (4, 4, 4), **more: object):
    image = np.arange(10**3, dtype=np.float32).reshape(1, 10, 10, 10)
    label = np.zeros((10, 10, 10), np.uint8)
    label[9, 9, 9] = 1
    label[:4] = 2
    entry = write_case(root, "a", "a", image, label)
    plain = write_case(root, "b", "b", image)
    store = Store(write_manifest(root, [entry, plain], plan_sha256="", failed={}))
    settings = {"crop": crop, "spacing": (1.0, 1.0, 1.0), "foreground": foreground, "augment": None}
    return LabelledCrops([store[c] for c in more.pop("cases", ["a", "b"])], **settings | more)


def test_small_classes_are_centred_on_as_often_as_large_ones(tmp_path: Path) -> None:
    items = crops(tmp_path, foreground=1.0)
    drawn = [items.item(np.random.default_rng(n))["label"] for n in range(200)]
    assert 60 < sum(bool((label == 1).any()) for label in drawn) < 140


def test_image_and_label_come_from_the_same_box_and_the_same_draw(tmp_path: Path) -> None:
    items = crops(tmp_path, foreground=0.5)
    first, again = (items.item(np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first["image"], again["image"])
    expected = torch.where(first["image"][0] < 400, 2, 0)
    expected[first["image"][0] == 999] = 1
    assert torch.equal(first["label"].long(), expected)


def test_a_crop_larger_than_the_volume_is_padded_around_it(tmp_path: Path) -> None:
    item = crops(tmp_path, foreground=1.0, crop=(16, 8, 8)).item(np.random.default_rng(0))
    assert item["image"].shape == (1, 16, 8, 8)
    assert (item["label"][:3] == 0).all()
    assert (item["label"][3:7] == 2).all()


def test_augmentation_moves_image_and_label_together(tmp_path: Path) -> None:
    off = dict.fromkeys(STRENGTHS, (0.0, 0.0))
    turn = Augment(flip=(1.0, 0.0, 0.0), **off)
    items = crops(tmp_path, foreground=0.0, augment=turn)
    batch = {k: v[None] for k, v in items.item(np.random.default_rng(1)).items()}
    changed = items.augment(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(changed["image"], batch["image"].flip(2))
    assert torch.equal(changed["label"], batch["label"].flip(1))


def test_a_subset_without_a_label_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="nothing to train on"):
        crops(tmp_path, foreground=1.0, cases=["b"])


def test_mixup_mixes_neighbours_of_the_batch_by_shares_of_the_generator(tmp_path: Path) -> None:
    items = crops(tmp_path, foreground=0.0, mixup=0.4)
    drawn = [items.item(np.random.default_rng(n)) for n in range(3)]
    batch = {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}
    first, again = (items.augment(batch, torch.Generator().manual_seed(5)) for _ in range(2))
    share = first["share"]
    assert torch.equal(share, again["share"])
    assert ((share >= 0.5) & (share <= 1)).all()
    expected = share[1] * batch["image"][1] + (1 - share[1]) * batch["image"][0]
    torch.testing.assert_close(first["image"][1], expected)
    assert torch.equal(first["other_label"][0], batch["label"][2])
