"""The sentences of a report: what was run, what is missing, and every claim with the numbers behind its verdict."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from distill.study.cells import Cell, Study
from distill.study.comparable import measured_otherwise
from distill.study.findings import Findings, Judged
from distill.study.inference import Equal, Estimate, Interval, More, half_width
from distill.study.report.effects import where_in_words
from distill.study.report.page import Said
from distill.study.results import Results

NOTHING = "–"
Teacher = Literal["frozen", "partial", "ensemble", "a model from outside", "own average", "nobody"]
TEACHERS: dict[Teacher, str] = {
    "frozen": "the frozen student of another cell of the same seed",
    "partial": "the student of another cell of the same seed, which goes on learning in part",
    "ensemble": "several frozen models at once",
    "a model from outside": "a model that is no cell of the study",
    "own average": "a moving average of the student itself",
    "nobody": "none",
}
QUICK = (
    "This is the quick version of the study: it shows that everything runs. Runs this short have learnt too little for "
    "any verdict, whatever the table says."
)
ONE_SEED = "One seed: differences of this size may be noise, and no claim is decided."
EQUALITY = (
    "An equality is reproduced only when its whole interval lies within the bound, and three seeds rarely show that: "
    "where there is no true difference at all, 64, 17 and 6 % of studies with a bound of 3 points do, for differences "
    "with a standard deviation over seeds of 1, 2 and 3 points."
)
"""By simulation; the tests repeat it."""


def opening(results: Results) -> str:
    """What was run: cells, seeds, scale, recipe, machine and pictures, and how the numbers are to be read."""
    study = results.study
    machines = dict.fromkeys(each.environment.get("hardware", "a machine not named") for each in results.runs.values())
    sources = {each.recipe.data.source for each in results.runs.values()}
    world = " of the procedural world" if sources == {"scenes"} else ""
    counts = " or ".join(f"{count:,}" for count in sorted({each.num_images for each in results.runs.values()}))
    measured = "Students are measured" if measured_otherwise(results) else "Every student is measured in the same way"
    return (
        f"{_count(len(results.cells), 'cell')} over {seeds_in_words(results)}, {_count(len(results.runs), 'run')} of "
        f"the recipe {study.recipe} at the scale {study.scale}, on {'; '.join(machines)}. Cells differ only in the "
        f"settings listed below. {_taught(results.cells)} {measured} on {counts} held-out pictures{world}. "
        f"Scores are in percent, differences in points. The deciding score is {study.metrics[study.deciding]}."
    )


def notices(results: Results, findings: Findings) -> list[str]:
    """What limits the report: a quick study, one seed, runs that do not compare, are missing or failed."""
    found = [QUICK] if results.study.quick else []
    found += [ONE_SEED] if len(results.seeds) == 1 else []
    found += [*findings.unequal, *_measuring(results, findings)]
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
    """`Of 7 claims 4 reproduced, 2 not decided here, 1 not reproduced.` and what equalities ask for, if one is open."""
    counted = Counter(each.decision for each in findings.claims).most_common()
    count = f"Of {_count(len(findings.claims), 'claim')} {', '.join(f'{n} {decision}' for decision, n in counted)}."
    is_open = [each.difference is not None and each.decision == "not decided here" for each in findings.claims]
    equal = [isinstance(each.expectation, Equal) for each in findings.claims]
    return f"{count} {EQUALITY}" if any(map(min, is_open, equal)) else count


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
    return f"{found.mean:.1f}{bar}" + _other_count(found, seeds)


def interval(found: Estimate | Interval | None, *, sign: str = "") -> str:
    """` [10.8, 30.6]`; empty where there is none."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f" [{found.low:{sign}z.1f}, {found.high:{sign}z.1f}]"


def signed(found: Estimate | None, *, seeds: int | None = None) -> str:
    """`+6.9 ± 2.1 [+1.7, +12.1]`, and `(n = 2)` when there are other than `seeds`."""
    if found is None:
        return NOTHING
    bar = "" if found.deviation is None else f" ± {found.deviation:.1f}"
    return f"{found.mean:+z.1f}{bar}{interval(found, sign='+')}" + _other_count(found, seeds)


def teacher_score(findings: Findings, cell: Cell, metric: str, *, seeds: int | None = None) -> str:
    """Of the cell that teaches; a dash where nobody does, or somebody who is not measured here."""
    match _teacher(cell):
        case "own average":
            return "own average"
        case "frozen" | "partial":
            return score(findings.cells.get((cell.teacher or "", metric)), seeds=seeds)
    return NOTHING


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
    needed = judged.verdict.seeds_needed
    if needed is not None:
        return f" With about {needed} seeds a verdict is as likely as not, if mean and spread stay as they are."
    if _too_few_pictures(judged):
        return " No number of seeds would decide this: the held-out pictures are too few, their error holds the bound."
    return " A hundred seeds would probably not decide this either: the difference is too close to the bound."


def _too_few_pictures(judged: Judged) -> bool:
    """Whether the interval would hold the nearest bound even if seeds did not differ at all."""
    found = judged.difference
    assert found is not None, "an undecided claim with an outlook has a difference"
    match judged.expectation:
        case More(by_more_than=bound):
            distance = abs(found.mean - bound)
        case Equal(within=within):
            distance = abs(abs(found.mean) - within)
    return half_width(0.0, count=2, picture_error=found.pictures or 0.0, level=found.level) >= distance


def _teacher(cell: Cell) -> Teacher:
    objective, teacher = cell.recipe.objective, cell.recipe.teacher
    hears_patches = objective.patch.supervise != "none" and objective.patch.weight > 0
    if not hears_patches and objective.cls.weight == 0:
        return "nobody"
    if teacher.kind == "momentum":
        return "own average"
    return teacher.kind if cell.teacher or teacher.kind == "ensemble" else "a model from outside"


def _taught(cells: Sequence[Cell]) -> str:
    """`As teacher, 12 have the frozen student of another cell of the same seed, one none.`"""
    counted = Counter(map(_teacher, cells))
    first, *others = [kind for kind in TEACHERS if counted[kind]]
    verb = "has" if counted[first] == 1 else "have"
    said = {kind: "one" if number == 1 else str(number) for kind, number in counted.items()}
    parts = [f"{said[first]} {verb} {TEACHERS[first]}", *(f"{said[kind]} {TEACHERS[kind]}" for kind in others)]
    return f"As teacher, {', '.join(parts)}."


def _measuring(results: Results, findings: Findings) -> list[str]:
    """What was not measured alike, and which intervals lack the error from the choice of pictures."""
    found = []
    if findings.otherwise:
        changes = "; ".join(f"{change} in {runs_in_words(runs)}" for change, runs in findings.otherwise.items())
        found.append(f"Not every run was measured in the same way, so these scores do not quite compare: {changes}.")
    if len(findings.without_pictures) == len(results.runs):
        found.append("No run kept what single pictures contributed: no interval holds the error from their choice.")
        return found
    apart = [
        f"{runs_in_words(runs)} ({why})"
        for runs, why in (
            (findings.without_pictures, "nothing kept about single pictures"),
            (findings.other_pictures, "measured on other pictures than most"),
        )
        if runs
    ]
    if apart:
        found.append(
            "The error from the choice of held-out pictures is missing from the intervals of everything in which "
            f"these runs take part: {'; '.join(apart)}."
        )
    return found


def _other_count(found: Estimate, seeds: int | None) -> str:
    return "" if seeds in (None, found.count) else f" (n = {found.count})"


def _count(number: int, what: str) -> str:
    return f"{'one' if number == 1 else f'{number:,}'} {what}{'s' * (number != 1)}"
