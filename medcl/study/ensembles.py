"""What the networks of an arm's replicates predict together: beside every comparison, in none.

An ensemble is one prediction of a test case. It has no replicates, so that no interval over them
and no test can be given, and its networks have seen every subject of all of their subsets: more
labels than the runs it stands beside.
"""

from __future__ import annotations

import numpy as np

from medcl.files import read_json
from medcl.study import protocol
from medcl.study.cells import WHO, mean_of_known, rules_of, scaled
from medcl.study.comparison import case_values
from medcl.study.measures import MEASURES
from medcl.study.prose import NONE
from medcl.study.protocol import Joint
from medcl.study.results import FAILED, MISSING, OK, Results, Run, read_scores
from medcl.study.statistics import complete
from medcl.study.tables import Cell, Column, Table


def table(results: Results) -> Table:
    """The primary metric of each ensemble and the mean of its networks, on the same test cases."""
    chosen = results.study.primary
    measure = MEASURES[chosen.metric]
    rows: list[list[Cell]] = []
    for joint in protocol.ensembles(results.study):
        together = read(results, joint)
        values = np.array(
            [
                case_values(run, results.test_cases, weights=chosen.weights, metric=chosen.metric)
                for run in [together, *results.runs_of(joint.arm, joint.labelled)]
            ]
        )
        means = [float(v.mean()) for v in complete(values, results.test_subjects) if v.size]
        joined = means[: not np.isnan(values[0]).all()]
        row: list[Cell] = [str(joint.labelled), joint.arm, len(joint.members)]
        row += [seen(results, joint), scaled(mean_of_known(means[len(joined) :]), measure)]
        rows.append([*row, scaled(mean_of_known(joined), measure), together.reason or ""])
    noted = any(row[-1] for row in rows)
    rows = rows if noted else [row[:-1] for row in rows]
    caption = (
        f"Mean {measure.title} of the networks of an arm's replicates, one by one and together (by "
        "the mean of their class probabilities). Secondary: an ensemble has no replicates, so "
        "there is no interval and no test, and it enters no comparison. Together its networks have "
        "seen more labelled subjects than one of them, because their subsets differ."
    )
    columns = (
        *WHO,
        Column("networks", "networks", "n"),
        Column("subjects_seen", "labelled subjects seen together", "n"),
        Column("one_by_one", "one by one", "n"),
        Column("together", "together", "n"),
        *([Column("reason", "why not", "t")] if noted else []),
    )
    return Table("ensembles", caption, columns, rows, rules_of(rows))


def read(results: Results, joint: Joint) -> Run:
    """The prediction of an ensemble; it is not ok where a network of it failed."""
    folder = results.folder / joint.folder
    file = folder / "predictions/predictions.json"
    predicted = read_json(file) if file.is_file() else {}
    scores = read_scores(folder / "metrics.csv")
    status, reason = OK, predicted.get("reason")
    if predicted.get("status") == "failed":
        status = FAILED
    elif not scores:
        status, reason = MISSING, "the ensemble has not been evaluated"
    return Run(joint.arm, joint.labelled, -1, status, reason, {}, scores)


def seen(results: Results, joint: Joint) -> Cell:
    """Labelled subjects in the subsets of all members; unknown where there are too few for one."""
    if results.splits is None or joint.labelled > len(results.splits.candidates(0)):
        return NONE
    subsets = [results.splits.subset(joint.labelled, r) for r in range(len(joint.members))]
    return len({subject for subset in subsets for subject in subset})
