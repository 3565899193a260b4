"""The settings of a study's cells: where they differ, and every recipe in full. Places and seeds are left out."""

from dataclasses import replace

from distill.config import Recipe, Run, recipe_text
from distill.study.comparable import settings_of
from distill.study.report.page import Listing, Table
from distill.study.report.words import NOTHING
from distill.study.results import Results


def settings_table(results: Results) -> Table:
    """A row for each cell, a column for each setting in which some cell differs from another one."""
    values = {cell.name: settings_of(cell.recipe) for cell in results.cells}
    keys = list(dict.fromkeys(key for found in values.values() for key in found))
    kept = [key for key in keys if len({repr(found.get(key)) for found in values.values()}) > 1]
    rows = tuple((cell.title, *(_plain(values[cell.name].get(key)) for key in kept)) for cell in results.cells)
    return Table(
        header=("cell", *kept),
        rows=rows,
        align="l" * (1 + len(kept)),
        caption="All other settings are equal. “cell:…” is the run of that cell with the same seed.",
    )


def recipe_listings(results: Results) -> list[Listing]:
    """The first cell's recipe with every setting, every other cell's differences from it, and all of them in full."""
    first, *others = results.cells
    base = settings_of(first.recipe)
    changes = []
    for cell in others:
        own = settings_of(cell.recipe)
        changed = [f"  {key}: {_plain(own.get(key))}" for key in {**base, **own} if own.get(key) != base.get(key)]
        changes.append("\n".join([f"{cell.name}:", *(changed or ["  {}"])]))
    base_listing = Listing(fold=f"Every setting of the first cell, {first.name}", text=_text(first.recipe))
    if not others:
        return [base_listing]
    full = "---\n".join(f"# {cell.name}: {cell.title}\n{_text(cell.recipe)}" for cell in others)
    return [
        base_listing,
        Listing(fold=f"How the other cells differ from {first.name}", text="\n".join(changes)),
        Listing(fold="Every setting of every other cell", text=full),
    ]


def _text(recipe: Recipe) -> str:
    return recipe_text(replace(recipe, run=Run()))


def _plain(value: object) -> str:
    return NOTHING if value is None else str(value)
