"""How much a score depends on which pictures were held out: bootstrap over pictures, the same for all runs.

A run keeps, for every picture, the sums its metric is made of. A resample draws N pictures with replacement, so it is
N whole-number weights, and the metric of a resample is a ratio of weighted sums: two matrix products per run.

Legend: N pictures, K classes, R resamples, S seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real

from distill.study.inference.contrasts import Run, seeds_with


@dataclass(frozen=True)
class PictureCounts:
    """For mIoU: each class's pixels in intersection and union of prediction and label, picture by picture.

    With K = 1 the score is a plain ratio of counts, such as right patches among labelled ones.
    """

    intersection_NK: Real[np.ndarray, "N K"]
    union_NK: Real[np.ndarray, "N K"]

    def __post_init__(self) -> None:
        _check_same(self.intersection_NK, self.union_NK)
        if not ((self.intersection_NK >= 0) & (self.intersection_NK <= self.union_NK)).all():
            raise ValueError("intersections must lie between 0 and their unions in every picture and class")


@dataclass(frozen=True)
class PictureValues:
    """For means: one value per picture, such as a hit or an accuracy. NaN: the picture has none and counts nothing.

    With weights (labelled pixels, patches) the score is sum(weight value) / sum(weight). Retrieval hits are resampled
    as queries before an unchanged gallery.
    """

    value_N: Real[np.ndarray, " N"]
    weight_N: Real[np.ndarray, " N"] | None = None

    def __post_init__(self) -> None:
        if self.weight_N is not None:
            _check_same(self.value_N, self.weight_N)
            if not ((self.weight_N >= 0) & np.isfinite(self.weight_N)).all():
                raise ValueError("weights must be finite and not negative")


PictureStatistics = PictureCounts | PictureValues


@dataclass(frozen=True, kw_only=True)
class PictureSpread:
    """What another choice of pictures could do to a contrast's mean over seeds; the seeds stay as they are."""

    total: float
    """Standard error: deviation of the mean over seeds from resample to resample."""
    shared: float
    """The part that is the same for every seed and so invisible in the spread over seeds; for one seed all of it."""
    low: float
    high: float
    """Percentile interval at `level`."""
    level: float


def picture_weights(
    num_pictures: int, *, num_resamples: int, generator: np.random.Generator
) -> Float[np.ndarray, "R N"]:
    """How often each resample draws each picture; rows sum to N. To be shared by all cells and seeds.

    8 R N bytes: 8 MB for a thousand of each.
    """
    if num_pictures < 1 or num_resamples < 2:
        raise ValueError(f"{num_pictures} pictures and {num_resamples} resamples: expected at least 1 and 2")
    even_N = np.full(num_pictures, 1 / num_pictures)
    return generator.multinomial(num_pictures, even_N, size=num_resamples).astype(np.float64)


def resampled_scores(statistics: PictureStatistics, weights_RN: Float[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
    """The run's score in every resample; NaN where nothing can be scored.

    mIoU is the mean over the classes that have a union in the resample, as in `distill.eval.metrics`.
    """
    match statistics:
        case PictureCounts(intersection_NK, union_NK):
            _check_pictures(len(union_NK), weights_RN)
            return _mean_over_present(weights_RN @ intersection_NK, weights_RN @ union_NK)
        case PictureValues(value_N, weight_N):
            _check_pictures(len(value_N), weights_RN)
            known_N = ~np.isnan(value_N)
            weight_N = known_N * (1.0 if weight_N is None else weight_N)
            weighted_N = weight_N * np.where(known_N, value_N, 0).astype(np.float64)
            return _mean_over_present((weights_RN @ weighted_N)[:, None], (weights_RN @ weight_N)[:, None])


def score(statistics: PictureStatistics) -> float:
    """The run's score on the pictures as they are; NaN where nothing can be scored."""
    first = statistics.union_NK if isinstance(statistics, PictureCounts) else statistics.value_N
    return float(resampled_scores(statistics, np.ones((1, len(first))))[0])


def picture_spread(
    resampled: Mapping[Run, Float[np.ndarray, " R"]], weights: Mapping[str, float | int], *, level: float = 0.95
) -> PictureSpread | None:
    """Spread of sum_cells weight * score, averaged over the seeds that have all the cells; None without such a seed.

    `resampled` holds the runs' `resampled_scores`, all from the same picture weights. Resamples in which some run has
    no score are left out. `shared` is the root of the mean covariance between two seeds, 0 if that is negative: what
    pictures do to one seed alone is part of the spread over seeds already and must not count twice.
    """
    seeds = seeds_with(resampled, weights)
    if not seeds:
        return None
    contrast_SR = np.stack([sum(weight * resampled[cell, seed] for cell, weight in weights.items()) for seed in seeds])
    contrast_SR = contrast_SR[:, np.isfinite(contrast_SR).all(0)]
    if contrast_SR.shape[1] < 2:
        return None
    mean_R = contrast_SR.mean(0)
    total, shared = mean_R.var(ddof=1), mean_R.var(ddof=1)
    if len(seeds) > 1:
        covariance_SS = np.cov(contrast_SR)
        shared = covariance_SS[~np.eye(len(seeds), dtype=bool)].mean()
    low, high = np.quantile(mean_R, [(1 - level) / 2, (1 + level) / 2])
    return PictureSpread(
        total=float(np.sqrt(total)),
        shared=float(np.sqrt(max(0.0, shared))),
        low=float(low),
        high=float(high),
        level=level,
    )


def _mean_over_present(
    numerator_RK: Float[np.ndarray, "R K"], denominator_RK: Float[np.ndarray, "R K"]
) -> Float[np.ndarray, " R"]:
    present_RK = denominator_RK > 0
    ratio_RK = np.divide(numerator_RK, denominator_RK, out=np.zeros_like(numerator_RK), where=present_RK)
    count_R = present_RK.sum(1)
    return np.divide(ratio_RK.sum(1), count_R, out=np.full(len(count_R), np.nan), where=count_R > 0)


def _check_same(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise ValueError(f"shapes {first.shape} and {second.shape} differ: expected one entry of each per picture")


def _check_pictures(num_pictures: int, weights_RN: np.ndarray) -> None:
    if weights_RN.shape[1] != num_pictures:
        raise ValueError(
            f"the run has {num_pictures} pictures, the resamples {weights_RN.shape[1]}: "
            "all runs of a study must be measured on the same pictures"
        )
