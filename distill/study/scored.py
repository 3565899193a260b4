"""One metric of all runs, in points: its scores, and what other held-out pictures would have made of them.

Pictures are combined only where they are the same: runs that were measured on others than most, and runs that kept
none, have scores and no resamples. An estimate in which any of them takes part has no picture error, rather than one
of the other runs. `distill.study.inference` says what the intervals are and why.

Legend: N pictures, R resamples.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from distill.resampling import PictureStatistics, picture_statistics, picture_weights, resampled_scores
from distill.study.comparable import pictures_of
from distill.study.inference import (
    Estimate,
    Interval,
    Run,
    bootstrap_over_seeds,
    contrast_by_seed,
    estimate,
    picture_spread,
)
from distill.study.results import Results

NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """A cell's mean over seeds, and the three intervals that it could be given."""

    cell: str
    used: Estimate
    """With Student's t for the seeds and the normal distribution for the pictures: what the report states."""
    over_seeds: Estimate
    """Student's t alone."""
    bootstrap: Interval | None
    """Percentiles over resampled seeds; None for one seed."""
    over_pictures: Interval | None
    """Percentiles over resampled pictures, the seeds as they are; None where pictures are not known."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One metric of all runs, in points."""

    scores: dict[Run, float]
    resampled: dict[Run, Float[np.ndarray, " R"]]

    def estimate(self, weights: Mapping[str, float | int], *, seeds: Sequence[int] | None = None) -> Estimate | None:
        """Of a weighted sum of cells over the seeds that have them all, or over these `seeds` of them."""
        by_seed = contrast_by_seed(self.scores, weights)
        kept = {seed: value for seed, value in by_seed.items() if seeds is None or seed in seeds}
        pictures = picture_spread(self._known(weights, kept), weights)
        return estimate(kept, picture_error=None if pictures is None else pictures.shared)

    def intervals(self, cell: str) -> Intervals | None:
        """Of a cell's mean; None without a score."""
        weights = {cell: 1.0}
        by_seed = contrast_by_seed(self.scores, weights)
        used, over_seeds = self.estimate(weights), estimate(by_seed)
        if used is None or over_seeds is None:
            return None
        pictures = picture_spread(self._known(weights, by_seed), weights)
        return Intervals(
            cell=cell,
            used=used,
            over_seeds=over_seeds,
            bootstrap=bootstrap_over_seeds(list(by_seed.values()), generator=np.random.default_rng(0)),
            over_pictures=pictures and Interval(low=pictures.low, high=pictures.high, level=pictures.level),
        )

    def _known(
        self, weights: Mapping[str, float | int], seeds: Mapping[int, float | int]
    ) -> dict[Run, Float[np.ndarray, " R"]]:
        """The resamples of these cells and seeds; none at all where one of them is missing."""
        runs = [(cell, seed) for cell in weights for seed in seeds]
        return {run: self.resampled[run] for run in runs} if all(run in self.resampled for run in runs) else {}


def scored_metrics(results: Results, metrics: Sequence[str], *, resample: Sequence[str]) -> dict[str, Scored]:
    """All metrics' scores; those of `resample` also on resampled pictures, the same ones for every run."""
    scores = {
        metric: {
            (cell.name, seed): 100 * score
            for cell in results.cells
            for seed, score in results.scores(cell.name, metric).items()
        }
        for metric in metrics
    }
    resampled: dict[str, dict[Run, Float[np.ndarray, " R"]]] = {metric: {} for metric in metrics}
    weights_of: dict[int, Float[np.ndarray, "R N"]] = {}
    apart = {*other_pictures(results), *without_pictures(results)}
    for place, run in results.runs.items():
        if place in apart:
            continue
        arrays = run.per_picture()
        for metric in resample:
            statistics = statistics_of(arrays, metric)
            if statistics is None or place not in scores[metric]:
                continue
            count = len(statistics)
            if count not in weights_of:
                generator = np.random.default_rng(0)
                weights_of[count] = picture_weights(count, num_resamples=NUM_RESAMPLES, generator=generator)
            resampled[metric][place] = 100 * resampled_scores(statistics, weights_of[count])
    return {metric: Scored(scores=scores[metric], resampled=resampled[metric]) for metric in metrics}


def other_pictures(results: Results) -> tuple[Run, ...]:
    """Runs that were measured on other pictures than most: those cannot be drawn together."""
    pictures = {place: repr(pictures_of(run)) for place, run in results.runs.items()}
    [(usual, _)] = Counter(pictures.values()).most_common(1)
    return tuple(place for place, own in pictures.items() if own != usual)


def without_pictures(results: Results) -> tuple[Run, ...]:
    """Runs that kept nothing about single pictures."""
    return tuple(place for place, run in results.runs.items() if not (run.folder / "pictures.safetensors").exists())


def statistics_of(arrays: Mapping[str, np.ndarray], metric: str) -> PictureStatistics | None:
    """What every picture adds to `TASK/NAME`, whose arrays are called `TASK/...` as well."""
    task, _, name = metric.rpartition("/")
    own = {key.removeprefix(f"{task}/"): array for key, array in arrays.items() if key.rpartition("/")[0] == task}
    return picture_statistics(own, name)
