"""Effects of a factor as contrasts of matched cells: cells that differ in that factor and agree in all others.

Some combinations of levels mean nothing and so do not exist. Matching uses the comparisons that do, each with the same
weight, and says which these were.
"""

from collections.abc import Mapping, Sequence

from distill.study.inference.contrasts import Contrast

Level = str | int | float | bool | None
Cells = Mapping[str, Mapping[str, Level]]
"""Cell name to the cell's level of every factor. Cells without the factor in question take no part."""
Where = Mapping[str, Level | Sequence[Level]]
"""Factor to the level, or the levels, that cells must have. The single string is a level, never a sequence."""


def main_effect(cells: Cells, factor: str, *, level: Level, against: Level, where: Where | None = None) -> Contrast:
    """`level` minus `against` of one factor, averaged over all pairs of cells that agree in every other factor.

    Raises ValueError when there is no such pair, or for unknown factors and levels.
    """
    _check_levels(cells, factor, (level, against))
    groups = _matched(cells, [{factor: level}, {factor: against}], where or {})
    return _average(groups, signs=(1, -1))


def interaction(
    cells: Cells,
    factor: str,
    *,
    pair: tuple[Level, Level],
    other_factor: str,
    other_pair: tuple[Level, Level],
    where: Where | None = None,
) -> Contrast:
    """How much more `pair[0]` minus `pair[1]` is at `other_pair[0]` than at `other_pair[1]`.

    The difference of the two differences, not halved, averaged over all complete quadruples of cells that agree in
    every third factor. Raises ValueError when there is none, or for unknown factors and levels.
    """
    if factor == other_factor:
        raise ValueError(f"factor {factor!r} has no interaction with itself")
    _check_levels(cells, factor, pair)
    _check_levels(cells, other_factor, other_pair)
    changes = [{factor: level, other_factor: other} for other in other_pair for level in pair]
    return _average(_matched(cells, changes, where or {}), signs=(1, -1, -1, 1))


def _matched(cells: Cells, changes: Sequence[Mapping[str, Level]], where: Where) -> tuple[tuple[str, ...], ...]:
    """All groups of cells that have the levels of `changes`, one after the other, and agree in the rest."""
    varied = set(changes[0])
    for name in where:
        if name in varied:
            raise ValueError(f"where: {name!r} is the factor being compared, so it cannot be held at a level")
        _check_levels(cells, name, _allowed(where, name))
    taking_part = {name: levels for name, levels in cells.items() if varied <= set(levels)}
    by_levels = _by_levels(taking_part)
    groups = []
    for levels in taking_part.values():
        if all(levels[name] == level for name, level in changes[0].items()) and _fits(levels, where):
            group = [by_levels.get(frozenset({**levels, **change}.items())) for change in changes]
            if None not in group:
                groups.append(tuple(group))
    if not groups:
        wanted = " and ".join(", ".join(f"{k}={v!r}" for k, v in change.items()) for change in changes)
        limits = "".join(f", {name}={level!r}" for name, level in where.items())
        raise ValueError(f"no cells differ only in having {wanted}{limits and ' where ' + limits[2:]}")
    return tuple(groups)


def _by_levels(cells: Cells) -> dict[frozenset, str]:
    found: dict[frozenset, str] = {}
    for name, levels in cells.items():
        twin = found.setdefault(frozenset(levels.items()), name)
        if twin != name:
            raise ValueError(f"cells {twin!r} and {name!r} have the same levels, so neither has one counterpart")
    return found


def _average(groups: tuple[tuple[str, ...], ...], *, signs: tuple[int, ...]) -> Contrast:
    """The mean over groups of their cells' signed sum. A cell is in one group only: groups differ in the rest."""
    weights = {cell: sign / len(groups) for group in groups for cell, sign in zip(group, signs, strict=True)}
    return Contrast(weights=weights, matched=groups)


def _fits(levels: Mapping[str, Level], where: Where) -> bool:
    return all(name in levels and levels[name] in _allowed(where, name) for name in where)


def _allowed(where: Where, name: str) -> tuple[Level, ...]:
    level = where[name]
    return tuple(level) if isinstance(level, Sequence) and not isinstance(level, str) else (level,)


def _check_levels(cells: Cells, factor: str, levels: Sequence[Level]) -> None:
    known = list(dict.fromkeys(cell[factor] for cell in cells.values() if factor in cell))
    if not known:
        factors = ", ".join(sorted({name for cell in cells.values() for name in cell}))
        raise ValueError(f"no cell has a factor {factor!r}; factors are {factors or 'none'}")
    for level in levels:
        if level not in known:
            raise ValueError(f"no cell has {factor}={level!r}; its levels are {', '.join(map(repr, known))}")
    if len(set(levels)) < len(levels):
        raise ValueError(f"{factor}: the levels {', '.join(map(repr, levels))} are not different")
