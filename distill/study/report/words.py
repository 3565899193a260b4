"""The sentences of a report: what was run, what is missing, and every claim with the numbers behind its verdict."""

import re
from collections import Counter
from collections.abc import Sequence

from distill.study.cells import Study
from distill.study.findings import Findings, Judged
from distill.study.inference import Estimate
from distill.study.report.effects import where_in_words
from distill.study.report.page import Said
from distill.study.results import Results

NOTHING = "–"
QUICK = (
    "This is the quick version of the study: it shows that everything runs. Runs this short have learnt too little for "
    "any verdict, whatever the table says."
)
ONE_SEED = "One seed: differences of this size may be noise, and no claim is decided."


def opening(results: Results) -> str:
    """What was run: cells, seeds, scale, recipe, machine and pictures, and how the numbers are to be read."""
    study = results.study
    run = next(iter(results.runs.values()))
    taught = sum(cell.teacher is not None for cell in results.cells)
    machines = dict.fromkeys(each.environment.get("hardware", "a machine not named") for each in results.runs.values())
    world = " of the procedural world" if run.recipe.data.source == "scenes" else ""
    return (
        f"{_count(len(results.cells), 'cell')} over {seeds_in_words(results)}, {_count(len(results.runs), 'run')} of "
        f"the recipe {study.recipe} at the scale {study.scale}, on {'; '.join(machines)}. Cells differ only in the "
        f"settings listed below; {taught or 'none'} of them {'learns' if taught == 1 else 'learn'} from the frozen "
        f"student of another cell of the same seed. Every student is measured in the same way on {run.num_images:,} "
        f"held-out pictures{world}. Scores are in percent, differences in points. The deciding score is "
        f"{study.metrics[study.deciding]}."
    )


def notices(results: Results, findings: Findings) -> list[str]:
    """What limits the report: a quick study, one seed, unequal seeds, and runs that are missing or failed."""
    found = [QUICK] if results.study.quick else []
    found += [ONE_SEED] if len(results.seeds) == 1 else []
    found += findings.unequal
    if results.failed:
        found.append(
            f"{_count(len(results.failed), 'run')} failed: {runs_in_words(list(results.failed))}. Errors below."
        )
    if results.missing:
        total = len(results.runs) + len(results.failed) + len(results.missing)
        found.append(
            f"This report is on {len(results.runs)} of {total} runs; not done yet: {runs_in_words(results.missing)}."
        )
    commits = dict.fromkeys(run.environment.get("commit", "") for run in results.runs.values())
    if len(commits) > 1:
        found.append(f"Runs were measured under {len(commits)} versions of the code; the environment is listed below.")
    return found


def tally(findings: Findings) -> str:
    """`Of 7 claims 4 reproduced, 2 not decided here, 1 not reproduced.`"""
    counted = Counter(each.decision for each in findings.claims).most_common()
    return f"Of {_count(len(findings.claims), 'claim')} {', '.join(f'{n} {decision}' for decision, n in counted)}."


def said_of(judged: Judged, study: Study) -> Said:
    """A claim with its verdict, who says so, and the numbers behind the verdict."""
    claim, found = judged.claim, judged.difference
    metric = study.metrics.get(claim.metric or "", claim.metric)
    source = f"{claim.source[:1].upper()}{claim.source[1:]}."
    if found is None:
        details = f"{source} {metric} cannot be compared: {judged.reason}."
        return Said(decision=judged.decision, claim=claim.say, difference=NOTHING, details=details)
    sides = f"{_side(judged, study, claim.better, judged.better)} and {_side(judged, study, claim.than, judged.than)}"
    asked = f"more than {claim.by_more_than:g}" if claim.within is None else f"less than {claim.within:g} either way"
    open_because = f" Not decided, because {judged.reason}." if judged.reason else _outlook(judged)
    details = (
        f"{source} {sides} in {metric}{_over(judged)}, over {_count(found.count, 'seed')}; the claim asks for {asked}."
        f"{open_because}"
    )
    return Said(decision=judged.decision, claim=claim.say, difference=f"{signed(found)} points", details=details)


def score(found: Estimate | None, *, seeds: int | None = None) -> str:
    """`20.7 ± 4.0`; one seed has no deviation, and `(n = 2)` says when there are other than `seeds`."""
    if found is None:
        return NOTHING
    bar = "" if found.deviation is None else f" ± {found.deviation:.1f}"
    return f"{found.mean:.1f}{bar}" + ("" if seeds in (None, found.count) else f" (n = {found.count})")


def interval(found: Estimate | None, *, sign: str = "") -> str:
    """` [10.8, 30.6]`; empty where there is none."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f" [{found.low:{sign}.1f}, {found.high:{sign}.1f}]"


def signed(found: Estimate) -> str:
    """`+6.9 ± 2.1 [+1.7, +12.1]`"""
    bar = "" if found.deviation is None else f" ± {found.deviation:.1f}"
    return f"{found.mean:+.1f}{bar}{interval(found, sign='+')}"


def seeds_in_words(results: Results) -> str:
    if len(results.seeds) == 1:
        return f"one seed ({results.seeds[0]})"
    return f"{len(results.seeds)} seeds ({', '.join(map(str, results.seeds))})"


def runs_in_words(runs: Sequence[tuple[str, int]]) -> str:
    """`ibot (seeds 0, 1), vanilla (seed 2)`, for up to eight cells; the others are counted."""
    counted = Counter(cell for cell, _ in runs)
    named = []
    for cell in list(counted)[:8]:
        seeds = [str(seed) for name, seed in runs if name == cell]
        named.append(f"{cell} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})")
    return ", ".join(named) + (f" and {_count(len(counted) - 8, 'more cell')}" if len(counted) > 8 else "")


def without_places(text: str) -> str:
    """The same text with only the last name of every absolute path: reports travel, and readers lack those places."""
    return re.sub(r"(?<![\w.:/])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\":;,()]+[/\\])+", "…/", text)


def _side(judged: Judged, study: Study, name: str, found: Estimate | None) -> str:
    title = f"“{study.cell(name).title}”" if judged.claim.factor is None else f"{judged.claim.factor} “{name}”"
    return f"{title} scores {score(found)}"


def _over(judged: Judged) -> str:
    if judged.claim.factor is None:
        return ""
    limits = f" with {where_in_words(judged.claim.where)}" if judged.claim.where else ""
    return f", mean of {_count(judged.num_pairs, 'pair')} of cells{limits} that differ in nothing else"


def _outlook(judged: Judged) -> str:
    """What the interval says beyond the verdict."""
    if judged.decision == "not reproduced":
        return " The opposite was seen." if judged.verdict.opposite else ""
    if judged.decision != "not decided here":
        return ""
    if judged.verdict.seeds_needed is None:
        return " No affordable number of seeds would decide this: the difference is too close to the bound."
    return f" About {judged.verdict.seeds_needed} seeds would probably decide it, if mean and spread stay as they are."


def _count(number: int, what: str) -> str:
    return f"{'one' if number == 1 else f'{number:,}'} {what}{'s' * (number != 1)}"
