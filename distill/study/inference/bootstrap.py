"""What another choice of held-out pictures could do to a contrast between cells (`distill.resampling`).

Legend: R resamples, S seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from distill.study.inference.contrasts import Run, seeds_with


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
