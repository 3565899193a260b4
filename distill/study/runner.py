"""Carries out a study: every cell in order, each measured the same way, then the report."""

import json
import time
from pathlib import Path

from rich.console import Console

from distill.config import Recipe
from distill.study.grid import Cell, cell_recipe, load_study
from distill.study.measure import measure
from distill.study.report import write_report
from distill.train.guard import FINISHED
from distill.train.journal import write_atomically
from distill.train.loop import run_folder, train
from distill.train.resume import refuse_another_recipe


def run_study(
    name: str, *, quick: bool = False, seed: int = 0, folder: str | None = None, overrides: list[str] | None = None
) -> int:
    """Train and measure every cell for one seed and write the report. Finished cells are not done again.

    Returns an exit code: that of the first cell that did not finish, else 0.
    """
    study = load_study(name)
    target = Path(folder or f"runs/{study.name}{'-quick' if quick else ''}")
    recipes = {
        cell.name: cell_recipe(study, cell, seed=seed, folder=target, quick=quick, overrides=overrides or [])
        for cell in study.cells
    }
    console = Console(stderr=True)
    minutes = study.quick_minutes if quick else study.minutes
    console.print(f"[bold]{study.title}[/bold]: {len(study.cells)} runs, about {minutes:g} minutes on two CPU cores")
    started = time.monotonic()
    for number, cell in enumerate(study.cells, start=1):
        done = time.monotonic() - started
        console.print(f"[bold]{number}/{len(study.cells)} {cell.title}[/bold] ({done / 60:.1f} minutes so far)")
        code = _carry_out(recipes[cell.name], cell)
        if code != FINISHED:
            return code
    page = write_report(study, target, quick=quick)
    console.print(f"the report with pictures: {page}")
    return FINISHED


def _carry_out(recipe: Recipe, cell: Cell) -> int:
    """Train and measure one cell, unless `scores.json` in its folder says that this was done.

    Raises ValueError when the folder holds a run of other settings.
    """
    run = run_folder(recipe)
    refuse_another_recipe(run, recipe)
    if (run / "scores.json").exists():
        return FINISHED
    code = train(recipe)
    if code != FINISHED:
        return code
    write_atomically(run / "scores.json", json.dumps(measure(run), indent=1))
    return FINISHED
