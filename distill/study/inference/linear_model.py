"""A small linear model of the cell table: main effects and two-way interactions, each as a contrast of cells.

Coding: every factor has a reference level. Each other level l has a column [cell is at l] - 1/L, with L the number of
the factor's levels; an interaction's column is the product of two such columns. So a main coefficient is `l minus
reference`, averaged with equal weights over the levels of the other factors, and an interaction is the whole
difference of differences: in a complete product both equal the matched contrasts of `distill.study.inference.effects`,
with a factor of 1.

In an incomplete product some coefficients cannot be told from others. Interactions of that kind are taken as zero and
listed with the reason; the rest is fitted by least squares without them. Main effects are then right only as far as
those interactions are small: matched contrasts do not assume that, so claims should rest on them.

Legend: C cells, P columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from jaxtyping import Bool, Float

from distill.study.inference.contrasts import Contrast
from distill.study.inference.effects import Cells, Level

Term = tuple[tuple[str, Level, Level], ...]
"""(factor, level, reference) of a main effect, or two of them of an interaction."""

TOLERANCE = 1e-8
"""What rounding may leave of a weight, an alias or a singular value that is zero. Columns have entries of order 1."""


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    term: Term
    contrast: Contrast | None
    """None where the cells cannot tell it."""
    reason: str | None
    """Why not; None where there is a contrast."""

    @property
    def name(self) -> str:
        return _name(self.term)


def linear_model(
    cells: Cells, factors: Sequence[str], *, against: Mapping[str, Level] | None = None
) -> list[Coefficient]:
    """All main effects of `factors`, then all their two-way interactions.

    `against` chooses reference levels; a factor it does not name has its most frequent level, the first of them in
    the order of the cells. Cells that lack one of the factors take no part. Raises ValueError for a factor with fewer
    than two levels and for references that no cell has.
    """
    table = {name: levels for name, levels in cells.items() if all(factor in levels for factor in factors)}
    references = {factor: _reference(table, factor, against or {}) for factor in factors}
    for name in against or {}:
        if name not in references:
            raise ValueError(f"against: {name!r} is not among the factors {', '.join(factors)}")
    single = {factor: _terms(table, factor, references[factor]) for factor in factors}
    mains = [term for terms in single.values() for term in terms]
    pairs = [a + b for one, two in combinations(factors, 2) for a, b in product(single[one], single[two])]
    full = [*mains, *pairs]
    alias_PP = _alias(_design(table, full))
    # All at once: keeping one of two that cannot be told apart would depend on the order of the factors.
    lost = {term: row for term, row in zip(full, alias_PP, strict=True) if len(term) == 2 and row.any()}
    kept = [term for term in full if term not in lost]
    design_CP = _design(table, kept)
    fit_PC, kept_alias_PP = _inverse(design_CP)[1:], _alias(design_CP)
    found = {
        term: _coefficient(term, fit_C, _names(kept, alias_P), cells=list(table))
        for term, fit_C, alias_P in zip(kept, fit_PC, kept_alias_PP, strict=True)
    }
    dropped = {term: _not_told(term, _names(full, row), zero=True) for term, row in lost.items()}
    return [(found | dropped)[term] for term in full]


def _reference(table: Cells, factor: str, against: Mapping[str, Level]) -> Level:
    levels = [cell[factor] for cell in table.values()]
    if len(set(levels)) < 2:
        known = ", ".join(map(repr, dict.fromkeys(levels))) or "none"
        raise ValueError(f"factor {factor!r} needs two levels to have an effect; among cells with all factors: {known}")
    if factor not in against:
        return max(dict.fromkeys(levels), key=levels.count)
    if against[factor] not in levels:
        raise ValueError(f"against: no cell has {factor}={against[factor]!r}")
    return against[factor]


def _terms(table: Cells, factor: str, reference: Level) -> list[Term]:
    levels = dict.fromkeys(cell[factor] for cell in table.values())
    return [((factor, level, reference),) for level in levels if level != reference]


def _design(table: Cells, terms: Sequence[Term]) -> Float[np.ndarray, "C P"]:
    """A column of ones, then the columns of `terms`."""
    num_levels = {name: len({cell[name] for cell in table.values()}) for term in terms for name, _, _ in term}

    def column(factor: str, level: Level) -> Float[np.ndarray, " C"]:
        return np.array([float(cell[factor] == level) for cell in table.values()]) - 1 / num_levels[factor]

    columns = [np.prod([column(factor, level) for factor, level, _ in term], axis=0) for term in terms]
    return np.stack([np.ones(len(table)), *columns], axis=1)


def _inverse(design_CP: Float[np.ndarray, "C P"]) -> Float[np.ndarray, "P C"]:
    """Row p are the cells' weights in coefficient p. numpy's own cut-off lets rounding pass for information."""
    return np.linalg.pinv(design_CP, rcond=TOLERANCE)


def _alias(design_CP: Float[np.ndarray, "C P"]) -> Bool[np.ndarray, "P-1 P-1"]:
    """Row p: the coefficients that the cells cannot tell from coefficient p; all False where they can tell it.

    pinv(X) X projects onto what the cells can tell; a coefficient is among that when its row is a unit vector. The
    constant has neither row nor column in the result.
    """
    projection_PP = _inverse(design_CP) @ design_CP
    return (np.abs(projection_PP - np.eye(len(projection_PP))) > TOLERANCE)[1:, 1:]


def _coefficient(term: Term, fit_C: Float[np.ndarray, " C"], aliases: list[str], *, cells: list[str]) -> Coefficient:
    if aliases:
        return _not_told(term, aliases, zero=False)
    weights = {name: float(weight) for name, weight in zip(cells, fit_C, strict=True) if abs(weight) > TOLERANCE}
    return Coefficient(term=term, contrast=Contrast(weights=weights, matched=()), reason=None)


def _not_told(term: Term, aliases: list[str], *, zero: bool) -> Coefficient:
    others = [name for name in aliases if name != _name(term)]
    reason = f"no cells tell it apart from {'; '.join(others) or 'the mean of all cells'}"
    return Coefficient(term=term, contrast=None, reason=reason + ("; taken as zero" if zero else ""))


def _names(terms: Sequence[Term], chosen_P: Bool[np.ndarray, " P"]) -> list[str]:
    return [_name(term) for term, chosen in zip(terms, chosen_P, strict=True) if chosen]


def _name(term: Term) -> str:
    return " × ".join(f"{factor}: {level} against {reference}" for factor, level, reference in term)
