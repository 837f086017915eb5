"""Truth images: which are used, and what is said of the others."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcl.slides.given import TruthError, labels_in, missing_truth, read_truth, without_value

SIDES = (600, 400)


def saved(folder: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(folder / "truth.png")
    return folder / "truth.png"


def code_of(path: Path) -> str:
    with pytest.raises(TruthError) as caught:
        read_truth(path, SIDES)
    assert caught.value.finding.severity == "warning"
    assert str(path) in str(caught.value)
    return caught.value.finding.code


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16])
def test_a_truth_is_its_labels(tmp_path: Path, kind: type) -> None:
    labels = np.zeros((40, 60), kind)
    labels[10:20, 30:] = 1
    read = read_truth(saved(tmp_path, labels), SIDES)
    np.testing.assert_array_equal(read, labels)
    assert labels_in(read) == [0, 1]


def test_labels_at_the_end_of_a_high_picture_are_found() -> None:
    labels = np.zeros((3000, 2), np.uint8)
    labels[-1, -1], labels[1500, 0] = 255, 3
    assert labels_in(labels) == [0, 3, 255]


def test_a_truth_that_cannot_be_used_is_a_warning_that_says_why(tmp_path: Path) -> None:
    assert code_of(tmp_path / "none.png") == "missing_truth"
    assert code_of(saved(tmp_path, np.zeros((40, 60, 3), np.uint8))) == "truth_unreadable"
    assert code_of(saved(tmp_path, np.zeros((60, 40), np.uint8))) == "truth_differs"
    path = saved(tmp_path, np.random.default_rng(0).integers(0, 9, (40, 60)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:200])
    assert code_of(path) == "truth_unreadable"
    path.write_text("no picture")
    assert code_of(path) == "truth_unreadable"
    assert missing_truth(path) is None


def test_a_truth_larger_than_pillow_takes_from_strangers_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_truth(saved(tmp_path, np.ones((40, 60), np.uint8)), SIDES).shape == (40, 60)


def test_a_value_that_is_nowhere_is_a_warning_with_the_labels_there_are() -> None:
    assert without_value([0, 1], 1) is None
    absent = without_value([0, 255], 1)
    assert absent is not None
    assert (absent.code, absent.severity) == ("truth_absent", "warning")
    assert "holds 0, 255 and nowhere 1" in absent.message
