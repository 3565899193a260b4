"""Which cells are drawn together, and how they are told apart: small multiples of a grid, plain panels of the rest.

A study knows its cells by their levels, not the products they came from. Cells that agree in all factors but three are
one figure: the first of the three that varies makes the columns, the second the colour, the third the dashes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from distill.study.cells import Cell, Study
from distill.study.report.colours import cell_style, level_style

MOST_NAMED = 8
"""Lines in one panel that a reader can still tell apart."""
VARIED = 3


@dataclass(frozen=True, kw_only=True)
class Line:
    cell: Cell
    label: str
    style: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Group:
    """One figure. `columns` has a title and lines for each column of panels; `held` are the levels all share."""

    columns: tuple[tuple[str, tuple[Line, ...]], ...]
    held: dict[str, str]


def groups_of(study: Study, cells: Sequence[Cell], named: Sequence[Cell]) -> list[Group]:
    """Every cell in at least one figure: `named` cells in plain panels, cells with levels in small multiples."""
    plain = [named[start : start + MOST_NAMED] for start in range(0, len(named), MOST_NAMED)]
    made = [_plain(each) for each in plain]
    left = [cell for cell in cells if cell.levels]
    while left:
        held = _largest(study, left)
        held = _shared(study, [cell for cell in left if _agrees(cell, held)])
        own = [cell for cell in cells if cell.levels and _agrees(cell, held)]
        made += [_multiples(study, own, held)]
        left = [cell for cell in left if not _agrees(cell, held)]
    shown = {line.cell.name for group in made[: len(plain)] for _, lines in group.columns for line in lines}
    # A grid of which every cell has a name and its place already would only be drawn twice.
    return [
        group
        for number, group in enumerate(made)
        if number < len(plain) or any(line.cell.name not in shown for _, lines in group.columns for line in lines)
    ]


def _plain(cells: Sequence[Cell]) -> Group:
    lines = tuple(Line(cell=cell, label=cell.title, style=cell_style(n)) for n, cell in enumerate(cells))
    return Group(columns=(("", lines),), held={})


def _largest(study: Study, cells: Sequence[Cell]) -> dict[str, str | None]:
    """Levels of all factors but three that the most cells share; the earliest factors where several are as good."""
    factors = list(study.factors)
    counts: dict[tuple[tuple[str, str | None], ...], int] = {}
    for varied in combinations(factors, min(VARIED, len(factors))):
        for cell in cells:
            held = tuple((name, cell.levels.get(name)) for name in factors if name not in varied)
            counts[held] = counts.get(held, 0) + 1
    return dict(max(counts, key=lambda held: counts[held]))


def _shared(study: Study, cells: Sequence[Cell]) -> dict[str, str | None]:
    """The levels in which all of `cells` agree: what else could be in the figure would not be compared with them."""
    levels = {name: {cell.levels.get(name) for cell in cells} for name in study.factors}
    return {name: found.pop() for name, found in levels.items() if len(found) == 1}


def _agrees(cell: Cell, held: dict[str, str | None]) -> bool:
    return all(cell.levels.get(name) == level for name, level in held.items())


def _multiples(study: Study, cells: Sequence[Cell], held: dict[str, str | None]) -> Group:
    varying = [
        name for name in study.factors if name not in held and len({cell.levels.get(name) for cell in cells}) > 1
    ]
    cells = sorted(
        cells, key=lambda cell: [[*study.factors[name], None].index(cell.levels.get(name)) for name in varying]
    )
    if len(varying) < 2:  # one factor is one panel
        columns, shades = [""], varying
        of_column = {"": list(cells)}
    else:
        first, *shades = varying
        columns = [level for level in study.factors[first] if any(cell.levels.get(first) == level for cell in cells)]
        of_column = {level: [cell for cell in cells if cell.levels.get(first) == level] for level in columns}
    constant = {name: cells[0].levels.get(name) for name in study.factors if name not in varying}
    return Group(
        columns=tuple(
            (f"{varying[0]}: {level}" if level else "", tuple(_line(study, cell, shades) for cell in of_column[level]))
            for level in columns
        ),
        held={name: level for name, level in constant.items() if level is not None},
    )


def _line(study: Study, cell: Cell, shades: Sequence[str]) -> Line:
    """The same levels look the same in every column."""
    places = [study.factors[name].index(cell.levels[name]) if name in cell.levels else 0 for name in shades]
    colour, dash = [*places, 0, 0][:2]
    label = ", ".join(f"{name} {cell.levels.get(name, '–')}" for name in shades) or cell.title
    return Line(cell=cell, label=label, style=level_style(colour, dash))
