"""Verdicts on claims about a difference, by a fixed rule on its interval.

More:   reproduced when the whole interval lies above `by_more_than`; not reproduced when none of it does.
Equal:  reproduced when the whole interval lies inside (-within, within); not reproduced when none of it does.
Both:   not decided here when the interval holds the bound, or when nothing was measured.

With intervals at level 0.95 a true difference at the bound itself is called "reproduced" in 2.5 % of studies at most.
One seed has no interval: the verdict then says only what that seed showed.
"""

import math
from dataclasses import dataclass
from typing import Literal

from distill.study.inference.estimates import Estimate, half_width

Decision = Literal[
    "reproduced", "not reproduced", "not decided here", "seen in this one seed", "not seen in this one seed"
]


@dataclass(frozen=True, kw_only=True)
class More:
    """The difference is greater than `by_more_than`, in the unit of the estimate. Negative: "not much worse"."""

    by_more_than: float | int = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.by_more_than):
            raise ValueError(f"by_more_than={self.by_more_than} is not a finite number")


@dataclass(frozen=True, kw_only=True)
class Equal:
    """The difference is smaller than `within` either way, in the unit of the estimate: it hardly matters."""

    within: float | int

    def __post_init__(self) -> None:
        if not 0 < self.within < math.inf:
            raise ValueError(
                f"within={self.within}: expected a positive number, the largest difference that is nothing"
            )


Expectation = More | Equal


@dataclass(frozen=True, kw_only=True)
class Verdict:
    decision: Decision
    opposite: bool
    """The interval lies wholly on the other side of 0: the contrary was seen."""
    seeds_needed: int | None
    """Only beside "not decided here": how many seeds might decide. None where no affordable number would."""


def judge(estimate: Estimate | None, expectation: Expectation) -> Verdict:
    """The verdict on a difference; `estimate` is None where nothing was measured."""
    decision, needed = decide(estimate, expectation), None
    if estimate is not None and decision == "not decided here":
        match expectation:
            case More(by_more_than=threshold):
                needed = seeds_needed(estimate, threshold=threshold)
            case Equal(within=within):
                needed = seeds_needed(estimate, threshold=math.copysign(within, estimate.mean))
    return Verdict(decision=decision, opposite=opposite(estimate, expectation), seeds_needed=needed)


def decide(estimate: Estimate | None, expectation: Expectation) -> Decision:
    """The module's rule."""
    if estimate is None:
        return "not decided here"
    if estimate.low is None or estimate.high is None:
        seen = _all_inside(estimate.mean, estimate.mean, expectation)
        return "seen in this one seed" if seen else "not seen in this one seed"
    if _all_inside(estimate.low, estimate.high, expectation):
        return "reproduced"
    return "not reproduced" if _all_outside(estimate.low, estimate.high, expectation) else "not decided here"


def opposite(estimate: Estimate | None, expectation: Expectation) -> bool:
    """Whether the whole interval lies below 0, and below the bound if that is lower, where more was expected.

    Never for `Equal`, which has no other side, and never for one seed.
    """
    if estimate is None or estimate.high is None or isinstance(expectation, Equal):
        return False
    return estimate.high < min(0, expectation.by_more_than)


def seeds_needed(estimate: Estimate, *, threshold: float | int, at_most: int = 100) -> int | None:
    """The fewest seeds whose interval would no longer hold `threshold`, if mean and deviation stayed as they are.

    They will not stay quite so, which makes it about even odds that this many decide. None for one seed, and where
    `at_most` seeds would not do: the mean is too near, or the pictures are too few for any number of seeds.
    """
    if estimate.deviation is None:
        return None
    for count in range(2, at_most + 1):
        picture_error = estimate.pictures or 0.0
        half = half_width(estimate.deviation, count=count, picture_error=picture_error, level=estimate.level)
        if half < abs(estimate.mean - threshold):
            return count
    return None


def _all_inside(low: float, high: float, expectation: Expectation) -> bool:
    match expectation:
        case More(by_more_than=bound):
            return low > bound
        case Equal(within=within):
            return -within < low and high < within


def _all_outside(low: float, high: float, expectation: Expectation) -> bool:
    match expectation:
        case More(by_more_than=bound):
            return high <= bound
        case Equal(within=within):
            return high <= -within or low >= within
