"""The runs of a study: one job per cell and seed, addressed by what decides its result.

    STORE/runs/CELL-seed0-1f2e3d4c/    a run folder, with scores.json once it is measured
    STORE/runs/.1f2e3d4c.lock          held by whoever carries the run out
    STORE/STUDY-SCALE/                 the report

The key at the end of a folder's name is a hash of every setting except name, places and evaluation, with the key of
another run where the settings name one. So a changed cell is a new run, and so is all that depends on it; everything
else is found again, also by other studies that have the same cell.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from distill.config import Evaluate, Recipe, Run, recipe_from_file
from distill.study.cells import Cell, Study, substituted

State = Literal["done", "trained", "started", "new", "waiting", "running", "failed", "blocked"]

KEY_DIGITS = 10
SCORES, ERROR, SUMMARY, LOG = "scores.json", "error.json", "summary.json", "log.txt"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: its recipe with places filled in, its folder, and the jobs it starts from."""

    cell: Cell
    seed: int
    key: str
    folder: Path
    recipe: Recipe
    needs: tuple["Job", ...]

    @property
    def name(self) -> str:
        return f"{self.cell.name}-seed{self.seed}"

    @property
    def lock(self) -> Path:
        return self.folder.parent / f".{self.key}.lock"


def jobs_of(study: Study, store: Path, *, seeds: Sequence[int] | None = None) -> tuple[Job, ...]:
    """Every cell for every seed, seed by seed, each after those it needs."""
    made: dict[tuple[str, int], Job] = {}
    known = _folders(store)
    for seed in study.seeds if seeds is None else seeds:
        for cell in study.cells:
            needs = tuple(made[name, seed] for name in cell.needs)
            made[cell.name, seed] = _job(cell, seed, needs=needs, store=store, known=known)
    return tuple(made.values())


def selected(jobs: Sequence[Job], names: Sequence[str]) -> tuple[Job, ...]:
    """The jobs of these cells and of those they need; all when no cell is named."""
    if not names:
        return tuple(jobs)
    wanted: set[str] = set()
    for job in jobs:
        if job.cell.name in names:
            wanted |= {job.key, *(each.key for each in _all_needs(job))}
    return tuple(job for job in jobs if job.key in wanted)


def report_folder(study: Study, store: Path) -> Path:
    return store / f"{study.name}-{study.scale}{'-quick' if study.quick else ''}"


def key_of(recipe: Recipe) -> str:
    """Hexadecimal digits that are equal exactly when the training is, as far as settings say."""
    values = asdict(replace(recipe, name="", run=Run(), evaluate=Evaluate()))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def state_of(job: Job) -> State:
    """What became of a job so far, from its folder and its lock."""
    if is_running(job):
        return "running"
    if is_done(job):
        return "done"
    if (job.folder / ERROR).exists():
        return "failed"
    if is_trained(job):
        return "trained"
    states = [state_of(each) for each in job.needs]
    if any(state in ("failed", "blocked") for state in states):
        return "blocked"
    if not all(is_trained(each) for each in job.needs):
        return "waiting"
    return "started" if any((job.folder / "checkpoints").glob("step_*")) else "new"


def is_done(job: Job) -> bool:
    """Trained, and measured as its recipe asks now."""
    return is_trained(job) and is_measured(job)


def is_measured(job: Job) -> bool:
    """Whether `scores.json` holds what would be measured today. Raises ValueError when it cannot be read."""
    path = job.folder / SCORES
    if not path.exists():
        return False
    from distill.study.measure import measuring_fingerprint  # torch only where there is a result to look at

    try:
        return json.loads(path.read_text()).get("measured") == measuring_fingerprint(job.recipe)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} cannot be read: {error}; delete it to measure this run again") from error


def is_trained(job: Job) -> bool:
    """Whether the last checkpoint is there, and the summary that is written after it."""
    last = job.folder / "checkpoints" / f"step_{job.recipe.optim.steps:08d}"
    return (job.folder / SUMMARY).exists() and last.is_dir()


def is_running(job: Job) -> bool:
    """Whether some process holds the job's lock."""
    if not job.lock.exists():
        return False
    try:
        with FileLock(job.lock, timeout=0):
            return False
    except Timeout:
        return True


def error_of(job: Job) -> str:
    """The first line of what went wrong; empty when nothing did."""
    path = job.folder / ERROR
    return json.loads(path.read_text())["message"].partition("\n")[0] if path.exists() else ""


def last_words(job: Job) -> str:
    """The last line that a job's workers wrote into its log."""
    path = job.folder / LOG
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def _job(cell: Cell, seed: int, *, needs: tuple[Job, ...], store: Path, known: Mapping[str, Path]) -> Job:
    keys = {each.cell.name: f"run:{each.key}" for each in needs}
    places = {each.cell.name: str(each.folder) for each in needs}
    key = key_of(replace(substituted(cell.recipe, keys), seed=seed))
    folder = known.get(key, store / "runs" / f"{cell.name}-seed{seed}-{key}")
    run = replace(cell.recipe.run, folder=str(folder.parent), name=folder.name)
    recipe = replace(substituted(cell.recipe, places), seed=seed, run=run)
    if (folder / "recipe.yaml").exists():
        # Another study may have begun it under its own name.
        recipe = replace(recipe, name=recipe_from_file(folder / "recipe.yaml").name)
    return Job(cell=cell, seed=seed, key=key, folder=folder, recipe=recipe, needs=needs)


def _folders(store: Path) -> dict[str, Path]:
    """Key to run folder, for every run in the store."""
    return {path.name.rsplit("-", 1)[-1]: path for path in sorted((store / "runs").glob("*-seed*-*")) if path.is_dir()}


def _all_needs(job: Job) -> list[Job]:
    return [each for need in job.needs for each in (need, *_all_needs(need))]
