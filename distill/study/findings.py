"""What the runs of a study say: an estimate for every cell, a verdict on every claim, and the effects of its factors.

All numbers are in points: 100 times the tasks' shares in [0, 1]. Differences are taken within a seed and on the same
held-out pictures; `distill.study.inference` says what the intervals are and why. Effects are differences of matched
cells, which differ in nothing but the factor in question; several that mean nothing by themselves will have intervals
that leave out zero, about one in twenty. What leaves claims undecided leaves effects undecided: a quick study, seeds
that do not compare, and matched cells without results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Literal

from distill.study.cells import Study
from distill.study.comparable import measured_otherwise, unequal_seeds
from distill.study.grid import Claim
from distill.study.inference import (
    Contrast,
    Decision,
    Equal,
    Estimate,
    Expectation,
    More,
    Run,
    Verdict,
    contrast_by_seed,
    difference,
    interaction,
    judge,
    main_effect,
)
from distill.study.model import Model, model_of
from distill.study.results import Results
from distill.study.scored import Intervals, Scored, other_pictures, scored_metrics, without_pictures

UNDECIDED: Decision = "not decided here"
Levels = Mapping[str, Mapping[str, str]]
"""Cell to its level of every factor."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim and what became of it."""

    claim: Claim
    verdict: Verdict
    difference: Estimate | None
    better: Estimate | None
    than: Estimate | None
    """Of both sides, over the seeds of the difference; means over matched cells where the claim is about levels."""
    num_pairs: int
    """Pairs of cells the difference is a mean over."""
    reason: str
    """Why nothing is decided whatever the interval says; empty where the interval decides."""

    @property
    def decision(self) -> Decision:
        return self.verdict.decision

    @property
    def expectation(self) -> Expectation:
        return expectation_of(self.claim)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """`level` against another level of a factor. With `where` it is an interaction: how much more that is at the
    first than at the second level of another factor, `where` being (factor, first, second)."""

    kind: Literal["main effect", "interaction"]
    factor: str
    level: str
    against: str
    where: tuple[str, str, str] | None
    metric: str
    estimate: Estimate | None
    num_groups: int
    """Pairs (quadruples, of an interaction) of cells it is a mean over."""
    num_planned: int
    """How many the grid has."""
    lost: tuple[str, ...]
    """Cells of the others, which have no results."""
    reason: str
    """Why nothing is decided whatever the interval says, or why there is no estimate; else empty."""

    @property
    def decision(self) -> Literal["higher", "lower", "not decided here"]:
        """Whether the interval leaves out zero, and on which side; nothing where there is a reason not to."""
        found = self.estimate
        if self.reason or found is None or found.low is None or found.high is None or found.low <= 0 <= found.high:
            return "not decided here"
        return "higher" if found.low > 0 else "lower"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that a report says in numbers."""

    cells: dict[tuple[str, str], Estimate]
    """By cell and metric."""
    claims: tuple[Judged, ...]
    effects: tuple[Effect, ...]
    """Main effects on every metric, and two-way interactions on the deciding one."""
    intervals: tuple[Intervals, ...]
    """Of every cell's deciding score."""
    model: Model | None
    """A linear model of the deciding score; None where no factor varies among the cells."""
    why_open: str
    """Why nothing at all is decided; empty where intervals decide."""
    unequal: tuple[str, ...]
    """What differs between seeds beside the seed; any of it leaves everything undecided."""
    otherwise: dict[str, list[Run]]
    """What was not measured as in most runs, and where."""
    other_pictures: tuple[Run, ...]
    """Runs measured on other pictures than most."""
    without_pictures: tuple[Run, ...]
    """Runs that kept nothing about single pictures."""

    def of(self, kind: str, *, metric: str) -> list[Effect]:
        """The effects of a kind that could be estimated."""
        return [each for each in self.effects if (each.kind, each.metric) == (kind, metric) and each.estimate]


def findings_of(results: Results) -> Findings:
    """Equal results give equal findings. Raises ValueError when runs were measured on damaged files."""
    study = results.study
    metrics = list(dict.fromkeys([*study.metrics, *(claim.metric for claim in study.claims if claim.metric)]))
    every = list(dict.fromkeys([*metrics, *(name for run in results.runs.values() for name in run.scores)]))
    among = scored_metrics(results, every, resample=metrics)
    unequal = unequal_seeds(results)
    why_open = "the quick version of a study decides nothing" if study.quick else "seeds differ" if unequal else ""
    estimates = {
        (cell.name, metric): among[metric].estimate({cell.name: 1.0}) for cell in results.cells for metric in every
    }
    intervals = [among[study.deciding].intervals(cell.name) for cell in results.cells]
    return Findings(
        cells={place: found for place, found in estimates.items() if found is not None},
        claims=tuple(_judged(claim, study, among, why_open=why_open) for claim in study.claims),
        effects=tuple(_effects(study, among, why_open=why_open)),
        intervals=tuple(found for found in intervals if found is not None),
        model=model_of(_levels(study), list(study.factors), among[study.deciding]),
        why_open=why_open,
        unequal=unequal,
        otherwise=measured_otherwise(results),
        other_pictures=other_pictures(results),
        without_pictures=without_pictures(results),
    )


def expectation_of(claim: Claim) -> Expectation:
    """What a claim asks for, in points."""
    return More(by_more_than=claim.by_more_than) if claim.within is None else Equal(within=claim.within)


def _judged(claim: Claim, study: Study, among: Mapping[str, Scored], *, why_open: str) -> Judged:
    assert claim.metric is not None, "load_study fills in the deciding metric"
    scored = among[claim.metric]
    try:
        matched = _claimed(claim, study, scored)
    except ValueError as error:
        return _open(claim, str(error))
    contrast = matched.contrast
    if contrast is None:
        return _open(claim, f"no results of {', '.join(matched.lost)}")
    found = scored.estimate(contrast.weights)
    if found is None:
        return _open(claim, f"no seed has all of {', '.join(contrast.weights)}")
    seeds = tuple(contrast_by_seed(scored.scores, contrast.weights))
    sides = [{cell: abs(w) for cell, w in contrast.weights.items() if sign * w > 0} for sign in (1, -1)]
    better, than = (scored.estimate(side, seeds=seeds) for side in sides)
    reason = _reason(matched, "pairs", why_open)
    verdict = judge(found, expectation_of(claim))
    if reason:
        verdict = replace(verdict, decision=UNDECIDED, seeds_needed=None)
    return Judged(
        claim=claim,
        verdict=verdict,
        difference=found,
        better=better,
        than=than,
        num_pairs=len(contrast.matched),
        reason=reason,
    )


def _open(claim: Claim, reason: str) -> Judged:
    verdict = judge(None, expectation_of(claim))
    return Judged(claim=claim, verdict=verdict, difference=None, better=None, than=None, num_pairs=0, reason=reason)


@dataclass(frozen=True, kw_only=True)
class _Matched:
    """A contrast over the cells that have results, None where these have none, and what the whole grid's has more."""

    contrast: Contrast | None
    num_planned: int
    lost: tuple[str, ...]


def _matched(build: Callable[[Levels], Contrast], levels: Levels, scored: Scored) -> _Matched:
    """Raises ValueError where the whole grid has no such contrast."""
    measured = {cell for cell, _ in scored.scores}
    whole = build(levels)
    lost = tuple(name for name in whole.weights if name not in measured)
    try:
        kept = build({name: each for name, each in levels.items() if name in measured}) if lost else whole
    except ValueError:
        kept = None
    return _Matched(contrast=kept, num_planned=len(whole.matched), lost=lost)


def _claimed(claim: Claim, study: Study, scored: Scored) -> _Matched:
    factor = claim.factor
    if factor is not None:
        return _matched(
            lambda cells: main_effect(cells, factor, level=claim.better, against=claim.than, where=claim.where),
            _levels(study),
            scored,
        )
    measured = {cell for cell, _ in scored.scores}
    lost = tuple(name for name in (claim.better, claim.than) if name not in measured)
    return _Matched(contrast=None if lost else difference(claim.better, claim.than), num_planned=1, lost=lost)


def _reason(matched: _Matched, groups: str, why_open: str) -> str:
    missing = f"the {groups} with {', '.join(matched.lost)} are missing" if matched.lost else ""
    return "; ".join(filter(None, (missing, why_open)))


def _levels(study: Study) -> Levels:
    return {cell.name: cell.levels for cell in study.cells if cell.levels}


def _effects(study: Study, among: Mapping[str, Scored], *, why_open: str) -> list[Effect]:
    cells = _levels(study)
    occurring = {
        factor: [level for level in levels if any(has.get(factor) == level for has in cells.values())]
        for factor, levels in study.factors.items()
    }
    changes = [(factor, b, a) for factor, levels in occurring.items() for a, b in combinations(levels, 2)]
    asked = [(metric, change, None) for metric in study.metrics for change in changes]
    for one, two in combinations(occurring, 2):
        crossed = _interactions(cells, {name: occurring[name] for name in (one, two)})
        asked += [(study.deciding, change, where) for change, where in crossed]
    return [_effect(cells, change, where, metric, among[metric], why_open) for metric, change, where in asked]


Change = tuple[str, str, str]
"""Factor, level, and the level that is subtracted."""


def _interactions(cells: Levels, levels: Mapping[str, list[str]]) -> list[tuple[Change, Change]]:
    """All of two factors, against the levels that leave the most to be estimated: combinations that mean nothing often
    involve the first level, and nothing interacts with a level that has no combinations."""
    (one, its_levels), (two, other_levels) = levels.items()
    candidates = [
        [
            ((one, level, against), (two, other, than))
            for level in its_levels
            for other in other_levels
            if level != against and other != than
        ]
        for against, than in product(its_levels, other_levels)
    ]
    return max(candidates, key=lambda asked: sum(_exists(cells, *each) for each in asked), default=[])


def _exists(cells: Levels, change: Change, where: Change) -> bool:
    try:
        _contrast(cells, change, where)
    except ValueError:
        return False
    return True


def _contrast(cells: Levels, change: Change, where: Change | None) -> Contrast:
    factor, level, against = change
    if where is None:
        return main_effect(cells, factor, level=level, against=against)
    return interaction(cells, factor, pair=(level, against), other_factor=where[0], other_pair=where[1:])


def _effect(cells: Levels, change: Change, where: Change | None, metric: str, scored: Scored, why_open: str) -> Effect:
    """An effect without an estimate says why."""
    matched, found, reason = None, None, ""
    groups = "pairs" if where is None else "quadruples"
    try:
        matched = _matched(lambda some: _contrast(some, change, where), cells, scored)
    except ValueError as error:
        reason = str(error)
    if matched is not None and matched.contrast is None:
        reason = f"no results of {', '.join(matched.lost)}"
    elif matched is not None and matched.contrast is not None:
        found = scored.estimate(matched.contrast.weights)
        reason = _reason(matched, groups, why_open) if found else "no seed has all the cells"
    factor, level, against = change
    return Effect(
        kind="main effect" if where is None else "interaction",
        factor=factor,
        level=level,
        against=against,
        where=where,
        metric=metric,
        estimate=found,
        num_groups=len(matched.contrast.matched) if matched and matched.contrast else 0,
        num_planned=matched.num_planned if matched else 0,
        lost=matched.lost if matched else (),
        reason=reason,
    )
