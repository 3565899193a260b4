"""Encoders side by side on the same pictures: every difference with an interval, paired by picture.

All encoders see the same resamples of the held-out pictures, so what pictures have in common cancels in a difference.
The intervals are about pictures alone: what another training of the same recipe would score is for studies with seeds.

Legend: N pictures, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file

from distill.cache.shards import sha256_of
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
    """Of each encoder to the first, whose own is None; None too where the two do not compare."""
    alike: tuple[bool, ...]
    """Whether each encoder and the first saw the same pictures and were measured in the same way."""


def compare(outcomes: Sequence[Outcome], columns: Sequence[str]) -> list[Compared]:
    """Every column, in the order given, that at least one encoder has."""
    return [found for column in columns if any((found := _compared(outcomes, column)).scores)]


def resampled(
    statistics: PictureStatistics, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Float[np.ndarray, " R"]:
    """The score in every resample. The resamples of so many pictures are always the same ones."""
    count = len(statistics)
    step = max(2, min(num_resamples, MAX_WEIGHTS // max(count, 1)))
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, num_resamples, step):
        rows = max(2, min(step, num_resamples - start))
        weights_RN = picture_weights(count, num_resamples=rows, generator=generator)
        parts.append(resampled_scores(statistics, weights_RN))
    return np.concatenate(parts)[:num_resamples]


def interval_of(values_R: Float[np.ndarray, " R"]) -> Interval | None:
    """Percentile interval of what is finite; None where too little is."""
    known_R = values_R[np.isfinite(values_R)]
    if len(known_R) < NUM_RESAMPLES // 2:
        return None
    low, high = np.quantile(known_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def comparable(first: Measured, other: Measured) -> bool:
    """Whether two encoders were measured on the same pictures with the same settings of the task."""
    return all(first.identity[key] == other.identity[key] for key in ("task", "data", "limit", "evaluate", "distill"))


def _compared(outcomes: Sequence[Outcome], column: str) -> Compared:
    name, _, value = column.partition("/")
    found = [each.measured.get(name) for each in outcomes]
    found = [None if each is None or value not in each.values else each for each in found]
    first = found[0]
    alike = tuple(first is not None and each is not None and comparable(first, each) for each in found)
    draws = [
        None if each is None else _draw(outcome.folder / f"{name}.safetensors", each, value)
        for each, outcome in zip(found, outcomes, strict=True)
    ]
    return Compared(
        column=column,
        scores=tuple(
            None if each is None else Score(value=each.values[value], interval=None if d is None else interval_of(d))
            for each, d in zip(found, draws, strict=True)
        ),
        differences=(
            None,
            *(_difference(draws[0], d) if ok else None for d, ok in zip(draws[1:], alike[1:], strict=True)),
        ),
        alike=alike,
    )


def _difference(first_R: Float[np.ndarray, " R"] | None, other_R: Float[np.ndarray, " R"] | None) -> Interval | None:
    return None if first_R is None or other_R is None else interval_of(other_R - first_R)


def _draw(file: Path, measured: Measured, value: str) -> Float[np.ndarray, " R"] | None:
    """Raises ValueError where the file is not the measurement's own any more."""
    if sha256_of(file) != measured.pictures_sha256:
        raise ValueError(f"{file} was written by another measurement since; measure again")
    statistics = picture_statistics(load_file(file), value)
    return None if statistics is None else resampled(statistics)
