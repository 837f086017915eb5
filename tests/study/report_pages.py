"""Small studies that never ran, their reports, and what stands in them."""

import argparse
import csv
import re

from make_results import Fake, make

from medcl.stages import report as stage
from medcl.study.report import make_report
from medcl.study.results import read_results

QUICK = {"volumes": False, "labelled": (1,), "tests": 4, "effects": {"voco": 0.06}}


def run(config, **changes):
    given = {"study": str(config), "out": str(config.parent), "command": None, "partial": False}
    stage.run(argparse.Namespace(**{**given, **changes}))
    return config.parent


def quick(folder, **changes):
    """A small study without pictures, and its report as plain text."""
    config = make(folder, Fake(**{**QUICK, **changes}))
    results = read_results(config, config.parent)
    return results, make_report(results, command="snakemake --cores 2").html


def text_of(page):
    """The words of a page."""
    page = re.sub(r"<(style|svg|nav)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", page).replace("\u00a0", " ").split())


def rows_of(folder):
    with open(folder / "comparison.csv", newline="") as file:
        return {(row["arm"], row["labelled"]): row for row in csv.DictReader(file)}
