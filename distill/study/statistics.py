"""Means over seeds, and verdicts on claims by a fixed rule.

Here scores and margins are in points: 100 times the tasks' shares in [0, 1].

The rule, with d the differences `better - than` of runs with the same seed: reproduced when mean(d) > margin and
mean(d) > deviation(d); not reproduced when mean(d) + deviation(d) <= margin; not decided otherwise. One seed has no
deviation and decides nothing.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distill.study.grid import Claim
from distill.study.results import Results

Decision = Literal[
    "reproduced", "not reproduced", "not decided here", "seen in this one seed", "not seen in this one seed"
]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (divided by n - 1) over `count` seeds; one seed has no deviation."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim, what became of it, and the numbers behind that. None where nothing was measured."""

    claim: Claim
    decision: Decision
    better: Spread | None
    than: Spread | None
    difference: Spread | None


def points(results: Results, cell: str, metric: str) -> list[float | int | None]:
    """One score per seed; None where it was not measured."""
    return [None if score is None else 100 * score for score in results.scores(cell, metric)]


def spread(values: Sequence[float | int | None]) -> Spread | None:
    """Over the values that exist; None when there are none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def judge(claim: Claim, results: Results) -> Verdict:
    """The verdict over the seeds in which both cells have the metric."""
    both = zip(points(results, claim.better, claim.metric), points(results, claim.than, claim.metric), strict=True)
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    difference = spread([a - b for a, b in pairs])
    return Verdict(
        claim=claim,
        decision=decide(difference, claim.margin),
        better=spread([a for a, _ in pairs]),
        than=spread([b for _, b in pairs]),
        difference=difference,
    )


def decide(difference: Spread | None, margin: float | int) -> Decision:
    """The module's rule."""
    if difference is None:
        return "not decided here"
    mean, deviation = difference.mean, difference.deviation
    if deviation is None:
        return "seen in this one seed" if mean > margin else "not seen in this one seed"
    if mean > margin and mean > deviation:
        return "reproduced"
    return "not reproduced" if mean + deviation <= margin else "not decided here"
