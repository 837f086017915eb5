"""What the comparisons of a study are not, and what their intervals do not cover."""

from __future__ import annotations

from medcl.config import Study, origin_of, primary_pairs, tuned_unlike
from medcl.study.arm_words import added_words
from medcl.study.cost import matched_runs
from medcl.study.matching import WALL
from medcl.study.prose import listed
from medcl.study.results import Results
from medcl.study.sentences import METHOD_SEEDS

UNEVEN = 1.5  # added steps of one label count differ by this factor: the cost is not equal


def unlike_controls(study: Study) -> list[str]:
    """What else differs in primary comparisons of arms that are fine-tuned unlike their control.

    It stands before the numbers: such a difference is no gain of the pretraining alone.
    """
    found = []
    for arm in dict.fromkeys(name for name, _ in primary_pairs(study)):
        keys = tuned_unlike(study, arm, str(study.control))
        if not keys:
            continue
        alike = [
            name
            for name, other in study.arms.items()
            if other.from_scratch and not tuned_unlike(study, name, arm)
        ]
        remedy = (
            f"compare it with {alike[0]}, which starts from random weights and is fine-tuned alike"
            if alike
            else f"add an arm from scratch that has the `finetune` of {arm}, and compare with that"
        )
        found.append(
            f"{arm} is fine-tuned with another {keys} than {study.control}: its difference is not "
            f"of the pretraining alone; {remedy}."
        )
    return found


def caveats(results: Results) -> list[str]:
    """What the intervals do not cover."""
    study, found = results.study, []
    for arm in study.arms:
        source = origin_of(study, arm)
        read = [
            item.summary.get("labels_read") or 0
            for item in results.pretrainings
            if item.arm == source
        ]
        if max(read, default=0):
            found.append(
                f"The pretraining of {arm} read the voxel labels of {max(read)} pool cases: its "
                "comparisons are with arms that had fewer labels, whatever number stands beside "
                "them."
            )
    family = len(primary_pairs(study))
    if family > 1:
        found.append(
            f"Holm's correction covers the {family} primary comparisons. Intervals are those of "
            "single comparisons, and what is called secondary is not corrected."
        )
    border = [arm for arm, tuned in results.tuned.items() if tuned.get("border")]
    if border:
        found.append(
            f"The learning rate chosen for {listed(border)} is the smallest or largest of those "
            "tried; a rate beyond it might do better."
        )
    candidates = len(results.splits.candidates(0)) if results.splits else 0
    overlapping = [n for n in study.labelled if 2 * n > candidates > 0]
    if overlapping and study.replicates > 1:
        found.append(
            f"With {listed(overlapping)} of {candidates} labelled candidates the subsets of "
            "different replicates overlap by half or more: the interval then says less about other "
            "labelled subjects than its width suggests."
        )
    seeds = {n: a.pretrain.seeds for n, a in study.arms.items() if a.pretrain}
    needed = max(METHOD_SEEDS, study.replicates)
    shared = [name for name, count in seeds.items() if count < needed]
    if shared and results.control:
        found.append(
            f"Fewer than {needed} pretraining seeds ({listed(shared)}), so that replicates share "
            "encoders: what is said holds for the encoders that were trained, not for the method."
        )
    given = [name for name, arm in study.arms.items() if arm.weights]
    if given:
        found.append(
            f"What the given weights of {listed(given)} were trained on is not known here; if test "
            "cases were part of it, the result is worth nothing."
        )
    pretrained = {origin_of(study, name) for name, _ in primary_pairs(study)} - {None}
    matched = {origin_of(study, arm.cost_of) for arm in study.arms.values() if arm.cost_of}
    lacking = [name for name in seeds if name in pretrained - matched]
    if lacking and results.control:
        found.append(
            f"{listed(lacking)} had the time of a pretraining more than {results.control}, and no "
            "control of equal cost is part of the study (`cost_of`)."
        )
    return found + _unequal(results)


def _unequal(results: Results) -> list[str]:
    """Arms of equal cost whose runs were given steps that no equal cost explains."""
    found = []
    for arm, settings in results.study.arms.items():
        uneven = {}
        for labelled, runs in matched_runs(results, arm).items():
            added = [run["added_steps"] for run in runs]
            if max(added) > UNEVEN * min(added):
                uneven[labelled] = runs
        if not uneven:
            continue
        each = listed(f"{added_words(runs)} with {n}" for n, runs in uneven.items())
        clocked = any(run.get("clock", WALL) == WALL for runs in uneven.values() for run in runs)
        why = "; counted by the clock, they hang on what else the machine did" if clocked else ""
        found.append(
            f"The steps that {arm} was given for the cost of the pretraining of {settings.cost_of} "
            f"differ by more than a factor of {UNEVEN:g} between replicates ({each} labelled"
            f"{why}): read it as a longer training from scratch, not as one of equal cost."
        )
    return found
