"""Compare the arms of a study and write its report."""

from __future__ import annotations

import argparse
from pathlib import Path

from medcl.files import write_text
from medcl.study.report import make_report, write_report
from medcl.study.results import OK, read_results
from medcl.study.sections_results import comparison_words, lone_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", required=True, help="config.resolved.yaml of the study")
    parser.add_argument("--out", required=True, help="the study's folder: read, and written to")
    parser.add_argument("--command", help="the command that made the study, shown in the report")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="write report_partial.html alone, of what there is so far",
    )


def run(args: argparse.Namespace) -> None:
    results = read_results(args.study, args.out)
    done = sum(item.status == OK for item in results.runs)
    print(f"report: {done} of {len(results.runs)} runs finished", flush=True)
    lost = [(i.name, i.status, i.reason) for i in results.pretrainings if i.status != OK]
    lost += [(i.name, i.status, i.reason) for i in results.runs if i.status != OK]
    for name, status, reason in lost:
        print(f"  {name}: {status}: {reason}")
    report = make_report(results, command=args.command)
    for comparison in report.comparisons:
        if comparison.difference is not None:
            print(comparison_words(comparison))
        elif results.control is None:
            print(lone_words(comparison))
    if args.partial:
        files = [Path(args.out) / "report_partial.html"]
        write_text(files[0], report.html)
    else:
        files = write_report(report, results, args.out)
    shown = ", ".join(file.name for file in files if file.parent == Path(args.out))
    pictures, tables = (sum(f.suffix == kind for f in files) for kind in (".svg", ".tex"))
    print(f"wrote {shown}, {pictures} figures and {tables} tables to {args.out}", flush=True)
