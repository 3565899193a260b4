"""The report's tables: results beside the paper's, settings that differ, cost, every score."""

from dataclasses import replace
from typing import Any

from distill.config import Recipe, Run, recipe_dict, recipe_text
from distill.study.grid import Cell, Study
from distill.study.page import Table
from distill.study.results import Finished, Results
from distill.study.statistics import Spread, points, spread

NOTHING = "–"


def main_table(results: Results) -> Table:
    """One row per cell: the teacher's score beside the student's, the other metrics, and the paper's numbers."""
    study = results.study
    deciding, *others = study.metrics
    columns = paper_columns(study)
    title = study.metrics[deciding]
    header = ("cell", f"teacher: {title}", f"student: {title}", *(study.metrics[name] for name in others))
    rows = []
    for cell in study.cells:
        teacher = shown(results, cell.teacher, deciding) if cell.teacher else "own average"
        scores = [shown(results, cell.name, name) for name in study.metrics]
        paper = [str(cell.paper.get(name, NOTHING)) for name in columns]
        rows.append((cell.title, teacher, *scores, *paper, str(cell.paper.get("row", NOTHING))))
    return Table(
        header=(*header, *(f"paper: {name}" for name in columns), "in the paper"),
        rows=tuple(rows),
        align="l" + "r" * (1 + len(study.metrics) + len(columns)) + "l",
        caption=_how_to_read(results),
    )


def paper_columns(study: Study) -> list[str]:
    """The benchmarks for which the paper gives a number for some cell, in their order of appearance."""
    return list(dict.fromkeys(name for cell in study.cells for name in cell.paper if name != "row"))


def settings_table(results: Results) -> Table:
    """Every setting in which some cell differs from another one; what depends on seed and place is left out."""
    values = {cell.name: _flat(_portable(results.of(cell.name)[0].recipe)) for cell in results.study.cells}
    keys = list(dict.fromkeys(key for flat in values.values() for key in flat))
    kept = [key for key in keys if len({repr(flat.get(key)) for flat in values.values()}) > 1]
    taught = [("teacher’s cell", *(cell.teacher or NOTHING for cell in results.study.cells))]
    rows = [(key, *(_plain(values[cell.name].get(key)) for cell in results.study.cells)) for key in kept]
    return Table(
        header=("setting", *(cell.title for cell in results.study.cells)),
        rows=tuple(taught + rows),
        align="l" * (1 + len(results.study.cells)),
        caption="All other settings are equal; the seed of a run also is its teacher’s.",
    )


def cost_table(results: Results) -> Table:
    """Seconds are those of the last uninterrupted stretch of a run."""
    rows = tuple(_cost(cell, results.of(cell.name)) for cell in results.study.cells)
    return Table(
        header=(
            "cell",
            "steps",
            "pictures seen",
            "seconds to train",
            "seconds to measure",
            "image tower",
            "text tower",
        ),
        rows=rows,
        align="lrrrrrr",
        caption="Seconds of wall time, mean over seeds; of a run that was interrupted, only since it went on. "
        "Towers in parameters.",
    )


def all_scores_table(results: Results) -> Table:
    names = dict.fromkeys(name for run in results.runs.values() for name in run.scores)
    return _by_cell(
        results,
        first="score, %",
        rows=[(name, [points(results, cell.name, name) for cell in results.study.cells]) for name in names],
        fold="Every score",
    )


def class_tables(results: Results) -> list[Table]:
    """IoU of every class for every task that has them."""
    tasks = dict.fromkeys(task for run in results.runs.values() for task in run.per_class)
    return [_class_table(results, task) for task in tasks]


def base_recipe(results: Results) -> str:
    """The first cell's recipe with every setting, without places."""
    return recipe_text(_without_places(results.of(results.study.cells[0].name)[0].recipe))


def shown(results: Results, cell: str, metric: str) -> str:
    """`20.7 ± 1.2` in points; one seed has no error bar."""
    return in_points(spread(points(results, cell, metric)), seeds=len(results.seeds))


def in_points(found: Spread | None, *, seeds: int) -> str:
    if found is None:
        return NOTHING
    bar = "" if found.deviation is None else f" ± {found.deviation:.1f}"
    missing = "" if found.count == seeds else f" (n = {found.count})"
    return f"{found.mean:.1f}{bar}{missing}"


def seeds_in_words(results: Results) -> str:
    if len(results.seeds) == 1:
        return f"one seed ({results.seeds[0]})"
    return f"{len(results.seeds)} seeds ({', '.join(map(str, results.seeds))})"


def _how_to_read(results: Results) -> str:
    if len(results.seeds) == 1:
        seeds = f"Percent, {seeds_in_words(results)}: differences of this size may be noise."
    else:
        seeds = f"Percent: mean ± standard deviation over {seeds_in_words(results)}."
    teacher = "Teacher: the frozen student of another cell; without one, a moving average of the student itself."
    paper = "The paper’s numbers, in percent, are those of its own models and data sets: compare directions, not sizes."
    return f"{seeds} {teacher} {paper}"


def _class_table(results: Results, task: str) -> Table:
    runs = {cell.name: results.of(cell.name) for cell in results.study.cells}
    names = dict.fromkeys(name for found in runs.values() for run in found for name in run.per_class.get(task, {}))
    rows = [(name, [_class_points(found, task, name) for found in runs.values()]) for name in names]
    return _by_cell(results, first="class: IoU, %", rows=rows, fold=f"Every class: {task}")


def _class_points(runs: list[Finished], task: str, name: str) -> list[float | int | None]:
    shares = [run.per_class.get(task, {}).get(name) for run in runs]
    return [None if share is None else 100 * share for share in shares]


def _by_cell(
    results: Results, *, first: str, rows: list[tuple[str, list[list[float | int | None]]]], fold: str
) -> Table:
    seeds = len(results.seeds)
    return Table(
        header=(first, *(cell.title for cell in results.study.cells)),
        rows=tuple((name, *(in_points(spread(each), seeds=seeds) for each in cells)) for name, cells in rows),
        align="l" + "r" * len(results.study.cells),
        fold=fold,
    )


def _cost(cell: Cell, runs: list[Finished]) -> tuple[str, ...]:
    first = runs[0]
    parameters = {part["part"]: f"{part['parameters']:,}" for part in first.summary["parts"]}
    return (
        cell.title,
        f"{first.summary['steps']:,}",
        f"{first.summary['steps'] * first.recipe.data.batch_size:,}",
        _mean_seconds([run.summary["seconds"] for run in runs]),
        _mean_seconds([run.measure_seconds for run in runs]),
        parameters.get("image", NOTHING),
        parameters.get("text", NOTHING),
    )


def _mean_seconds(seconds: list[float | int]) -> str:
    found = spread(seconds)
    return NOTHING if found is None else f"{found.mean:,.0f}"


def _without_places(recipe: Recipe) -> Recipe:
    return replace(recipe, run=Run())


def _portable(recipe: Recipe) -> dict[str, Any]:
    values = recipe_dict(_without_places(recipe))
    values["teacher"].pop("checkpoint")
    return {key: value for key, value in values.items() if key not in ("name", "seed", "run")}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _plain(value: Any) -> str:
    return NOTHING if value is None else str(value)
