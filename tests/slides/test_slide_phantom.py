"""The drawn slides: what is on them, what is wrong with some, and what makes them hard enough."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medcl.errors import MedclError
from medcl.slides.examine import TissueMask, examine
from medcl.slides.phantom import BROKEN, PhantomSlide, SlidePhantomSettings, write_slide_phantom
from medcl.slides.phantom_tissue import CLASSES, TRUTH_MICRONS
from medcl.slides.reader import open_slide
from medcl.slides.tiles import TileSettings, lay_tiles, read_tile, tissue_shares
from medcl.slides.tissue import TissueSettings

SETTINGS = SlidePhantomSettings(patients=8, slides_per_patient=1)
TILES = TileSettings(microns_per_pixel=1.0, tile=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def slides(folder: Path) -> list[PhantomSlide]:
    return write_slide_phantom(folder, SETTINGS)


def truth(folder: Path, slide: PhantomSlide) -> np.ndarray:
    with Image.open(folder / slide.truth) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def tiles(folder: Path, slides: list[PhantomSlide]) -> dict[str, np.ndarray]:
    """All tiles of tissue: pixels, slide, patient, label of the slide, shares of the classes."""
    found: dict[str, list] = {"pixels": [], "slide": [], "patient": [], "label": [], "shares": []}
    for number, slide in enumerate(slides):
        if slide.code:
            continue
        reader, classes = open_slide(folder / slide.path), truth(folder, slide)
        per_pixel = TRUTH_MICRONS / reader.microns_at(0)
        masks = [TissueMask(classes == k, (per_pixel, per_pixel)) for k in range(len(CLASSES))]
        tissue = TissueMask(classes > 0, (per_pixel, per_pixel))
        laid = lay_tiles(reader, tissue, TILES, slide.slide)
        shares = [tissue_shares(mask, laid.coords, laid.grid.side) for mask in masks]
        found["shares"] += list(np.stack(shares, axis=1))
        found["pixels"] += [read_tile(reader, laid.grid, int(x), int(y)) for x, y in laid.coords]
        found["slide"] += [number] * len(laid)
        found["patient"] += [slide.patient] * len(laid)
        found["label"] += [slide.label == "tumour"] * len(laid)
    return {name: np.array(values) for name, values in found.items()}


def auroc(features: np.ndarray, target: np.ndarray, patients: np.ndarray) -> float:
    """Of logistic regression: mean over folds that hold patients out and have both labels."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    scores = cross_val_score(model, features, target, groups=patients, cv=folds, scoring="roc_auc")
    return float(scores.mean())


def test_the_table_names_slides_of_both_labels_and_powers(
    folder: Path, slides: list[PhantomSlide]
) -> None:
    with open(folder / "slides.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 + len(BROKEN)
    assert {row["label"] for row in rows} == {"tumour", "normal"}
    assert all((folder / row["path"]).exists() for row in rows)
    powers = {(slide.power, slide.label) for slide in slides if slide.code is None}
    assert powers == {(20, "tumour"), (20, "normal"), (40, "tumour"), (40, "normal")}
    labels = {slide.patient: slide.label for slide in slides}
    assert all(labels[slide.patient] == slide.label for slide in slides)


def test_slides_are_pyramids_as_aperio_writes_them(
    folder: Path, slides: list[PhantomSlide]
) -> None:
    for slide in slides[:3]:
        reader = open_slide(folder / slide.path)
        assert reader.vendor == "aperio"
        assert reader.downsamples == (1.0, 4.0, 16.0)
        assert reader.microns_per_pixel == 10 / slide.power
        assert 768 <= min(reader.sizes[0]) <= max(reader.sizes[0]) <= 2048
        height, width = truth(folder, slide).shape
        assert width * TRUTH_MICRONS == reader.sizes[0][0] * reader.microns_at(0)
        assert height * TRUTH_MICRONS == reader.sizes[0][1] * reader.microns_at(0)


def test_each_slide_ends_with_the_status_written_in_its_listing(
    folder: Path, slides: list[PhantomSlide]
) -> None:
    listing = json.loads((folder / "phantom.json").read_text())
    for entry in [*listing["slides"][:3], *listing["slides"][-len(BROKEN) :]]:
        found = examine(entry["slide"], folder / entry["path"], TissueSettings())
        assert found.status == (entry["code"] or "ok"), entry["slide"]


def test_the_tissue_that_is_found_is_the_tissue_that_was_drawn(
    folder: Path, slides: list[PhantomSlide]
) -> None:
    for slide in slides[:4]:
        found = examine(slide.slide, folder / slide.path, TissueSettings())
        assert found.tissue is not None
        drawn = Image.fromarray(truth(folder, slide) > 0)
        height, width = found.tissue.mask.shape
        drawn_small = np.asarray(drawn.resize((width, height)))
        both = (found.tissue.mask & drawn_small).sum() / (found.tissue.mask | drawn_small).sum()
        assert both > 0.9, slide.slide


def test_tumour_is_small_and_only_where_the_label_says(
    folder: Path, slides: list[PhantomSlide]
) -> None:
    for slide in slides[:-3]:
        classes = truth(folder, slide)
        share = (classes == CLASSES.index("tumour")).sum() / (classes > 0).sum()
        assert (0.02 < share < 0.5) if slide.label == "tumour" else share == 0


def test_the_mean_colour_of_tiles_does_not_tell_tumour_from_glands(
    tiles: dict[str, np.ndarray],
) -> None:
    colour = tiles["pixels"].mean(axis=(1, 2))
    share = tiles["shares"]
    tumour = share[:, CLASSES.index("tumour")] > 0.5
    glands = share[:, CLASSES.index("glands")] > 0.5
    both = tumour | glands
    assert auroc(colour[both], tumour[both], tiles["patient"][both]) < 0.75
    assert auroc(colour, tumour, tiles["patient"]) < 0.75


def test_the_arrangement_of_nuclei_tells_tumour_from_glands(tiles: dict[str, np.ndarray]) -> None:
    """By the best match of a bright disc in a dark ring: the pattern of a gland."""
    from scipy.signal import fftconvolve

    share = tiles["shares"]
    tumour = share[:, CLASSES.index("tumour")] > 0.5
    both = tumour | (share[:, CLASSES.index("glands")] > 0.5)
    grey = tiles["pixels"][both].mean(axis=3)
    grey = grey - grey.mean(axis=(1, 2), keepdims=True)
    grey /= grey.std(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[-20:21, -20:21]  # micrometres, as the pixels of these tiles
    radius = np.hypot(x, y)
    lumen, ring = radius < 8.5, (radius > 13) & (radius < 19)
    gland = lumen / lumen.sum() - ring / ring.sum()
    match = fftconvolve(grey, gland[None], mode="same", axes=(1, 2)).max(axis=(1, 2))
    assert roc_auc_score(~tumour[both], match) > 0.85


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    folder: Path, slides: list[PhantomSlide], tmp_path: Path
) -> None:
    few = SlidePhantomSettings(patients=2, slides_per_patient=1, broken=False)
    write_slide_phantom(tmp_path / "a", few)
    write_slide_phantom(tmp_path / "b", replace(few, seed=1))
    for slide in slides[:2]:  # a larger set begins with the same slides
        written = (folder / slide.path).read_bytes()
        assert (tmp_path / "a" / slide.path).read_bytes() == written
        assert (tmp_path / "b" / slide.path).read_bytes() != written


def test_a_run_replaces_an_earlier_one_and_leaves_other_data_alone(tmp_path: Path) -> None:
    few = SlidePhantomSettings(patients=2, slides_per_patient=1, broken=False)
    (tmp_path / "a" / "slides").mkdir(parents=True)
    (tmp_path / "a" / "slides" / "old.svs").touch()
    (tmp_path / "a" / "slides.csv").touch()
    write_slide_phantom(tmp_path / "a", few)
    names = sorted(file.name for file in (tmp_path / "a" / "slides").iterdir())
    assert names == ["s001.svs", "s002.svs"]
    (tmp_path / "b" / "slides").mkdir(parents=True)
    with pytest.raises(MedclError, match="empty folder"):
        write_slide_phantom(tmp_path / "b", few)
    with pytest.raises(MedclError, match="too few"):
        write_slide_phantom(tmp_path / "c", SlidePhantomSettings(patients=1))
