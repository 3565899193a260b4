"""Encoders side by side on the same pictures: every difference with an interval, paired by picture.

All encoders see the same resamples of the held-out pictures, so what pictures have in common cancels in a difference.
The intervals are about pictures alone: what another training of the same recipe would score is for studies with seeds.

Legend: N pictures, R resamples, M encoders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file

from distill.eval.suite.measure import Measured, Outcome
from distill.resampling import PictureStatistics, picture_statistics, picture_weights, resampled_scores

NUM_RESAMPLES = 1000
LEVEL = 0.95
MAX_WEIGHTS = 2**24
"""Largest matrix of weights, in elements: 128 MiB. Changes memory, not results."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Percentiles of the resamples."""

    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Score:
    """One value of one encoder. `interval` is None where its pictures do not say how it comes about."""

    value: float | int | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One value of all encoders, None where an encoder was not measured."""

    column: str
    """`measurement/value`."""
    scores: tuple[Score | None, ...]
    differences: tuple[Interval | None, ...]
    """Of each encoder to the first, whose own is None; None too where they were not measured on the same pictures."""
    same_pictures: bool
    """Whether all that were measured saw the same pictures in the same way."""


def compare(outcomes: Sequence[Outcome], columns: Sequence[str]) -> list[Compared]:
    """Every column, in the order given, that at least one encoder has."""
    return [found for column in columns if any((found := _compared(outcomes, column)).scores)]


def resampled(
    statistics: Sequence[PictureStatistics], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "M R"]:
    """Scores of all encoders in the same resamples. Raises ValueError for different numbers of pictures."""
    count = len(statistics[0])
    step = max(2, min(num_resamples, MAX_WEIGHTS // max(count, 1)))
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, num_resamples, step):
        rows = max(2, min(step, num_resamples - start))
        weights_RN = picture_weights(count, num_resamples=rows, generator=generator)
        parts.append(np.stack([resampled_scores(each, weights_RN) for each in statistics]))
    return np.concatenate(parts, axis=1)[:, :num_resamples]


def interval_of(values_R: Float[np.ndarray, " R"]) -> Interval | None:
    """Percentile interval of what is finite; None where too little is."""
    known_R = values_R[np.isfinite(values_R)]
    if len(known_R) < NUM_RESAMPLES // 2:
        return None
    low, high = np.quantile(known_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def comparable(first: Measured, other: Measured) -> bool:
    """Whether two encoders were measured on the same pictures with the same settings of the task."""
    return all(first.identity[key] == other.identity[key] for key in ("task", "data", "limit", "evaluate"))


def _compared(outcomes: Sequence[Outcome], column: str) -> Compared:
    name, _, value = column.partition("/")
    found = [each.measured.get(name) for each in outcomes]
    found = [None if each is None or value not in each.values else each for each in found]
    statistics = [
        None if each is None else _statistics(outcome.folder / f"{name}.safetensors", value)
        for each, outcome in zip(found, outcomes, strict=True)
    ]
    present = [each for each in found if each is not None]
    same = all(comparable(present[0], each) for each in present)
    draws = _draws(statistics, same)
    first = draws[0]
    return Compared(
        column=column,
        scores=tuple(
            None if each is None else Score(value=each.values[value], interval=_own(drawn))
            for each, drawn in zip(found, draws, strict=True)
        ),
        differences=(
            None,
            *(None if first is None or each is None or not same else interval_of(each - first) for each in draws[1:]),
        ),
        same_pictures=same,
    )


def _draws(statistics: Sequence[PictureStatistics | None], same: bool) -> list[Float[np.ndarray, " R"] | None]:
    """Everybody's scores in the resamples, the same ones where pictures are the same."""
    known = [each for each in statistics if each is not None]
    if same and len({len(each) for each in known}) == 1:
        drawn = iter(resampled(known))
        return [None if each is None else next(drawn) for each in statistics]
    return [None if each is None else resampled([each])[0] for each in statistics]


def _own(drawn_R: Float[np.ndarray, " R"] | None) -> Interval | None:
    return None if drawn_R is None else interval_of(drawn_R)


def _statistics(file: Path, value: str) -> PictureStatistics | None:
    return picture_statistics(load_file(file), value)
