"""Make an encoder of tiles: by contrast, from a file, or with random weights."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from medcl.config import UNDECIDING, SlideEncoder, TilePretrain, load_section
from medcl.config.study import Options
from medcl.errors import MedclError, TrainingFailed
from medcl.files import read_json
from medcl.networks.tile_encoder import build_tile_encoder
from medcl.networks.transfer import transfer
from medcl.objectives.tile_contrast import build_tile_objective
from medcl.slides.pool import FORMAT, PooledSlide, TilePool, write_pool
from medcl.slides.pretext import TileItems
from medcl.slides.seen import hashes_of, of_test_patients
from medcl.slides.table import ROLES, read_folds
from medcl.slides.tiles import read_tiles
from medcl.training import checkpoint
from medcl.training.devices import place, relaunch, workers
from medcl.training.diagnosis import diagnose, level
from medcl.training.fit import Fitted, fit
from medcl.training.progress import Progress
from medcl.training.run import Outputs, on_cpu, seeded, work_folder
from medcl.training.seeds import seed_of

ENCODER = 2**31  # keeps these seeds apart from those of aggregators
NAMED = 10  # slides that an error names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="an encoder's section: YAML or a file")
    parser.add_argument("--network", default="narrow", help="`encoder` section: YAML or a file")
    parser.add_argument("--folds", required=True, help="folds.csv")
    parser.add_argument("--tiles", required=True, help="tiles.json")
    parser.add_argument("--examined", required=True, help="folder with a folder of each slide")
    parser.add_argument("--fold", type=int, default=0, help="fold that is not trained on")
    parser.add_argument("--seed", type=int, default=0, help="number of this training")
    parser.add_argument("--out", required=True, help="folder of encoder.pt, log.csv, summary.json")
    parser.add_argument("--work", required=True, help="folder of the state a killed run resumes")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--devices", type=int, default=1, help="processes with one device each")


def run(args: argparse.Namespace) -> None:
    relaunch(args.devices, sys.argv[1:])
    settings = load_section(SlideEncoder, args.settings)
    options = load_section(Options, args.network)
    outputs = Outputs("slides-pretrain", Path(args.out), "encoder.pt", place(args.threads))
    shape = read_json(args.tiles)["settings"]
    outputs.content = {
        "kind": "tile_encoder",
        "network": options.model_dump(),
        "tiles": {key: shape[key] for key in ("microns_per_pixel", "tile")},
        "settings": settings.model_dump(),
        "fold": args.fold,
        "seed": args.seed,
        "slides": [],
    }
    seed = seed_of(args.seed, ENCODER, args.fold if settings.by_fold else 0)
    with seeded(seed):
        network = build_tile_encoder(options.model_dump())
    outputs.facts = {"fold": args.fold, "seed": args.seed, "steps": 0, "diagnosis": []}
    try:
        fitted = _filled(network, settings, seed, args, outputs)
    except TrainingFailed as error:
        outputs.fail(error)
        return
    outputs.finish(fitted, weights=on_cpu(network.state_dict()))
    if settings.pretrain and outputs.place.leads:
        shutil.rmtree(args.work, ignore_errors=True)


def _filled(
    network: Any, settings: SlideEncoder, seed: int, args: argparse.Namespace, outputs: Outputs
) -> Fitted:
    """Give the network its weights."""
    if settings.pretrain is not None:
        return _pretrained(network, settings.pretrain, seed, args, outputs)
    if settings.weights is not None:
        _take(network, settings.weights, settings.waive, args, outputs)
    return Fitted(Progress("slides-pretrain", 0), 0.0, {})


def _take(
    network: Any, path: str, waive: Sequence[str], args: argparse.Namespace, outputs: Outputs
) -> None:
    """Copy the weights of a file. Raises MedclError if they were pretrained on test slides.

    Other slides of test patients cannot be recognised: a file of weights names no patient.
    """
    content = load_encoder(path)
    theirs, ours = content["tiles"], outputs.content["tiles"]
    if theirs != ours:
        print(f"slides-pretrain: {path}: made for tiles of {theirs}, here {ours}")
    seen, tested = content.get("slides"), None
    if seen is None:
        print(f"slides-pretrain: {path}: does not say on which slides it was pretrained")
    else:
        tested = of_test_patients(seen, read_folds(args.folds), args.examined)
    if tested and "test_slides" not in waive:
        more = f" and {len(tested) - NAMED} more" if len(tested) > NAMED else ""
        raise MedclError(
            f"leakage: {path}: was pretrained on {len(tested)} slides of test patients of this "
            f"study (each patient with a label is tested in one fold): "
            f"{', '.join(tested[:NAMED])}{more}; give `pretrain` instead, which leaves out the "
            "test patients of each fold, or weights from other patients, or set "
            "`waive: [test_slides]` beside `weights`: the report then begins with it"
        )
    taken = transfer(network, content["weights"], [""])
    outputs.content["slides"] = seen
    outputs.facts |= {"transfer": taken.to_dict(), "test_slides": tested}
    print(f"slides-pretrain: {path}: {taken.sentence()}", flush=True)


def _pretrained(
    network: Any, settings: TilePretrain, seed: int, args: argparse.Namespace, outputs: Outputs
) -> Fitted:
    key: dict[str, Any] = {
        "stage": "slides-pretrain",
        "settings": settings.model_dump(exclude=UNDECIDING),
    }
    key |= {"network": outputs.content["network"], "seed": args.seed, "fold": args.fold}
    key["pool"] = FORMAT
    work = work_folder(args.work, key, {"folds": args.folds, "tiles": args.tiles})
    with seeded(seed):
        objective = build_tile_objective(settings.objective.model_dump(), network, network.features)
    pool = _pool(settings, seed, args, work)
    outputs.content["slides"] = hashes_of(args.examined, pool.slides)
    outputs.facts |= {
        "steps": settings.steps,
        "objective": settings.objective.model_dump(),
        "slides": len(pool.slides),
        "left_out": pool.left_out,
        "tiles": len(pool),
    }
    print(f"slides-pretrain: {len(pool)} tiles of {len(pool.slides)} slides", flush=True)
    fitted = fit(
        objective,
        TileItems(pool, objective.jitter),
        settings,
        steps=settings.steps,
        seed=seed,
        place=outputs.place,
        work=work,
        what=f"slides-pretrain f{args.fold} s{args.seed}",
        workers=workers(outputs.place),
    )
    rows, compared = fitted.progress.rows, objective.compared_with_chance
    outputs.facts["diagnosis"] = diagnose(rows, compared)
    outputs.facts |= {"compared": level(rows, compared), "chance": level(rows, ["chance"])}
    return fitted


def _pool(settings: TilePretrain, seed: int, args: argparse.Namespace, work: Path) -> TilePool:
    """The tiles to train on; made once for a run, whether it is resumed or not."""
    file = work / "pool.h5"
    if not file.exists():
        dealt, tiles = read_folds(args.folds), read_json(args.tiles)["slides"]
        roles = ROLES if settings.patients == "all" else ("training",)
        chosen = [one for role in roles for one in dealt.of(role, args.fold)]
        folder = Path(args.tiles).parent
        entries = [
            PooledSlide(
                one.slide,
                Path(one.path),
                read_tiles(folder / f"{one.slide}.h5"),
                one.microns_per_pixel,
            )
            for one in chosen
            if tiles[one.slide]["status"] == "ok"
        ]
        try:
            write_pool(file, entries, most=settings.tiles_per_slide, seed=seed, say=_say)
        except MedclError as error:
            raise TrainingFailed(str(error)) from None
    return TilePool(file)


def _say(line: str) -> None:
    print(f"slides-pretrain: {line}", flush=True)


def load_encoder(path: str | Path) -> dict[str, Any]:
    """The content of an encoder of tiles. MedclError for another file, TrainingFailed for one
    whose training failed.
    """
    content = checkpoint.load(path)
    if content.get("kind") != "tile_encoder":
        raise MedclError(f"{path}: holds no encoder of tiles; give one of `slides-pretrain`")
    if content["status"] != "ok":
        raise TrainingFailed(f"{path}: its training failed: {content['reason']}")
    return content


def encoder_of(content: dict[str, Any]) -> nn.Module:
    """The network of such a file, in evaluation mode."""
    network: nn.Module = build_tile_encoder(content["network"])
    network.load_state_dict(content["weights"])
    return network.eval()
