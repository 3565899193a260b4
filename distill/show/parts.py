"""Parts that nobody named: k-means of patch features, with the same part in the same colour in all pictures.

Legend: n patches, D width, K parts.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

MOST_ROUNDS = 100
STARTS = 4
"""The best of so many starts is taken: Lloyd's algorithm ends in the nearest minimum."""


def find_parts(patches_nD: Float[np.ndarray, "n D"], *, num: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """A part for every patch, the largest called 0: k-means (Lloyd) of features made unit vectors.

    Starts are drawn as k-means++ draws them (Arthur and Vassilvitskii 2007); equal seeds give equal parts. Raises
    ValueError for more parts than patches.
    """
    if not 1 <= num <= len(patches_nD):
        raise ValueError(f"{num} parts of {len(patches_nD)} patches: expected 1 to {len(patches_nD)}")
    lengths_n1 = np.linalg.norm(patches_nD, axis=1, keepdims=True)
    unit_nD = (patches_nD / np.maximum(lengths_n1, 1e-12)).astype(np.float64)
    generator = np.random.default_rng(seed)
    runs = [lloyd(unit_nD, _plus_plus(unit_nD, num, generator)) for _ in range(STARTS)]
    parts_n = min(runs, key=lambda run: run[1])[0]
    by_size = np.argsort(-np.bincount(parts_n, minlength=num), kind="stable")
    return np.argsort(by_size)[parts_n]


def lloyd(
    points_nD: Float[np.ndarray, "n D"], centres_KD: Float[np.ndarray, "K D"]
) -> tuple[Int[np.ndarray, " n"], float]:
    """Nearest centre of every point when nothing moves any more, and the sum of squared distances to it.

    A centre that is nobody's nearest stays where it is.
    """
    parts_n = None
    for _ in range(MOST_ROUNDS):
        squares_nK = _squares(points_nD, centres_KD)
        nearest_n = squares_nK.argmin(1)
        if parts_n is not None and np.array_equal(nearest_n, parts_n):
            break
        parts_n = nearest_n
        chosen_nK = np.eye(len(centres_KD))[parts_n]
        counts_K1 = chosen_nK.sum(0)[:, None]
        centres_KD = np.where(counts_K1 > 0, chosen_nK.T @ points_nD / np.maximum(counts_K1, 1), centres_KD)
    return parts_n, float(squares_nK.min(1).sum())


def named_alike(
    reference_n: Int[np.ndarray, " n"], parts_n: Int[np.ndarray, " n"], *, num: int
) -> Int[np.ndarray, " n"]:
    """`parts_n` renumbered one to one so that as many patches as possible have the reference's number."""
    together_KK = np.zeros((num, num))
    np.add.at(together_KK, (parts_n, reference_n), 1)
    ours_K, theirs_K = linear_sum_assignment(-together_KK)
    name_K = np.empty(num, dtype=np.int64)
    name_K[ours_K] = theirs_K
    return name_K[parts_n]


def _plus_plus(points_nD: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
    """Centres among the points: each drawn by its squared distance to the nearest one before it."""
    chosen = [int(generator.integers(len(points_nD)))]
    squares_n = _squares(points_nD, points_nD[chosen])[:, 0]
    for _ in range(num - 1):
        total = squares_n.sum()
        weights_n = squares_n / total if total > 0 else None
        chosen.append(int(generator.choice(len(points_nD), p=weights_n)))
        squares_n = np.minimum(squares_n, _squares(points_nD, points_nD[chosen[-1:]])[:, 0])
    return points_nD[chosen]


def _squares(points_nD: np.ndarray, centres_KD: np.ndarray) -> np.ndarray:
    ours_n1, theirs_K = (points_nD**2).sum(1)[:, None], (centres_KD**2).sum(1)
    return np.maximum(ours_n1 - 2 * points_nD @ centres_KD.T + theirs_K, 0)
