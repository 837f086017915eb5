"""Compare the models of a slide study and write its report."""

from __future__ import annotations

import argparse
from pathlib import Path

from medcl.files import write_text
from medcl.stages.report import add_arguments as add_arguments
from medcl.study.slides_report import slide_page, words, write_comparison
from medcl.study.slides_results import pairs, read_slide_results


def run(args: argparse.Namespace) -> None:
    results, out = read_slide_results(args.study, args.out), Path(args.out)
    compared = pairs(results)
    for pair in compared:
        print(words(pair))
    if args.partial:
        write_text(out / "report_partial.html", slide_page(results, command=args.command))
        print(f"wrote {out / 'report_partial.html'}", flush=True)
        return
    write_comparison(out / "comparison.csv", compared)
    write_text(out / "report.html", slide_page(results, command=args.command))
    print(f"wrote {out / 'report.html'} and comparison.csv", flush=True)
