"""What the runs of a study left behind: scores, the course of training, cost and recipe of every cell and seed."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Recipe, recipe_from_file
from distill.study.grid import Cell, Study

Line = dict[str, float | int | None]
"""JSON writes a whole number without its point."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One cell for one seed. Scores and per-class scores are shares in [0, 1]; None is a mean over nothing."""

    cell: str
    seed: int
    scores: Line
    per_class: dict[str, Line]
    settings: dict[str, dict[str, Any]]
    """How each task was measured."""
    num_images: int
    measure_seconds: float | int
    environment: dict[str, str]
    metrics: tuple[Line, ...]
    """The lines of metrics.jsonl, each with its `step`."""
    summary: dict[str, Any]
    recipe: Recipe

    def course(self, name: str) -> tuple[list[float | int], list[float | int]]:
        """Steps and values of one number of metrics.jsonl; both empty where the run has no such number."""
        points = [(line["step"], line[name]) for line in self.metrics if line.get(name) is not None]
        return [step for step, _ in points], [value for _, value in points]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All cells of a study for the seeds that are complete."""

    study: Study
    seeds: tuple[int, ...]
    runs: dict[tuple[str, int], Finished]
    """By cell and seed; every pair is there."""

    def of(self, cell: str) -> list[Finished]:
        """The runs of a cell, in the order of the seeds."""
        return [self.runs[cell, seed] for seed in self.seeds]

    def scores(self, cell: str, metric: str) -> list[float | int | None]:
        """One score per seed; None where it was not measured."""
        return [run.scores.get(metric) for run in self.of(cell)]


def run_path(folder: Path, cell: str, seed: int) -> Path:
    return folder / f"{cell}-seed{seed}"


def finished_seeds(study: Study, folder: Path) -> list[int]:
    """Seeds for which every cell of the study has been measured."""
    pattern = re.compile(rf"{re.escape(study.cells[0].name)}-seed(\d+)")
    found = [pattern.fullmatch(path.parent.name) for path in folder.glob("*/scores.json")]
    seeds = [int(match[1]) for match in found if match]
    return sorted(seed for seed in seeds if all(_scores_file(folder, cell, seed).exists() for cell in study.cells))


def read_results(study: Study, folder: Path) -> Results:
    """Everything the report needs. Raises ValueError when no seed is complete or a file is damaged."""
    seeds = finished_seeds(study, folder)
    if not seeds:
        raise ValueError(f"{folder}: for no seed have all {len(study.cells)} cells of {study.name} been measured")
    runs = {(cell.name, seed): _read(folder, cell, seed) for cell in study.cells for seed in seeds}
    return Results(study=study, seeds=tuple(seeds), runs=runs)


def write_csv(results: Results, path: Path) -> None:
    """One row per cell, seed and metric; values are shares in [0, 1], empty where there is none."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["cell", "seed", "metric", "value"])
        for (cell, seed), run in results.runs.items():
            per_class = {
                f"{task}/class/{name}": v for task, found in run.per_class.items() for name, v in found.items()
            }
            for metric, value in (run.scores | per_class).items():
                writer.writerow([cell, seed, metric, "" if value is None else repr(value)])


def _scores_file(folder: Path, cell: Cell, seed: int) -> Path:
    return run_path(folder, cell.name, seed) / "scores.json"


def _read(folder: Path, cell: Cell, seed: int) -> Finished:
    run = run_path(folder, cell.name, seed)
    scores, summary = _read_json(run / "scores.json"), _read_json(run / "summary.json")
    try:
        return Finished(
            cell=cell.name,
            seed=seed,
            scores=scores["scores"],
            per_class=scores["per_class"],
            settings=scores["settings"],
            num_images=scores["num_images"],
            measure_seconds=scores["seconds"],
            environment=scores["environment"],
            metrics=tuple(_read_lines(run / "metrics.jsonl")),
            summary=summary,
            recipe=recipe_from_file(run / "recipe.yaml"),
        )
    except KeyError as error:
        raise ValueError(f"{run / 'scores.json'} lacks {error}; delete it to measure this run again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read_lines(path: Path) -> list[Line]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
