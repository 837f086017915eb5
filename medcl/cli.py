"""One command per stage; a stage's module is imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import io
import sys

STAGES = {
    "phantom": "write the synthetic dataset of the default study",
    "ingest": "find volumes and labels; accept, quarantine or skip each",
    "split": "decide by subject who is test, validation and pool; audit for leakage",
    "plan": "derive spacing, crop, strides and intensity rule from the pool's images",
    "preprocess": "write the memory-mapped store",
    "pretrain": "train an encoder without labels",
    "tune": "choose the learning rate of an arm on validation subjects",
    "finetune": "train a segmentation on few labels, from an encoder or from scratch",
    "selftrain": "label the pool with a model and train anew on both kinds of labels",
    "predict": "write label maps on the original grid, of a study or of new scans",
    "evaluate": "measure predictions against references",
    "report": "write the answer as one HTML page",
    "slides-phantom": "write the synthetic slides of the default slide study",
    "slides-ingest": "examine every slide: file, scale, tissue",
    "slides-split": "deal the patients to folds; audit for leakage",
    "tile": "lay tiles over every usable slide",
    "slides-pretrain": "make an encoder of tiles: by contrast, from a file, or random",
    "embed": "write the feature vectors of all tiles",
    "mil": "train an aggregator on features, and predict the other slides",
    "slides-evaluate": "measure an aggregator's predictions by patient",
    "heatmap": "draw what a model looked at",
    "slides-report": "write the answer of a slide study as one HTML page",
    "estimate": "say what a study will cost, before it is run",
    "schema": "regenerate the JSON Schemas and the key table",
    "clean": "remove what can be remade from a study's results",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; 0 if all went well, 1 for an error the user can act on."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="medcl",
        description="Does self-supervised pretraining help on my scans, and by how much?",
        epilog="A whole study: snakemake --cores N --configfile config/studies/NAME.yaml",
    )
    commands = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    called = next((word for word in arguments if not word.startswith("-")), None)
    stage = None
    for name, text in STAGES.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == called:
            stage = importlib.import_module(f"medcl.stages.{name.replace('-', '_')}")
            stage.add_arguments(command)
    parsed = parser.parse_args(arguments)
    assert stage is not None

    from medcl.errors import MedclError

    for stream in (sys.stdout, sys.stderr):  # a name the terminal has no letters for ends no run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        stage.run(parsed)
    except MedclError as error:
        print(f"medcl {called}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"medcl {called}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0
