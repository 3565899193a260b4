"""Weighted sums of cells, computed within each seed."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Run = tuple[str, int]
"""Cell and seed."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Cells and their weights, which sum to 0, so that whatever all cells of a seed share cancels."""

    weights: dict[str, float]
    matched: tuple[tuple[str, ...], ...]
    """The groups of cells it averages over: pairs (cell, its counterpart) or quadruples; empty for a coefficient of
    the linear model, which rests on all cells at once."""

    def __post_init__(self) -> None:
        if not self.weights or not any(self.weights.values()):
            raise ValueError("a contrast needs cells with weights other than 0")
        total, size = math.fsum(self.weights.values()), math.fsum(map(abs, self.weights.values()))
        if abs(total) > 1e-6 * size:
            raise ValueError(f"the weights of a contrast must sum to 0, not {total:g}: {self.weights}")


def difference(cell: str, than: str) -> Contrast:
    """`cell` minus `than`."""
    if cell == than:
        raise ValueError(f"cell {cell!r} cannot be compared with itself")
    return Contrast(weights={cell: 1.0, than: -1.0}, matched=((cell, than),))


def seeds_with(runs: Iterable[Run], cells: Iterable[str]) -> list[int]:
    """The seeds for which every one of `cells` is among `runs`, in rising order."""
    known, wanted = set(runs), list(cells)
    return sorted(seed for seed in {seed for _, seed in known} if all((cell, seed) in known for cell in wanted))


def contrast_by_seed(
    scores: Mapping[Run, float | int | None], weights: Mapping[str, float | int]
) -> dict[int, float | int]:
    """Weighted sum of the scores for every seed that has all the cells; None and NaN count as not there.

    `weights` are those of a Contrast; {cell: 1.0} gives the scores of one cell.
    """
    known = {run: value for run, value in scores.items() if value is not None and math.isfinite(value)}
    return {
        seed: math.fsum(weight * known[cell, seed] for cell, weight in weights.items())
        for seed in seeds_with(known, weights)
    }
