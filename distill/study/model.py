"""A linear model of a study's cell table: one coefficient for every main effect and two-way interaction.

Beside the matched contrasts, on which verdicts rest: the model uses every cell for every coefficient, and so takes
some interactions for zero. Coefficients are computed within each seed, like everything else, so their intervals are
intervals over seeds. `distill.study.inference.linear_model` has the coding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from distill.study.inference import Coefficient, Estimate, linear_model
from distill.study.scored import Scored

MOST_NAMED = 3
"""Terms that a term cannot be told from, in its reason."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A term, such as `heard: all against masked`, and its coefficient in points."""

    term: str
    estimate: Estimate | None
    reason: str
    """Why there is no coefficient; empty where there is one."""


@dataclass(frozen=True, kw_only=True)
class Model:
    factors: tuple[str, ...]
    cells: tuple[str, ...]
    """The cells it was fitted to."""
    lost: tuple[str, ...]
    """Cells of the grid that have no results."""
    terms: tuple[Fitted, ...]


def model_of(cells: Mapping[str, Mapping[str, str]], factors: Sequence[str], scored: Scored) -> Model | None:
    """Of the cells that have scores and a level of every factor that varies among them; None where none does."""
    measured = {cell for cell, _ in scored.scores}
    table = {name: levels for name, levels in cells.items() if name in measured}
    varying, before = _varying(table, factors), None
    while varying != before:  # cells that lack a factor leave, and another one may then vary no more
        table = {name: levels for name, levels in table.items() if all(factor in levels for factor in varying)}
        varying, before = _varying(table, varying), varying
    if not varying:
        return None
    terms = []
    for coefficient in linear_model(table, varying):
        found = None if coefficient.contrast is None else scored.estimate(coefficient.contrast.weights)
        reason = _why_not(table, coefficient) or ("" if found else "no seed has all the cells")
        terms.append(Fitted(term=coefficient.name, estimate=found, reason=reason))
    return Model(
        factors=tuple(varying),
        cells=tuple(table),
        lost=tuple(name for name in cells if name not in measured),
        terms=tuple(terms),
    )


def _varying(table: Mapping[str, Mapping[str, str]], factors: Sequence[str]) -> list[str]:
    levels = {factor: {cell[factor] for cell in table.values() if factor in cell} for factor in factors}
    return [factor for factor in factors if len(levels[factor]) > 1]


def _why_not(table: Mapping[str, Mapping[str, str]], coefficient: Coefficient) -> str:
    """Of an interaction, which of its four combinations no cell has, if that is the reason; empty where none is."""
    if coefficient.reason is None:
        return ""
    pairs = product(*(((factor, level), (factor, against)) for factor, level, against in coefficient.term))
    absent = [pair for pair in pairs if not any(set(pair) <= set(levels.items()) for levels in table.values())]
    if not absent:
        return _shortened(coefficient.reason)
    return "no cell has " + " or ".join(
        " with ".join(f"{factor}: {level}" for factor, level in pair) for pair in absent
    )


def _shortened(reason: str) -> str:
    """Terms hang together in dozens when they do at all: the first few are enough to see where."""
    first, *others = reason.removesuffix("; taken as zero").split("; ")
    more = f" and {len(others) - MOST_NAMED + 1} more" if len(others) >= MOST_NAMED else ""
    return "; ".join([first, *others[: MOST_NAMED - 1]]) + more
