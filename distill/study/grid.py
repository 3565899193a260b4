"""A study page: the cells of a grid, what they share, and what the paper says about them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill.config import Recipe, RecipeError, load_recipe, page_path


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the study. `teacher` names the cell whose run of the same seed is its frozen teacher."""

    name: str
    title: str
    set: dict[str, Any]
    teacher: str | None = None
    paper: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """`better` scores higher than `than` in `metric`, by more than `margin`. `source` is who says so."""

    say: str
    better: str
    than: str
    metric: str
    margin: float | int
    source: str


@dataclass(frozen=True, kw_only=True)
class Study:
    name: str
    title: str
    minutes: float | int
    """Expected minutes for one seed on two CPU cores."""
    quick_minutes: float | int
    recipe: str
    cells: tuple[Cell, ...]
    claims: tuple[Claim, ...]
    quick: dict[str, Any]
    metrics: dict[str, str]
    """Metric name to column title, in the order of the report; the first one decides."""

    def cell(self, name: str) -> Cell:
        return next(cell for cell in self.cells if cell.name == name)


def load_study(name: str) -> Study:
    """Read `recipes/study/NAME.yaml` or a path. Raises RecipeError with the page's name for what is wrong in it."""
    path = page_path(name, kind="study")
    page = yaml.safe_load(path.read_text())
    try:
        cells = tuple(Cell(**cell) for cell in page.pop("cells"))
        claims = tuple(Claim(**claim) for claim in page.pop("claims"))
        study = Study(cells=cells, claims=claims, **page)
    except (TypeError, KeyError, AttributeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    _check_order(study, path)
    return study


def _check_order(study: Study, path: Path) -> None:
    known: set[str] = set()
    for cell in study.cells:
        if cell.name in known:
            raise RecipeError(f"{path}: two cells are called {cell.name!r}")
        if cell.teacher is not None and cell.teacher not in known:
            raise RecipeError(f"{path}: cell {cell.name!r} has the teacher {cell.teacher!r}, which is no earlier cell")
        known.add(cell.name)
    for claim in study.claims:
        for name in (claim.better, claim.than):
            if name not in known:
                raise RecipeError(f"{path}: a claim names the cell {name!r}; cells are {', '.join(sorted(known))}")


def cell_recipe(study: Study, cell: Cell, *, seed: int, folder: Path, quick: bool, overrides: list[str]) -> Recipe:
    """The recipe of one cell: what all cells share, then quick mode, the cell's own settings, the command line."""
    settings = {**(study.quick if quick else {}), **cell.set, "seed": seed, "name": f"{study.name}-{cell.name}"}
    settings |= {"run.folder": str(folder), "run.name": f"{cell.name}-seed{seed}"}
    if cell.teacher is not None:
        settings |= {"teacher.kind": "frozen", "teacher.checkpoint": str(folder / f"{cell.teacher}-seed{seed}")}
    return load_recipe(study.recipe, [*(f"{key}={_as_yaml(value)}" for key, value in settings.items()), *overrides])


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
