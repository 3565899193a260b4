"""What the runs of a study left behind: scores, the course of training, cost and recipe of every cell and seed."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from distill.config import Recipe, recipe_from_file
from distill.study.cells import Cell, Study
from distill.study.jobs import SCORES, SUMMARY, Job, error_of, is_done

Line = dict[str, float | int | None]
"""JSON writes a whole number without its point."""

COLUMNS = ("cell", "seed", "metric", "value")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One cell for one seed. Scores and per-class scores are shares in [0, 1]; None is a mean over nothing."""

    cell: str
    seed: int
    folder: Path
    scores: Line
    per_class: dict[str, Line]
    settings: dict[str, dict[str, Any]]
    """How each task was measured."""
    num_images: int
    measure_seconds: float | int
    environment: dict[str, str]
    """It was trained under; of older runs, what it was measured under."""
    metrics: tuple[Line, ...]
    """The lines of metrics.jsonl, each with its `step`."""
    summary: dict[str, Any]
    recipe: Recipe

    def course(self, name: str) -> tuple[list[float | int], list[float | int]]:
        """Steps and values of one number of metrics.jsonl; both empty where the run has no such number."""
        points = [(line["step"], line[name]) for line in self.metrics if line.get(name) is not None]
        return [step for step, _ in points], [value for _, value in points]

    def per_picture(self) -> dict[str, np.ndarray]:
        """What every held-out picture contributed (distill/study/measure.py names the arrays)."""
        return load_file(self.folder / "pictures.safetensors")


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is there of a study: seeds and cells may be missing, and failed runs are named with their error."""

    study: Study
    seeds: tuple[int, ...]
    runs: dict[tuple[str, int], Finished]
    """By cell and seed, for what is measured."""
    failed: dict[tuple[str, int], str]
    missing: tuple[tuple[str, int], ...]
    """What was asked for and has neither results nor an error."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells with at least one run, in the study's order."""
        return tuple(cell for cell in self.study.cells if self.of(cell.name))

    def of(self, cell: str) -> list[Finished]:
        """The runs of a cell, in the order of the seeds."""
        return [self.runs[cell, seed] for seed in self.seeds if (cell, seed) in self.runs]

    def scores(self, cell: str, metric: str) -> dict[int, float]:
        """Seed to score in [0, 1], where it was measured."""
        found = {run.seed: run.scores.get(metric) for run in self.of(cell)}
        return {seed: float(score) for seed, score in found.items() if score is not None}


def read_results(study: Study, jobs: Sequence[Job]) -> Results:
    """Everything a report needs of these jobs. Raises ValueError when none is done or a file is damaged."""
    runs = {(job.cell.name, job.seed): _read(job) for job in jobs if is_done(job)}
    if not runs:
        raise ValueError(f"{study.name} at the scale {study.scale}: no run is done yet, so there is nothing to report")
    names = [(job.cell.name, job.seed) for job in jobs]
    errors = {(job.cell.name, job.seed): error_of(job) for job in jobs if (job.cell.name, job.seed) not in runs}
    seeds = dict.fromkeys(job.seed for job in jobs)
    return Results(
        study=study,
        seeds=tuple(seed for seed in seeds if any((cell.name, seed) in runs for cell in study.cells)),
        runs=runs,
        failed={name: error for name, error in errors.items() if error},
        missing=tuple(name for name in names if name not in runs and not errors[name]),
    )


def write_csv(results: Results, path: Path) -> None:
    """One row per cell, seed and metric; values are shares in [0, 1], empty where there is none."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (cell, seed), run in results.runs.items():
            per_class = {
                f"{task}/class/{name}": v for task, found in run.per_class.items() for name, v in found.items()
            }
            for metric, value in (run.scores | per_class).items():
                writer.writerow([cell, seed, metric, "" if value is None else repr(value)])


def _read(job: Job) -> Finished:
    run = job.folder
    scores, summary = _read_json(run / SCORES), _read_json(run / SUMMARY)
    try:
        return Finished(
            cell=job.cell.name,
            seed=job.seed,
            folder=run,
            scores=scores["scores"],
            per_class=scores["per_class"],
            settings=scores["settings"],
            num_images=scores["num_images"],
            measure_seconds=scores["seconds"],
            environment=summary.get("environment", scores["environment"]),
            metrics=tuple(_read_lines(run / "metrics.jsonl")),
            summary=summary,
            recipe=recipe_from_file(run / "recipe.yaml"),
        )
    except KeyError as error:
        raise ValueError(f"{run / SCORES} lacks {error}; delete it to measure this run again") from error


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
